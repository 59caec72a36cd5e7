"""The gate: circuit, rate and concurrency together or not at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.breaker import CircuitBreaker
from sidecar.policy.bucket import TokenBucket
from sidecar.policy.gate import Gate
from sidecar.policy.queue import Lack, WaitQueue
from sidecar.policy.slots import Slots
from sidecar.policy.states import BreakerSettings, Outcome, State


def gate(
    bucket: TokenBucket | None = None, slots: Slots | None = None, queue: int = 0, rng: float = 0.5, **settings: object
) -> Gate[str]:
    breaker = CircuitBreaker(BreakerSettings(**settings), 0.0, lambda: rng, lambda _: None)  # type: ignore[arg-type]
    return Gate(breaker, bucket, slots, WaitQueue(queue, 10.0))


def test_gate_without_limits_lets_everybody_in() -> None:
    entry = gate()
    assert all(entry.enter(0.0) is not None for _ in range(1000))


def test_permit_holds_a_slot_until_it_is_brought_back() -> None:
    entry = gate(slots=Slots(1))
    permit = entry.enter(0.0)
    assert permit is not None
    assert (entry.enter(0.0), entry.lack) == (None, Lack.SLOT)
    entry.leave(permit, Outcome.SUCCESS, 0.0)
    assert entry.enter(0.0) is not None


def test_open_circuit_is_asked_first_and_takes_nothing() -> None:
    bucket, slots = TokenBucket(1.0, 5.0, 0.0), Slots(5)
    entry = gate(bucket, slots)
    entry.breaker.force(State.FORCED_OPEN, 0.0)
    assert (entry.enter(0.0), entry.lack) == (None, None)
    assert (bucket.tokens(0.0), slots.in_use) == (5.0, 0)


def test_refused_permit_gives_token_and_slot_back() -> None:
    bucket, slots = TokenBucket(0.001, 5.0, 0.0), Slots(5)
    entry = gate(bucket, slots, rng=0.99, consecutive_failures=1, trials=1, successes=1, ramp_s=10.0)
    permit = entry.enter(0.0)
    assert permit is not None
    entry.leave(permit, Outcome.FAILURE, 0.0)
    trial = entry.enter(40.0)
    assert trial is not None
    entry.leave(trial, Outcome.SUCCESS, 40.0)
    before = bucket.tokens(41.0)
    assert (entry.enter(41.0), entry.lack) == (None, None)
    assert (round(bucket.tokens(41.0), 6), slots.in_use) == (round(before, 6), 0)


def test_whoever_arrives_while_others_wait_joins_them_even_if_there_is_a_slot() -> None:
    slots = Slots(1)
    entry = gate(slots=slots, queue=5)
    permit = entry.enter(0.0)
    assert permit is not None
    assert entry.enter(0.0) is None
    assert entry.wait("first", 0.0)
    entry.leave(permit, Outcome.SUCCESS, 1.0)
    assert entry.enter(1.0) is None
    assert entry.wait("second", 1.0)
    served = entry.next(1.0)
    assert served is not None
    assert served[0] == "first"
    assert entry.next(1.0) is None


def test_nobody_waits_for_a_circuit() -> None:
    entry = gate(slots=Slots(1), queue=5)
    entry.breaker.force(State.FORCED_OPEN, 0.0)
    assert entry.enter(0.0) is None
    assert not entry.wait("nobody", 0.0)


def test_waiter_whose_turn_meets_a_circuit_without_a_free_trial_is_refused_by_it() -> None:
    slots = Slots(3)
    entry = gate(slots=slots, queue=5, consecutive_failures=1, trials=1, successes=1)
    held = [entry.enter(0.0) for _ in range(3)]
    assert entry.enter(0.0) is None
    assert entry.wait("first", 0.0)
    assert held[0] is not None
    entry.breaker.record(held[0], Outcome.FAILURE, 0.0)  # which opens it; a real caller would flush the queue now
    entry.breaker.advance(40.0)
    trial = entry.breaker.admit(40.0)
    assert trial is not None
    slots.release()
    assert entry.next(40.0) == ("first", None)
    assert slots.in_use == 2


@given(
    st.lists(st.tuples(st.sampled_from(["enter", "success", "failure", "ignored"]), st.floats(0.0, 3.0)), max_size=200),
    st.integers(1, 4),
    st.floats(0.1, 50.0),
)
def test_slots_in_use_are_the_permits_out_and_tokens_are_taken_once(
    steps: list[tuple[str, float]], limit: int, rate: float
) -> None:
    bucket, slots = TokenBucket(rate, 3.0, 0.0), Slots(limit)
    entry = gate(bucket, slots, consecutive_failures=2, open_for_s=2.0, trials=1, successes=1)
    now, out, admitted = 0.0, [], 0
    for step, passed in steps:
        now += passed
        if step == "enter":
            permit = entry.enter(now)
            if permit is not None:
                out.append(permit)
                admitted += 1
        elif out:
            entry.leave(out.pop(0), Outcome(step), now)
        assert slots.in_use == len(out) <= limit
        assert admitted <= 3.0 + rate * now + 1e-6
