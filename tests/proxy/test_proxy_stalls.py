"""A side that stops reading, sending or being there while the other one's octets are under way."""

from __future__ import annotations

import pytest

from sidecar.runtime.deadlines import TICK_S
from tests.proxy.transcript import GET, OK, OK_DOWNSTREAM, Conversation, Peer, message

_MUCH = 100_000  # more than a transport may buffer, or than is taken while there is no connection
_TIMEOUT = {"connect": "90s", "first_byte": "5s", "idle": "10s", "total": "60s"}
_LENGTH = (message("PUT /a HTTP/1.1", "Host: app", f"Content-Length: {_MUCH}"), b"y" * _MUCH)
_CHUNKED = (
    message("PUT /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked"),
    b"%x\r\n%b\r\n0\r\n\r\n" % (_MUCH, b"y" * _MUCH),
)
_FRAMED = pytest.mark.parametrize(("head", "body"), [_LENGTH, _CHUNKED], ids=["length", "chunked"])


def _whole_upload_in_our_buffer(talk: Conversation, head: bytes, body: bytes) -> tuple[Peer, Peer]:
    """A request that is whole, and the upstream it is meant for, which has read its head alone."""
    client = talk.client()
    client.sends(head)
    upstream = talk.upstream()
    upstream.stops_reading()
    client.sends(body)
    return client, upstream


# -- the upstream reads no further


@_FRAMED
@pytest.mark.parametrize("takes", [0, 1, 3])
def test_whole_request_that_is_read_slowly_and_then_not_at_all_ends_by_timeout(
    converse, takes: int, head: bytes, body: bytes
) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = _whole_upload_in_our_buffer(talk, head, body)
    for _ in range(takes):
        talk.passes(4)
        upstream.reads(1000)
    client.gets_nothing()
    talk.passes(20.5)  # the deadline that finds the last progress, and the one that finds none
    client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert (client.ended, upstream.ended) == ("open", "closed")
    assert talk.is_at_rest()


@_FRAMED
def test_whole_request_that_is_read_slowly_for_ever_has_until_total(converse, head: bytes, body: bytes) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = _whole_upload_in_our_buffer(talk, head, body)
    for _ in range(19):
        talk.passes(3)
        upstream.reads(1000)
    talk.passes(2.9)
    client.gets_nothing()
    for _ in range(8):  # without a rest
        talk.passes(TICK_S)
        upstream.reads(1)
    assert "(timeout.total)" in client.gets_refusal(504, "DOWNSTREAM_TIMEOUT").detail
    assert upstream.ended == "closed"


@_FRAMED
def test_upstream_that_has_read_it_all_still_owes_an_answer_in_time(converse, head: bytes, body: bytes) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = _whole_upload_in_our_buffer(talk, head, body)
    for _ in range(3):
        talk.passes(4)
        upstream.reads(1000)
    upstream.reads_on()
    talk.passes(4.9)
    client.gets_nothing()
    talk.passes(0.2)
    assert "(timeout.first_byte)" in client.gets_refusal(504, "DOWNSTREAM_TIMEOUT").detail


def test_body_that_is_read_slowly_and_then_not_at_all_behind_an_early_answer_cuts_that(converse) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = _whole_upload_in_our_buffer(talk, *_LENGTH)
    upstream.sends(message("HTTP/1.1 200 OK", "Content-Length: 9", body="x"))
    for _ in range(3):
        talk.passes(6)
        upstream.reads(1000)
    talk.passes(11.9)  # to the end of the second idle time, in which nothing was read
    assert (client.ended, upstream.ended) == ("open", "open")
    talk.passes(0.2)
    assert client.takes().endswith(b"\r\n\r\nx")
    assert (client.ended, upstream.ended) == ("fin", "closed")
    assert talk.is_at_rest()


@pytest.mark.parametrize("fresh", [True, False])
def test_body_that_waited_for_a_connection_is_not_read_on_while_the_upstream_is_blocked(converse, fresh: bool) -> None:
    talk = converse(timeout=_TIMEOUT, pool={"max_connections": 1})
    if fresh:
        talk.dialing = "late"
    else:
        other = talk.client()
        other.sends(GET)
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", f"Content-Length: {5 * _MUCH}", body=b"y" * _MUCH))
    assert not client.transport.reading
    if fresh:
        talk._peers[-1].stops_reading()
        talk.accepts()
        upstream = talk.upstream()
    else:
        upstream = talk.upstream()
        upstream.stops_reading()
        upstream.sends(OK)
        other.gets(OK_DOWNSTREAM)
    client.sends(*[b"y" * _MUCH] * 4)
    assert not client.transport.reading
    assert _MUCH < upstream.transport.get_write_buffer_size() < 2 * _MUCH
    upstream.reads_on()
    assert upstream.takes().count(b"y") >= 5 * _MUCH
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert talk.is_at_rest()


def test_upstream_that_catches_up_does_not_lift_the_bound_on_reading_ahead(converse) -> None:
    talk = converse(timeout=_TIMEOUT, listener={"max_read_ahead": 200})
    client, upstream = _whole_upload_in_our_buffer(talk, _LENGTH[0], _LENGTH[1] + GET * 20)
    client.sends(GET * 80)
    upstream.reads_on()
    assert not client.transport.reading
    assert len(client.protocol._held) == len(GET) * 20
    upstream.takes()
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    for _ in range(100):
        upstream.sends(OK)
    client.gets(OK_DOWNSTREAM * 100)


@_FRAMED
def test_upstreams_fin_while_it_does_not_read_is_502_at_once(converse, head: bytes, body: bytes) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = _whole_upload_in_our_buffer(talk, head, body)
    upstream.half_closes()
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert answer.detail == "payments closed the connection before it answered"
    assert (client.ended, upstream.ended) == ("open", "closed")
    assert talk.is_at_rest()


def test_upstreams_fin_while_it_does_not_read_the_rest_of_a_body_is_502_at_once(converse) -> None:
    talk = converse(timeout=_TIMEOUT)
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", f"Content-Length: {3 * _MUCH}"))
    upstream = talk.upstream()
    upstream.stops_reading()
    client.sends(b"y" * _MUCH, b"y" * _MUCH)
    upstream.half_closes()
    assert client.gets_refusal(502, "DOWNSTREAM_FAILURE").proxy_error == "connection_terminated"
    assert (client.ended, client.transport.reading, upstream.ended) == ("fin", True, "closed")
    assert talk.is_at_rest()


def test_upstreams_fin_while_it_does_not_read_cuts_an_early_answer_at_once(converse) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = _whole_upload_in_our_buffer(talk, *_LENGTH)
    upstream.sends(message("HTTP/1.1 200 OK", "Content-Length: 9", body="x"))
    upstream.half_closes()
    assert client.takes().endswith(b"\r\n\r\nx")
    assert (client.ended, upstream.ended) == ("fin", "closed")
    assert talk.is_at_rest()


# -- the client reads no further, and sends


def _sends_the_rest(client: Peer, upstream: Peer) -> None:
    client.sends(b"3\r\nrst\r\n0\r\n\r\n")


def _sends_more(client: Peer, upstream: Peer) -> None:
    client.sends(b"4\r\nmore\r\n")


def _is_echoed(client: Peer, upstream: Peer) -> None:
    upstream.stops_reading()  # it writes, and nobody reads: it cannot read either
    client.sends(b"%x\r\n%b\r\n" % (_MUCH, b"y" * _MUCH), b"4\r\nmore\r\n")
    assert not client.transport.reading


def _is_echoed_a_little(client: Peer, upstream: Peer) -> None:
    _is_echoed(client, upstream)
    upstream.reads_on()
    assert client.transport.reading


@pytest.mark.parametrize("goes_on", [_sends_the_rest, _sends_more, _is_echoed, _is_echoed_a_little])
def test_client_that_neither_reads_its_early_answer_nor_ends_its_body_is_cut_after_idle(converse, goes_on) -> None:
    talk = converse(timeout=_TIMEOUT, listener={"body_timeout": "3s", "keepalive_timeout": "200s"})
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked", body="4\r\nbody\r\n"))
    upstream = talk.upstream()
    client.stops_reading()
    upstream.sends(message("HTTP/1.1 200 OK", f"Content-Length: {9 * _MUCH}"), b"x" * _MUCH)
    talk.passes(5)
    goes_on(client, upstream)
    talk.passes(4.9)
    assert client.ended == "open"
    talk.passes(0.2)
    assert (client.ended, upstream.ended) == ("closed", "closed")
    assert talk.is_at_rest()
    assert talk.listener.connections == 0


@pytest.mark.parametrize("rest", [b"r", b"rest"])
def test_the_same_with_a_body_of_known_length(converse, rest: bytes) -> None:
    talk = converse(timeout=_TIMEOUT, listener={"body_timeout": "3s", "keepalive_timeout": "200s"})
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Content-Length: 8", body="body"))
    upstream = talk.upstream()
    client.stops_reading()
    upstream.sends(message("HTTP/1.1 200 OK", f"Content-Length: {9 * _MUCH}"), b"x" * _MUCH)
    client.sends(rest)
    talk.passes(9.9)
    assert client.ended == "open"
    talk.passes(0.2)
    assert (client.ended, upstream.ended) == ("closed", "closed")
    assert talk.is_at_rest()


def test_client_that_reads_again_owes_the_rest_of_its_body_again(converse) -> None:
    talk = converse(timeout=_TIMEOUT, listener={"body_timeout": "3s"})
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Content-Length: 8", body="body"))
    upstream = talk.upstream()
    client.stops_reading()
    upstream.sends(message("HTTP/1.1 200 OK", f"Content-Length: {9 * _MUCH}"), b"x" * _MUCH)
    talk.passes(9)
    client.reads_on()
    talk.passes(2.9)
    assert client.ended == "open"
    talk.passes(0.2)
    assert (client.ended, upstream.ended) == ("fin", "closed")


# -- the client leaves while its reading is, or was, paused


@_FRAMED
@pytest.mark.parametrize("way", ["half_closes", "resets"])
def test_client_that_leaves_while_its_whole_request_waits_for_a_connection_is_noticed(
    converse, head: bytes, body: bytes, way: str
) -> None:
    talk = converse(timeout=_TIMEOUT)
    talk.dialing = "hang"
    client = talk.client()
    client.sends(head + body)  # more than is taken while there is no connection
    assert talk.hanging == 1
    getattr(client, way)()
    assert (client.ended, talk.hanging) == ("closed", 0)
    assert talk.is_at_rest()


@_FRAMED
def test_client_that_leaves_after_its_waiting_request_was_sent_is_noticed(converse, head: bytes, body: bytes) -> None:
    talk = converse(timeout=_TIMEOUT)
    talk.dialing = "hang"
    client = talk.client()
    client.sends(head + body)
    talk.accepts()
    upstream = talk.upstream()
    assert upstream.takes().count(b"y") >= _MUCH
    client.half_closes()
    assert (client.ended, upstream.ended) == ("closed", "closed")
    assert talk.is_at_rest()


@_FRAMED
@pytest.mark.parametrize("reads_on", [False, True])
def test_client_that_leaves_after_its_last_piece_blocked_the_upstream_is_noticed(
    converse, head: bytes, body: bytes, reads_on: bool
) -> None:
    talk = converse(timeout=_TIMEOUT)
    client, upstream = _whole_upload_in_our_buffer(talk, head, body)
    assert upstream.transport.get_write_buffer_size() >= _MUCH
    if reads_on:
        upstream.reads_on()
    client.half_closes()
    assert (client.ended, upstream.ended) == ("closed", "closed")
    assert talk.is_at_rest()
