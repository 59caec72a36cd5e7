"""A circuit breaker with a clock moved by hand and a diary of its transitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sidecar.policy.breaker import CircuitBreaker
from sidecar.policy.states import BreakerSettings, Outcome, Permit, Reason, State, Transition

SUCCESS, FAILURE, IGNORED = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED

BEGIN = 5000.0


class Circuit:
    """What happens to one breaker, in the words of a test. Half of 1 as a random number means: no jitter."""

    def __init__(self, rng: Callable[[], float] = lambda: 0.5, *, enabled: bool = True, **settings: Any) -> None:
        self.now = BEGIN
        self.diary: list[Transition] = []
        self.breaker = CircuitBreaker(BreakerSettings(**settings), self.now, rng, self.diary.append, enabled=enabled)

    @property
    def state(self) -> State:
        return self.breaker.state

    @property
    def reasons(self) -> list[Reason]:
        return [transition.reason for transition in self.diary]

    def passes(self, seconds: float) -> Circuit:
        """Time passes, and whoever watches over the breaker's next event does so."""
        self.now += seconds
        if self.breaker.next_event() <= self.now:
            self.breaker.advance(self.now)
        return self

    def admit(self) -> Permit:
        permit = self.breaker.admit(self.now)
        assert permit is not None, f"{self.breaker!r} refuses"
        return permit

    def sent(self) -> Permit:
        permit = self.admit()
        self.breaker.sent(permit, self.now)
        return permit

    def refused(self) -> bool:
        permit = self.breaker.admit(self.now)
        if permit is not None:
            self.breaker.record(permit, IGNORED, self.now)
        return permit is None

    def answered(self, permit: Permit) -> None:
        self.breaker.answered(permit, self.now)

    def ends(self, permit: Permit, outcome: Outcome) -> None:
        self.breaker.record(permit, outcome, self.now)

    def call(self, outcome: Outcome, times: int = 1) -> Circuit:
        for _ in range(times):
            self.ends(self.sent(), outcome)
        return self

    def calls(self, outcomes: Iterable[Outcome]) -> Circuit:
        for outcome in outcomes:
            self.call(outcome)
        return self

    # -- ways into each state

    def trip(self) -> Circuit:
        """Open a closed circuit by consecutive failures."""
        self.call(FAILURE, self.breaker.settings.consecutive_failures or 0)
        assert self.state is State.OPEN
        return self

    def half_open(self) -> Circuit:
        """Open it and wait until it probes."""
        self.trip()
        self.passes(self.breaker.until - self.now)
        assert self.state is State.HALF_OPEN
        return self

    def close_again(self) -> Circuit:
        """Let the trials of a half-open circuit succeed."""
        self.call(SUCCESS, self.breaker.settings.successes)
        assert self.state is State.CLOSED
        return self
