"""The concurrency limit: so many requests at a time, each from its admission to the end of its response's body."""

from __future__ import annotations


class Slots:
    """A counter with a limit.

    Invariant: `in_use` is the number of `take` calls that returned True less the number of `release` calls.

    Args:
        limit: how many at a time; 0 for none. May be changed while slots are in use: then no new one is given until
            enough have been released.
    """

    __slots__ = ("in_use", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0

    def __repr__(self) -> str:
        return f"<Slots {self.in_use}/{self.limit}>"

    @property
    def free(self) -> bool:
        """Whether a slot is there."""
        return self.in_use < self.limit

    def take(self) -> bool:
        """Take a slot if one is there."""
        if self.in_use >= self.limit:
            return False
        self.in_use += 1
        return True

    def release(self) -> None:
        """Give a slot back. Each taken slot is given back exactly once."""
        assert self.in_use > 0, "a slot was released that nobody held"
        self.in_use -= 1
