"""The queue of a dependency: one, in order of arrival, for whoever needs a token or a slot that is not there.

One queue and not two, since a request needs both together: with one for each, whoever got its token would hold it idle
while it waits for a slot, or give it back and lose its place.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import Generic, TypeVar

from sidecar.policy.bucket import TokenBucket
from sidecar.policy.slots import Slots

W = TypeVar("W")


class Lack(enum.Enum):
    """What is missing."""

    TOKEN = "token"  # noqa: S105 - of a bucket
    SLOT = "slot"


def lack(bucket: TokenBucket | None, slots: Slots | None, now: float) -> Lack | None:
    """What a request would have to wait for; None when it can have all it needs.

    Where both are missing it is the token: when that comes is known.
    """
    if bucket is not None and bucket.wait(now) > 0.0:
        return Lack.TOKEN
    if slots is not None and slots.in_use >= slots.limit:
        return Lack.SLOT
    return None


def take(bucket: TokenBucket | None, slots: Slots | None, now: float) -> Lack | None:
    """Take a token and a slot together, or neither, and say what is missing."""
    if slots is not None:
        if slots.in_use >= slots.limit:
            return lack(bucket, slots, now)
        if bucket is not None and not bucket.take(now):
            return Lack.TOKEN
        slots.in_use += 1
        return None
    if bucket is not None and not bucket.take(now):
        return Lack.TOKEN
    return None


class WaitQueue(Generic[W]):
    """Waiters, the first come first.

    Only the first is ever looked at, so what it lacks is what all behind it wait for, and what whoever waited in vain
    is told.

    Args:
        limit: how many may wait; 0 for none. May be changed at any time, as `max_wait_s`; those who wait stay.
        max_wait_s: for how long; 0 for not at all.

    Attributes:
        waits_for: what the first lacked when it was last looked at.
    """

    __slots__ = ("_since", "limit", "max_wait_s", "waits_for")

    def __init__(self, limit: int, max_wait_s: float) -> None:
        self.limit = limit
        self.max_wait_s = max_wait_s
        self.waits_for = Lack.SLOT
        # Not a dict: that one forgets its first entries without closing the gap, and finds the next more slowly each
        # time.
        self._since: OrderedDict[W, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<WaitQueue {len(self._since)}/{self.limit} for a {self.waits_for.value}>"

    def __len__(self) -> int:
        return len(self._since)

    @property
    def waiting(self) -> bool:
        """Whether anybody waits."""
        return len(self._since) > 0

    def __contains__(self, waiter: object) -> bool:
        return waiter in self._since

    def join(self, waiter: W, waits_for: Lack, now: float) -> bool:
        """Stand at the end, if there is room.

        Args:
            waiter: anything hashable; not in the queue.
            waits_for: what is missing; of interest only for the first, who makes all others wait.
            now: when.
        """
        assert waiter not in self._since, "a waiter stands in the queue once"
        if len(self._since) >= self.limit or self.max_wait_s <= 0.0:
            return False
        if not self._since:
            self.waits_for = waits_for
        self._since[waiter] = now
        return True

    def leave(self, waiter: W) -> bool:
        """Go without having got anything; False for one who was not there."""
        return self._since.pop(waiter, None) is not None

    def serve(self, bucket: TokenBucket | None, slots: Slots | None, now: float) -> W | None:
        """The first, with the token and the slot taken for it; None when there is none or it still lacks something.

        To be called until it returns None, when a slot has been released and at `next_token`. Whoever arrives while
        others wait joins them, even if there is a token and a slot at that moment.
        """
        if not self._since:
            return None
        missing = take(bucket, slots, now)
        if missing is not None:
            self.waits_for = missing
            return None
        return self._since.popitem(last=False)[0]

    def expire(self, bucket: TokenBucket | None, slots: Slots | None, now: float) -> list[W]:
        """Those who have waited too long, the longest first. `waits_for` says for what, all alike.

        Whoever can be served at this moment should have been before: call `serve` first.
        """
        overdue: list[W] = []
        for waiter, since in self._since.items():
            if now < since + self.max_wait_s:
                break
            overdue.append(waiter)
        if overdue:
            missing = lack(bucket, slots, now)
            if missing is not None:
                self.waits_for = missing
            for waiter in overdue:
                del self._since[waiter]
        return overdue

    def flush(self) -> list[W]:
        """All of them, the first come first: the circuit has opened, or the sidecar stops."""
        waiters = list(self._since)
        self._since.clear()
        return waiters

    # -- to be read; none of it changes anything

    def waited_s(self, waiter: W, now: float) -> float:
        """How long one has waited, in seconds; 0.0 for one who is not there."""
        return max(0.0, now - self._since.get(waiter, now))

    def next_expiry(self) -> float:
        """When `expire` has someone to send away; infinity for never."""
        for since in self._since.values():
            return since + self.max_wait_s
        return float("inf")

    def next_token(self, bucket: TokenBucket | None, now: float) -> float:
        """When the first may get its token; infinity when nobody waits, or not for that: then a slot must come free."""
        if not self._since or bucket is None:
            return float("inf")
        wait = bucket.wait(now)
        return now + wait if wait > 0.0 else float("inf")
