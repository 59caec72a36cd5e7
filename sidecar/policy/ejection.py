"""Several addresses of one dependency: which is asked next, and which is passed over because it fails.

An address is ejected by so many failures in a row, for a time that grows with each ejection until it has proved itself
for as long as it was out. Never are more than a share of the addresses out at once: when most of them fail, it is the
dependency that fails, and that is the circuit breaker's to judge.

Of the others the less busy of two at random is asked (M. Mitzenmacher, "The power of two choices in randomized load
balancing", 2001): nearly as even as asking the least busy of all, without looking at all, and without every replica of
the application running after the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

NEVER: Final = float("inf")

MOST_TIMES: Final = 10
"""An ejection is at most so many times as long as the first."""


@dataclass(frozen=True, slots=True)
class EjectionSettings:
    """What a service owner can say about ejection.

    Attributes:
        consecutive_failures: at which an address is ejected, at least 1; None for never.
        for_s: how long the first time, in seconds; the second time twice that, and so on.
        max_share: of the addresses that may be out at once, from 0 to 1, rounded down to whole ones.
    """

    consecutive_failures: int | None
    for_s: float
    max_share: float


class Member:
    """One address, as far as it is looked at here.

    Attributes:
        busy: connections to it that are in use or being made; kept by whoever makes them.
        failures: in a row.
        times: how often it was ejected since it last proved itself.
        until: when it comes back, or came back last, in seconds; 0 for one that was never out.
        ejected: whether it is out.
    """

    __slots__ = ("busy", "ejected", "failures", "times", "until")

    def __init__(self) -> None:
        self.busy = 0
        self.failures = 0
        self.times = 0
        self.until = 0.0
        self.ejected = False


M = TypeVar("M", bound=Member)


class Ejection(Generic[M]):
    """The addresses of one dependency.

    Invariant: never more than `max_share` of the members are out.

    Args:
        settings: when to eject, and for how long.
        rng: uniform random numbers from 0 up to 1, exclusively.

    Attributes:
        members: all of them.
        settings: as given.
    """

    __slots__ = ("_in", "_next_return", "_rng", "members", "settings")

    def __init__(self, settings: EjectionSettings, rng: Callable[[], float]) -> None:
        self.settings = settings
        self._rng = rng
        self.members: list[M] = []
        self._in: list[M] = []  # those that are not out
        self._next_return = NEVER

    def __repr__(self) -> str:
        return f"<Ejection {len(self._in)} in, {len(self.members) - len(self._in)} out>"

    def counts(self, now: float) -> tuple[int, int]:
        """How many are in, and how many are out."""
        self._take_back(now)
        return len(self._in), len(self.members) - len(self._in)

    # -- which there are

    def replace(self, members: Iterable[M], now: float) -> None:
        """These are the members from now on; those that were before keep their record.

        Where too many of them are out, for there are fewer now, those whose time ends first come back.
        """
        self.members = list(members)
        out = sorted((member for member in self.members if member.ejected), key=lambda member: member.until)
        for member in out[: max(0, len(out) - self._most_out())]:
            member.ejected = False
            member.until = now
        self._sort(now)

    # -- which is asked

    def pick(self, now: float) -> M | None:
        """The less busy of two at random among those that are in, or among all where none is; None without members."""
        if now >= self._next_return:
            self._sort(now)
        return self._pick_of(self._in or self.members)

    def pick_where(self, wanted: Callable[[M], bool], now: float) -> M | None:
        """Likewise, of those that are wanted."""
        self._take_back(now)
        choices = [member for member in self._in if wanted(member)]
        return self._pick_of(choices or [member for member in self.members if wanted(member)])

    def _pick_of(self, choices: list[M]) -> M | None:
        count = len(choices)
        if count == 1:
            return choices[0]
        if count == 0:
            return None
        first = int(self._rng() * count)
        second = int(self._rng() * (count - 1))
        if second >= first:
            second += 1
        one, other = choices[first], choices[second]
        return one if one.busy <= other.busy else other

    def pick_other(self, tried: Collection[M], now: float) -> M | None:
        """The least busy of those that have not been tried; one that is out only where no other is left."""
        self._take_back(now)
        for choices in (self._in, self.members):
            untried = [member for member in choices if member not in tried]
            if untried:
                return min(untried, key=lambda member: member.busy)
        return None

    def in_order(self) -> list[M]:
        """All of them, those that are out behind the others."""
        return self._in + [member for member in self.members if member.ejected]

    # -- what it has answered

    def succeeded(self, member: M, now: float) -> None:
        """It has done what it was asked. To be called where `failures` or `times` is not 0; else there is no need."""
        self._take_back(now)
        if member.ejected:  # a call from before
            return
        member.failures = 0
        if member.times and now - member.until >= member.times * self.settings.for_s:
            member.times = 0

    def failed(self, member: M, now: float) -> bool:
        """It has failed, in whatever way the dependency can; whether it is out for that from now on."""
        self._take_back(now)
        if member.ejected:  # a call from before
            return False
        member.failures += 1
        limit = self.settings.consecutive_failures
        if limit is None or member.failures < limit:
            return False
        if len(self.members) - len(self._in) >= self._most_out() or member not in self._in:
            return False
        member.ejected = True
        member.times = min(member.times + 1, MOST_TIMES)
        member.until = now + member.times * self.settings.for_s
        member.failures = limit - 1  # back again, it has one chance
        self._sort(now)
        return True

    # -- time

    def _most_out(self) -> int:
        return int(len(self.members) * self.settings.max_share + 1e-9)  # whatever floats make of a third of three

    def _take_back(self, now: float) -> None:
        if now >= self._next_return:
            self._sort(now)

    def _sort(self, now: float) -> None:
        """Look at every member: whose time is over comes back."""
        self._in = []
        self._next_return = NEVER
        for member in self.members:
            if member.ejected and now >= member.until:
                member.ejected = False
            if member.ejected:
                self._next_return = min(self._next_return, member.until)
            else:
                self._in.append(member)
