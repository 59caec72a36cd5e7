"""The gate of a dependency on the event loop: who waits at it is called when the turn comes, and time is kept.

The gate itself is pure (`policy.gate`); here are its timers. What a breaker and a queue need of time is coarse and
stands in the wheel. A token is another matter: at a hundred a second with a burst of one, a clock with ticks of 25 ms
would lose most of them, so whoever waits for one is woken by a timer of the loop.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from sidecar.policy.candidate import Candidate
from sidecar.policy.classify import End
from sidecar.policy.gate import Gate
from sidecar.policy.queue import Lack
from sidecar.policy.states import Outcome, Permit
from sidecar.runtime.deadlines import NEVER, Deadlines


class Waiter(Protocol):
    """Who stands in the queue of a dependency."""

    def on_admitted(self, permit: Permit, now: float) -> None:
        """Its turn has come; token, slot and permit are its."""

    def on_turned_away(self, lack: Lack | None, now: float) -> None:
        """It has waited in vain: for what, or None where the circuit refuses it."""


class Admission:
    """Who gets in, who waits, and who is turned away.

    Args:
        gate: the enforced policies.
        candidates: simulated beside them.
        deadlines: the process's clock and wheel.

    Attributes:
        gate, candidates: as given.
        deadline, watched: see `Watched`; the next thing that time brings to the gate or a candidate.
    """

    __slots__ = ("_deadlines", "_timer", "candidates", "deadline", "gate", "watched")

    def __init__(self, gate: Gate[Waiter], candidates: list[Candidate], deadlines: Deadlines) -> None:
        self.gate = gate
        self.candidates = candidates
        self._deadlines = deadlines
        self._timer: asyncio.TimerHandle | None = None
        self.deadline = NEVER
        self.watched = NEVER

    def __repr__(self) -> str:
        return f"<Admission {self.gate!r}>"

    # -- a call, in the order of its life

    def enter(self, now: float) -> Permit | None:
        """Let a call in, or say in `gate.lack` why not."""
        gate = self.gate
        permit = gate.enter(now)
        if gate.breaker.next_event() < self.deadline:
            self._arm()
        return permit

    def enter_tunnel(self, now: float) -> Permit | None:
        """Let a tunnel in, or say in `gate.lack` why not; `leave_tunnel` is its end."""
        gate = self.gate
        permit = gate.enter_tunnel(now)
        if gate.breaker.next_event() < self.deadline:
            self._arm()
        return permit

    def leave_tunnel(self, permit: Permit, outcome: Outcome, now: float) -> None:
        """A tunnel that had got in stands, or has failed to."""
        gate = self.gate
        gate.leave_tunnel(permit, outcome, now)
        if gate.breaker.next_event() < self.deadline:
            self._arm()

    def wait(self, waiter: Waiter, now: float) -> bool:
        """Stand in the queue, right behind `enter`; False when there is no room."""
        if not self.gate.wait(waiter, now):
            return False
        self._arm()
        self._set_timer(now)
        return True

    def quit(self, waiter: Waiter) -> bool:
        """Leave the queue without having got in; False for one that was not in it."""
        return self.gate.queue.leave(waiter)

    def observe(self, now: float) -> list[Permit | None]:
        """Show a call that has got in to the candidates; their permits, for `leave`."""
        permits = [candidate.enter(now) for candidate in self.candidates]
        self._arm()
        return permits

    def sent(self, permit: Permit, observed: list[Permit | None] | None, now: float) -> None:
        """The request is whole at the dependency, which owes an answer from now on."""
        if permit.timed:
            self.gate.breaker.sent(permit, now)
        if observed is not None:
            for candidate, theirs in zip(self.candidates, observed, strict=True):
                if theirs is not None:
                    candidate.gate.breaker.sent(theirs, now)
        self._arm()

    def answered(
        self, permit: Permit, observed: list[Permit | None] | None, status: int, failing: bool, now: float
    ) -> None:
        """The final response head has come. One that is late may open a circuit, long before its body ends.

        Args:
            permit: of the call.
            observed: the candidates' permits; None where there are no candidates.
            status: of the response.
            failing: that is a failure to the enforced policies; the candidates have opinions of their own.
            now: when.
        """
        breaker = self.gate.breaker
        if permit.timed or permit.trial:
            breaker.answered(permit, now, failing)
        if observed is not None:
            for candidate, theirs in zip(self.candidates, observed, strict=True):
                if theirs is not None:
                    candidate.gate.breaker.answered(theirs, now, candidate.classifier.failing[status])
            self._arm()
        elif breaker.next_event() < self.deadline:
            self._arm()

    def leave(self, permit: Permit, outcome: Outcome, now: float) -> None:
        """A call that had got in has ended; whoever waits for its slot gets it."""
        gate = self.gate
        gate.leave(permit, outcome, now)
        if gate.queue.waiting:
            self.serve(now)
        if gate.breaker.next_event() < self.deadline:
            self._arm()

    def end_observed(self, observed: list[Permit | None], end: End, status: int, waited_s: float, now: float) -> None:
        """A call that the candidates have seen has ended; see `Classifier.outcome`."""
        for candidate, theirs in zip(self.candidates, observed, strict=True):
            if theirs is not None:
                candidate.leave(theirs, end, status, waited_s, now)
        self._arm()

    def unobserved(self) -> None:
        """A call was refused, so no candidate will see it."""
        for candidate in self.candidates:
            candidate.unobserved += 1

    # -- the queue

    def serve(self, now: float) -> None:
        """Call everybody whose turn has come."""
        gate = self.gate
        while True:
            first = gate.next(now)
            if first is None:
                break
            waiter, permit = first
            if permit is None:
                waiter.on_turned_away(None, now)
            else:
                waiter.on_admitted(permit, now)
        self._set_timer(now)

    def flush(self, now: float) -> None:
        """The circuit has opened: whoever waits is told at once."""
        for waiter in self.gate.queue.flush():
            waiter.on_turned_away(None, now)

    # -- time

    def on_deadline(self) -> None:
        """Do what time has brought, to the gate, its queue and the candidates."""
        now = self._deadlines.read()
        gate = self.gate
        self.deadline = NEVER
        self.advance(now)
        if gate.queue.waiting:
            self.serve(now)
            for waiter in gate.queue.expire(gate.bucket, gate.slots, now):
                waiter.on_turned_away(gate.queue.waits_for, now)
        self._arm()

    def advance(self, now: float) -> None:
        """Bring every breaker to its state of `now`; also for whoever is about to read them."""
        breaker = self.gate.breaker
        if now >= breaker.next_event():
            breaker.advance(now)
        for candidate in self.candidates:
            breaker = candidate.gate.breaker
            if now >= breaker.next_event():
                breaker.advance(now)

    def _arm(self) -> None:
        due = self.gate.breaker.next_event()
        for candidate in self.candidates:
            due = min(due, candidate.gate.breaker.next_event())
        if self.gate.queue.waiting:
            due = min(due, self.gate.queue.next_expiry())
        self.deadline = due
        if due < self.watched:
            self._deadlines.watch(self)

    def _set_timer(self, now: float) -> None:
        if self._timer is None:
            due = self.gate.queue.next_token(self.gate.bucket, now)
            if due != NEVER:
                self._timer = asyncio.get_running_loop().call_later(due - now, self._on_token)

    def _on_token(self) -> None:
        self._timer = None
        self.serve(self._deadlines.read())
        self._arm()  # who was let in may be a trial, whose lease has an end

    def close(self) -> None:
        """The sidecar stops: keep no time any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._deadlines.forget(self)
