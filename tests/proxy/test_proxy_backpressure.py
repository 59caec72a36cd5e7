"""A side that reads slowly pauses the other one, and nothing but that."""

from __future__ import annotations

import pytest

from tests.proxy.transcript import GET, OK, OK_DOWNSTREAM, message

_MUCH = 100_000  # more than a transport may buffer
_TIMEOUT = {"first_byte": "5s", "idle": "10s", "total": "15s"}


def _big_response(talk, fields: list[str]):
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.takes()
    client.stops_reading()
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", *fields))
    return client, upstream


@pytest.mark.parametrize("framed", ["length", "chunked", "close"])
def test_slow_client_pauses_the_upstream_and_lets_it_go_on(converse, framed: str) -> None:
    talk = converse()
    fields = {"length": [f"Content-Length: {2 * _MUCH}"], "chunked": ["Transfer-Encoding: chunked"], "close": []}
    client, upstream = _big_response(talk, fields[framed])
    body = b"x" * _MUCH
    piece = b"%x\r\n%b\r\n" % (_MUCH, body) if framed == "chunked" else body
    upstream.sends(piece)
    assert not upstream.transport.reading
    assert client.transport.get_write_buffer_size() < 2 * _MUCH
    client.reads_on()
    assert upstream.transport.reading
    client.stops_reading()
    upstream.sends(piece)
    assert (upstream.transport.reading, upstream.transport.pauses) == (framed == "length", 2)
    client.reads_on()
    if framed == "close":
        upstream.half_closes()
    elif framed == "chunked":
        upstream.sends(b"0\r\n\r\n")
    assert client.takes().count(b"x") >= 2 * _MUCH
    assert talk.is_at_rest()


def test_memory_is_bounded_while_a_client_does_not_read(converse) -> None:
    talk = converse()
    client, upstream = _big_response(talk, [f"Content-Length: {50 * _MUCH}"])
    for _ in range(50):
        upstream.sends(b"x" * _MUCH)  # all but the first stay in the kernel
    assert client.transport.get_write_buffer_size() < 2 * _MUCH
    client.reads_on()
    assert client.takes().count(b"x") >= 50 * _MUCH
    assert talk.is_at_rest()


def test_connection_paused_by_the_end_of_a_response_serves_the_next_one(converse) -> None:
    talk = converse()
    client, upstream = _big_response(talk, [f"Content-Length: {_MUCH}"])
    upstream.sends(b"x" * _MUCH)
    assert talk.is_at_rest()
    other = talk.client()
    other.sends(GET)
    upstream.sends(OK)
    other.gets(OK_DOWNSTREAM)
    client.reads_on()
    assert client.takes().endswith(b"x")


def test_idle_stands_still_while_we_pause_the_upstream(converse) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = _big_response(talk, [f"Content-Length: {2 * _MUCH}"])
    upstream.sends(b"x" * _MUCH)
    for _ in range(5):
        talk.passes(8)
        client.reads(1000)  # enough to be alive, too little to have room
    assert (client.ended, upstream.ended) == ("open", "open")
    client.reads_on()
    talk.passes(9.9)
    assert upstream.ended == "open"
    talk.passes(0.2)
    assert (client.ended, upstream.ended) == ("fin", "closed")


def test_client_that_reads_nothing_for_idle_is_left(converse) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = _big_response(talk, [f"Content-Length: {2 * _MUCH}"])
    upstream.sends(b"x" * _MUCH)
    talk.passes(9.9)
    assert client.ended == "open"
    talk.passes(0.2)
    assert (client.ended, upstream.ended) == ("closed", "closed")
    assert talk.is_at_rest()


def test_client_that_reads_nothing_of_a_whole_response_is_left_after_keepalive(converse) -> None:
    talk = converse(listener={"keepalive_timeout": "20s"})
    client, upstream = _big_response(talk, [f"Content-Length: {_MUCH}"])
    upstream.sends(b"x" * _MUCH)
    assert talk.is_at_rest()
    talk.passes(90)
    assert client.ended == "closed"


def test_keepalive_counts_from_when_the_client_has_caught_up(converse) -> None:
    talk = converse(listener={"keepalive_timeout": "20s"})
    client, upstream = _big_response(talk, [f"Content-Length: {_MUCH}"])
    upstream.sends(b"x" * _MUCH)
    talk.passes(15)
    client.reads_on()
    talk.passes(19.9)
    assert client.ended == "open"
    talk.passes(0.2)
    assert client.ended == "closed"


def test_last_answer_of_a_blocked_client_is_delivered_when_it_reads(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("GET /a HTTP/1.1", "Host: app", "Connection: close"))
    client.stops_reading()
    talk.upstream().sends(message("HTTP/1.1 200 OK", "Content-Length: 100000", body=b"x" * _MUCH))
    talk.passes(30)
    assert client.ended == "fin"
    client.reads_on()
    assert client.takes().count(b"x") >= _MUCH
    talk.passes(2.1)
    assert client.ended == "closed"
    assert client.transport.unsent_at_abort == 0


@pytest.mark.parametrize("chunked", [False, True])
def test_slow_upstream_pauses_the_client_and_lets_it_go_on(converse, chunked: bool) -> None:
    talk = converse()
    client = talk.client()
    field = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {3 * _MUCH}"
    piece = b"%x\r\n%b\r\n" % (_MUCH, b"y" * _MUCH) if chunked else b"y" * _MUCH
    client.sends(message("PUT /a HTTP/1.1", "Host: app", field))
    upstream = talk.upstream()
    upstream.stops_reading()
    client.sends(piece)
    assert not client.transport.reading
    client.sends(piece)
    assert upstream.transport.get_write_buffer_size() < 2 * _MUCH
    upstream.reads_on()
    assert client.transport.reading
    client.sends(piece)
    if chunked:
        client.sends(b"0\r\n\r\n")
    assert upstream.takes().count(b"y") >= 3 * _MUCH
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert client.transport.pauses == 1
    assert upstream.ended == "open"  # it has read it all, and can serve another request


def _blocked_upload(talk):
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", f"Content-Length: {3 * _MUCH}"))
    upstream = talk.upstream()
    upstream.stops_reading()
    client.sends(b"y" * _MUCH)
    return client, upstream


def test_body_timeout_stands_still_while_we_pause_the_client(converse) -> None:
    talk = converse(timeout=_TIMEOUT, listener={"body_timeout": "4s"})
    client, upstream = _blocked_upload(talk)
    talk.passes(9)
    client.gets_nothing()
    upstream.reads_on()
    talk.passes(3.9)
    client.gets_nothing()
    talk.passes(0.2)
    client.gets_refusal(408, "REQUEST_TIMEOUT")


def test_upstream_that_reads_nothing_for_idle_has_failed(converse) -> None:
    talk = converse(timeout=_TIMEOUT, listener={"body_timeout": "4s"})
    client, upstream = _blocked_upload(talk)
    talk.passes(9.9)
    client.gets_nothing()
    talk.passes(0.2)
    answer = client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert answer.detail == "payments read nothing of the request for 10 s (timeout.idle)"
    assert (client.ended, upstream.ended) == ("fin", "closed")
    assert talk.is_at_rest()


def test_upstream_that_reads_slowly_has_until_total(converse) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = _blocked_upload(talk)
    for _ in range(2):
        talk.passes(7)
        upstream.reads(10)
    client.gets_nothing()
    talk.passes(1.1)
    assert "(timeout.total)" in client.gets_refusal(504, "DOWNSTREAM_TIMEOUT").detail


def test_upstream_that_did_not_read_it_all_is_not_used_again(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", f"Content-Length: {_MUCH}"))
    upstream = talk.upstream()
    upstream.stops_reading()
    client.sends(b"y" * _MUCH)
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert (client.ended, upstream.ended) == ("open", "closed")


@pytest.mark.parametrize("end", ["half_closes", "resets", "closes"])
def test_upstream_that_leaves_with_the_request_half_read_is_noticed_at_once(converse, end: str) -> None:
    talk = converse()
    client, upstream = _blocked_upload(talk)
    getattr(upstream, end)()
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert answer.proxy_error == "connection_terminated"
    assert (client.ended, client.transport.reading) == ("fin", True)
    assert talk.is_at_rest()


def test_request_that_waits_in_the_buffer_does_not_put_off_first_byte(converse) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, other = talk.client(), talk.client()
    other.sends(GET)
    upstream = talk.upstream()
    upstream.sends(OK)
    upstream.stops_reading()
    client.sends(GET)
    assert upstream.transport.get_write_buffer_size() > 0
    talk.passes(5.1)
    assert "(timeout.first_byte)" in client.gets_refusal(504, "DOWNSTREAM_TIMEOUT").detail


def test_early_response_lets_a_paused_client_finish(converse) -> None:
    talk = converse()
    client, upstream = _blocked_upload(talk)
    assert not client.transport.reading
    upstream.sends(OK)
    assert client.takes().endswith(b"\r\nConnection: close\r\n\r\nhi")
    assert (client.ended, client.transport.reading) == ("fin", True)


def test_body_that_has_no_connection_yet_is_bounded(converse) -> None:
    talk = converse()
    talk.dialing = "hang"
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", f"Content-Length: {3 * _MUCH}"))
    client.sends(b"y" * _MUCH, b"y" * _MUCH, b"y" * _MUCH)
    assert not client.transport.reading
    talk.accepts()
    assert client.transport.reading
    upstream = talk.upstream()
    assert upstream.takes().count(b"y") >= 3 * _MUCH
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert talk.is_at_rest()
