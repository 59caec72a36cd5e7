"""What a circuit leaves behind when it opens: enough to see, at three in the morning, whether it was right."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sidecar.policy.states import BreakerSettings, Reason, Transition
from sidecar.runtime.vitals import Reading

KEPT: Final = 50
"""Trip records per dependency."""

SAMPLES: Final = 5
"""Failing calls that a record shows: the last ones before the trip."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One failing call.

    Attributes:
        at: when it ended, Unix time in seconds.
        what: its status, or the way in which it failed.
        latency_s: from the moment when its request was whole at the dependency; 0.0 where it never was.
        trace_id: of its trace, where it has one.
    """

    at: float
    what: int | str
    latency_s: float
    trace_id: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        what = {"status": self.what} if isinstance(self.what, int) else {"error": self.what}
        sample = {"at": rfc3339(self.at), **what, "latency_ms": round(self.latency_s * 1000, 3)}
        return sample if self.trace_id is None else {**sample, "trace_id": self.trace_id}


@dataclass(frozen=True, slots=True)
class TripRecord:
    """Why, and in what state of things, a circuit opened.

    Attributes:
        at: when, Unix time in seconds.
        dependency: whose circuit.
        transition: what happened, with the counts of the window just before.
        thresholds: that were in force.
        samples: the last failing calls, the oldest first.
        vitals: of this process in the seconds before.
        open_for_s: until it probes; None for until somebody says otherwise.
    """

    at: float
    dependency: str
    transition: Transition
    thresholds: BreakerSettings
    samples: tuple[Sample, ...]
    vitals: Reading
    open_for_s: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the log line, the event and the admin API show this."""
        counts, newest = self.transition.counts, self.transition.newest
        thresholds, vitals = self.thresholds, self.vitals
        rate, slow = thresholds.failure_rate, thresholds.slow_calls
        span = thresholds.window_s
        return {
            "at": rfc3339(self.at),
            "dependency": self.dependency,
            "from": self.transition.origin.value,
            "reason": self.transition.reason.value,
            "window": {
                "calls": counts.calls,
                "failures": counts.failures,
                "slow": counts.slow,
                "timed": counts.timed,
                "consecutive_failures": self.transition.consecutive,
            },
            "newest_part": {"calls": newest.calls, "failures": newest.failures, "slow": newest.slow},
            "thresholds": {
                "consecutive_failures": thresholds.consecutive_failures,
                "failure_rate": None if rate is None else rate.threshold,
                "failure_rate_min_calls": None if rate is None else rate.min_calls,
                "slower_than_ms": None if slow is None else round((thresholds.slower_than_s or 0.0) * 1000, 3),
                "slow_calls": None if slow is None else slow.threshold,
                "slow_calls_min_calls": None if slow is None else slow.min_calls,
                "window": f"{thresholds.window_calls} calls" if span is None else f"{span:g}s",
            },
            "last_failures": [sample.as_dict() for sample in self.samples],
            "process": {
                "loop_lag_ms": round(vitals.loop_lag_s * 1000, 3),
                "cpu_throttled_ms": None if vitals.throttled_s is None else round(vitals.throttled_s * 1000, 3),
                "standstill_ms": round(vitals.standstill_s * 1000, 3),
            },
            "probes_at": None if self.open_for_s is None else rfc3339(self.at + self.open_for_s),
        }


class Trips:
    """The trip records of one dependency.

    Args:
        dependency: its name.
        vitals: reads this process's own.
        wall: Unix time in seconds; for showing, never for deciding.
    """

    __slots__ = ("_dependency", "_samples", "_vitals", "_wall", "records")

    def __init__(self, dependency: str, vitals: Callable[[], Reading], wall: Callable[[], float] = time.time) -> None:
        self._dependency = dependency
        self._vitals = vitals
        self._wall = wall
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self.records: deque[TripRecord] = deque(maxlen=KEPT)

    def note_failure(self, what: int | str, latency_s: float, trace_id: str | None) -> None:
        """Remember a failing call for a while."""
        self._samples.append(Sample(self._wall(), what, latency_s, trace_id))

    def note_trip(self, transition: Transition, thresholds: BreakerSettings) -> TripRecord:
        """The circuit has opened."""
        by_hand = transition.reason is Reason.FORCED
        record = TripRecord(
            self._wall(),
            self._dependency,
            transition,
            thresholds,
            () if by_hand else tuple(self._samples),
            self._vitals(),
            None if transition.until is None else transition.until - transition.at,
        )
        self.records.append(record)
        return record


def rfc3339(unix_s: float) -> str:
    """A moment as text: UTC, to the millisecond."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
