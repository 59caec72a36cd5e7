"""The gate on the event loop: who is called when, and what time brings to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.classify import End
from sidecar.policy.states import Outcome, Permit, State
from sidecar.runtime.deadlines import NEVER, TICK_S
from tests.runtime.door import Caller, Door

SUCCESS, FAILURE, IGNORED = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED
LATE_S = 2 * TICK_S
"""By how much the wheel may be late."""

ONE_SLOT = {"concurrency": {"limit": 1}, "queue": {"limit": 10, "max_wait": "10s"}}
ONE_TOKEN = {"rate_limit": {"rate": "1/minute", "burst": 1}, "queue": {"limit": 10, "max_wait": "10s"}}
BRITTLE = {"consecutive_failures": 1, "open_for": "3s", "half_open": {"trials": 1, "successes": 1, "max_wait": "2s"}}


@pytest.fixture
def open_door() -> Iterator[Callable[..., Door]]:
    """Makes doors, and closes each behind the test: none may leave a timer or a place in the wheel."""
    made: list[Door] = []

    def make(**keys: Any) -> Door:
        made.append(Door(**keys))
        return made[-1]

    yield make
    for door in made:
        door.closes()


# -- the queue


def test_slot_that_comes_free_goes_to_whoever_came_first(open_door) -> None:
    door = open_door(**ONE_SLOT)
    held = door.gets_in()
    callers = [door.waits(name) for name in "abc"]
    for caller in callers:
        door.leaves(held)
        assert caller.permit is not None
        held = caller.permit
    assert door.told == [("a", "in"), ("b", "in"), ("c", "in")]
    door.leaves(held)
    assert door.gate.slots.in_use == 0


def test_whoever_quits_is_not_called(open_door) -> None:
    door = open_door(**ONE_SLOT)
    held = door.gets_in()
    leaves, stays = door.waits("leaves"), door.waits("stays")
    assert door.admission.quit(leaves)
    assert not door.admission.quit(leaves)
    door.leaves(held)
    assert door.told == [("stays", "in")]
    door.leaves(stays.permit)


def test_nobody_waits_where_there_is_no_queue(open_door) -> None:
    door = open_door(concurrency={"limit": 1})
    held = door.gets_in()
    assert door.enters() is None
    assert not door.do(door.admission.wait, Caller(door, "nobody"), door.now)
    assert door.deadlines.watched == 0
    door.leaves(held)


def test_token_calls_its_waiter_when_it_is_there_and_not_a_tick_later(open_door) -> None:
    door = open_door(rate_limit={"rate": "1000/second", "burst": 1}, queue={"limit": 10, "max_wait": "10s"})
    door.gets_in()
    for name in "abcde":
        door.waits(name)
    for count in range(6):
        assert [name for name, _ in door.told] == list("abcde")[:count]
        door.passes(0.001001)
    assert len(door.told) == 5


def test_one_timer_serves_all_who_wait_for_tokens(open_door) -> None:
    door = open_door(rate_limit={"rate": "10/second", "burst": 1}, queue={"limit": 100, "max_wait": "10s"})
    door.gets_in()
    for number in range(20):
        door.waits(str(number))
        assert len(door.loop.timers) == 1
    door.passes(2.01)
    assert len(door.told) == 20
    assert door.loop.timers == []


def test_waiter_for_a_slot_costs_no_timer(open_door) -> None:
    door = open_door(**ONE_SLOT, rate_limit={"rate": "100/second"})
    held = door.gets_in()
    caller = door.waits("a")
    assert door.loop.timers == []
    door.leaves(held)
    door.leaves(caller.permit)


@pytest.mark.parametrize(("keys", "lack"), [(ONE_SLOT, "slot"), (ONE_TOKEN, "token")])
def test_whoever_waits_too_long_is_told_for_what_on_time(open_door, keys: dict[str, Any], lack: str) -> None:
    door = open_door(**keys)
    held = door.gets_in()
    door.waits("a")
    door.passes(4)
    door.waits("b")
    door.passes(6 - TICK_S)
    assert door.told == []
    door.passes(TICK_S + LATE_S)
    assert door.told == [("a", lack)]
    door.passes(4)
    assert door.told == [("a", lack), ("b", lack)]
    door.leaves(held)


def test_whoever_can_be_served_at_the_last_moment_is_not_sent_away(open_door) -> None:
    door = open_door(**ONE_SLOT)
    held = door.gets_in()
    caller = door.waits("a")
    door.clock.seconds += 9.9
    door.deadlines.standstill_s += 9.9 - TICK_S  # what follows is one jump of the clock, and no standstill
    door.leaves(held)
    door.passes(10)
    assert door.told == [("a", "in")]
    door.leaves(caller.permit)


# -- the circuit and the queue


def test_circuit_that_opens_turns_away_all_who_wait_in_their_order(open_door) -> None:
    door = open_door(**ONE_SLOT, circuit_breaker=BRITTLE)
    held = door.gets_in()
    for name in "abc":
        door.waits(name)
    door.leaves(held, FAILURE)
    assert door.told == [("a", "circuit"), ("b", "circuit"), ("c", "circuit")]
    assert (len(door.gate.queue), door.gate.slots.in_use) == (0, 0)


def test_circuit_opened_by_hand_turns_them_away_as_well(open_door) -> None:
    door = open_door(**ONE_SLOT)
    held = door.gets_in()
    door.waits("a")
    door.do(door.gate.breaker.force, State.FORCED_OPEN, door.now)
    assert door.told == [("a", "circuit")]
    door.leaves(held)


def test_circuit_that_opens_while_they_wait_for_a_token_leaves_the_timer_nothing_to_do(open_door) -> None:
    door = open_door(
        rate_limit={"rate": "1/second", "burst": 1}, queue={"limit": 5, "max_wait": "9s"}, circuit_breaker=BRITTLE
    )
    held = door.gets_in()
    door.waits("a")
    door.leaves(held, FAILURE)
    door.passes(1.1)
    assert door.told == [("a", "circuit")]
    assert door.loop.timers == []


def test_circuit_that_opens_on_time_alone_turns_them_away(open_door) -> None:
    """Calls that hang are slow as soon as they are overdue, whether anything happens or not."""
    door = open_door(
        concurrency={"limit": 2},
        queue={"limit": 5, "max_wait": "1m"},
        circuit_breaker={"slow_calls": {"slower_than": "2s", "min_calls": 2}},
    )
    held = [door.gets_in(), door.gets_in()]
    for permit in held:
        door.do(door.admission.sent, permit, None, door.now)
    door.waits("a")
    door.passes(2 - TICK_S)
    assert door.told == []
    door.passes(TICK_S + LATE_S)
    assert (door.states, door.told) == ([State.OPEN], [("a", "circuit")])
    for permit in held:
        door.leaves(permit)


def test_whose_turn_meets_a_half_open_circuit_without_a_free_trial_is_turned_away_by_it(open_door) -> None:
    door = open_door(
        concurrency={"limit": 2},
        queue={"limit": 5, "max_wait": "1h"},
        circuit_breaker=BRITTLE | {"slow_calls": {"slower_than": "1s", "min_calls": 2}},
    )
    old = [door.gets_in(), door.gets_in()]
    for permit in old:
        door.do(door.admission.sent, permit, None, door.now)
    door.passes(1 + 3 + 2 * LATE_S)
    assert door.states == [State.OPEN, State.HALF_OPEN]
    trial = door.waits("gets the one trial")
    door.waits("comes too late")
    door.leaves(old[0])
    assert door.told == [("gets the one trial", "in")]
    door.leaves(old[1])
    assert door.told[1:] == [("comes too late", "circuit")]
    assert door.gate.slots.in_use == 1
    door.leaves(trial.permit)
    assert door.states[-1] is State.CLOSED


# -- time


def test_open_circuit_probes_on_time_though_nobody_calls(open_door) -> None:
    door = open_door(circuit_breaker=BRITTLE)
    door.passes(1)
    door.calls(FAILURE)
    opened = door.deadlines.now - door.began
    door.passes(10)
    (_, _, _), (half_opened, _, state) = door.transitions
    assert state is State.HALF_OPEN
    assert 3 <= half_opened - opened <= 3 + LATE_S


SLOW = {
    "slow_calls": {"slower_than": "1s", "threshold": "60%", "min_calls": 3},
    "failure_rate": {"threshold": None},
    "open_for": "3s",
}


@pytest.mark.parametrize(
    "keys",
    [{"circuit_breaker": SLOW}, {"candidates": {"strict": {"circuit_breaker": SLOW}}}],
    ids=["enforced", "candidate"],
)
def test_circuit_that_a_late_answer_opens_probes_on_time_though_that_answer_streams_on(open_door, keys) -> None:
    door = open_door(**keys)

    def sent() -> tuple[Permit, Any]:
        permit = door.gets_in()
        observed = door.do(door.admission.observe, door.now)
        door.do(door.admission.sent, permit, observed, door.now)
        return permit, observed

    def ended(permit: Permit, observed: Any) -> None:
        door.do(door.admission.end_observed, observed, End.RESPONSE, 200, 0.0, door.now)
        door.leaves(permit)

    def quick(count: int) -> None:
        for _ in range(count):
            permit, observed = sent()
            door.do(door.admission.answered, permit, observed, 200, False, door.now)
            ended(permit, observed)

    quick(5)
    door.passes(1)
    hanging = [sent(), sent()]
    door.passes(11)  # and the first quick calls leave the window, in which two of three are slow now
    quick(1)
    door.passes(2)
    assert door.transitions == []
    door.do(door.admission.answered, *hanging[0], 200, False, door.now)
    door.passes(3 + LATE_S)
    assert [state for _, _, state in door.transitions] == [State.OPEN, State.HALF_OPEN]
    for call in hanging:
        ended(*call)


def test_trial_that_hangs_gives_its_permit_back_on_time(open_door) -> None:
    door = open_door(circuit_breaker=BRITTLE)
    door.calls(FAILURE)
    door.passes(3 + LATE_S)
    hangs = door.gets_in()
    door.passes(2 - TICK_S)
    assert door.enters() is None
    door.passes(TICK_S + LATE_S)
    door.leaves(door.gets_in())
    assert door.states[-1] is State.CLOSED
    door.leaves(hangs, FAILURE)
    assert door.states[-1] is State.CLOSED


def test_forced_state_ends_on_time(open_door) -> None:
    door = open_door()
    door.do(door.gate.breaker.force, State.FORCED_CLOSED, door.now, 5.0)
    door.gets_in()  # whoever forces it has no say in the wheel; the next call has
    door.passes(5 + LATE_S)
    assert door.states == [State.FORCED_CLOSED, State.CLOSED]


def test_candidates_move_on_time_though_nobody_calls(open_door) -> None:
    door = open_door(
        circuit_breaker={"mode": "shadow"} | BRITTLE,
        candidates={"patient": {"circuit_breaker": {"consecutive_failures": 1, "open_for": "6s"}}},
    )
    permit = door.gets_in()
    observed = door.do(door.admission.observe, door.now)
    door.do(door.admission.end_observed, observed, End.RESET, 0, 0.0, door.now)
    door.leaves(permit, FAILURE)
    door.passes(10)
    assert [(name, state) for _, name, state in door.transitions] == [
        ("shadow", State.OPEN),
        ("patient", State.OPEN),
        ("shadow", State.HALF_OPEN),
        ("patient", State.HALF_OPEN),
    ]
    assert [round(at) for at, _, _ in door.transitions] == [0, 0, 3, 6]


def test_candidate_times_calls_that_the_enforced_circuit_does_not(open_door) -> None:
    door = open_door(candidates={"strict": {"circuit_breaker": {"slow_calls": {"slower_than": "1s", "min_calls": 1}}}})
    permit = door.gets_in()
    assert not permit.timed
    observed = door.do(door.admission.observe, door.now)
    door.do(door.admission.sent, permit, observed, door.now)
    door.passes(1 + LATE_S)
    assert [(name, state) for _, name, state in door.transitions] == [("strict", State.OPEN)]
    door.do(door.admission.answered, permit, observed, 200, False, door.now)
    door.do(door.admission.end_observed, observed, End.RESPONSE, 200, 0.0, door.now)
    door.leaves(permit)


def test_what_is_refused_is_unobserved_by_every_candidate(open_door) -> None:
    door = open_door(candidates={name: {"concurrency": {"limit": 5}} for name in ("one", "other")})
    for _ in range(3):
        door.admission.unobserved()
    assert [candidate.unobserved for candidate in door.admission.candidates] == [3, 3]


def test_whoever_reads_the_breakers_brings_them_up_to_date_and_stops_no_clock(open_door) -> None:
    door = open_door(circuit_breaker=BRITTLE, candidates={"same": {"circuit_breaker": BRITTLE}})
    permit = door.gets_in()
    observed = door.do(door.admission.observe, door.now)
    door.do(door.admission.end_observed, observed, End.RESET, 0, 0.0, door.now)
    door.leaves(permit, FAILURE)
    door.do(door.admission.advance, door.now + 3.0)
    assert [(name, state.value) for _, name, state in door.transitions[2:]] == [
        (None, "half_open"),
        ("same", "half_open"),
    ]
    door.passes(3 + LATE_S)
    door.calls(FAILURE)
    door.passes(7)
    assert door.states == [State.OPEN, State.HALF_OPEN, State.OPEN, State.HALF_OPEN]


def test_nearer_event_moves_its_place_in_the_wheel(open_door) -> None:
    door = open_door(**ONE_SLOT, circuit_breaker={"slow_calls": {"slower_than": "1h", "min_calls": 1}})
    held = door.gets_in()
    door.do(door.admission.sent, held, None, door.now)
    assert door.admission.watched > door.now + 3000
    door.waits("a")
    assert door.admission.watched < door.now + 11
    assert door.deadlines.watched == 1
    door.passes(10 + LATE_S)
    assert door.told == [("a", "slot")]
    assert door.admission.watched > door.now + 3000
    door.leaves(held)


# -- the end


def test_closed_admission_keeps_no_time_though_somebody_waits() -> None:
    door = Door(**ONE_TOKEN)
    door.gets_in()
    door.waits("a")
    assert (len(door.loop.timers), door.deadlines.watched) == (1, 1)
    door.closes()
    assert (door.admission.deadline, door.admission.watched) == (NEVER, NEVER)
    door.passes(120)
    assert door.told == []


def test_closing_twice_is_harmless() -> None:
    door = Door(**ONE_SLOT)
    door.closes()
    door.closes()


def test_repr_shows_the_policies() -> None:
    text = repr(Door(**ONE_SLOT, rate_limit={"rate": "1/second"}).admission)
    assert text.startswith("<Admission <Gate <CircuitBreaker closed")
    for part in ("TokenBucket", "Slots", "WaitQueue"):
        assert part in text


# -- whatever happens


@given(
    st.lists(
        st.tuples(st.sampled_from(["call", "call", "success", "failure", "quit"]), st.floats(0.0, 1.5)), max_size=60
    )
)
def test_each_waiter_is_told_once_and_in_order_and_every_slot_comes_back(steps: list[tuple[str, float]]) -> None:
    door = Door(
        rate_limit={"rate": "2/second", "burst": 2},
        concurrency={"limit": 2},
        queue={"limit": 4, "max_wait": "3s"},
        circuit_breaker={"consecutive_failures": 2, "open_for": "2s", "half_open": {"trials": 1, "successes": 1}},
    )
    permits: list[Permit] = []
    waiting: list[Caller] = []
    joined: list[str] = []

    def take_in() -> None:
        for caller in list(waiting):
            if caller.permit is not None:
                permits.append(caller.permit)
            if caller not in door.gate.queue:
                waiting.remove(caller)

    for number, (step, seconds) in enumerate(steps):
        door.passes(seconds)
        take_in()
        if step == "call":
            permit = door.enters()
            caller = Caller(door, str(number))
            if permit is not None:
                permits.append(permit)
            elif door.do(door.admission.wait, caller, door.now):
                joined.append(str(number))
                waiting.append(caller)
        elif step == "quit":
            if waiting and door.admission.quit(waiting[-1]):
                joined.remove(waiting.pop()._name)
        elif permits:
            door.leaves(permits.pop(0), Outcome(step))
        take_in()
        assert door.gate.slots.in_use == len(permits) <= 2
        assert len(door.loop.timers) <= 1
        assert door.deadlines.watched <= 1
    door.passes(10)
    take_in()
    assert [name for name, _ in door.told] == joined
    for permit in permits:
        door.leaves(permit)
    assert door.gate.slots.in_use == 0
    door.closes()
