"""The connections to one dependency, and the queue for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from sidecar.errors import Refusal, UpstreamFailure
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.runtime.deadlines import NEVER
from tests.proxy.transcript import Conversation, Peer


class Waiter:
    """Wants a connection, and remembers what it got."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        self.connection: UpstreamConnection | None = None
        self.refusal: Refusal | None = None
        self.answers = 0

    def asks(self) -> Waiter:
        connection = self._talk.pool.take()
        if connection is None:
            self._talk.do(self._talk.pool.wait, self)
        else:
            self.on_connection(connection)
        return self

    def leaves(self) -> None:
        self._talk.do(self._talk.pool.leave, self)

    def is_done(self) -> None:
        """As an exchange that has ended well: the connection is parked and handed back."""
        connection, self.connection = self.connection, None
        assert connection is not None
        connection.park()
        self._talk.do(self._talk.pool.give_back, connection)

    def on_connection(self, connection: UpstreamConnection) -> None:
        self.answers += 1
        self.connection = connection
        connection.wait_until(NEVER)  # as the beginning of an exchange ends the idle time

    def on_no_connection(self, refusal: Refusal) -> None:
        self.answers += 1
        self.refusal = refusal


@pytest.fixture
def converse(converse: Callable[..., Conversation]) -> Iterator[Callable[..., Conversation]]:
    """Conversations whose connections in use have no exchange that would end them."""
    made = []

    def make(**keys: object) -> Conversation:
        made.append(converse(**keys))
        return made[-1]

    yield make
    for talk in made:
        talk.do(talk.pool.close)
        for waiter in list(talk.pool._waiting):
            talk.do(talk.pool.leave, waiter)
        for connection in list(talk.pool._active):
            talk.do(connection.close)


def _counts(talk: Conversation) -> str:
    return repr(talk.pool).removeprefix("<Pool payments ").removesuffix(">")


def test_connection_is_made_for_who_finds_none(converse) -> None:
    talk = converse()
    waiter = Waiter(talk).asks()
    assert waiter.connection is not None
    assert _counts(talk) == "active=1 idle=0 connecting=0 waiting=0"
    assert talk.dialed == [("payments", 8080)]
    waiter.is_done()
    assert _counts(talk) == "active=0 idle=1 connecting=0 waiting=0"


def test_last_one_in_is_the_first_one_out(converse) -> None:
    talk = converse()
    waiters = [Waiter(talk).asks() for _ in range(3)]
    connections = [waiter.connection for waiter in waiters]
    for number in (1, 0, 2):
        waiters[number].is_done()
    assert [talk.pool.take() for _ in range(4)] == [connections[2], connections[0], connections[1], None]


def test_never_more_than_max_connections(converse) -> None:
    talk = converse(pool={"max_connections": 2})
    waiters = [Waiter(talk).asks() for _ in range(5)]
    assert _counts(talk) == "active=2 idle=0 connecting=0 waiting=3"
    assert len(talk.dialed) == 2
    assert talk.pool.saturated
    assert [waiter.answers for waiter in waiters] == [1, 1, 0, 0, 0]


def test_queue_is_served_in_order_of_arrival(converse) -> None:
    talk = converse(pool={"max_connections": 1})
    waiters = [Waiter(talk).asks() for _ in range(4)]
    connection = waiters[0].connection
    for before, after in itertools.pairwise(waiters):
        assert after.answers == 0
        before.is_done()
        assert after.connection is connection


def test_returned_connection_serves_who_has_waited_longest_while_others_are_made(converse) -> None:
    talk = converse()
    first = Waiter(talk).asks()
    talk.dialing = "hang"
    second, third = Waiter(talk).asks(), Waiter(talk).asks()
    connection = first.connection
    first.is_done()
    assert second.connection is connection
    talk.accepts()
    assert third.answers == 1
    talk.accepts()  # nobody waits for it any more: it is kept
    assert _counts(talk) == "active=2 idle=1 connecting=0 waiting=0"


def test_who_leaves_takes_its_attempt_with_it(converse) -> None:
    talk = converse()
    talk.dialing = "hang"
    one, other = Waiter(talk).asks(), Waiter(talk).asks()
    one.leaves()
    one.leaves()
    assert _counts(talk) == "active=0 idle=0 connecting=1 waiting=1"
    assert talk.hanging == 1
    talk.accepts()
    assert (one.answers, other.answers) == (0, 1)


def test_failed_attempt_refuses_one_waiter_alone(converse) -> None:
    talk = converse()
    talk.dialing = "hang"
    one, other = Waiter(talk).asks(), Waiter(talk).asks()
    talk.refuses(ConnectionRefusedError(111, "Connection refused"))
    assert isinstance(one.refusal, UpstreamFailure)
    assert other.answers == 0
    talk.accepts()
    assert other.connection is not None


def test_who_stands_behind_a_failed_attempt_gets_one_of_its_own(converse) -> None:
    talk = converse(pool={"max_connections": 1})
    talk.dialing = "hang"
    one, other = Waiter(talk).asks(), Waiter(talk).asks()
    talk.refuses(ConnectionRefusedError(111, "Connection refused"))
    assert (one.answers, other.answers, talk.hanging) == (1, 0, 1)
    talk.accepts()
    assert other.connection is not None


def test_connection_that_ends_in_use_makes_room(converse) -> None:
    talk = converse(pool={"max_connections": 1})
    one, other = Waiter(talk).asks(), Waiter(talk).asks()
    connection = one.connection
    assert connection is not None
    talk.do(connection.close)
    assert other.answers == 1
    assert other.connection is not connection
    assert len(talk.dialed) == 2


@pytest.mark.parametrize("most", [0, 2])
def test_no_more_than_max_idle_are_kept(converse, most: int) -> None:
    talk = converse(pool={"max_idle": most})
    waiters = [Waiter(talk).asks() for _ in range(4)]
    for waiter in waiters:
        waiter.is_done()
    assert _counts(talk) == f"active=0 idle={most} connecting=0 waiting=0"
    assert [peer.ended for peer in (talk.upstream() for _ in range(4))].count("closed") == 4 - most


def test_idle_connection_is_closed_when_its_time_is_over(converse) -> None:
    talk = converse(pool={"idle_timeout": "4s"})
    Waiter(talk).asks().is_done()
    upstream = talk.upstream()
    talk.passes(3.9)
    assert upstream.ended == "open"
    talk.passes(0.2)
    assert upstream.ended == "closed"
    assert _counts(talk) == "active=0 idle=0 connecting=0 waiting=0"


def test_idle_time_counts_from_the_last_use(converse) -> None:
    talk = converse(pool={"idle_timeout": "4s"})
    Waiter(talk).asks().is_done()
    upstream = talk.upstream()
    for _ in range(3):
        talk.passes(3)
        waiter = Waiter(talk).asks()
        talk.passes(3)
        waiter.is_done()
    assert upstream.ended == "open"
    assert len(talk.dialed) == 1


def test_connection_past_its_age_is_not_used_again_but_serves_to_the_end(converse) -> None:
    talk = converse(pool={"idle_timeout": "4s", "max_age": "10s"})
    Waiter(talk).asks().is_done()
    upstream = talk.upstream()
    for _ in range(3):
        talk.passes(3)
        Waiter(talk).asks().is_done()
    talk.passes(0.9)
    assert upstream.ended == "open"
    talk.passes(0.2)
    assert upstream.ended == "closed"
    waiter = Waiter(talk).asks()
    talk.passes(60)
    assert talk.upstream().ended == "open"
    waiter.is_done()
    assert Waiter(talk).asks().connection is not waiter.connection
    assert len(talk.dialed) == 3


def test_connection_whose_time_is_over_is_not_taken_between_two_ticks(converse) -> None:
    talk = converse(pool={"idle_timeout": "4s"})
    waiter = Waiter(talk).asks()
    connection = waiter.connection
    waiter.is_done()
    assert connection is not None
    connection.deadline = talk.deadlines.now
    assert talk.pool.take() is None
    assert talk.upstream().ended == "closed"


def test_connection_that_is_closing_is_not_taken(converse) -> None:
    talk = converse()
    Waiter(talk).asks().is_done()
    upstream = talk.upstream()
    upstream.transport._closing = True  # FIN has been seen, its loss not yet reported
    assert talk.pool.take() is None
    upstream.transport.abort()


def test_closed_pool_keeps_nothing(converse) -> None:
    talk = converse()
    one, other = Waiter(talk).asks(), Waiter(talk).asks()
    other.is_done()
    talk.dialing = "hang"
    talk.do(talk.pool.take().close)
    third = Waiter(talk).asks()
    talk.do(talk.pool.close)
    assert _counts(talk) == "active=1 idle=0 connecting=0 waiting=1"
    assert talk.hanging == 0
    third.leaves()
    one.is_done()
    assert _counts(talk) == "active=0 idle=0 connecting=0 waiting=0"


def test_busy_says_which_limit_and_how_long(converse) -> None:
    talk = converse(pool={"max_connections": 3}, timeout={"connect": "2s"})
    refusal = talk.pool.busy()
    assert refusal.detail == (
        "all 3 connections to payments (pool.max_connections) were in use for 2 s (timeout.connect)"
    )


def test_connection_made_for_who_has_just_left_is_closed(converse) -> None:
    talk = converse()
    talk.dialing = "late"
    waiter = Waiter(talk).asks()
    waiter.leaves()
    assert waiter.answers == 0
    assert _counts(talk) == "active=0 idle=0 connecting=0 waiting=0"
    assert [peer.ended for peer in talk._peers] == ["closed"]


def test_attempt_given_up_as_it_succeeds_is_given_up(converse) -> None:
    talk = converse()
    talk.dialing = "hang"
    waiter = Waiter(talk).asks()
    with talk.loop.running():
        talk._hanging[0].set_result(None)
        talk.pool.leave(waiter)
    talk.loop.settle()
    assert waiter.answers == 0
    assert _counts(talk) == "active=0 idle=0 connecting=0 waiting=0"


def test_upstream_connection_shows_its_state(converse) -> None:
    talk = converse()
    waiter = Waiter(talk).asks()
    assert repr(waiter.connection) == "<UpstreamConnection payments idle reused=False>"
    assert isinstance(talk.upstream(), Peer)
