"""The table of transitions: all of it can happen, nothing else can."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from sidecar.policy.errors import IllegalTransitionError
from sidecar.policy.states import NEVER, TRANSITIONS, RateRule, Reason, State
from tests.policy.circuits import BEGIN, FAILURE, SUCCESS, Circuit

S, R = State, Reason


def _slow() -> Circuit:
    return Circuit(slow_calls=RateRule(0.8, 3), slower_than_s=1.0)


def _hang(circuit: Circuit) -> None:
    for _ in range(3):
        circuit.sent()
    circuit.passes(1)


def _slow_trials(circuit: Circuit) -> None:
    trials = [circuit.sent() for _ in range(3)]
    circuit.passes(2)
    for trial in trials:
        circuit.answered(trial)
        circuit.ends(trial, SUCCESS)


def _forced(state: State) -> Callable[[], Circuit]:
    def make() -> Circuit:
        circuit = Circuit()
        circuit.breaker.force(state, BEGIN, 60)
        return circuit

    return make


def _force(state: State) -> Callable[[Circuit], None]:
    return lambda circuit: circuit.breaker.force(state, circuit.now, 60)


MAKE: dict[State, Callable[[], Circuit]] = {
    S.CLOSED: _slow,
    S.OPEN: lambda: _slow().trip(),
    S.HALF_OPEN: lambda: _slow().half_open(),
    S.FORCED_OPEN: _forced(S.FORCED_OPEN),
    S.FORCED_CLOSED: _forced(S.FORCED_CLOSED),
}

HAPPENS: dict[tuple[State, State, Reason], Callable[[Circuit], object]] = {
    (S.CLOSED, S.OPEN, R.CONSECUTIVE_FAILURES): lambda circuit: circuit.call(FAILURE, 5),
    (S.CLOSED, S.OPEN, R.FAILURE_RATE): lambda circuit: circuit.call(SUCCESS, 20).call(FAILURE, 20),
    (S.CLOSED, S.OPEN, R.SLOW_CALLS): _hang,
    (S.OPEN, S.HALF_OPEN, R.WAITED): lambda circuit: circuit.passes(30),
    (S.HALF_OPEN, S.OPEN, R.TRIAL_FAILED): lambda circuit: circuit.call(FAILURE),
    (S.HALF_OPEN, S.OPEN, R.TRIALS_SLOW): _slow_trials,
    (S.HALF_OPEN, S.CLOSED, R.TRIALS_SUCCEEDED): lambda circuit: circuit.call(SUCCESS, 3),
    (S.FORCED_OPEN, S.CLOSED, R.RELEASED): lambda circuit: circuit.passes(60),
    (S.FORCED_CLOSED, S.CLOSED, R.RELEASED): lambda circuit: circuit.breaker.release(circuit.now),
    **{
        (origin, forced, R.FORCED): _force(forced)
        for origin, forced in itertools.product(MAKE, (S.FORCED_OPEN, S.FORCED_CLOSED))
        if origin is not forced
    },
}

LEGAL = sorted(
    ((origin, state, reason) for (origin, state), reasons in TRANSITIONS.items() for reason in reasons),
    key=lambda transition: [part.value for part in transition],
)
ILLEGAL = [transition for transition in itertools.product(State, State, Reason) if transition not in LEGAL]


def _name(value: State | Reason) -> str:
    return value.value


def test_every_transition_of_the_table_has_a_story_here() -> None:
    assert set(HAPPENS) == set(LEGAL)


@pytest.mark.parametrize(("origin", "state", "reason"), LEGAL, ids=_name)
def test_legal_transition_is_reachable(origin: State, state: State, reason: Reason) -> None:
    circuit = MAKE[origin]()
    assert circuit.state is origin
    generation, told = circuit.breaker.generation, len(circuit.diary)
    HAPPENS[origin, state, reason](circuit)
    assert circuit.state is state
    assert circuit.breaker.generation == generation + 1
    (transition,) = circuit.diary[told:]
    assert (transition.origin, transition.state, transition.reason) == (origin, state, reason)


@pytest.mark.parametrize(("origin", "state", "reason"), ILLEGAL, ids=_name)
def test_illegal_transition_raises_and_changes_nothing(origin: State, state: State, reason: Reason) -> None:
    circuit = MAKE[origin]() if origin in MAKE else Circuit(enabled=False)
    generation = circuit.breaker.generation
    with pytest.raises(IllegalTransitionError, match=f"{origin.value} does not become {state.value} because"):
        circuit.breaker._move(state, reason, circuit.now, NEVER)
    assert (circuit.state, circuit.breaker.generation) == (origin, generation)


@pytest.mark.parametrize("state", [S.CLOSED, S.OPEN, S.HALF_OPEN, S.DISABLED])
def test_only_forced_states_can_be_forced(state: State) -> None:
    circuit = Circuit()
    with pytest.raises(IllegalTransitionError):
        circuit.breaker.force(state, circuit.now, 60)
    assert circuit.breaker.next_event() == NEVER


def test_disabled_breaker_cannot_be_forced() -> None:
    circuit = Circuit(enabled=False)
    with pytest.raises(IllegalTransitionError):
        circuit.breaker.force(S.FORCED_OPEN, circuit.now, 60)
