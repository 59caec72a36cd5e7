"""What a call must pass before it is made: circuit, rate and concurrency, taken together or not at all.

The order matters. An open circuit is asked first, so that a refusal burns no token. Then token and slot are taken
together, and last the permit, whose refusal (by a ramp, by chance) gives both back. Everything happens within one call
of a method, so nobody ever holds a part of it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from sidecar.policy.breaker import CircuitBreaker
from sidecar.policy.bucket import TokenBucket
from sidecar.policy.queue import Lack, WaitQueue, take
from sidecar.policy.slots import Slots
from sidecar.policy.states import Outcome, Permit

W = TypeVar("W")


class Gate(Generic[W]):
    """The policies in front of one dependency.

    Invariant: each permit that `enter` or `next` gave out holds one slot until it is handed to `leave`; one that
    `enter_tunnel` gave out holds none.

    Args:
        breaker: always there; a disabled one refuses nothing.
        bucket: None for no rate limit.
        slots: None for no concurrency limit.
        queue: for those who lack a token or a slot; its limit may be 0.

    Attributes:
        lack: why `enter` last refused: what was missing; None where it was the circuit.
    """

    __slots__ = ("breaker", "bucket", "lack", "queue", "slots")

    def __init__(
        self, breaker: CircuitBreaker, bucket: TokenBucket | None, slots: Slots | None, queue: WaitQueue[W]
    ) -> None:
        self.breaker = breaker
        self.bucket = bucket
        self.slots = slots
        self.queue = queue
        self.lack: Lack | None = None

    def __repr__(self) -> str:
        return f"<Gate {self.breaker!r} {self.bucket!r} {self.slots!r} {self.queue!r}>"

    def enter(self, now: float) -> Permit | None:
        """Everything that one call needs, or None; `lack` says why."""
        breaker = self.breaker
        bucket, slots = self.bucket, self.slots
        if bucket is None and slots is None:
            permit = breaker.admit(now)
            self.lack = None
            return permit
        if breaker.refuses(now):
            self.lack = None
            return None
        if self.queue.waiting:
            self.lack = self.queue.waits_for
            return None
        missing = take(bucket, slots, now)
        if missing is not None:
            self.lack = missing
            return None
        return self._permit(now)

    def _permit(self, now: float) -> Permit | None:
        """A permit for a call whose token and slot are taken, or both given back."""
        permit = self.breaker.admit(now)
        if permit is None:
            self.lack = None
            if self.bucket is not None:
                self.bucket.give_back()
            if self.slots is not None:
                self.slots.release()
        return permit

    def enter_tunnel(self, now: float) -> Permit | None:
        """What a tunnel needs, or None; `lack` says why. It has no slot, for it may stand for days, and does not wait.

        Whoever waits for a token comes before it.
        """
        self.lack = None
        if self.breaker.refuses(now):
            return None
        bucket = self.bucket
        if bucket is None:
            return self.breaker.admit(now)
        ahead = bool(self.queue.waiting) and self.queue.waits_for is Lack.TOKEN
        if ahead or not bucket.take(now):
            self.lack = Lack.TOKEN
            return None
        permit = self.breaker.admit(now)
        if permit is None:
            bucket.give_back()
        return permit

    def leave_tunnel(self, permit: Permit, outcome: Outcome, now: float) -> None:
        """A tunnel that was let in stands, or has failed to; see `leave`."""
        self.breaker.record(permit, outcome, now)

    def wait(self, waiter: W, now: float) -> bool:
        """Stand in the queue, behind `enter`, which has just said what is lacking; False when there is no room."""
        return self.lack is not None and self.queue.join(waiter, self.lack, now)

    def next(self, now: float) -> tuple[W, Permit | None] | None:
        """The first of the queue that need not wait any longer, with its permit; without one the circuit refuses it.

        To be called until it returns None, after `leave` and when a token has come.
        """
        waiter = self.queue.serve(self.bucket, self.slots, now)
        if waiter is None:
            return None
        return waiter, self._permit(now)

    def leave(self, permit: Permit, outcome: Outcome, now: float) -> None:
        """A call that was let in has ended. Each permit is brought back exactly once."""
        self.breaker.record(permit, outcome, now)
        if self.slots is not None:
            self.slots.release()
