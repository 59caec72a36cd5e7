"""The pool of a dependency at several addresses, whatever happens in whatever order: its books are always right."""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.errors import Refusal
from sidecar.policy.states import Outcome
from sidecar.proxy.endpoint import Endpoint
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.runtime.deadlines import NEVER
from tests.proxy.transcript import Conversation, StageTransport

_MOST = 4
_MOST_IDLE = 3
_ADDRESSES = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"]
_SOME = st.lists(st.sampled_from(_ADDRESSES), min_size=1, unique=True)


class Waiter:
    """A request that wants a connection."""

    def __init__(self, machine: PoolAtAddresses) -> None:
        self._machine = machine
        self.answers = 0

    def on_connection(self, connection: UpstreamConnection) -> None:
        self.answers += 1
        assert self._machine.queue.pop(0) is self, "somebody who came earlier still waits"
        self._machine.is_given(connection)

    def on_no_connection(self, refusal: Refusal) -> None:
        self.answers += 1
        assert self._machine.queue.pop(0) is self
        assert self._machine.failing, f"nothing has failed, and yet: {refusal.detail}"


class PoolAtAddresses(RuleBasedStateMachine):
    """Requests that come, wait, leave and end; addresses that come, go, accept, refuse, hang and are ejected."""

    def __init__(self) -> None:
        super().__init__()
        self.draw = 0.0
        self.talk = Conversation(
            addresses={"payments": ["192.0.2.1", "192.0.2.2"]},
            pool={"max_connections": _MOST, "max_idle": _MOST_IDLE, "idle_timeout": "4s", "max_age": "1h"},
            timeout={"connect": "3s", "total": "1h"},
            ejection={"consecutive_failures": 2, "for": "5s"},
        )
        self.talk.rng = lambda: self.draw
        self.talk.dialing = "hang"
        self.failing = False
        self.queue: list[Waiter] = []
        self.busy: list[UpstreamConnection] = []
        self.everywhere: set[Endpoint] = set(self.talk.pool.ejection.members)

    def is_given(self, connection: UpstreamConnection) -> None:
        assert connection not in self.busy
        assert connection.usable
        assert not connection.endpoint.gone, "nothing new goes to an address that has vanished"
        assert isinstance(connection._transport, StageTransport)
        self.busy.append(connection)
        connection.wait_until(NEVER)  # as the beginning of an exchange ends the idle time

    def _lets(self, step: Any, *arguments: Any) -> None:
        """Something fails now, and whatever follows may end in a refusal."""
        self.failing = True
        step(*arguments)
        self.failing = False

    # requests

    @rule(draw=st.sampled_from([0.0, 0.3, 0.6, 0.9]))
    def request_comes(self, draw: float) -> None:
        self.draw = draw
        saturated, idle = self.talk.pool.saturated, self.talk.pool.idle
        connection = self.talk.pool.take()
        if connection is not None:
            self.is_given(connection)
            return
        assert not (saturated and idle), "any idle connection will do where no other may be made"
        self._waits()

    @precondition(lambda self: self.talk.pool.idle)
    @rule()
    def replacement_wants_a_fresh_connection(self) -> None:
        self._waits()

    def _waits(self) -> None:
        waiter = Waiter(self)
        self.queue.append(waiter)
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
        gone = connection.endpoint.gone
        connection.endpoint.judge(Outcome.SUCCESS, self.talk.deadlines.now)
        connection.park()
        self.talk.do(self.talk.pool.give_back, connection)
        assert not gone or not connection.usable, "a connection to an address that has vanished is not used again"

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def request_ends_badly(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(self.busy))
        self.busy.remove(connection)
        connection.endpoint.judge(Outcome.FAILURE, self.talk.deadlines.now)
        self.talk.do(connection.close)

    @precondition(lambda self: self.talk.pool.idle)
    @rule(data=st.data())
    def upstream_hangs_up(self, data: st.DataObject) -> None:
        idle = [connection for endpoint in self.talk.pool.ejection.members for connection in endpoint.idle]
        self.talk.do(data.draw(st.sampled_from(idle)).connection_lost, None)

    # addresses

    @rule(addresses=_SOME)
    def name_has_other_addresses(self, addresses: list[str]) -> None:
        self.talk.addresses["payments"] = list(addresses)
        self.talk.looks_up_again()
        assert sorted(each.place.ip for each in self.talk.pool.ejection.members) == sorted(addresses)

    @precondition(lambda self: self.talk.hanging)
    @rule()
    def address_accepts(self) -> None:
        self.talk.accepts()

    @precondition(lambda self: self.talk.hanging)
    @rule(number=st.sampled_from([errno.ECONNREFUSED, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EMFILE]))
    def address_refuses(self, number: int) -> None:
        self._lets(self.talk.refuses, OSError(number, "refused"))

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.1, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self._lets(self.talk.passes, seconds)

    # what holds

    @invariant()
    def each_connection_is_counted_once_and_where_it_is(self) -> None:
        pool = self.talk.pool
        self.everywhere.update(pool.ejection.members, *(dial._tried for dial in pool._dials))
        dialing = Counter(dial._endpoint for dial in pool._dials)
        using = Counter(connection.endpoint for connection in self.busy)
        assert set(pool._active) == set(self.busy)
        assert len(pool._dials) == self.talk.hanging
        for endpoint in self.everywhere:
            assert endpoint.busy == dialing[endpoint] + using[endpoint], endpoint
            assert endpoint.gone == (endpoint not in pool.ejection.members)
            assert not endpoint.gone or not endpoint.idle
        assert pool.idle == sum(len(endpoint.idle) for endpoint in self.everywhere)

    @invariant()
    def there_are_never_too_many(self) -> None:
        pool = self.talk.pool
        assert pool.size <= _MOST
        assert pool.idle <= _MOST_IDLE
        _, out = pool.ejection.counts(self.talk.deadlines.now)
        assert out <= len(pool.ejection.members) // 2

    @invariant()
    def nobody_is_answered_twice_and_nobody_forgotten(self) -> None:
        assert all(waiter.answers == 0 for waiter in self.queue)
        assert list(self.talk.pool._waiting) == self.queue
        if len(self.queue) > self.talk.hanging:
            assert self.talk.pool.saturated
            assert not self.talk.pool.idle, "somebody waits, and a connection idles that makes no room"

    def teardown(self) -> None:
        for waiter in self.queue:
            self.talk.do(self.talk.pool.leave, waiter)
        for connection in self.busy:
            self.talk.do(connection.close)
        self.talk.leaves_nothing()
        assert all((endpoint.busy, endpoint.idle) == (0, {}) for endpoint in self.everywhere)


TestPoolAtAddresses = PoolAtAddresses.TestCase
TestPoolAtAddresses.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
