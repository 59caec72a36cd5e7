"""From what the configuration says to the policies that it means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from sidecar.policy.breaker import CircuitBreaker
from sidecar.policy.bucket import TokenBucket, bucket_size
from sidecar.policy.candidate import Candidate
from sidecar.policy.classify import Classifier, parse_statuses
from sidecar.policy.ejection import EjectionSettings
from sidecar.policy.gate import Gate
from sidecar.policy.queue import WaitQueue
from sidecar.policy.retry import RetryBudget, RetrySettings, parse_conditions
from sidecar.policy.slots import Slots
from sidecar.policy.states import BreakerSettings, RateRule, Transition

if TYPE_CHECKING:
    from sidecar.config import Dependency as Settings
    from sidecar.config.policies import CircuitBreakerTerms, ConcurrencyTerms, Ejection, RateLimitTerms, Retry

SHADOW = "shadow"
"""The name of the candidate that policies in the mode of that name make up."""

W = TypeVar("W")
Rng = Callable[[], float]
OnTransition = Callable[[Transition], None]


def breaker_settings(keys: CircuitBreakerTerms) -> BreakerSettings:
    """The thresholds and times of a circuit breaker."""
    rate, slow = keys.failure_rate, keys.slow_calls
    return BreakerSettings(
        consecutive_failures=keys.consecutive_failures,
        failure_rate=None if rate.threshold is None else RateRule(rate.threshold, rate.min_calls),
        slow_calls=None if slow.slower_than is None else RateRule(slow.threshold, slow.min_calls),
        slower_than_s=slow.slower_than,
        window_s=keys.window.seconds,
        window_calls=keys.window.calls,
        open_for_s=keys.open_for,
        max_open_for_s=keys.max_open_for,
        trials=keys.half_open.trials,
        successes=keys.half_open.successes,
        max_wait_s=keys.half_open.max_wait,
        ramp_s=keys.half_open.ramp,
    )


def classifier(keys: CircuitBreakerTerms) -> Classifier:
    """What counts as a failure."""
    return Classifier(parse_statuses(keys.failure_statuses), keys.abandoned_after)


def enforced_gate(settings: Settings, now: float, rng: Rng, on_transition: OnTransition) -> Gate[W]:
    """The policies of a dependency that refuse something."""
    breaker, rate, concurrency = settings.circuit_breaker, settings.rate_limit, settings.concurrency
    return Gate(
        CircuitBreaker(breaker_settings(breaker), now, rng, on_transition, enabled=breaker.mode == "enforce"),
        _bucket(rate, now) if rate.mode == "enforce" else None,
        _slots(concurrency) if concurrency.mode == "enforce" else None,
        WaitQueue(settings.queue.limit, settings.queue.max_wait),
    )


def candidates(
    settings: Settings, now: float, rng: Rng, on_transition: Callable[[str], OnTransition]
) -> list[Candidate]:
    """The alternatives beside them: what is in the mode shadow, and what is named as a candidate.

    Args:
        settings: of the dependency.
        now: present time in seconds.
        rng: uniform random numbers from 0 to 1.
        on_transition: for the name of a candidate, what is told of its transitions.
    """
    found = []
    breaker, rate, concurrency = settings.circuit_breaker, settings.rate_limit, settings.concurrency
    shadowed = (
        breaker if breaker.mode == SHADOW else None,
        rate if rate.mode == SHADOW else None,
        concurrency if concurrency.mode == SHADOW else None,
    )
    if any(shadowed):
        found.append(_candidate(SHADOW, *shadowed, settings, now, rng, on_transition(SHADOW)))
    for name, keys in settings.candidates.items():
        parts = (keys.circuit_breaker, keys.rate_limit, keys.concurrency)
        found.append(_candidate(name, *parts, settings, now, rng, on_transition(name)))
    return found


def _candidate(
    name: str,
    breaker: CircuitBreakerTerms | None,
    rate: RateLimitTerms | None,
    concurrency: ConcurrencyTerms | None,
    settings: Settings,
    now: float,
    rng: Rng,
    on_transition: OnTransition,
) -> Candidate:
    keys = breaker or settings.circuit_breaker
    gate: Gate[None] = Gate(
        CircuitBreaker(breaker_settings(keys), now, rng, on_transition, enabled=breaker is not None),
        None if rate is None else _bucket(rate, now),
        None if concurrency is None else _slots(concurrency),
        WaitQueue(0, 0.0),
    )
    return Candidate(name, gate, classifier(keys))


def _bucket(keys: RateLimitTerms, now: float) -> TokenBucket | None:
    if keys.rate is None:
        return None
    rate, burst = bucket_size(keys.rate, keys.burst, keys.share)
    return TokenBucket(rate, burst, now)


def _slots(keys: ConcurrencyTerms) -> Slots | None:
    return None if keys.limit is None else Slots(keys.limit)


def ejection_settings(keys: Ejection) -> EjectionSettings:
    """When an address is passed over."""
    return EjectionSettings(keys.consecutive_failures, keys.for_, keys.max)


def retry_settings(keys: Retry) -> RetrySettings | None:
    """When to try again; None for never."""
    if keys.attempts == 1:
        return None
    statuses, ends = parse_conditions(keys.on)
    methods: Sequence[str] | None = keys.methods
    return RetrySettings(
        attempts=keys.attempts,
        statuses=statuses,
        ends=ends,
        methods=None if methods is None else frozenset(method.encode("ascii") for method in methods),
        base_s=keys.backoff.base,
        max_s=keys.backoff.max,
    )


def retry_budget(keys: Retry, now: float) -> RetryBudget:
    """How many retries all requests together may make."""
    return RetryBudget(keys.budget.ratio, keys.budget.min_per_second, now)
