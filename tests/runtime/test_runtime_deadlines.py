"""The coarse clock and the timing wheel, on a clock moved by hand."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.runtime.deadlines import NEVER, STANDSTILL_S, TICK_S, Deadlines
from tests.proxy.transcript import Clock, StageLoop


class Owner:
    """Something with a deadline, that remembers when it fired."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self.deadline = NEVER
        self.watched = NEVER
        self.fired: list[float] = []

    def wait_until(self, deadline: float) -> None:
        """As the hot path does it: only an earlier deadline than the watched one costs a call."""
        self.deadline = deadline
        if deadline < self.watched:
            self._deadlines.watch(self)

    def on_deadline(self) -> None:
        self.deadline = NEVER
        self.fired.append(self._deadlines.now)


class Wheel:
    """Deadlines on a clock moved by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock)

    def owner(self, after: float = NEVER) -> Owner:
        owner = Owner(self.deadlines)
        owner.wait_until(self.deadlines.now + after)
        return owner

    def jumps(self, seconds: float) -> None:
        self.clock.seconds += seconds
        self.deadlines.advance()

    def passes(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.jumps(TICK_S)


@pytest.fixture
def wheel() -> Wheel:
    return Wheel()


def test_deadline_is_never_early_and_at_most_two_ticks_late(wheel: Wheel) -> None:
    began = wheel.deadlines.now
    owners = {ms: wheel.owner(ms / 1000) for ms in range(0, 1000, 7)}
    wheel.passes(2)
    for ms, owner in owners.items():
        (fired,) = owner.fired
        assert 0 <= fired - began - ms / 1000 <= 2 * TICK_S


def test_deadline_in_the_past_fires_at_the_next_ticks(wheel: Wheel) -> None:
    owner = wheel.owner(-5)
    assert owner.fired == []
    wheel.passes(2 * TICK_S)
    assert len(owner.fired) == 1


def test_deadline_fires_once(wheel: Wheel) -> None:
    owner = wheel.owner(1)
    wheel.passes(5)
    assert len(owner.fired) == 1
    assert wheel.deadlines.watched == 0


def test_forgotten_deadline_never_fires_and_leaves_the_wheel(wheel: Wheel) -> None:
    owner = wheel.owner(1)
    other = wheel.owner(1)
    wheel.deadlines.forget(owner)
    assert wheel.deadlines.watched == 1
    wheel.passes(2)
    assert owner.fired == []
    assert len(other.fired) == 1


def test_forgetting_twice_is_harmless(wheel: Wheel) -> None:
    owner = wheel.owner(1)
    wheel.deadlines.forget(owner)
    wheel.deadlines.forget(owner)
    assert wheel.deadlines.watched == 0


def test_deadline_moved_later_fires_only_then(wheel: Wheel) -> None:
    owner = wheel.owner(1)
    began = wheel.deadlines.now
    owner.wait_until(began + 3)
    wheel.passes(2.9)
    assert owner.fired == []
    wheel.passes(0.2)
    assert len(owner.fired) == 1


def test_deadline_moved_later_is_not_filed_anew(wheel: Wheel) -> None:
    owner = wheel.owner(1)
    watched = owner.watched
    wheel.deadlines.watch(owner)
    owner.deadline += 5
    wheel.deadlines.watch(owner)
    assert owner.watched == watched
    assert wheel.deadlines.watched == 1


def test_deadline_moved_earlier_fires_earlier(wheel: Wheel) -> None:
    owner = wheel.owner(10)
    owner.wait_until(wheel.deadlines.now + 1)
    assert wheel.deadlines.watched == 1
    wheel.passes(1 + 2 * TICK_S)
    assert len(owner.fired) == 1


def test_standstill_extends_every_deadline_by_its_own_length(wheel: Wheel) -> None:
    owner = wheel.owner(1)
    wheel.passes(0.5)
    wheel.jumps(30)
    assert owner.fired == []
    assert wheel.deadlines.standstill_s == pytest.approx(30 - TICK_S)
    wheel.passes(0.4)
    assert owner.fired == []
    wheel.passes(0.2)
    assert len(owner.fired) == 1


def test_late_tick_is_not_a_standstill(wheel: Wheel) -> None:
    owner = wheel.owner(STANDSTILL_S / 2)
    wheel.jumps(STANDSTILL_S * 0.99)
    assert wheel.deadlines.standstill_s == 0
    assert len(owner.fired) == 1


def test_owner_may_set_its_next_deadline_when_it_fires(wheel: Wheel) -> None:
    owner = wheel.owner(1)
    owner.on_deadline = lambda: (owner.fired.append(wheel.deadlines.now), owner.wait_until(wheel.deadlines.now + 1))
    wheel.passes(3.5)
    assert len(owner.fired) == 3


def test_owner_forgotten_by_another_in_the_same_tick_does_not_fire(wheel: Wheel) -> None:
    one, other = wheel.owner(1), wheel.owner(1)
    one.on_deadline = lambda: (one.fired.append(0.0), wheel.deadlines.forget(one), wheel.deadlines.forget(other))
    other.on_deadline = lambda: (other.fired.append(0.0), wheel.deadlines.forget(one), wheel.deadlines.forget(other))
    wheel.passes(2)
    assert len(one.fired) + len(other.fired) == 1
    assert wheel.deadlines.watched == 0


def _fails() -> None:
    raise RuntimeError("a defect")


def test_exception_of_one_owner_stops_no_other(wheel: Wheel) -> None:
    loop = StageLoop(wheel.clock)
    wheel.deadlines.start(loop)
    owners = [wheel.owner(1) for _ in range(5)]
    owners[2].on_deadline = _fails
    wheel.passes(2)
    assert [len(owner.fired) for owner in owners] == [1, 1, 0, 1, 1]
    (fault,) = loop.faults
    assert isinstance(fault["exception"], RuntimeError)


def test_exception_is_not_lost_without_a_loop(wheel: Wheel) -> None:
    wheel.owner(1).on_deadline = _fails
    with pytest.raises(RuntimeError, match="a defect"):
        wheel.passes(2)


def test_exact_time_passes_between_ticks(wheel: Wheel) -> None:
    wheel.clock.seconds += 0.01
    assert wheel.deadlines.read() == pytest.approx(1000.01)
    assert wheel.deadlines.now == 1000.0


def test_standstill_is_noticed_by_whoever_reads_the_time_first(wheel: Wheel) -> None:
    wheel.clock.seconds += 5
    first = wheel.deadlines.read()
    assert first == pytest.approx(1000 + TICK_S)
    wheel.clock.seconds += 0.001
    assert wheel.deadlines.read() == pytest.approx(first + 0.001)
    wheel.deadlines.advance()
    assert wheel.deadlines.now == pytest.approx(first + 0.001)
    assert wheel.deadlines.standstill_s == pytest.approx(5 - TICK_S)


def test_exact_time_never_goes_back_however_the_process_is_stopped(wheel: Wheel) -> None:
    before = wheel.deadlines.read()
    for gap in (0.0, 0.02, 0.2, 0.3, 5, 0.001, 60, 0.025, 0.26):
        wheel.clock.seconds += gap
        now = wheel.deadlines.read()
        assert before <= now <= before + gap + 1e-9
        before = now
        if gap < 1:
            wheel.deadlines.advance()
            assert wheel.deadlines.now <= wheel.deadlines.read()


def test_time_that_was_read_is_never_taken_back(wheel: Wheel) -> None:
    wheel.clock.seconds += 0.24
    first = wheel.deadlines.read()
    wheel.clock.seconds += 0.02
    assert wheel.deadlines.read() >= first
    wheel.clock.seconds += 9
    assert wheel.deadlines.read() >= first
    wheel.deadlines.advance()
    assert wheel.deadlines.now == pytest.approx(first, abs=0.05)


def test_lag_is_the_worst_lateness_of_a_tick_since_it_was_taken(wheel: Wheel) -> None:
    for gap in (TICK_S, TICK_S + 0.1, TICK_S + 0.05, 5):
        wheel.clock.seconds += gap
        wheel.deadlines.advance()
    assert wheel.deadlines.take_lag() == pytest.approx(5 - TICK_S)
    assert wheel.deadlines.take_lag() == 0.0


def test_repr_shows_the_state(wheel: Wheel) -> None:
    wheel.owner(1)
    assert repr(wheel.deadlines) == "<Deadlines watched=1 now=1000.000 standstill=0.000s>"


async def test_ticks_on_a_loop_until_stopped() -> None:
    deadlines = Deadlines()
    fired = asyncio.get_running_loop().create_future()
    owner = Owner(deadlines)
    owner.on_deadline = lambda: fired.set_result(None)
    deadlines.start(asyncio.get_running_loop())
    owner.wait_until(deadlines.now)
    await asyncio.wait_for(fired, 30)
    deadlines.stop()
    deadlines.stop()
    stopped_at = deadlines.now
    await asyncio.sleep(2 * TICK_S)
    assert deadlines.now == stopped_at


class AgainstNaiveModel(RuleBasedStateMachine):
    """Owners that set, move and forget deadlines, beside a model that looks at each of them after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.wheel = Wheel()
        self.owners: list[Owner] = []
        self.due: dict[Owner, tuple[float, float]] = {}  # deadline, and when it was set
        self.seen: dict[Owner, int] = {}

    @rule(after=st.integers(-1000, 3000))
    def begin(self, after: int) -> None:
        owner = self.wheel.owner()
        self.owners.append(owner)
        self.seen[owner] = 0
        self._set(owner, after)

    @precondition(lambda self: self.owners)
    @rule(data=st.data(), after=st.integers(-1000, 3000))
    def move(self, data: st.DataObject, after: int) -> None:
        self._set(data.draw(st.sampled_from(self.owners)), after)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(self.owners))
        self.wheel.deadlines.forget(owner)
        self.due.pop(owner, None)

    @rule(ms=st.integers(0, 240))
    def advance(self, ms: int) -> None:
        self.wheel.jumps(ms / 1000)
        self._look()

    @rule(seconds=st.integers(1, 100))
    def stand_still(self, seconds: int) -> None:
        before = self.wheel.deadlines.now
        self.wheel.jumps(seconds)
        assert self.wheel.deadlines.now == pytest.approx(before + TICK_S)
        self._look()

    def _set(self, owner: Owner, after: int) -> None:
        deadline = self.wheel.deadlines.now + after / 1000
        owner.wait_until(deadline)
        self.due[owner] = (deadline, self.wheel.deadlines.now)

    def _look(self) -> None:
        now = self.wheel.deadlines.now
        for owner in self.owners:
            new = len(owner.fired) - self.seen[owner]
            self.seen[owner] += new
            deadline, set_at = self.due.get(owner, (NEVER, now))
            assert new <= 1
            if new:
                assert now >= deadline
                del self.due[owner]
            else:
                assert now < max(deadline, set_at) + 2 * TICK_S

    @invariant()
    def nobody_stands_in_the_wheel_twice(self) -> None:
        assert self.wheel.deadlines.watched <= len(self.owners)
        assert self.wheel.deadlines.watched == sum(owner.watched != NEVER for owner in self.owners)


TestAgainstNaiveModel = AgainstNaiveModel.TestCase
TestAgainstNaiveModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
