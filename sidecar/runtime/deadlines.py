"""Deadlines without timers: one coarse clock and one timing wheel for the whole process.

A request sets a deadline by storing a number. Only when that number is earlier than the moment at which its owner
will be looked at anyway is the owner put into a slot of the wheel; on a busy keep-alive connection that is about
once per timeout, not once per request. (Varghese and Lauck, "Hashed and hierarchical timing wheels", 1987; the
slots here are a dict, so there is one level and no rounding of far deadlines.)

Time is process time: monotonic seconds less those in which the process itself stood still (SIGSTOP, CPU throttling,
a blocked loop). A standstill thereby extends every deadline by its own length: it is nobody else's failure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

TICK_S: Final = 0.025
"""How coarse the clock is. A deadline fires at most two ticks late and never early."""

STANDSTILL_S: Final = 0.25
"""A tick that comes later than this is a standstill; below it, it is ordinary scheduling noise."""

NEVER: Final = float("inf")


class Watched(Protocol):
    """What the wheel asks of the owner of a deadline.

    Attributes:
        deadline: process time in seconds at which `on_deadline` is due; NEVER for none.
        watched: the deadline that its place in the wheel was chosen for, NEVER for no place. Written by the wheel; a
            new deadline needs a call of `Deadlines.watch` only when it is earlier than this.
    """

    deadline: float
    watched: float

    def on_deadline(self) -> None:
        """The deadline has passed. The owner sets a new one, or NEVER, and acts."""


def _slot_of(watched: float) -> int:
    """The first tick that is not before `watched`."""
    return int(watched / TICK_S) + 1


class Deadlines:
    """The coarse clock and the wheel. One per process; lives on one event loop.

    Attributes:
        now: coarse process time in seconds, at most `TICK_S` behind while the loop turns.
        standstill_s: how long the process has stood still in all.
        lag_s: by how much a tick has been late at worst, since `take_lag` was last called.
    """

    __slots__ = ("_handle", "_latest", "_loop", "_monotonic", "_slot", "_slots", "lag_s", "now", "standstill_s")

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._slots: dict[int, dict[Watched, None]] = {}  # ordered: what is due in one tick fires as it was watched
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self.standstill_s = 0.0
        self.lag_s = 0.0
        self.now = self._latest = monotonic()
        self._slot = int(self.now / TICK_S)

    def __repr__(self) -> str:
        return f"<Deadlines watched={self.watched} now={self.now:.3f} standstill={self.standstill_s:.3f}s>"

    @property
    def watched(self) -> int:
        """How many owners stand in the wheel."""
        return sum(map(len, self._slots.values()))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to tick on `loop`."""
        self._loop = loop
        self._handle = loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        """Stop ticking; nothing fires any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def read(self) -> float:
        """Exact process time in seconds, for what is measured rather than waited for. Costs a look at the clock.

        Octets that came during a standstill are read before the tick that would notice it; so this notices as well.
        """
        now = self._monotonic() - self.standstill_s
        if now - self.now > STANDSTILL_S:
            now = self._stood_still(now)
        self._latest = now
        return now

    def take_lag(self) -> float:
        """By how much a tick has been late at worst since this was last asked, in seconds."""
        lag_s = self.lag_s
        self.lag_s = 0.0
        return lag_s

    def watch(self, owner: Watched) -> None:
        """Make sure that `owner` is looked at when its deadline has passed.

        Callers on the hot path compare first: a later deadline than the one watched needs no call, since the
        wheel looks at the owner's present deadline when its slot comes and moves it on.
        """
        if owner.deadline >= owner.watched:
            return
        self._leave(owner)
        # A deadline in the past is looked at in the next tick; the half keeps _slot_of clear of rounding.
        owner.watched = max(owner.deadline, (self._slot + 0.5) * TICK_S)
        slot = _slot_of(owner.watched)
        members = self._slots.get(slot)
        if members is None:
            self._slots[slot] = {owner: None}
        else:
            members[owner] = None

    def forget(self, owner: Watched) -> None:
        """Take `owner` out of the wheel for good."""
        owner.deadline = NEVER
        self._leave(owner)

    def advance(self) -> None:
        """Read the clock, count a standstill, and fire what is due."""
        now = self._monotonic() - self.standstill_s
        late = now - self.now - TICK_S
        if late > self.lag_s:
            self.lag_s = late
        if late > STANDSTILL_S - TICK_S:
            now = self._stood_still(now)
        self.now = now
        last = int(now / TICK_S)
        while self._slot < last:
            self._slot += 1
            members = self._slots.pop(self._slot, None)
            if members is not None:
                self._fire(members)

    def _stood_still(self, now: float) -> float:
        """Count a standstill that ends at `now`; returns the process time that it is.

        As if a tick had come on time; but not before the moment at which somebody last read the time, for then the
        process still ran.
        """
        late = now - self.now - TICK_S
        if late > self.lag_s:
            self.lag_s = late
        resumed = max(self.now + TICK_S, self._latest)
        self.standstill_s += now - resumed
        return resumed

    def _fire(self, members: dict[Watched, None]) -> None:
        for owner in members:
            owner.watched = NEVER
        for owner in members:
            if owner.deadline > self.now:
                self.watch(owner)
                continue
            try:
                owner.on_deadline()
            except Exception as error:  # one owner's defect must not stop the clock of all the others
                if self._loop is None:
                    raise
                self._loop.call_exception_handler({"message": f"deadline of {owner!r} failed", "exception": error})

    def _leave(self, owner: Watched) -> None:
        if owner.watched == NEVER:
            return
        slot = _slot_of(owner.watched)
        owner.watched = NEVER
        members = self._slots.get(slot)
        if members is not None:
            members.pop(owner, None)
            if not members:
                del self._slots[slot]

    def _tick(self) -> None:
        if self._loop is not None:
            self._handle = self._loop.call_later(TICK_S, self._tick)
        self.advance()
