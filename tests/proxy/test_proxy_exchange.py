"""One request and its response, as both far ends see them."""

from __future__ import annotations

import pytest

from tests.proxy.transcript import GET, GET_UPSTREAM, OK, OK_DOWNSTREAM, message


def test_request_goes_up_and_response_comes_down(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.gets(GET_UPSTREAM)
    assert talk.listener.in_flight == 1
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert talk.is_at_rest()
    assert (client.ended, upstream.ended) == ("open", "open")


def test_head_leaves_in_one_write_each_way(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    assert upstream.transport.writes == 1
    upstream.sends(OK)
    assert client.transport.writes == 1


def test_both_connections_are_kept_and_used_again(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    for number in range(3):
        if number:
            client.sends(GET)
        upstream.gets(GET_UPSTREAM)
        upstream.sends(OK)
        client.gets(OK_DOWNSTREAM)
    assert len(talk.dialed) == 1


def test_connection_is_shared_by_clients_but_never_at_once(converse) -> None:
    talk = converse()
    one, other = talk.client(), talk.client()
    one.sends(message("GET /one HTTP/1.1", "Host: app"))
    other.sends(message("GET /other HTTP/1.1", "Host: app"))
    first, second = talk.upstream(), talk.upstream()
    assert b"/one" in first.takes()
    assert b"/other" in second.takes()
    second.sends(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 5", body="other"))
    first.sends(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 3", body="one"))
    assert one.takes().endswith(b"\r\n\r\none")
    assert other.takes().endswith(b"\r\n\r\nother")


def test_response_never_reaches_another_request(converse) -> None:
    talk = converse(pool={"max_connections": 2})
    clients = [talk.client() for _ in range(4)]
    upstreams = []
    for round_ in range(6):
        for number, client in enumerate(clients):
            client.sends(message(f"GET /{round_}-{number} HTTP/1.1", "Host: app"))
        if not upstreams:
            upstreams = [talk.upstream(), talk.upstream()]
        answered = 0
        while answered < len(clients):
            for upstream in upstreams:
                if request := upstream.takes():
                    nonce = request.split(b" ")[1]
                    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", f"Content-Length: {len(nonce)}", body=nonce))
                    answered += 1
        for number, client in enumerate(clients):
            assert client.takes().endswith(b"\r\n\r\n/%d-%d" % (round_, number))


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_client_that_asks_to_close_gets_its_answer_and_fin(converse, version: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message(f"GET /a HTTP/{version}", "Host: app", *(["Connection: close"] if version == "1.1" else [])))
    talk.upstream().sends(OK)
    own = ["Connection: close"] if version == "1.1" else []
    client.gets(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 2", "Via: 1.1 sidecar", *own, body="hi"))
    assert client.ended == "fin"
    client.sends(GET)  # it is not read as a request any more
    client.gets_nothing()
    client.half_closes()
    assert client.ended == "closed"


def test_http10_client_may_ask_to_persist(converse) -> None:
    talk = converse()
    client = talk.client()
    for _ in range(2):
        client.sends(message("GET /a HTTP/1.0", "Connection: keep-alive"))
        upstream = talk.upstream() if not talk.no_upstream else upstream  # noqa: F821
        upstream.gets(message("GET /a HTTP/1.1", "Host: payments:8080", "Via: 1.0 sidecar"))
        upstream.sends(OK)
        assert b"\r\nConnection: keep-alive\r\n" in client.takes()


def test_proxy_connection_close_of_either_side_ends_its_connection(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("GET /a HTTP/1.1", "Host: app", "Proxy-Connection: close"))
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", "Proxy-Connection: close", "Content-Length: 2", body="hi"))
    assert client.takes().endswith(b"\r\nConnection: close\r\n\r\nhi")
    assert (client.ended, upstream.ended) == ("fin", "closed")


@pytest.mark.parametrize(
    "fields",
    [["Content-Length: 5"], ["Transfer-Encoding: chunked"], []],
)
def test_head_has_no_body_whatever_its_response_says(converse, fields: list[str]) -> None:
    talk = converse()
    client = talk.client()
    for _ in range(2):
        client.sends(message("HEAD /a HTTP/1.1", "Host: app"))
        upstream = talk.upstream() if not talk.no_upstream else upstream  # noqa: F821
        assert upstream.takes().startswith(b"HEAD /a HTTP/1.1\r\n")
        upstream.sends(message("HTTP/1.1 200 OK", "Date: x", *fields))
        kept = [field for field in fields if "Length" in field]
        client.gets(message("HTTP/1.1 200 OK", "Date: x", *kept, "Via: 1.1 sidecar"))
    assert upstream.ended == "open"


@pytest.mark.parametrize(
    ("start", "fields", "kept"),
    [
        ("HTTP/1.1 204 No Content", [], []),
        ("HTTP/1.1 204 No Content", ["Content-Length: 0"], []),
        ("HTTP/1.1 304 Not Modified", [], []),
        ("HTTP/1.1 304 Not Modified", ["Content-Length: 5"], ["Content-Length: 5"]),
        ("HTTP/1.1 304 Not Modified", ["Transfer-Encoding: chunked"], []),
    ],
)
def test_status_without_body_ends_with_its_head(converse, start: str, fields: list[str], kept: list[str]) -> None:
    talk = converse()
    client = talk.client()
    for _ in range(2):
        client.sends(GET)
        upstream = talk.upstream() if not talk.no_upstream else upstream  # noqa: F821
        upstream.gets(GET_UPSTREAM)
        upstream.sends(message(start, "Date: x", *fields))
        client.gets(message(start, "Date: x", *kept, "Via: 1.1 sidecar"))
    assert talk.is_at_rest()


@pytest.mark.parametrize("behind", [b"x", b"HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize("framed", ["length", "chunked", "none", "later"])
def test_connection_with_octets_behind_the_answer_is_not_used_again(converse, behind: bytes, framed: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    if framed == "length":
        upstream.sends(OK + behind)
    elif framed == "chunked":
        upstream.sends(message("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"2\r\nhi\r\n0\r\n\r\n" + behind))
    elif framed == "none":
        upstream.sends(message("HTTP/1.1 204 No Content") + behind)
    else:
        upstream.sends(OK[:-1], b"i" + behind)
    assert client.takes().startswith(b"HTTP/1.1 20")
    assert (client.ended, upstream.ended) == ("open", "closed")
    client.sends(GET)
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_octets_that_nobody_asked_for_end_an_idle_connection(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(OK)
    client.takes()
    upstream.sends(b"HTTP/1.1 408 Timeout\r\n\r\n")
    assert upstream.ended == "closed"
    client.gets_nothing()


def test_connection_that_the_upstream_closes_is_not_used_again(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    first = talk.upstream()
    first.sends(message("HTTP/1.1 200 OK", "Date: x", "Connection: close", "Content-Length: 2", body="hi"))
    client.gets(OK_DOWNSTREAM)
    assert first.ended == "closed"
    client.sends(GET)
    talk.upstream().gets(GET_UPSTREAM)


def test_half_closed_connection_is_not_used_again(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    first = talk.upstream()
    first.sends(OK)
    first.half_closes()
    client.gets(OK_DOWNSTREAM)
    assert first.ended == "closed"
    client.sends(GET)
    talk.upstream().gets(GET_UPSTREAM)


# -- bodies


def test_body_with_a_length_streams_up_piece_by_piece(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Content-Length: 6", body="ab"))
    upstream = talk.upstream()
    upstream.gets(
        message("POST /a HTTP/1.1", "Host: payments:8080", "Content-Length: 6", "Via: 1.1 sidecar", body="ab")
    )
    client.sends(b"cd")
    upstream.gets(b"cd")
    client.sends(b"ef")
    upstream.gets(b"ef")
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert talk.is_at_rest()


def test_chunks_stream_both_ways_with_trailers_and_without_extensions(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(
        message("POST /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked", "TE: trailers", "Trailer: X-Sum"),
        b"2;ext=1\r\nab\r\n",
    )
    upstream = talk.upstream()
    upstream.gets(
        message(
            "POST /a HTTP/1.1",
            "Host: payments:8080",
            "Trailer: X-Sum",
            "Transfer-Encoding: chunked",
            "TE: trailers",
            "Connection: TE",
            "Via: 1.1 sidecar",
            body=b"2\r\nab\r\n",
        )
    )
    client.sends(b"0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n")
    upstream.gets(b"0\r\nX-Sum: 1\r\n\r\n")
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", "Transfer-Encoding: chunked"), b"1;x\r\na\r\n")
    client.gets(
        message("HTTP/1.1 200 OK", "Date: x", "Via: 1.1 sidecar", "Transfer-Encoding: chunked", body=b"1\r\na\r\n")
    )
    upstream.sends(b"1\r\nb\r", b"\n0\r\nX-Sum: 2\r\nSet-Cookie: a\r\n\r\n")
    client.gets(b"1\r\nb\r\n" + b"0\r\nX-Sum: 2\r\n\r\n")
    assert talk.is_at_rest()
    assert upstream.ended == "open"


def test_whole_chunked_response_in_one_read(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    talk.upstream().sends(
        message(
            "HTTP/1.1 200 OK", "Date: x", "Transfer-Encoding: chunked", body=b"1\r\na\r\n1\r\nb\r\n0\r\nA: 1\r\n\r\n"
        )
    )
    client.gets(
        message(
            "HTTP/1.1 200 OK",
            "Date: x",
            "Via: 1.1 sidecar",
            "Transfer-Encoding: chunked",
            body=b"2\r\nab\r\n0\r\nA: 1\r\n\r\n",
        )
    )
    assert talk.is_at_rest()


def test_empty_chunked_bodies(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked", body="0\r\n\r\n"))
    upstream = talk.upstream()
    assert upstream.takes().endswith(b"\r\n\r\n0\r\n\r\n")
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", "Transfer-Encoding: chunked"), b"0\r\n\r\n")
    assert client.takes().endswith(b"\r\n\r\n0\r\n\r\n")


def test_each_event_of_a_stream_arrives_as_it_is_sent(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", "Content-Type: text/event-stream"))
    assert client.takes().endswith(b"Transfer-Encoding: chunked\r\n\r\n")
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        upstream.sends(event)
        client.gets(b"9\r\n" + event + b"\r\n")
    upstream.half_closes()
    client.gets(b"0\r\n\r\n")
    assert talk.is_at_rest()
    assert (client.ended, upstream.ended) == ("open", "closed")


def test_response_delimited_by_close_is_so_for_http10_too(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("GET /a HTTP/1.0", "Connection: keep-alive"))
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.0 200 OK", "Date: x", body="ab"), b"cd")
    client.gets(message("HTTP/1.1 200 OK", "Date: x", "Via: 1.0 sidecar", body="abcd"))
    assert client.ended == "open"
    upstream.half_closes()
    client.gets_nothing()
    assert client.ended == "fin"
    assert talk.is_at_rest()


def test_chunked_response_is_unwrapped_for_http10(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("GET /a HTTP/1.0"))
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", "Transfer-Encoding: chunked", body="2\r\nab\r\n"))
    upstream.sends(b"1\r\nc\r\n0\r\nX: 1\r\n\r\n")
    client.gets(message("HTTP/1.1 200 OK", "Date: x", "Via: 1.1 sidecar", body="abc"))
    assert client.ended == "fin"
    assert upstream.ended == "open"


# -- interim responses


def test_expectation_is_met_by_the_upstream_alone(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 2", "Expect: 100-continue"))
    upstream = talk.upstream()
    assert b"\r\nExpect: 100-continue\r\n" in upstream.takes()
    client.gets_nothing()
    upstream.sends(message("HTTP/1.1 100 Continue"))
    client.gets(message("HTTP/1.1 100 Continue", "Via: 1.1 sidecar"))
    client.sends(b"ab")
    upstream.gets(b"ab")
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert client.ended == "open"


def test_expectation_that_fails_ends_both_connections(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 2", "Expect: 100-continue"))
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 417 No", "Date: x", "Content-Length: 0"))
    client.gets(message("HTTP/1.1 417 No", "Date: x", "Content-Length: 0", "Via: 1.1 sidecar", "Connection: close"))
    assert (client.ended, upstream.ended) == ("fin", "closed")
    assert talk.is_at_rest()


def test_interim_responses_pass_in_order_before_the_final_one(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(
        message("HTTP/1.1 103 Early Hints", "Link: a", "Connection: x", "X: 1")
        + message("HTTP/1.1 102 Processing", "Content-Length: 0")
        + message("HTTP/1.1 103 Early Hints", "Link: b", "Content-Length: 7")
        + OK
    )
    client.gets(
        message("HTTP/1.1 103 Early Hints", "Link: a", "Via: 1.1 sidecar")
        + message("HTTP/1.1 102 Processing", "Via: 1.1 sidecar")
        + message("HTTP/1.1 103 Early Hints", "Link: b", "Via: 1.1 sidecar")
        + OK_DOWNSTREAM
    )
    assert upstream.ended == "open"


def test_interim_responses_are_not_for_http10(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("GET /a HTTP/1.0"))
    talk.upstream().sends(message("HTTP/1.1 103 Early Hints", "Link: a"), OK)
    client.gets(OK_DOWNSTREAM)


# -- early responses


def test_early_response_of_known_length_ends_the_request(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Content-Length: 100", body="some"))
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 413 Too Large", "Date: x", "Content-Length: 2", body="no"))
    client.gets(
        message(
            "HTTP/1.1 413 Too Large", "Date: x", "Content-Length: 2", "Via: 1.1 sidecar", "Connection: close", body="no"
        )
    )
    assert (client.ended, upstream.ended) == ("fin", "closed")
    client.sends(b"more")
    assert talk.is_at_rest()


def test_request_goes_on_beside_an_early_response_that_streams(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked", body="1\r\na\r\n"))
    upstream = talk.upstream()
    upstream.takes()
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", "Transfer-Encoding: chunked", body="1\r\nA\r\n"))
    assert client.takes().endswith(b"\r\nConnection: close\r\n\r\n1\r\nA\r\n")
    client.sends(b"1\r\nb\r\n")
    upstream.gets(b"1\r\nb\r\n")
    upstream.sends(b"1\r\nB\r\n")
    client.gets(b"1\r\nB\r\n")
    client.sends(b"0\r\n\r\n")
    upstream.gets(b"0\r\n\r\n")
    upstream.sends(b"0\r\n\r\n")
    client.gets(b"0\r\n\r\n")
    assert client.ended == "fin"
    assert talk.is_at_rest()


# -- what the proxy answers or refuses by its own knowledge


def test_options_with_max_forwards_0_ends_here(converse) -> None:
    talk = converse()
    client = talk.client()
    request = message("OPTIONS * HTTP/1.1", "Host: app", "Max-Forwards: 0")
    client.sends(request + request)
    assert client.takes().count(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n") == 2
    assert (client.ended, talk.dialed) == ("open", [])


def test_options_with_a_body_ends_here_with_its_connection(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("OPTIONS * HTTP/1.1", "Host: app", "Max-Forwards: 0", "Content-Length: 1", body="x"))
    assert b"\r\nConnection: close\r\n" in client.takes()
    assert client.ended == "fin"


def test_upgrade_is_forwarded_plainly_without_it(converse) -> None:
    talk = converse()
    client = talk.client()
    for _ in range(2):
        client.sends(message("GET /a HTTP/1.1", "Host: app", "Connection: Upgrade", "Upgrade: h2c"))
        upstream = talk.upstream() if not talk.no_upstream else upstream  # noqa: F821
        upstream.gets(GET_UPSTREAM)
        upstream.sends(OK)
        client.gets(OK_DOWNSTREAM)


def test_head_that_is_refused_gets_no_body(converse) -> None:
    talk = converse()
    talk.dialing = ConnectionRefusedError(111, "Connection refused")
    client = talk.client()
    client.sends(message("HEAD /a HTTP/1.1", "Host: app"))
    octets = client.takes()
    assert octets.startswith(b"HTTP/1.1 502 ")
    assert octets.endswith(b"\r\n\r\n")
    assert client.ended == "open"


def test_http10_client_that_is_refused_is_closed(converse) -> None:
    talk = converse()
    talk.dialing = ConnectionRefusedError(111, "Connection refused")
    client = talk.client()
    client.sends(message("GET /a HTTP/1.0", "Connection: keep-alive"))
    assert client.gets_answer().status == 502
    assert client.ended == "fin"


def test_repr_shows_the_state(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 2"))
    assert repr(client.protocol) == (
        "<DownstreamConnection length exchange=<Exchange <RequestHead PUT /a> "
        "upstream=<UpstreamConnection payments head reused=False> <Attempt under way status=0>> held=0>"
    )
    assert repr(talk.listener) == "<Listener connections=1 in_flight=1 draining=False>"
