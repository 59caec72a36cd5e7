"""Limits towards the application, each with its own answer, and faults of the client that are never a 5xx."""

from __future__ import annotations

import pytest

from tests.proxy.transcript import GET, GET_UPSTREAM, OK, OK_DOWNSTREAM, message

_SMALL = {"max_request_line": 100, "max_header": 200, "max_headers": 500, "max_header_count": 9}


def _line(size: int) -> bytes:
    """A request whose request line has that many octets."""
    return message("GET /" + "a" * (size - len("GET / HTTP/1.1")) + " HTTP/1.1", "Host: app")


def _header(size: int) -> bytes:
    return message("GET / HTTP/1.1", "Host: app", "A: " + "a" * (size - 3))


def _headers(size: int) -> bytes:
    """A head that has that many octets in all."""
    bare = message("GET / HTTP/1.1", "Host: app", "A: ", "B: ", "C: ")
    left = size - len(bare)
    return message(
        "GET / HTTP/1.1", "Host: app", *(f"{n}: " + "a" * (left // 3 + (left % 3 > i)) for i, n in enumerate("ABC"))
    )


def _count(number: int) -> bytes:
    return message("GET / HTTP/1.1", "Host: app", *["A:"] * (number - 1))


_LIMITS = [
    (_line, 100, 414, "URI_TOO_LONG", "max_request_line"),
    (_header, 200, 431, "HEADERS_TOO_LARGE", "max_header)"),
    (_headers, 500, 431, "HEADERS_TOO_LARGE", "max_headers"),
    (_count, 9, 431, "HEADERS_TOO_LARGE", "max_header_count"),
]


@pytest.mark.parametrize(("make", "limit", "status", "code", "key"), _LIMITS)
@pytest.mark.parametrize("split", [False, True])
def test_head_at_a_limit_passes(converse, make, limit: int, status: int, code: str, key: str, split: bool) -> None:
    talk = converse(listener=_SMALL)
    client = talk.client()
    octets = make(limit)
    client.sends(*([octets[at : at + 1] for at in range(len(octets))] if split else [octets]))
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)


@pytest.mark.parametrize(("make", "limit", "status", "code", "key"), _LIMITS)
@pytest.mark.parametrize("split", [0, 1, 2])
@pytest.mark.parametrize("lead", [b"", b"\r\n"])
def test_head_beyond_a_limit_is_refused_and_closed(
    converse, make, limit: int, status: int, code: str, key: str, split: int, lead: bytes
) -> None:
    talk = converse(listener=_SMALL)
    client = talk.client()
    octets = lead + make(limit + 1)
    client.sends(*([octets[at : at + split] for at in range(0, len(octets), split)] if split else [octets]))
    answer = client.gets_refusal(status, code)
    assert key in answer.detail
    assert answer.fields["connection"] == "close"
    assert client.ended == "fin"
    assert talk.dialed == []


@pytest.mark.parametrize(
    ("sent", "status"), [(b"GET /" + b"a" * 97, 414), (b"GET / HTTP/1.1\r\nA: " + b"a" * 482, 431)]
)
def test_limit_holds_before_the_head_is_whole(converse, sent: bytes, status: int) -> None:
    talk = converse(listener=_SMALL)
    client = talk.client()
    client.sends(sent)
    assert client.gets_answer().status == status


def test_shortest_headers_are_counted_too(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(_count(201))
    client.gets_refusal(431, "HEADERS_TOO_LARGE")


def test_body_announced_beyond_max_body_is_refused_before_a_connection_is_made(converse) -> None:
    talk = converse(max_body=10)
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Content-Length: 11"))
    answer = client.gets_refusal(413, "BODY_TOO_LARGE")
    assert answer.detail == "the body exceeds 10 octets, the max_body of payments"
    assert (client.ended, talk.dialed) == ("fin", [])


@pytest.mark.parametrize("whole", [True, False])
def test_chunked_body_that_grows_beyond_max_body_ends_the_upstreams_part(converse, whole: bool) -> None:
    talk = converse(max_body=10)
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked", body="a\r\n1234567890\r\n"))
    upstream = talk.upstream()
    client.sends(b"1\r\nx\r\n" + (b"0\r\n\r\n" if whole else b""))
    client.gets_refusal(413, "BODY_TOO_LARGE")
    assert (client.ended, upstream.ended) == ("fin", "closed")
    assert talk.is_at_rest()


@pytest.mark.parametrize(
    ("field", "body"),
    [("Content-Length: 10", b"1234567890"), ("Transfer-Encoding: chunked", b"a\r\n1234567890\r\n0\r\n\r\n")],
)
def test_body_at_max_body_passes(converse, field: str, body: bytes) -> None:
    talk = converse(max_body=10)
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", field, body=body))
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_connection_beyond_the_limit_is_told_and_closed(converse) -> None:
    talk = converse(listener={"max_connections": 2})
    one, _ = talk.client(), talk.client()
    third = talk.client()
    answer = third.gets_refusal(503, "CONNECTION_LIMITED")
    assert answer.detail == "this listener carries 2 connections already (listener.max_connections)"
    assert answer.fields["connection"] == "close"
    assert (third.ended, talk.listener.connections) == ("closed", 2)
    one.resets()
    fourth = talk.client()
    fourth.sends(GET)
    talk.upstream().gets(GET_UPSTREAM)


def test_last_descriptors_are_not_for_clients(converse) -> None:
    talk = converse()
    talk.descriptor = 1 << 40
    client = talk.client()
    assert "descriptors" in client.gets_refusal(503, "OVERLOADED").detail
    assert (client.ended, talk.listener.connections) == ("closed", 0)


def test_client_turned_away_may_say_what_it_likes(converse) -> None:
    talk = converse(listener={"max_connections": 1})
    talk.client()
    turned_away = talk.client()
    turned_away.takes()
    turned_away.sends(GET)
    turned_away.half_closes()
    turned_away.gets_nothing()
    assert talk.dialed == []


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_few_empty_lines_in_front_of_a_request_are_skipped(converse, number: int, split: bool) -> None:
    talk = converse()
    client = talk.client()
    octets = b"\r\n" * number + GET
    for _ in range(2):  # counted anew for each request
        client.sends(*([octets[at : at + 1] for at in range(len(octets))] if split else [octets]))
        upstream = talk.upstream() if not talk.no_upstream else upstream  # noqa: F821
        upstream.gets(GET_UPSTREAM)
        upstream.sends(OK)
        client.gets(OK_DOWNSTREAM)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_too_many_empty_lines_are_refused(converse, size: int) -> None:
    talk = converse()
    client = talk.client()
    octets = b"\r\n" * 5 + GET
    client.sends(*(octets[at : at + size] for at in range(0, len(octets), size)))
    answer = client.gets_refusal(400, "BAD_REQUEST")
    assert "empty lines" in answer.detail
    assert (client.ended, talk.dialed) == ("fin", [])


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: app\n\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : app\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: app\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: app\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: app\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: app\r\nA: \x00\r\n\r\n", 400),
        (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: app\r\n\r\n", 400),
        (b"G\x00T / HTTP/1.1\r\nHost: app\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"OPTIONS / HTTP/1.1\r\nHost: app\r\nMax-Forwards: x\r\n\r\n", 400),
        (b"FROB / HTTP/1.1\r\nHost: app\r\n\r\n", 501),
        (b"get / HTTP/1.1\r\nHost: app\r\n\r\n", 501),
        (b"TRACE / HTTP/1.1\r\nHost: app\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ],
)
def test_head_that_cannot_be_forwarded_reaches_nobody(converse, octets: bytes, status: int) -> None:
    talk = converse()
    client = talk.client()
    client.sends(octets)
    client.gets_refusal(status, "BAD_REQUEST" if status == 400 else "NOT_IMPLEMENTED")
    assert client.ended == "fin"
    assert talk.dialed == []
    assert talk.is_at_rest()


@pytest.mark.parametrize(
    "pieces", [[b"x\r\n"], [b"1\r\nab\r\n"], [b"1\r\na\r\n", b"-1\r\n"], [b"0\r\nbad trailer\r\n\r\n"]]
)
def test_bad_chunk_is_the_clients_fault_alone(converse, pieces: list[bytes]) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked"), *pieces)
    upstream = talk.upstream()
    assert not upstream.takes().endswith(b"0\r\n\r\n")
    answer = client.gets_refusal(400, "BAD_REQUEST")
    assert "chunked body is malformed" in answer.detail
    assert (client.ended, upstream.ended) == ("fin", "closed")
    assert talk.is_at_rest()


def test_bad_chunk_behind_an_early_response_cuts_that(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked", body="1\r\na\r\n"))
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body="1\r\nA\r\n"))
    client.sends(b"x\r\n")
    assert client.takes().endswith(b"\r\n\r\n1\r\nA\r\n")
    assert (client.ended, upstream.ended) == ("fin", "closed")


def test_trailers_beyond_max_headers_are_refused(converse) -> None:
    talk = converse(listener=_SMALL)
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked", body="0\r\n"))
    client.sends(*[b"A: " + b"x" * 90 + b"\r\n"] * 6)
    client.gets_refusal(400, "BAD_REQUEST")
