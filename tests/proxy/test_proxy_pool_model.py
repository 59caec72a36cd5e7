"""The pool beside a naive model: whatever happens in whatever order, its promises hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.errors import Refusal
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.runtime.deadlines import NEVER
from tests.proxy.transcript import Conversation

_MOST = 3
_MOST_IDLE = 2
_IDLE_S = 4.0


class Waiter:
    """A request that wants a connection."""

    def __init__(self, machine: PoolBesideModel) -> None:
        self._machine = machine
        self.served = 0

    def on_connection(self, connection: UpstreamConnection) -> None:
        self.served += 1
        self._machine.is_served(self)
        self._machine.is_given(connection)

    def on_no_connection(self, refusal: Refusal) -> None:
        self.served += 1
        self._machine.is_served(self)


class PoolBesideModel(RuleBasedStateMachine):
    """Requests that come, wait, leave and end; an upstream that accepts, refuses and hangs up; time that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.talk = Conversation(
            pool={"max_connections": _MOST, "max_idle": _MOST_IDLE, "idle_timeout": "4s", "max_age": "1h"},
            timeout={"connect": "1h", "total": "1h"},
        )
        self.talk.dialing = "hang"
        self.queue: list[Waiter] = []
        self.everyone: list[Waiter] = []
        self.busy: list[UpstreamConnection] = []
        self.idle: list[tuple[UpstreamConnection, float]] = []  # with the time at which it became so

    # What the pool reports.

    def is_served(self, waiter: Waiter) -> None:
        assert waiter is self.queue.pop(0), "somebody who came earlier still waits"

    def is_given(self, connection: UpstreamConnection) -> None:
        assert connection not in self.busy
        assert connection not in [idle for idle, _ in self.idle]
        self.busy.append(connection)
        connection.wait_until(NEVER)  # as the beginning of an exchange ends the idle time

    # What happens.

    @rule()
    def request_comes(self) -> None:
        connection = self.talk.pool.take()
        expected = self.idle.pop()[0] if self.idle else None
        assert connection is expected
        if connection is not None:
            self.is_given(connection)
            return
        waiter = Waiter(self)
        self.everyone.append(waiter)
        self.queue.append(waiter)
        self.talk.do(self.talk.pool.wait, waiter)

    @precondition(lambda self: self.idle)
    @rule()
    def replacement_wants_a_fresh_connection(self) -> None:
        waiter = Waiter(self)
        self.everyone.append(waiter)
        self.queue.append(waiter)
        if self._total() >= _MOST and len(self.queue) > self.talk.hanging:
            self.idle.pop(0)  # the oldest makes room
        self.talk.do(self.talk.pool.wait, waiter)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def waiter_leaves(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.queue))
        self.queue.remove(waiter)
        self.talk.do(self.talk.pool.leave, waiter)

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def request_ends_well(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(self.busy))
        self.busy.remove(connection)
        if not self.queue and len(self.idle) < _MOST_IDLE:
            self.idle.append((connection, self.talk.deadlines.now))
        connection.park()
        self.talk.do(self.talk.pool.give_back, connection)

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def request_ends_badly(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(self.busy))
        self.busy.remove(connection)
        self.talk.do(connection.close)

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def upstream_hangs_up(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.idle))
        self.idle.remove(entry)
        self.talk.do(entry[0].connection_lost, None)

    @precondition(lambda self: self.talk.hanging)
    @rule()
    def upstream_accepts(self) -> None:
        nobody_waits = not self.queue
        self.talk.accepts()
        if nobody_waits and len(self.idle) < _MOST_IDLE:
            (connection,) = set(self._kept()) - {idle for idle, _ in self.idle}
            self.idle.append((connection, self.talk.deadlines.now))

    @precondition(lambda self: self.talk.hanging)
    @rule()
    def upstream_refuses(self) -> None:
        self.talk.refuses(ConnectionRefusedError(111, "Connection refused"))

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.talk.passes(seconds)
        now = self.talk.deadlines.now
        # Expired ones are gone at most two ticks late; one in between is asked for rather than guessed.
        self.idle = [
            (connection, since)
            for connection, since in self.idle
            if now < since + _IDLE_S or (now < since + _IDLE_S + 0.06 and connection in self._kept())
        ]

    def _kept(self) -> list[UpstreamConnection]:
        (endpoint,) = self.talk.pool.ejection.members
        return list(endpoint.idle)

    def _total(self) -> int:
        return len(self.busy) + len(self.idle) + self.talk.hanging

    # What holds.

    @invariant()
    def the_pool_counts_what_the_model_counts(self) -> None:
        assert repr(self.talk.pool) == (
            f"<Pool payments active={len(self.busy)} idle={len(self.idle)} "
            f"connecting={self.talk.hanging} waiting={len(self.queue)}>"
        )

    @invariant()
    def there_are_never_too_many(self) -> None:
        assert self._total() <= _MOST
        assert len(self.idle) <= _MOST_IDLE

    @invariant()
    def each_connection_is_in_one_place(self) -> None:
        assert set(self.talk.pool._active) == set(self.busy)
        (endpoint,) = self.talk.pool.ejection.members
        assert endpoint.busy == len(self.busy) + self.talk.hanging
        assert self._kept() == [connection for connection, _ in self.idle]

    @invariant()
    def nobody_is_served_twice_and_nobody_forgotten(self) -> None:
        assert all(waiter.served <= 1 for waiter in self.everyone)
        if self.queue and not self.talk.hanging:
            assert len(self.busy) == _MOST, "somebody waits for whom no connection is being made"

    def teardown(self) -> None:
        for waiter in self.queue:
            self.talk.do(self.talk.pool.leave, waiter)
        for connection in self.busy:
            self.talk.do(connection.close)
        self.talk.leaves_nothing()


TestPoolBesideModel = PoolBesideModel.TestCase
TestPoolBesideModel.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
