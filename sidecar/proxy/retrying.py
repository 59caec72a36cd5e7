"""Another attempt: what stands between the end of an attempt that went wrong and that end being the answer.

A response on the list of `retry.on` is kept back until it is whole, for the next attempt may bring a better one; if
there is none, or it gets no token, what was kept back is the answer. What is too long, or takes longer than the request
may, is let go at once. While the next attempt is waited for, nothing is held: no connection, no slot, no permit.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.errors import Refusal
from sidecar.policy.classify import End
from sidecar.policy.retry import EndedAttempt, No, RetrySettings, may_retry, why_not
from sidecar.proxy.framing import ResponseHead
from sidecar.proxy.held import HeldResponse
from sidecar.runtime.deadlines import Deadlines

if TYPE_CHECKING:
    from sidecar.proxy.exchange import Exchange

Trailers = list[tuple[bytes, bytes]]


class Retrier:
    """The further attempts of one request, where its dependency allows any.

    Args:
        exchange: the request.
        settings: of the dependency.
        deadlines: the process's clock and wheel.
    """

    __slots__ = ("_deadlines", "_exchange", "_failure", "_held", "_settings", "_timer")

    def __init__(self, exchange: Exchange, settings: RetrySettings, deadlines: Deadlines) -> None:
        self._exchange = exchange
        self._settings = settings
        self._deadlines = deadlines
        self._held: HeldResponse | None = None
        self._failure: Refusal | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def holds(self) -> bool:
        """Whether a response is kept back."""
        return self._held is not None

    # -- an attempt has brought a response

    def keep_back(
        self,
        head: ResponseHead,
        body: bytes,
        done: bool,
        bodiless: bool,
        trailers: Trailers,
        now: float,
    ) -> bool:
        """Keep a response back, if another attempt could follow it; the arguments are those of `on_response`."""
        if why_not(self._settings, self._exchange.ended(End.RESPONSE, None)) is not None:
            return False
        held = HeldResponse(head, body, bodiless)
        if held.too_large:
            return False
        self._held = held
        if done:
            self.on_end(trailers, now)
        else:
            self._exchange.wait_until(self._exchange.total_deadline)
        return True

    def on_body(self, data: bytes) -> None:
        """More of the response that is kept back."""
        held = self._held
        assert held is not None
        held.body += data
        if held.too_large:
            self.let_go()

    def on_end(self, trailers: Trailers, now: float) -> None:
        """It is whole."""
        held = self._held
        assert held is not None
        held.trailers = trailers
        wait_s = self._wait(End.RESPONSE, held.retry_after_s, now)
        if wait_s is None:
            self._held = None
            self._exchange.answer_with(held, now)
        else:
            self._back_off(wait_s, End.RESPONSE, now)

    def let_go(self) -> None:
        """It is too long, or takes too long: it is the answer, and the rest of it follows as it comes."""
        held = self._held
        assert held is not None
        self._held = None
        self._exchange.forward(held.head, bytes(held.body), False, bodiless=held.bodiless)

    # -- an attempt has brought none

    def on_failure(self, refusal: Refusal, end: End, now: float) -> bool:
        """An attempt has failed with `refusal`; False when there is no other."""
        self._held = None  # which was not whole
        wait_s = self._wait(end, None, now)
        if wait_s is None:
            return False
        self._failure = refusal
        self._back_off(wait_s, end, now)
        return True

    # -- the next one

    def _wait(self, end: End, retry_after_s: float | None, now: float) -> float | None:
        """Seconds until the next attempt, paid for; None when there is to be none."""
        exchange = self._exchange
        dependency = exchange.dependency
        ended: EndedAttempt = exchange.ended(end, retry_after_s)
        wait_s = may_retry(self._settings, ended, dependency.budget, now, exchange.total_deadline, dependency.rng)
        if isinstance(wait_s, No):
            if wait_s is No.BUDGET:
                dependency.counters.budget_exhausted += 1
            return None
        return wait_s

    def _back_off(self, wait_s: float, end: End, now: float) -> None:
        self._exchange.end_attempt(end, now)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._again)

    def _again(self) -> None:
        self._timer = None
        exchange = self._exchange
        held, failure = self._held, self._failure
        self._held = None
        self._failure = None
        now = self._deadlines.read()
        dependency = exchange.dependency
        permit = exchange.enter(now)
        if permit is not None:
            dependency.counters.retries += 1
            exchange.begin(permit, now)
            return
        dependency.budget.give_back()
        if held is not None:
            exchange.answer_with(held, now)
        else:
            assert failure is not None, "an attempt ends with a response or with a failure"
            exchange.refuse(failure, End.OWN_REFUSAL)

    def cancel(self) -> None:
        """The request is over."""
        self._held = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._exchange.dependency.budget.give_back()
