"""What a circuit can be, what can happen to it, and what is said about it: the vocabulary of the breaker."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple

from sidecar.policy.window import NOTHING, Counts


class State(enum.Enum):
    """Where the circuit is. The values are those of the label `state` of `circuit_breaker_state`."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    FORCED_CLOSED = "forced_closed"
    DISABLED = "disabled"


class Outcome(enum.Enum):
    """How an attempt ended, as far as the dependency is concerned."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


class Reason(enum.Enum):
    """Why a transition was made."""

    CONSECUTIVE_FAILURES = "consecutive_failures"
    FAILURE_RATE = "failure_rate"
    SLOW_CALLS = "slow_calls"
    TRIAL_FAILED = "trial_failed"
    TRIALS_SLOW = "trials_slow"
    WAITED = "waited"
    TRIALS_SUCCEEDED = "trials_succeeded"
    FORCED = "forced"
    RELEASED = "released"


NEVER: Final = float("inf")

TRANSITIONS: Final[dict[tuple[State, State], frozenset[Reason]]] = {
    (State.CLOSED, State.OPEN): frozenset({Reason.CONSECUTIVE_FAILURES, Reason.FAILURE_RATE, Reason.SLOW_CALLS}),
    (State.OPEN, State.HALF_OPEN): frozenset({Reason.WAITED}),
    (State.HALF_OPEN, State.OPEN): frozenset({Reason.TRIAL_FAILED, Reason.TRIALS_SLOW}),
    (State.HALF_OPEN, State.CLOSED): frozenset({Reason.TRIALS_SUCCEEDED}),
    **{
        (origin, forced): frozenset({Reason.FORCED})
        for forced in (State.FORCED_OPEN, State.FORCED_CLOSED)
        for origin in (State.CLOSED, State.OPEN, State.HALF_OPEN, State.FORCED_OPEN, State.FORCED_CLOSED)
        if origin is not forced
    },
    (State.FORCED_OPEN, State.CLOSED): frozenset({Reason.RELEASED}),
    (State.FORCED_CLOSED, State.CLOSED): frozenset({Reason.RELEASED}),
}
"""Every transition that can happen, with the reasons for which it can."""


@dataclass(frozen=True, slots=True)
class RateRule:
    """Trips at a share of calls.

    Attributes:
        threshold: share of calls, from 0 (excluded) to 1.
        min_calls: with fewer calls the rule is silent.
    """

    threshold: float
    min_calls: int

    def broken_by(self, calls: int, bad: int) -> bool:
        """Whether so many bad calls of so many are too many."""
        # In floats 55 % of 100 is more than 55.
        return calls >= self.min_calls and bad >= self.threshold * calls - 1e-9

    def reached_by(self, calls: int, bad: int) -> bool:
        """The same without the minimum."""
        return bad >= self.threshold * calls - 1e-9


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """What a service owner can say about a circuit breaker. Times are in seconds.

    Attributes:
        consecutive_failures: trip after so many in a row; None switches the rule off.
        failure_rate: trip at a share of failures; None switches the rule off.
        slow_calls: trip at a share of slow calls; None switches the rule off.
        slower_than_s: a response head that takes at least so long is slow; None times no call.
        window_s: length of the window in seconds; None where it is a number of calls.
        window_calls: length of the window in calls; None where it is a time.
        open_for_s: how long the circuit stays open the first time.
        max_open_for_s: up to which that doubles with each re-opening.
        trials: how many calls half-open admits at once; at least 1.
        successes: how many of them must succeed to close; at least 1.
        max_wait_s: after which a trial without a response head gives its permit back.
        ramp_s: over which traffic is let back after closing; 0 for at once.
    """

    consecutive_failures: int | None = 5
    failure_rate: RateRule | None = RateRule(0.5, 20)
    slow_calls: RateRule | None = None
    slower_than_s: float | None = None
    window_s: float | None = 10.0
    window_calls: int | None = None
    open_for_s: float = 30.0
    max_open_for_s: float = 300.0
    trials: int = 3
    successes: int = 3
    max_wait_s: float = 10.0
    ramp_s: float = 0.0


class Permit:
    """The right to make one call. Where calls are not timed, those of a closed generation share one.

    Attributes:
        generation: in which it was given.
        trial: it was given by a half-open circuit.
        timed: it is of one call alone, whose speed matters.
        since: when a trial was given; meaningless otherwise.
        sent_at: when the request was whole; infinity before.
        answered: its response head has come.
        overdue: it waits for its response head, and has for too long.
        slow: its response head came late.
        failing: its response head has a status that is a failure.
        decided: as a trial, it has been judged.
    """

    __slots__ = (
        "answered",
        "decided",
        "failing",
        "generation",
        "overdue",
        "sent_at",
        "since",
        "slow",
        "timed",
        "trial",
    )

    def __init__(self, generation: int, trial: bool, timed: bool, since: float) -> None:
        self.generation = generation
        self.trial = trial
        self.timed = timed
        self.since = since
        self.sent_at = NEVER
        self.answered = False
        self.overdue = False
        self.slow = False
        self.failing = False
        self.decided = False

    def __repr__(self) -> str:
        return f"<Permit generation={self.generation}{' trial' if self.trial else ''}>"


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state.

    Attributes:
        at: when, in the clock of the caller.
        origin, state: from where to where.
        reason: why.
        counts: the window just before, with the calls that were overdue.
        consecutive: failures in a row just before.
        until: when an open circuit becomes half-open, or a forced one is released; None for never.
        newest: of the window, its newest part, by which a total outage shows first.
    """

    at: float
    origin: State
    state: State
    reason: Reason
    counts: Counts
    consecutive: int
    until: float | None
    newest: Counts = NOTHING


class BreakerView(NamedTuple):
    """A breaker at one moment, for metrics and the admin API.

    Attributes:
        state: where it is.
        since: when it came there.
        until: when an open circuit probes next, or a forced one is released; None for never.
        generation: how many transitions there have been.
        counts: the window, with the calls that are overdue.
        overdue: calls in flight that have waited too long for a response head.
        consecutive: failures in a row.
        trials: permits out in half-open.
        succeeded: trials that succeeded so far.
        share: of the traffic that a ramp lets through; 1.0 without one.
        open_for_s: how long the circuit would stay open if it opened now, without jitter.
    """

    state: State
    since: float
    until: float | None
    generation: int
    counts: Counts
    overdue: int
    consecutive: int
    trials: int
    succeeded: int
    share: float
    open_for_s: float
