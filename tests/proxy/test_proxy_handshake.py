"""The TLS handshake of a client: what comes too early, what comes to nothing, what ends it, and what it counts as."""

from __future__ import annotations

import gc
import logging
import ssl

import pytest

from sidecar.proxy.downstream import DownstreamConnection
from sidecar.proxy.handshake import Handshake
from tests.proxy.transcript import GET, GET_UPSTREAM, HELLO, OK, OK_DOWNSTREAM, Conversation, Peer
from tests.proxy.tunnels import SWITCHING, SWITCHING_DOWNSTREAM, UPGRADE, UPGRADE_UPSTREAM

_RESET = ConnectionResetError(104, "Connection reset by peer")


class Secured:
    """A client that speaks TLS: its connection, and what comes above it, behind the handshake."""

    def __init__(self, talk: Conversation, *early: bytes) -> None:
        self.below = talk.client(*early)
        self._talk = talk

    @property
    def above(self) -> Peer:
        """Its end of what is spoken over TLS."""
        layer = self._talk.tls.layers[-1]
        return Peer(self._talk, layer.transport, protocol=layer.transport._protocol)

    @property
    def served(self) -> bool:
        """Whether its handshake is over, and HTTP is spoken."""
        return isinstance(self.above.protocol, DownstreamConnection)


@pytest.fixture
def secure(converse):
    return lambda **keys: converse(secured=True, **keys)


def _nothing_left(talk: Conversation) -> None:
    assert (talk.listener.connections, talk.listener.in_flight) == (0, 0)


# -- octets


@pytest.mark.parametrize("early", [[], [HELLO], [HELLO[:3]], [HELLO[:3], HELLO[3:]]])
def test_client_hello_is_read_however_early_it_comes(secure, early: list[bytes]) -> None:
    talk = secure()
    client = Secured(talk, *early)
    left = HELLO[sum(map(len, early)) :]
    if left:
        assert not client.served
        client.below.sends(left)
    assert client.served
    assert talk.listener.connections == 1
    client.below.sends(GET)
    upstream = talk.upstream()
    upstream.gets(GET_UPSTREAM)
    upstream.sends(OK)
    client.above.gets(OK_DOWNSTREAM)


@pytest.mark.parametrize("reads", [[HELLO + GET], [HELLO, GET], [(HELLO + GET)[:9], (HELLO + GET)[9:]]])
@pytest.mark.parametrize("at_once", [False, True])
def test_request_that_comes_with_the_last_of_the_handshake_is_served(secure, reads: list[bytes], at_once: bool) -> None:
    talk = secure()
    if at_once:
        client = Secured(talk, *reads)
    else:
        client = Secured(talk)
        client.below.sends(*reads)
    upstream = talk.upstream()
    upstream.gets(GET_UPSTREAM)
    upstream.sends(OK)
    client.above.gets(OK_DOWNSTREAM)


def test_octets_in_front_of_the_handshake_are_never_taken_for_what_is_encrypted(secure) -> None:
    talk = secure()
    client = Secured(talk, GET)
    assert (talk.dialed, talk.listener.failed_handshakes) == ([], 1)
    assert client.below.ended == "closed"
    client = Secured(talk)
    client.below.sends(GET)
    assert (talk.dialed, talk.listener.failed_handshakes) == ([], 2)
    _nothing_left(talk)


@pytest.mark.parametrize("ended", [False, True])
def test_octets_and_end_that_reach_the_handshake_itself_are_handed_on(secure, ended: bool) -> None:
    talk = secure()
    client = Secured(talk)
    layer = talk.tls.layers[-1]
    with talk.loop.running():
        client.below.transport.arrive(HELLO)  # the handshake is over, but nobody has been told
        handshake = layer.transport._protocol
        handshake.data_received(GET[:9])
        handshake.data_received(GET[9:])
        handshake.pause_writing()
        handshake.resume_writing()
        if ended:
            handshake.eof_received()
    talk.loop.settle()
    assert talk.dialed == [("payments", 8080)] or ended
    assert client.above.ended == ("closed" if ended else "open")


def test_upgrade_over_tls_becomes_a_tunnel(secure) -> None:
    talk = secure()
    client = Secured(talk)
    client.below.sends(HELLO + UPGRADE)
    upstream = talk.upstream()
    upstream.gets(UPGRADE_UPSTREAM)
    upstream.sends(SWITCHING + b"x")
    client.above.gets(SWITCHING_DOWNSTREAM + b"x")
    client.below.sends(b"y")
    upstream.gets(b"y")
    assert (talk.listener.connections, talk.listener.tunnels) == (1, 1)


def test_requests_over_tls_say_so(converse) -> None:
    talk = converse(secured=True, listener={"forwarded": "append"})
    client = Secured(talk)
    client.below.sends(HELLO + GET)
    assert b"\r\nX-Forwarded-Proto: https\r\n" in talk.upstream().takes()


# -- what bounds it


def test_handshake_has_as_long_as_a_head(secure) -> None:
    talk = secure(listener={"head_timeout": "7s"})
    Secured(talk)
    assert talk.tls.layers[-1].timeout_s == 7


def test_handshake_counts_as_a_connection(secure) -> None:
    talk = secure(listener={"max_connections": 2})
    waiting, done = Secured(talk), Secured(talk)
    done.below.sends(HELLO)
    assert talk.listener.connections == 2
    third = talk.client()
    assert (third.ended, talk.listener.connections, talk.listener.unrouted["CONNECTION_LIMITED"]) == ("closed", 2, 1)
    assert talk.listener.failed_handshakes == 0
    third.gets_nothing()
    assert len(talk.tls.layers) == 2
    waiting.below.resets()
    assert talk.listener.connections == 1
    fourth = Secured(talk, HELLO)
    assert fourth.served


def test_last_descriptors_are_not_for_handshakes(secure) -> None:
    talk = secure()
    talk.descriptor = 1 << 40
    client = talk.client()
    assert (client.ended, talk.listener.connections, talk.tls.layers) == ("closed", 0, [])


# -- what comes to nothing


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("way", ["half_closes", "resets", "closes"])
def test_client_that_leaves_before_its_handshake_is_over_leaves_nothing(secure, early: bool, way: str) -> None:
    talk = secure()
    if early:  # before anything has been done for it
        client = talk.client(told=False)
        with talk.loop.running():
            client.transport.begin()
            if way == "half_closes":
                client.transport.arrive(b"")
            else:
                client.transport.fail(_RESET if way == "resets" else None)
        talk.loop.settle()
    else:
        client = Secured(talk).below
        client.sends(HELLO[:3])
        getattr(client, way)()
    assert client.ended == "closed"
    _nothing_left(talk)
    assert talk.listener.failed_handshakes == 1
    assert talk.deadlines.watched == 0


@pytest.mark.parametrize("error", [None, _RESET])
def test_client_that_leaves_as_its_handshake_is_over_is_not_served(secure, error) -> None:
    talk = secure()
    client = Secured(talk)
    with talk.loop.running():
        client.below.transport.arrive(HELLO + GET)
        client.below.transport.fail(error)
    talk.loop.settle()
    _nothing_left(talk)
    assert talk.deadlines.watched == 0


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ssl.SSLError(1, "[SSL: NO_SHARED_CIPHER] no shared cipher (_ssl.c:992)"), "no shared cipher"),
        (ConnectionAbortedError("SSL handshake is taking longer than 10 seconds: aborting the connection"), "longer"),
        (ConnectionResetError(), "the client has left"),
        (_RESET, "Connection reset by peer"),
        (TimeoutError(), "the client has left"),
    ],
)
def test_failed_handshake_is_counted_and_told(secure, caplog: pytest.LogCaptureFixture, error, says: str) -> None:
    talk = secure()
    client = Secured(talk)
    with caplog.at_level(logging.WARNING, "sidecar.tls"):
        talk.do(talk.tls.layers[-1].fail, error)
    assert client.below.ended == "closed"
    _nothing_left(talk)
    assert talk.listener.failed_handshakes == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("a TLS handshake of a client failed: ")
    assert says in record.getMessage()
    assert record.getMessage().endswith(" (1 so far)")


def test_failed_handshakes_are_all_counted_and_told_every_ten_seconds(secure, caplog: pytest.LogCaptureFixture) -> None:
    talk = secure()
    with caplog.at_level(logging.WARNING, "sidecar.tls"):
        for _ in range(5):
            Secured(talk, b"nonsense")
        talk.passes(9.9)
        Secured(talk, b"nonsense")
        assert len(caplog.records) == 1
        talk.passes(0.2)
        Secured(talk, b"nonsense")
    assert [record.getMessage().rpartition("(")[2] for record in caplog.records] == ["1 so far)", "7 so far)"]
    assert talk.listener.failed_handshakes == 7
    assert talk.log.lines == []


def test_defect_within_the_handshake_is_reported_and_leaves_nothing(secure) -> None:
    talk = secure()
    client = Secured(talk)
    talk.do(talk.tls.layers[-1].fail, ValueError("a defect"))
    assert client.below.ended == "closed"
    _nothing_left(talk)
    (fault,) = talk.loop.faults
    assert str(fault["exception"]) == "a defect"
    talk.loop.faults.clear()


# -- the sidecar stops


@pytest.mark.parametrize("end", ["pre_shutdown", "abort"])
@pytest.mark.parametrize("stage", ["accepted", "under way", "over"])
def test_shutdown_ends_a_handshake_wherever_it_is(secure, end: str, stage: str) -> None:
    talk = secure()
    if stage == "accepted":  # its task has not run yet
        below = talk.client(HELLO, told=False)
        with talk.loop.running():
            below.transport.begin()
            getattr(talk.listener, end)()
    else:
        below = Secured(talk).below
        with talk.loop.running():
            if stage == "over":
                below.transport.arrive(HELLO)  # and its task has not been told yet
            getattr(talk.listener, end)()
    talk.loop.settle()
    assert below.ended == "closed"
    _nothing_left(talk)
    assert talk.listener.failed_handshakes == 0
    with talk.loop.running():
        shutdown = talk.loop.create_task(talk.listener.shutdown())
    talk.loop.settle()
    assert shutdown.done()


def test_connection_whose_handshake_is_over_is_an_ordinary_one(secure) -> None:
    talk = secure(listener={"keepalive_timeout": "5s"})
    client = Secured(talk, HELLO)
    talk.passes(5.1)
    assert (client.above.ended, client.below.ended) == ("closed", "closed")
    _nothing_left(talk)


def test_handshake_that_is_over_is_freed_at_once(secure) -> None:
    gc.collect()
    gc.disable()
    try:
        before = {id(found) for found in gc.get_objects() if type(found) is Handshake}
        talk = secure()
        for early in (HELLO, b"nonsense", b""):
            talk.client(early)
        talk.client(HELLO[:1]).resets()
        talk.do(talk.client(told=False).transport.begin)
        talk.do(talk.listener.pre_shutdown)
        for layer in talk.tls.layers:  # the stage's own references
            layer.waiter = None
            if not isinstance(layer.transport._protocol, DownstreamConnection):
                layer.transport._protocol = None
        for peer in talk._peers:
            if not isinstance(peer.protocol, DownstreamConnection):
                peer.protocol = None
            if type(peer.transport._protocol) is Handshake:
                peer.transport._protocol = None
        assert {id(found) for found in gc.get_objects() if type(found) is Handshake} == before
    finally:
        gc.enable()
