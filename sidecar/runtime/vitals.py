"""How this process itself is doing: for telling its own trouble from a dependency's."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.runtime.deadlines import Deadlines

SPAN_S: Final = 10
"""Over how many seconds the vitals look back."""

# The second is that of cgroup v1, in nanoseconds.
_THROTTLED: Final = (
    (Path("/sys/fs/cgroup/cpu.stat"), b"throttled_usec", 1e-6),
    (Path("/sys/fs/cgroup/cpu/cpu.stat"), b"throttled_time", 1e-9),
)


class Reading(NamedTuple):
    """The vitals of the last ten seconds.

    Attributes:
        loop_lag_s: by how much the event loop was late at worst.
        throttled_s: for how long the kernel kept the container from running because its CPU limit was used up; None
            where that is not known.
        standstill_s: for how long the process stood still, for whatever reason.
    """

    loop_lag_s: float
    throttled_s: float | None
    standstill_s: float


class Vitals:
    """Keeps the vitals of the last `SPAN_S` seconds; `sample` is to be called once a second.

    Args:
        deadlines: which notices lateness and standstills.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._lags: deque[float] = deque(maxlen=SPAN_S)
        self._before: deque[tuple[float | None, float]] = deque([self._totals()], maxlen=SPAN_S)

    def sample(self) -> None:
        """Take one second's reading."""
        self._lags.append(self._deadlines.take_lag())
        self._before.append(self._totals())

    def read(self) -> Reading:
        """The present vitals."""
        throttled, standstill = self._totals()
        throttled_before, standstill_before = self._before[0]
        known = throttled is not None and throttled_before is not None
        return Reading(
            max(*self._lags, self._deadlines.lag_s, 0.0),
            throttled - throttled_before if known else None,  # type: ignore[operator]
            standstill - standstill_before,
        )

    def _totals(self) -> tuple[float | None, float]:
        return throttled_s(), self._deadlines.standstill_s


def throttled_s() -> float | None:
    """For how many seconds the kernel has throttled this container in all; None where there is no such account."""
    for path, name, unit in _THROTTLED:
        try:
            lines = path.read_bytes().splitlines()
        except OSError:  # no cgroup, or the other version of it
            continue
        for line in lines:
            key, _, value = line.partition(b" ")
            if key == name:
                return int(value) * unit
    return None
