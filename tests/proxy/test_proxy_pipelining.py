"""Requests sent ahead of their answers."""

from __future__ import annotations

from tests.proxy.transcript import GET, OK, OK_DOWNSTREAM, message


def _get(path: str) -> bytes:
    return message(f"GET /{path} HTTP/1.1", "Host: app")


def _echo(upstream) -> None:
    path = upstream.takes().split(b" ")[1]
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", f"Content-Length: {len(path)}", body=path))


def test_requests_sent_ahead_are_answered_in_order_one_at_a_time(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(_get("1") + _get("2")[:-7], _get("2")[-7:] + _get("3"))
    upstream = talk.upstream()
    for number in range(1, 4):
        assert talk.listener.in_flight == 1
        _echo(upstream)
        assert client.takes().endswith(b"\r\n\r\n/%d" % number)
    assert len(talk.dialed) == 1
    assert talk.is_at_rest()


def test_request_behind_a_body_waits_its_turn(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(
        message("POST /1 HTTP/1.1", "Host: app", "Content-Length: 2", body="ab")
        + message("POST /2 HTTP/1.1", "Host: app", "Transfer-Encoding: chunked", body="1\r\nc\r\n0\r\n\r\n")
        + _get("3")
    )
    upstream = talk.upstream()
    for number, body in ((1, b"ab"), (2, b"1\r\nc\r\n0\r\n\r\n"), (3, b"")):
        request = upstream.takes()
        assert request.startswith((b"POST", b"GET")[number == 3] + b" /%d " % number)
        assert request.endswith(b"\r\n\r\n" + body)
        upstream.sends(OK)
        client.gets(OK_DOWNSTREAM)


def test_reading_stops_past_the_limit_and_goes_on_behind_the_answer(converse) -> None:
    talk = converse(listener={"max_read_ahead": 64})
    client = talk.client()
    client.sends(_get("0"))
    upstream = talk.upstream()
    client.sends(_get("1"), _get("2"))
    assert client.transport.reading
    client.sends(_get("3"))
    assert not client.transport.reading
    client.sends(_get("4"))  # which stays in the kernel
    assert f"held={3 * len(_get('1'))}>" in repr(client.protocol)
    for number in range(5):
        _echo(upstream)
        assert client.takes().endswith(b"\r\n\r\n/%d" % number)
    assert client.transport.reading
    assert client.transport.pauses >= 1


def test_answers_of_the_proxys_own_keep_the_order(converse) -> None:
    talk = converse(shared=True, prefix="/pay")
    client = talk.client()
    client.sends(_get("nowhere") + _get("pay/1") + _get("nowhere") + _get("pay/2"))
    client.gets_refusal(404, "NO_ROUTE")
    upstream = talk.upstream()
    upstream.sends(OK)
    octets = client.takes()
    assert octets.startswith(OK_DOWNSTREAM + b"HTTP/1.1 404 ")
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_read_full_of_refused_requests_is_answered_without_recursion(converse) -> None:
    talk = converse(shared=True)
    client = talk.client()
    client.sends(GET * 3000)
    assert client.takes().count(b"HTTP/1.1 404 ") == 3000
    talk.passes(30)
    client.gets_nothing()  # nothing of a next request is thought to be there
    assert client.ended == "open"


def test_what_follows_the_last_request_is_not_read(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("GET /1 HTTP/1.1", "Host: app", "Connection: close") + _get("2"))
    upstream = talk.upstream()
    _echo(upstream)
    assert client.takes().endswith(b"\r\n\r\n/1")
    upstream.gets_nothing()
    assert client.ended == "fin"


def test_nothing_behind_a_refused_head_is_read(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(b"GET / HTTP/1.1\r\n\r\n" + GET)
    client.gets_refusal(400, "BAD_REQUEST")
    assert client.ended == "fin"
    assert talk.dialed == []


def test_fault_behind_a_sound_request_comes_behind_its_answer(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET + b"BAD\x00 / HTTP/1.1\r\n\r\n")
    client.gets_nothing()
    talk.upstream().sends(OK)
    octets = client.takes()
    assert octets.startswith(OK_DOWNSTREAM + b"HTTP/1.1 400 ")


def test_next_request_waits_until_the_last_answer_has_room(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(_get("1"))
    upstream = talk.upstream()
    upstream.takes()
    client.stops_reading()
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 100000", body=b"x" * 100_000))
    client.sends(_get("2"))
    upstream.gets_nothing()
    client.reads_on()
    assert upstream.takes().startswith(b"GET /2 ")
    upstream.sends(OK)
    assert client.takes().endswith(OK_DOWNSTREAM)
