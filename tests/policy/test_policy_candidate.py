"""Candidates: other settings on the same traffic, without a say in it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.breaker import CircuitBreaker
from sidecar.policy.bucket import TokenBucket
from sidecar.policy.candidate import REASONS, Candidate
from sidecar.policy.classify import Classifier, End, parse_statuses
from sidecar.policy.gate import Gate
from sidecar.policy.queue import WaitQueue
from sidecar.policy.slots import Slots
from sidecar.policy.states import BreakerSettings, State, Transition

CLASSIFIER = Classifier(parse_statuses(["5xx"]))


def gate(rate: float | None = None, limit: int | None = None, **settings: Any) -> tuple[Gate[Any], list[Transition]]:
    diary: list[Transition] = []
    return (
        Gate(
            CircuitBreaker(BreakerSettings(**settings), 0.0, lambda: 0.5, diary.append),
            None if rate is None else TokenBucket(rate, max(rate, 1.0), 0.0),
            None if limit is None else Slots(limit),
            WaitQueue(0, 0.0),
        ),
        diary,
    )


def test_refusals_are_counted_by_reason() -> None:
    candidate = Candidate("c", gate(rate=1.0, limit=1)[0], CLASSIFIER)
    assert candidate.enter(0.0) is not None
    assert candidate.enter(0.0) is None
    assert candidate.enter(5.0) is None
    candidate.gate.breaker.force(State.FORCED_OPEN, 5.0)
    assert candidate.enter(9.0) is None
    assert dict(zip(REASONS, candidate.refused, strict=True)) == {
        "CIRCUIT_OPEN": 1,
        "RATE_LIMITED": 1,
        "CONCURRENCY_LIMITED": 1,
    }


def test_call_that_it_would_have_refused_does_not_count_for_it() -> None:
    candidate = Candidate("c", gate(rate=1.0, consecutive_failures=2)[0], CLASSIFIER)
    first = candidate.enter(0.0)
    assert first is not None
    candidate.leave(first, End.RESPONSE, 503, 0.0, 0.0)
    assert candidate.enter(0.0) is None  # and whatever came of it in reality is not held against the circuit
    assert candidate.gate.breaker.consecutive == 1


def test_it_has_its_own_idea_of_a_failure() -> None:
    candidate = Candidate("c", gate(consecutive_failures=1)[0], Classifier(parse_statuses([429])))
    permit = candidate.enter(0.0)
    assert permit is not None
    candidate.leave(permit, End.RESPONSE, 429, 0.0, 0.0)
    assert candidate.gate.breaker.state is State.OPEN


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 2.0),
            st.sampled_from([End.RESPONSE, End.RESET, End.CLIENT_GONE]),
            st.sampled_from([200, 200, 200, 503]),
            st.floats(0.0, 3.0),
        ),
        max_size=150,
    )
)
def test_verdicts_are_those_of_the_same_settings_enforced_on_traffic_that_neither_refuses(
    calls: list[tuple[float, End, int, float]],
) -> None:
    settings = {"consecutive_failures": 4, "slower_than_s": 2.0, "open_for_s": 1.0}
    enforced, diary = gate(rate=5.0, limit=3, **settings)
    simulated, simulated_diary = gate(rate=5.0, limit=3, **settings)
    candidate = Candidate("same", simulated, CLASSIFIER)
    now = 0.0
    for passed, end, status, took in calls:
        now += passed
        permit = enforced.enter(now)
        # What the enforced gate refuses never happens, so that the candidate does not see it either.
        if permit is None:
            continue
        theirs = candidate.enter(now)
        assert theirs is not None
        enforced.breaker.sent(permit, now)
        simulated.breaker.sent(theirs, now)
        now += took
        if end is not End.CLIENT_GONE:
            enforced.breaker.answered(permit, now)
            simulated.breaker.answered(theirs, now)
        seen = status if end is End.RESPONSE else 0
        enforced.leave(permit, CLASSIFIER.outcome(end, seen, took), now)
        candidate.leave(theirs, end, seen, took, now)
        assert (simulated.breaker.state, simulated.breaker.generation) == (
            enforced.breaker.state,
            enforced.breaker.generation,
        )
    assert simulated_diary == diary
    assert candidate.refused == [0, 0, 0]
