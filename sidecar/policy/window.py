"""What happened lately: outcomes and speeds of calls, over a span of time or a number of calls.

A call's outcome is known at the end of its response, its speed at its response head, which for a stream can be an hour
earlier. So the two are counted apart, each at its own time and each with its own total; a call is in each at most once.

A window of time is ten buckets. It stores no bucket: it counts from its beginning, and remembers what the counters
stood at when each of the last ten buckets began. The window is then a difference, a record is one addition, and
forgetting costs nothing. What is recent is kept apart from the whole, because a total outage shows there long before
it dominates the window.
"""

from __future__ import annotations

from typing import Final, NamedTuple

BUCKETS: Final = 10


class Counts(NamedTuple):
    """What a window holds.

    Attributes:
        calls: calls that ended as a success or a failure.
        failures: those that failed.
        slow: calls found slow.
        timed: calls whose speed is known, slow or not.
    """

    calls: int
    failures: int
    slow: int
    timed: int


NOTHING: Final = Counts(0, 0, 0, 0)


class Window:
    """What a breaker asks of a window. A class and no Protocol: compiled, its methods are then called directly."""

    __slots__ = ()

    def record(self, now: float, failed: bool) -> None:
        """Count one call that has ended."""
        raise NotImplementedError

    def record_speed(self, now: float, slow: bool) -> None:
        """Count one call whose speed is known."""
        raise NotImplementedError

    def counts(self, now: float) -> Counts:
        """Totals over the window. Changes nothing, whatever `now`."""
        raise NotImplementedError

    def recent(self, now: float) -> Counts:
        """Totals of its newest part. Changes nothing, whatever `now`."""
        raise NotImplementedError

    def passed(self, since: float, now: float) -> bool:
        """Whether one whole window has gone by since it was last cleared, which was at `since`."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget everything."""
        raise NotImplementedError


class TimeWindow(Window):
    """The last `span_s` seconds, in ten buckets; the oldest tenth is forgotten at once.

    A `now` earlier than the one before counts for the present bucket: time never goes back.

    Args:
        span_s: length in seconds; above 0.
    """

    __slots__ = (
        "_bucket_s",
        "_calls",
        "_calls_at",
        "_current",
        "_ends_at",
        "_failures",
        "_failures_at",
        "_slow",
        "_slow_at",
        "_timed",
        "_timed_at",
        "span_s",
    )

    def __init__(self, span_s: float) -> None:
        if span_s <= 0:
            raise ValueError("a window of time is longer than 0")
        self.span_s = span_s
        self._bucket_s = span_s / BUCKETS
        self._reset()

    def _reset(self) -> None:
        self._calls = self._failures = self._slow = self._timed = 0
        # What the counters stood at when a bucket began, by its index modulo ten.
        self._calls_at = [0] * BUCKETS
        self._failures_at = [0] * BUCKETS
        self._slow_at = [0] * BUCKETS
        self._timed_at = [0] * BUCKETS
        self._current = -1  # index of the bucket written last, counted from the clock's zero
        self._ends_at = -float("inf")

    def clear(self) -> None:
        """Forget everything."""
        self._reset()

    def __repr__(self) -> str:
        counts = self._since((self._current + 1) % BUCKETS)
        return f"<TimeWindow {self.span_s:g}s {counts.failures}/{counts.calls} failed {counts.slow} slow>"

    def _advance(self, now: float) -> None:
        index = int(now / self._bucket_s)
        for step in range(min(index - self._current, BUCKETS)):
            at = (index - step) % BUCKETS
            self._calls_at[at] = self._calls
            self._failures_at[at] = self._failures
            self._slow_at[at] = self._slow
            self._timed_at[at] = self._timed
        if index > self._current:
            self._current = index
            self._ends_at = (index + 1) * self._bucket_s

    def record(self, now: float, failed: bool) -> None:
        """Count one call that has ended."""
        if now >= self._ends_at:
            self._advance(now)
        self._calls += 1
        if failed:
            self._failures += 1

    def record_speed(self, now: float, slow: bool) -> None:
        """Count one call whose speed is known."""
        if now >= self._ends_at:
            self._advance(now)
        self._timed += 1
        if slow:
            self._slow += 1

    def _since(self, at: int) -> Counts:
        return Counts(
            self._calls - self._calls_at[at],
            self._failures - self._failures_at[at],
            self._slow - self._slow_at[at],
            self._timed - self._timed_at[at],
        )

    def _last(self, now: float, buckets: int) -> Counts:
        """Totals of so many buckets up to that of `now`, this one included."""
        first = max(int(now / self._bucket_s), self._current) - buckets + 1
        if first > self._current:
            return NOTHING
        return self._since(first % BUCKETS)

    def counts(self, now: float) -> Counts:
        """Totals over the window."""
        return self._last(now, BUCKETS)

    def recent(self, now: float) -> Counts:
        """Totals of the newest full bucket and of what has come since.

        The full bucket alone would be judged as it stands until the next is full, for better and worse: an outage that
        begins in the second half of a bucket would show one and a half buckets later. With what has come since, it
        shows within one.
        """
        return self._last(now, 2)

    def passed(self, since: float, now: float) -> bool:
        """Whether `span_s` seconds have gone by since `since`."""
        return now - since >= self.span_s


class _Ring:
    """The last `size` of a series of booleans, and how many of them are true. One byte each."""

    __slots__ = ("_flags", "_next", "filled", "size", "true")

    def __init__(self, size: int) -> None:
        self.size = size
        self.filled = 0
        self.true = 0
        self._flags = bytearray(size)
        self._next = 0

    def push(self, flag: bool) -> None:
        at = self._next
        if self.filled < self.size:
            self.filled += 1
        elif self._flags[at]:
            self.true -= 1
        self._flags[at] = 1 if flag else 0
        if flag:
            self.true += 1
        at += 1
        self._next = at if at < self.size else 0


class CountWindow(Window):
    """The last `size` calls, however old.

    Args:
        size: how many; at least 1.
    """

    __slots__ = ("_outcomes", "_speeds", "size")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError("a window of calls holds at least 1")
        self.size = size
        self._outcomes = _Ring(size)
        self._speeds = _Ring(size)

    def clear(self) -> None:
        """Forget everything."""
        self._outcomes = _Ring(self.size)
        self._speeds = _Ring(self.size)

    def __repr__(self) -> str:
        counts = self.counts(0.0)
        return f"<CountWindow {self.size} calls {counts.failures}/{counts.calls} failed {counts.slow} slow>"

    def record(self, now: float, failed: bool) -> None:
        """Count one call that has ended, and forget the oldest beyond `size`."""
        self._outcomes.push(failed)

    def record_speed(self, now: float, slow: bool) -> None:
        """Count one call whose speed is known, and forget the oldest beyond `size`."""
        self._speeds.push(slow)

    def counts(self, now: float) -> Counts:
        """Totals over the window."""
        return Counts(self._outcomes.filled, self._outcomes.true, self._speeds.true, self._speeds.filled)

    def recent(self, now: float) -> Counts:
        """Nothing: a window of calls has no buckets, and at volume a change of fortune fills it fast enough."""
        return NOTHING

    def passed(self, since: float, now: float) -> bool:
        """Whether as many calls have ended as the window holds."""
        return self._outcomes.filled >= self.size
