"""Attempts to connect: how they fail, how they are given up, and that they leave nothing either way."""

from __future__ import annotations

import asyncio
import errno
import gc
from collections.abc import Iterator

import pytest

from tests.proxy.transcript import GET, GET_UPSTREAM, OK, OK_DOWNSTREAM, Conversation, Peer, StageTransport, message

_NOTHING = "<Pool payments active=0 idle=0 connecting=0 waiting=0>"
_TIMEOUT = {"connect": "2s", "first_byte": "50s", "idle": "50s", "total": "60s"}


# -- failures


@pytest.mark.parametrize("unix", [True, False])
def test_full_backlog_of_a_unix_socket_is_the_dependencys_failure(converse, unix: bool) -> None:
    talk = converse(upstream="unix:/run/payments.sock", prefix="/") if unix else converse()
    talk.dialing = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    client = talk.client()
    client.sends(GET)
    if unix:
        answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
        assert answer.proxy_error == "connection_refused"
        assert answer.detail == "payments does not accept: the backlog of its socket is full"
        assert client.ended == "open"
    else:  # where it means that there is no local port
        client.gets_refusal(503, "OVERLOADED")
    assert talk.is_at_rest()


def test_defect_in_connecting_is_answered_and_reported(converse) -> None:
    talk = converse()
    defect = talk.dialing = RuntimeError("no such transport")
    client = talk.client()
    client.sends(GET)
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert answer.detail == "no connection to payments: no such transport"
    assert [fault["exception"] for fault in talk.loop.faults] == [defect]
    assert talk.loop.faults[0]["message"] == "connecting to payments failed"
    talk.loop.faults.clear()
    assert talk.is_at_rest()
    talk.dialing = "accept"
    client.sends(GET)
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)


# -- given up


def _by_its_client(talk: Conversation, client: Peer) -> None:
    client.half_closes()


def _by_timeout(talk: Conversation, client: Peer) -> None:
    talk.passes(2.1)


def _by_drain(talk: Conversation, client: Peer) -> None:
    talk.do(talk.pool.close)
    client.resets()


_GIVEN_UP = pytest.mark.parametrize("give_up", [_by_its_client, _by_timeout, _by_drain])


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Only what reference counts free is freed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _alive() -> dict[str, int]:
    """How many there are of what an attempt is made of."""
    names = [type(found).__name__ for found in gc.get_objects()]
    return {name: names.count(name) for name in ("Dial", "Task", "Exchange")}


@_GIVEN_UP
@pytest.mark.parametrize("dialing", ["hang", "late"])
def test_attempt_given_up_leaves_no_cycle(converse, without_collector: None, dialing: str, give_up) -> None:
    before = _alive()
    talk = converse(timeout=_TIMEOUT)
    talk.dialing = dialing
    for _ in range(3):
        client = talk.client()
        client.sends(GET)
        assert _alive() != before
        give_up(talk, client)
        assert talk.hanging == 0
    assert _alive() == before


@pytest.mark.parametrize("end", ["accept", "reset", OSError(errno.ECONNREFUSED, "Connection refused")])
def test_attempt_that_ends_leaves_no_cycle(converse, without_collector: None, end: str | OSError) -> None:
    before = _alive()
    talk = converse(timeout=_TIMEOUT, pool={"max_idle": 0})
    talk.dialing = end
    for _ in range(3):
        client = talk.client()
        client.sends(GET)
        if end == "accept":
            talk.upstream().sends(OK)
        client.gets_answer()
    if isinstance(end, OSError):
        end.__traceback__ = None  # the stage raises the same one again, and so would hold its frames
    assert _alive() == before


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("most", [1, 100])
def test_attempt_given_up_before_it_began_leaves_nothing(converse, times: int, most: int) -> None:
    talk = converse(timeout=_TIMEOUT, pool={"max_connections": most})
    for _ in range(times):
        client = talk.client()
        client.sends_at_once(GET)
        client.sends_at_once(b"")
        assert repr(talk.pool) == _NOTHING
        assert not talk.pool.saturated
        talk.loop.settle()
    assert talk.dialed == []
    assert talk.deadlines.watched == 0
    client = talk.client()
    client.sends(GET)
    assert len(talk.dialed) == 1
    upstream = talk.upstream()
    upstream.gets(GET_UPSTREAM)
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_attempt_given_up_before_it_began_is_not_counted_on_by_who_comes_next(converse) -> None:
    talk = converse(timeout=_TIMEOUT, pool={"max_connections": 1})
    one, other = talk.client(), talk.client()
    one.sends_at_once(GET)
    one.sends_at_once(b"")
    other.sends_at_once(GET)
    talk.loop.settle()
    assert len(talk.dialed) == 1
    talk.upstream().sends(OK)
    other.gets(OK_DOWNSTREAM)


# -- given up at the very moment at which they succeed


class _Accepting:
    """Connections that are whole, while those who asked for them have yet to be told."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self._told: list[asyncio.Future[None]] = []
        self.peers: list[Peer] = []
        talk.loop.dial = self._dial

    async def _dial(self, factory, address, tls):
        protocol = factory()
        transport = StageTransport(self._talk.loop, protocol, -1)
        peer = Peer(self._talk, transport, address)
        self.peers.append(peer)
        self._talk._peers.append(peer)
        transport.begin()
        told = self._talk.loop.create_future()
        self._told.append(told)
        await told
        return transport, protocol

    def tells(self) -> None:
        """The outcome is there; the task that waits for it has not run yet."""
        self._told.pop().set_result(None)


@pytest.mark.parametrize("told", [True, False])
@_GIVEN_UP
def test_connection_whole_as_its_attempt_is_given_up_is_closed(converse, told: bool, give_up) -> None:
    talk = converse(timeout=_TIMEOUT)
    accepting = _Accepting(talk)
    client = talk.client()
    client.sends(GET)
    (upstream,) = accepting.peers
    assert upstream.ended == "open"
    if told:
        with talk.loop.running():
            accepting.tells()
            if give_up is _by_its_client:
                client.sends_at_once(b"")
            elif give_up is _by_timeout:
                for _ in range(11):
                    talk.clock.seconds += 0.2  # below what would pass for a standstill
                    talk.deadlines.advance()
            else:
                talk.pool.close()
                client.transport.fail(None)
        talk.loop.settle()
    else:
        give_up(talk, client)
    assert upstream.ended == "closed"
    upstream.gets_nothing()
    assert repr(talk.pool) == _NOTHING
    assert talk.is_at_rest()


def test_connection_whole_in_time_is_used(converse) -> None:
    talk = converse(timeout=_TIMEOUT)
    accepting = _Accepting(talk)
    client = talk.client()
    client.sends(GET)
    accepting.tells()
    talk.loop.settle()
    (upstream,) = accepting.peers
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert upstream.ended == "open"


# -- the age of a connection that is never idle


def test_max_age_ends_a_connection_for_which_requests_queue(converse) -> None:
    talk = converse(
        timeout={"connect": "50s", "first_byte": "50s", "total": "60s"}, pool={"max_connections": 1, "max_age": "10s"}
    )
    clients = [talk.client() for _ in range(4)]
    for client in clients:
        client.sends(GET)
    first = talk.upstream()
    talk.passes(9)
    first.sends(OK)
    assert (first.ended, len(talk.dialed)) == ("open", 1)  # young enough for the second
    talk.passes(1.1)
    first.sends(OK)
    assert (first.ended, len(talk.dialed)) == ("closed", 2)
    second = talk.upstream()
    second.gets(GET_UPSTREAM)
    second.sends(OK)
    second.sends(OK)
    assert second.ended == "open"
    for client in clients:
        client.gets(OK_DOWNSTREAM)
    assert talk.is_at_rest()


def test_max_age_does_not_end_what_is_under_way(converse) -> None:
    talk = converse(pool={"max_connections": 1, "max_age": "1s"})
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 2"))
    talk.passes(3)
    upstream.sends(b"hi")
    client.gets(OK_DOWNSTREAM)
    assert upstream.ended == "closed"


@pytest.mark.parametrize("leaves", [False, True], ids=["answered", "client leaves"])
def test_request_that_was_tried_again_leaves_no_cycle(converse, without_collector: None, leaves: bool) -> None:
    before = _alive()
    talk = converse(retry={"attempts": 2, "budget": {"ratio": "100%"}}, pool={"max_idle": 0})
    for _ in range(3):
        client = talk.client()
        client.sends(GET)
        talk.upstream().sends(message("HTTP/1.1 503 Busy", "Date: x", "Content-Length: 0"))
        if leaves:
            client.resets()
            continue
        talk.passes(0.1)
        talk.upstream().sends(OK)
        assert client.gets_answer().status == 200
    assert _alive() == before
