"""A connection of the application over TLS: it cannot be half-closed, and its end needs the client's consent."""

from __future__ import annotations

import socket

import pytest

from sidecar.proxy.transports import unsent
from tests.proxy.test_proxy_handshake import Secured
from tests.proxy.transcript import GET, HELLO, OK, Conversation, Peer, message

_LAST = message("GET /a HTTP/1.1", "Host: app", "Connection: close")
_MUCH = 60_000


def _asks(talk: Conversation, octets: bytes = _LAST) -> tuple[Peer, Peer]:
    """A client that speaks TLS and has asked, and the upstream that is to answer."""
    client = Secured(talk, HELLO)
    client.below.sends(octets)
    return client.above, talk.upstream()


def _big(talk: Conversation, client: Peer, upstream: Peer) -> None:
    client.stops_reading()
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", f"Content-Length: {_MUCH}", body="x" * _MUCH))


def test_slow_client_gets_all_of_its_last_answer(converse) -> None:
    talk = converse(secured=True, listener={"keepalive_timeout": "5s"})
    client, upstream = _asks(talk)
    _big(talk, client, upstream)
    for _ in range(10):
        talk.passes(4.9)
        client.reads(5000)
    assert talk.listener.connections == 1
    client.reads_on()
    assert client.takes().count(b"x") == _MUCH + 1
    assert (client.ended, talk.listener.connections) == ("closed", 0)
    assert client.transport.unsent_at_abort == 0


def test_client_that_does_not_take_its_last_answer_is_given_up(converse) -> None:
    talk = converse(secured=True, listener={"keepalive_timeout": "5s"})
    client, upstream = _asks(talk)
    _big(talk, client, upstream)
    talk.passes(5.1)
    assert talk.listener.connections == 0
    assert client.transport.aborted


def test_client_that_does_not_agree_to_the_end_is_given_up_soon(converse) -> None:
    talk = converse(secured=True)
    client, upstream = _asks(talk)
    client.transport.agrees = False
    upstream.sends(OK)
    assert client.takes().endswith(b"hi")
    assert (client.ended, talk.listener.connections) == ("closed", 1)
    talk.passes(2.1)
    assert talk.listener.connections == 0
    assert client.transport.aborted


def test_client_that_ends_the_connection_while_its_answer_leaves_gets_all_of_it(converse) -> None:
    talk = converse(secured=True)
    client, upstream = _asks(talk, GET)
    _big(talk, client, upstream)
    client.half_closes()
    talk.passes(3)
    client.reads(1000)
    client.reads_on()
    assert client.takes().count(b"x") == _MUCH + 1
    assert talk.listener.connections == 0


@pytest.mark.parametrize("allow", [True, False])
def test_client_that_ends_the_connection_before_its_answer_has_left_it(converse, allow: bool) -> None:
    talk = converse(secured=True, listener={"allow_half_close": allow})
    client, upstream = _asks(talk, GET)
    client.half_closes()
    assert (client.ended, upstream.ended, talk.listener.connections) == ("closed", "closed", 0)


def test_client_that_is_turned_away_must_not_stay(converse) -> None:
    talk = converse(secured=True)
    client = Secured(talk)
    client.above.transport.agrees = False
    socket_ = client.above.transport._socket
    socket_._descriptor = 1 << 40  # too few are left, now that it is known to speak TLS
    client.below.sends(HELLO)
    socket_._descriptor = -1
    assert client.above.gets_answer().code == "OVERLOADED"
    assert (client.above.ended, talk.listener.connections) == ("closed", 0)
    client.below.sends(GET)
    talk.passes(2.1)
    assert client.above.transport.aborted
    assert talk.deadlines.watched == 0


@pytest.mark.parametrize("tls", [True, False])
def test_answer_that_only_the_kernel_has_is_leaving_still_over_tls(converse, tls: bool) -> None:
    """For the transport below TLS may have more of it, of which nothing is seen."""
    talk = converse()
    client = talk.client(tls=tls)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client.transport._socket._descriptor = ours.fileno()
        assert not talk.listener.flushing
        ours.sendall(b"x" * 1000)
        assert unsent(client.transport) > 0
        assert talk.listener.flushing == tls
        talk.do(talk.listener.pre_shutdown)
        assert client.ended == ("open" if tls else "closed")
        theirs.recv(1000)
        assert not talk.listener.flushing
        client.transport._socket._descriptor = -1
