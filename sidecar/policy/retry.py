"""Retries: whether, when, and how many at most.

The budget keeps retries from multiplying an outage: whatever fails, the attempts are at most so many percent more than
the requests, and a few a second. It is of the dependency, not of a request.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sidecar.policy.bucket import TokenBucket
from sidecar.policy.classify import End, parse_statuses

# RFC 9110 section 9.2.2; without TRACE, which nobody needs repeated.
IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})

LARGEST_BALANCE: Final = 10.0
"""Deposits kept at most. Enough that a few connections reset together are all retried; few enough that what was saved
up in good times does not become a wave in bad ones."""

CONDITIONS: Final[dict[str, frozenset[End]]] = {
    "connect_error": frozenset({End.CONNECT_ERROR, End.TLS_ERROR, End.CONNECT_TIMEOUT}),
    "reset": frozenset({End.RESET, End.DEAD_CONNECTION}),
    "timeout": frozenset({End.FIRST_BYTE_TIMEOUT}),
}
"""What can stand in `retry.on` beside statuses. A total timeout cannot: no time is left after it."""


class RetryBudget:
    """Deposits and withdrawals, and a reserve for a dependency with too few requests to deposit much.

    Over any span of T seconds with n requests it allows at most `ratio` × n + `min_per_second` × T retries, and one
    time what had been saved up: `LARGEST_BALANCE` and one second of the reserve (at least 1).

    Args:
        ratio: what each request deposits, in retries; from 0.
        min_per_second: refill of the reserve, in retries; 0 for none.
        now: present time in seconds. The balance begins at 0, the reserve full.
    """

    __slots__ = ("_deposits", "_ratio", "_reserve")

    def __init__(self, ratio: float, min_per_second: float, now: float) -> None:
        if ratio < 0 or min_per_second < 0:
            raise ValueError("a budget has a ratio and a reserve of at least 0")
        self._ratio = ratio
        self._deposits = 0.0
        self._reserve: TokenBucket | None = None
        if min_per_second > 0:
            self._reserve = TokenBucket(min_per_second, max(1.0, min_per_second), now)

    def __repr__(self) -> str:
        return f"<RetryBudget ratio={self._ratio:g} deposits={self._deposits:g}>"

    def deposit(self) -> None:
        """A request has been made: its first attempt, not its retries."""
        self._deposits += self._ratio
        if self._deposits > LARGEST_BALANCE:
            self._deposits = LARGEST_BALANCE

    def withdraw(self, now: float) -> bool:
        """Pay for one retry, from the deposits first."""
        # Five times 20 % is one, whatever floats make of it; what is missing stays owed.
        if self._deposits >= 1.0 - 1e-9:
            self._deposits -= 1.0
            return True
        return self._reserve is not None and self._reserve.take(now)

    def give_back(self) -> None:
        """A retry that was paid for is not made after all."""
        self._deposits = min(self._deposits + 1.0, LARGEST_BALANCE)

    def balance(self, now: float) -> float:
        """How many retries could be paid for now, fractions included."""
        reserve = 0.0 if self._reserve is None else self._reserve.tokens(now)
        return max(0.0, self._deposits) + reserve


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """What a service owner can say about retries.

    Attributes:
        attempts: with the first; 1 for no retry.
        statuses: table of the statuses on the list.
        ends: the other ends on the list.
        methods: those that may be retried, bytes of it sent or not. None: the idempotent ones, and any other of which
            no byte was sent.
        base_s, max_s: the backoff before the first retry, doubled before each further one up to a maximum, in seconds.
    """

    attempts: int
    statuses: list[bool]
    ends: frozenset[End]
    methods: frozenset[bytes] | None
    base_s: float
    max_s: float


def parse_conditions(items: Iterable[int | str]) -> tuple[list[bool], frozenset[End]]:
    """The `statuses` and `ends` of a list such as [connect_error, reset, 502].

    Raises:
        ValueError: an item is neither a condition, a status nor a class of statuses; says what is.
    """
    statuses: list[int | str] = []
    ends: frozenset[End] = frozenset()
    for item in items:
        condition = CONDITIONS.get(item) if isinstance(item, str) else None
        if condition is None:
            statuses.append(item)
        else:
            ends |= condition
    try:
        return parse_statuses(statuses), ends
    except ValueError as error:
        raise ValueError(f"{error} (or one of {', '.join(CONDITIONS)})") from None


class No(enum.Enum):
    """Why there is no retry. In the order in which it is asked."""

    ATTEMPTS = "attempts"  # all are used
    NOT_LISTED = "not_listed"  # the end is not on the list, as a refusal of ours can never be
    ANSWER_BEGUN = "answer_begun"  # a byte of a response has gone to the application
    METHOD = "method"  # it is not idempotent, and the dependency may have acted on it
    BODY = "body"  # it is no longer at hand
    DEADLINE = "deadline"  # no time is left for the wait
    BUDGET = "budget"  # too many others were retried


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that has ended, as far as a retry depends on it. Made only when it did not end well.

    Attributes:
        number: counted from 1.
        end: how it ended.
        status: of its final response head; 0 when there was none.
        method: of the request.
        sent: a byte of the request went to the dependency, in this attempt or one before.
        answer_begun: a byte of a final response went to the application.
        replayable: the whole request, body included, is still at hand.
        retry_after_s: what the dependency's Retry-After asks for; None without one.
    """

    number: int
    end: End
    status: int
    method: bytes
    sent: bool
    answer_begun: bool
    replayable: bool
    retry_after_s: float | None


def backoff_s(settings: RetrySettings, number: int, rng: Callable[[], float]) -> float:
    """Seconds to wait after attempt `number`: uniform from 0 to the doubled base ("full jitter": M. Brooker,
    "Exponential backoff and jitter", AWS Architecture Blog, 2015)."""
    return rng() * min(settings.max_s, settings.base_s * 2.0 ** min(number - 1, 60))


def why_not(settings: RetrySettings, attempt: EndedAttempt) -> No | None:
    """What about the attempt itself forbids another one, whatever time and budget there is; None for nothing."""
    if attempt.number >= settings.attempts:
        return No.ATTEMPTS
    if attempt.end is End.RESPONSE:
        if not settings.statuses[attempt.status]:
            return No.NOT_LISTED
    elif attempt.end not in settings.ends:
        return No.NOT_LISTED
    if attempt.answer_begun:
        return No.ANSWER_BEGUN
    methods = settings.methods
    if methods is None:
        if attempt.sent and attempt.method not in IDEMPOTENT:
            return No.METHOD
    elif attempt.method not in methods:
        return No.METHOD
    if not attempt.replayable:
        return No.BODY
    return None


def may_retry(
    settings: RetrySettings,
    attempt: EndedAttempt,
    budget: RetryBudget,
    now: float,
    deadline: float,
    rng: Callable[[], float],
) -> float | No:
    """Seconds until the next attempt, paid for from the budget; or why there is none, and nothing paid.

    An upstream that says when to come back is asked no earlier; when that is too late, it is not asked again at all.

    Args:
        settings: of the dependency.
        attempt: that has just ended.
        budget: of the dependency.
        now: present time in seconds.
        deadline: when the request as a whole is to have its response head.
        rng: uniform random numbers from 0 to 1.
    """
    no = why_not(settings, attempt)
    if no is not None:
        return no
    wait_s = backoff_s(settings, attempt.number, rng)
    if attempt.retry_after_s is not None and attempt.retry_after_s > wait_s:
        wait_s = attempt.retry_after_s
    if now + wait_s >= deadline:
        return No.DEADLINE
    if not budget.withdraw(now):
        return No.BUDGET
    return wait_s
