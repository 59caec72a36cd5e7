"""The keys of the policies, which `defaults` and each dependency have, and those of candidates.

Null switches a limit or a rule off, and `mode` a policy. The terms that a candidate holds have no mode: it refuses
nothing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import field_validator

from sidecar.config.fields import (
    FieldName,
    FieldValue,
    Method,
    OptionalRate,
    OptionalRatio,
    OptionalSeconds,
    Ratio,
    RatioOrNone,
    RetryCondition,
    Seconds,
    SecondsOrNone,
    Status,
    Text,
    WindowLength,
    choice,
    count,
    number,
    optional,
)
from sidecar.config.mistake import Mistake
from sidecar.config.section import FREE_KEYS, LONGEST_LIST, Section, key

MOST_HEADERS = 64

# The refusals that a fallback can stand in for: those that say something about the dependency.
Refused = Literal["RATE_LIMITED", "CIRCUIT_OPEN", "CONCURRENCY_LIMITED", "DOWNSTREAM_FAILURE", "DOWNSTREAM_TIMEOUT"]
_refused = choice("RATE_LIMITED", "CIRCUIT_OPEN", "CONCURRENCY_LIMITED", "DOWNSTREAM_FAILURE", "DOWNSTREAM_TIMEOUT")


class Switched(Section):
    """A policy that can be taken out of enforcement."""

    mode: Annotated[Literal["enforce", "shadow", "off"], choice("enforce", "shadow", "off")] = key(
        "enforce", "enforce refuses; shadow only counts what it would have refused; off does nothing."
    )


class RateLimitTerms(Section):
    """A token bucket: how many requests begin in a time. What `rate_limit` says, less its mode."""

    rate: OptionalRate = key(
        None, "Requests in a time, as in 100/second, 30/minute or 10 per 2 seconds. Null is no limit."
    )
    burst: Annotated[int | None, optional(count(1, 10**9))] = key(
        None, "Requests at once after a lull. Null is what one second brings, and at least 1."
    )
    share: Annotated[int, count(1, 100_000)] = key(1, "Replicas that divide rate and burst among them.")


class RateLimit(RateLimitTerms, Switched):
    """A token bucket: how many requests begin in a time; beyond it the queue, then 429."""


class ConcurrencyTerms(Section):
    """How many requests are under way at once. What `concurrency` says, less its mode."""

    limit: Annotated[int | None, optional(count(1, 1_000_000))] = key(
        None, "Requests at once, each until its response body has ended. Null is no limit."
    )


class Concurrency(ConcurrencyTerms, Switched):
    """How many requests are under way at once; beyond it the queue, then 503."""


class Queue(Section):
    """Where requests wait for a token of `rate_limit` or a slot of `concurrency`."""

    limit: Annotated[int, count(0, 100_000)] = key(0, "Requests that may wait at once; 0 is no queue.")
    max_wait: SecondsOrNone = key("0s", "Longest wait, within timeout.total; 0s is no queue.")


class FailureRate(Section):
    """The rule that opens the circuit at a share of failures."""

    threshold: OptionalRatio = key("50%", "Share of failures in the window at which it opens. Null: the rule is off.")
    min_calls: Annotated[int, count(1, 1_000_000)] = key(20, "With fewer calls in the window the rule is silent.")


class SlowCalls(Section):
    """The rule that opens the circuit at a share of slow calls."""

    slower_than: OptionalSeconds = key(
        None, "A call whose response head takes this long is slow. Null: the rule is off."
    )
    threshold: Ratio = key("80%", "Share of slow calls in the window at which it opens.")
    min_calls: Annotated[int, count(1, 1_000_000)] = key(20, "With fewer calls in the window the rule is silent.")


class HalfOpen(Section):
    """How an open circuit finds out whether it may close."""

    trials: Annotated[int, count(1, 10_000)] = key(3, "Calls let through at once to try.")
    successes: Annotated[int, count(1, 10_000)] = key(3, "Trials that must succeed to close; one failure re-opens.")
    max_wait: Seconds = key("10s", "After this long a trial without a response head makes room for another.")
    ramp: SecondsOrNone = key("0s", "Time over which traffic is let back after closing; 0s is at once.")


class CircuitBreakerTerms(Section):
    """When to stop asking a dependency that fails. What `circuit_breaker` says, less its mode."""

    consecutive_failures: Annotated[int | None, optional(count(1, 1_000_000))] = key(
        5,
        "Failures in a row at which it opens, while the window has fewer than min_calls. Null: the rule is off.",
    )
    failure_rate: FailureRate = key(FailureRate, "The rule that opens the circuit at a share of failures.")
    slow_calls: SlowCalls = key(SlowCalls, "The rule that opens the circuit at a share of slow calls.")
    window: WindowLength = key("10s", "What the shares are of: the calls of a time, or so many, as in 100 calls.")
    open_for: Seconds = key("30s", "How long it stays open the first time; twice as long at each re-opening.")
    max_open_for: Seconds = key("5m", "Longest time that it stays open.")
    half_open: HalfOpen = key(HalfOpen, "How an open circuit finds out whether it may close.")
    failure_statuses: tuple[Status, ...] = key(
        ["5xx"], "Statuses that are failures: codes, and classes such as 5xx.", max_length=LONGEST_LIST
    )
    abandoned_after: Seconds = key(
        "1s", "A client that leaves after waiting this long for a response head leaves a failure behind."
    )


class CircuitBreaker(CircuitBreakerTerms, Switched):
    """When to stop asking a dependency that fails: while the circuit is open, 503 at once."""


class Backoff(Section):
    """The wait before each retry: at random from 0 up to a bound."""

    base: Seconds = key("25ms", "The bound before the first retry; doubled before each further one.")
    max: Seconds = key("250ms", "The largest bound.")


class Budget(Section):
    """How many retries there are at most, over all requests of the dependency."""

    ratio: RatioOrNone = key("20%", "Retries that each request pays for.")
    min_per_second: Annotated[float, number(0, 1_000_000)] = key(1, "Retries a second beside those; 0 is none.")


class Retry(Section):
    """When to ask again. Bodies beyond 64KiB and requests whose response has begun are never sent again."""

    attempts: Annotated[int, count(1, 10)] = key(1, "Attempts, the first among them; 1 is no retry.")
    on: tuple[RetryCondition, ...] = key(
        ["connect_error", "reset", 502, 503, 504],
        "What is retried: connect_error, reset, timeout (of first_byte), status codes, and classes such as 5xx.",
        max_length=LONGEST_LIST,
    )
    methods: tuple[Method, ...] | None = key(
        None,
        "Methods that are retried. Null: GET, HEAD, OPTIONS, PUT, DELETE, and any other of which no byte was sent.",
        max_length=LONGEST_LIST,
    )
    backoff: Backoff = key(Backoff, "The wait before each retry.")
    budget: Budget = key(Budget, "How many retries there are at most, over all requests of the dependency.")


class Fallback(Section):
    """A fixed answer in place of a refusal."""

    on: tuple[Annotated[Refused, _refused], ...] = key(
        [],
        "Codes of the refusals that it takes the place of; none is no fallback.",
        max_length=LONGEST_LIST,
    )
    methods: tuple[Method, ...] = key(["GET", "HEAD"], "Methods that it answers.", max_length=LONGEST_LIST)
    status: Annotated[int, count(200, 599)] = key(200, "Its status.")
    headers: Annotated[dict[FieldName, FieldValue], FREE_KEYS] = key(
        {}, "Its header fields; the sidecar adds those of framing, Date and Proxy-Status.", max_length=MOST_HEADERS
    )
    body: Text = key("", "Its body, at most 64KiB of text.")

    @field_validator("headers", mode="after")
    @classmethod
    def _names_differ(cls, headers: dict[str, str]) -> dict[str, str]:
        seen: dict[str, str] = {}
        for name in headers:
            if seen.setdefault(name.lower(), name) != name:
                raise Mistake(f"must name each field once, found {seen[name.lower()]} and {name}", show=False)
        return headers


class Ejection(Section):
    """When to leave single addresses of a dependency out, while its others serve on."""

    consecutive_failures: Annotated[int | None, optional(count(1, 1_000_000))] = key(
        5, "Failures in a row, of one address, after which it is left out. Null: none is."
    )
    # `for` is a word of Python's.
    for_: Seconds = key("30s", "How long it is left out.", alias="for")
    max: RatioOrNone = key("50%", "Share of a dependency's addresses that may be left out at once; 0% is none.")


class Candidate(Section):
    """Other terms, simulated beside those in force. A section that is not named is not simulated; what a named one does
    not say is as in the dependency's own."""

    circuit_breaker: CircuitBreakerTerms | None = key(None, "A circuit breaker: the same keys, less mode.")
    rate_limit: RateLimitTerms | None = key(None, "A token bucket: the same keys, less mode.")
    concurrency: ConcurrencyTerms | None = key(None, "A concurrency limit: the same keys, less mode.")
