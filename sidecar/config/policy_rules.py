"""What must hold between the keys of policies, and what about them works but can hardly be meant.

Warnings are about what was written, or about what follows from it; none about defaults left alone."""

from __future__ import annotations

from collections.abc import Container, Iterator

from sidecar.config import units
from sidecar.config.policies import CircuitBreaker, CircuitBreakerTerms, FailureRate, Fallback, RateLimit, SlowCalls
from sidecar.config.report import Path, Report, within
from sidecar.config.schema import Config, Dependency
from sidecar.config.source import Source

# RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
_BODILESS = (204, 205, 304)


def check(dependency: Dependency, source: Source, report: Report, wrong: Container[Path]) -> None:
    """Put into `report` what cannot be between the policies of one dependency; nothing about keys in `wrong`."""
    for path, breaker in _breakers(dependency):
        low, high = (*path, "open_for"), (*path, "max_open_for")
        if breaker.open_for > breaker.max_open_for and not within(low, wrong) and not within(high, wrong):
            _reversed(low, breaker.open_for, high, breaker.max_open_for, source, report)
    path, backoff = ("dependencies", dependency.name, "retry", "backoff"), dependency.retry.backoff
    low, high = (*path, "base"), (*path, "max")
    if backoff.base > backoff.max and not within(low, wrong) and not within(high, wrong):
        _reversed(low, backoff.base, high, backoff.max, source, report)
    if dependency.fallback.status in _BODILESS and dependency.fallback.body:
        path = ("dependencies", dependency.name, "fallback", "body")
        report.error(source.place(path), path, "must be empty, since a response of status 204, 205 or 304 has none")


def _reversed(low_path: Path, low_s: float, high_path: Path, high_s: float, source: Source, report: Report) -> None:
    """Say that the lower of two bounds is above the higher, at one that is written: there it can be changed."""
    low = source.shown(low_path, units.format_duration(low_s))
    high = source.shown(high_path, units.format_duration(high_s))
    if source.knows(high_path):
        message = f"must be at least {low_path[-1]} ({low}, {source.line(low_path)}), found {high}"
        report.error(source.place(high_path), high_path, message)
    else:
        message = f"must be at most {high_path[-1]} ({high}, by default), found {low}"
        report.error(source.place(low_path), low_path, message)


def warn(config: Config, source: Source, report: Report) -> None:
    """Put into `report` what is odd about the policies of a configuration without mistakes."""
    dependencies = config.dependencies.values()
    limited = any(map(_is_limited, dependencies))
    answering = any(each.fallback.on for each in dependencies)
    for dependency in dependencies:
        _warn_of_retries(dependency, source, report)
        _warn_of_limits(dependency, source, report)
        for at, breaker in _breakers(dependency):
            _warn_of_breaker(at, breaker, dependency, source, report)
        # Both may stand in the defaults for the dependencies that have a use for them.
        path: Path = ("dependencies", dependency.name, "queue")
        if dependency.queue.limit and not _is_limited(dependency) and (source.has(path) or not limited):
            message = "has nothing to wait for: neither rate_limit.rate nor concurrency.limit is in force"
            report.warning(source.key_place(path), path, message)
        path = ("dependencies", dependency.name, "fallback")
        fallback = dependency.fallback
        if not fallback.on and fallback != Fallback() and (source.has(path) or not answering):
            report.warning(source.key_place(path), path, "is never used, since it has no code in on")


def _warn_of_retries(dependency: Dependency, source: Source, report: Report) -> None:
    retry, timeout = dependency.retry, dependency.timeout
    waits_s = sum(min(retry.backoff.max, retry.backoff.base * 2**n) for n in range(retry.attempts - 1))
    # The last may be cut short by timeout.total, as any attempt may; here it has no time even to begin.
    if retry.attempts > 1 and (retry.attempts - 1) * timeout.first_byte + waits_s >= timeout.total:
        path: Path = ("dependencies", dependency.name, "retry", "attempts")
        message = "is more than timeout.total has time for when each takes first_byte, so the last is never made"
        report.warning(source.place(path), path, message)


def _warn_of_limits(dependency: Dependency, source: Source, report: Report) -> None:
    path: Path = ("dependencies", dependency.name)
    queue, concurrency, latency_s = dependency.queue, dependency.concurrency, dependency.expected_latency
    if queue.limit and not queue.max_wait:
        at = (*path, "queue", "limit")
        report.warning(source.place(at), at, "is of no use while max_wait is 0s: nobody waits")
    elif queue.max_wait and not queue.limit:
        at = (*path, "queue", "max_wait")
        report.warning(source.place(at), at, "is of no use while limit is 0: nobody waits")
    if concurrency.limit is None or latency_s is None or "off" in (concurrency.mode, dependency.rate_limit.mode):
        return
    # As many are under way, on average, as arrive in the time that each takes (J. D. C. Little, 1961).
    if concurrency.limit < _rate_and_burst(dependency.rate_limit)[0] * latency_s:
        at = (*path, "concurrency", "limit")
        message = "is below rate × expected_latency, so it refuses what rate_limit lets through"
        report.warning(source.place(at), at, message)


def _warn_of_breaker(
    path: Path, breaker: CircuitBreakerTerms, dependency: Dependency, source: Source, report: Report
) -> None:
    if isinstance(breaker, CircuitBreaker) and breaker.mode == "off":
        return
    rules: dict[str, FailureRate | SlowCalls] = {}
    if breaker.failure_rate.threshold is not None:
        rules["failure_rate"] = breaker.failure_rate
    if breaker.slow_calls.slower_than is not None:
        rules["slow_calls"] = breaker.slow_calls
    if breaker.consecutive_failures is None and not rules:
        message = "never opens, since all its rules are off"
        if isinstance(breaker, CircuitBreaker):
            message += "; say mode: off"
        report.warning(source.key_place(path), path, message)
    for name, rule in rules.items():
        at = (*path, name, "min_calls")
        if breaker.window.calls is not None:
            # The default gives way in silence.
            if rule.min_calls > breaker.window.calls and source.knows(at):
                message = "is more calls than the window holds, so a full window is enough"
                report.warning(source.place(at), at, message)
        elif rule.min_calls > _most_calls(dependency, breaker.window.seconds or 0.0):
            # With few calls the other rule decides, which is as it should be unless this one is counted on.
            if source.knows((*path, name)) or breaker.consecutive_failures is None:
                message = "is more calls than rate_limit lets into a window, so the rule is never applied"
                report.warning(source.place(at), at, message)


def _breakers(dependency: Dependency) -> Iterator[tuple[Path, CircuitBreakerTerms]]:
    """The circuit breaker of a dependency and those of its candidates, each with its path."""
    path: Path = ("dependencies", dependency.name)
    yield (*path, "circuit_breaker"), dependency.circuit_breaker
    for name, candidate in dependency.candidates.items():
        if candidate.circuit_breaker is not None:
            yield (*path, "candidates", name, "circuit_breaker"), candidate.circuit_breaker


def _is_limited(dependency: Dependency) -> bool:
    """Whether a request can be refused for want of a token or a slot."""
    rate, concurrency = dependency.rate_limit, dependency.concurrency
    return (rate.rate is not None and rate.mode == "enforce") or (
        concurrency.limit is not None and concurrency.mode == "enforce"
    )


def _most_calls(dependency: Dependency, span_s: float) -> float:
    """How many calls, retries included, there can be in a time."""
    if dependency.rate_limit.mode != "enforce" or dependency.rate_limit.rate is None:
        return float("inf")
    rate, burst = _rate_and_burst(dependency.rate_limit)
    return (rate * span_s + burst) * dependency.retry.attempts


def _rate_and_burst(limit: RateLimit) -> tuple[float, float]:
    """Requests a second, and requests at once, that one replica lets through; without a rate none."""
    rate = limit.rate or 0.0
    burst = rate if limit.burst is None else limit.burst
    return rate / limit.share, max(1.0, burst / limit.share)
