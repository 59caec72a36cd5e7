"""What there is to scrape of each dependency: the counters and the state of things, under their names and labels.

Every family is a row of a table. Every series that can exist does so from the first scrape on, at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple

from sidecar.counters import CANDIDATE_STATES, METHODS, OUTCOMES, SOURCES, STATUS_CLASSES, Histogram
from sidecar.policy.candidate import REASONS
from sidecar.policy.states import State
from sidecar.proxy.pool import Pool

_STATES: Final = tuple(State)

Labels = tuple[str, ...]
Row = tuple[Labels, float]


class Family(NamedTuple):
    """A family of series with one for each dependency, or more.

    Attributes:
        kind: counter or gauge.
        name: as exposed; a counter's ends in _total.
        labels: beside `dependency`.
        rows: from a dependency and the present process time in seconds, its further labels and its value.
        help: what it says, with the unit.
    """

    kind: Literal["counter", "gauge"]
    name: str
    labels: Labels
    rows: Callable[[Pool, float], Iterable[Row]]
    help: str


class HistogramFamily(NamedTuple):
    """A family with one histogram for each dependency."""

    name: str
    of: Callable[[Pool], Histogram]
    help: str


# -- rows of a dependency


def _one(value: Callable[[Pool, float], float]) -> Callable[[Pool, float], Iterable[Row]]:
    return lambda pool, now: [((), value(pool, now))]


def _state(pool: Pool, _: float) -> Iterator[Row]:
    present = pool.dependency.admission.gate.breaker.state
    for state in _STATES:
        yield (state.value,), float(state is present)


def _transitions(pool: Pool, _: float) -> Iterator[Row]:
    transitions = pool.dependency.counters.transitions
    for (origin, state, reason), count in sorted(transitions.items(), key=lambda item: [x.value for x in item[0]]):
        yield (origin.value, state.value, reason.value), count


def _threshold(pool: Pool, _: float) -> Iterator[Row]:
    breaker = pool.dependency.admission.gate.breaker
    rate = breaker.settings.failure_rate
    if rate is not None and breaker.state is not State.DISABLED:
        yield (), rate.threshold


def _outcomes(pool: Pool, _: float) -> Iterator[Row]:
    for outcome, count in zip(OUTCOMES, pool.dependency.counters.attempts, strict=True):
        yield (outcome.value,), count


def _calls(pool: Pool, now: float) -> Iterator[Row]:
    disabled = pool.dependency.admission.gate.breaker.state is State.DISABLED
    for labels, count in _outcomes(pool, now):
        yield labels, 0 if disabled else count


def _requests(pool: Pool, _: float) -> Iterator[Row]:
    counts = iter(pool.dependency.counters.requests)
    for method in METHODS:
        for status in STATUS_CLASSES:
            for source in SOURCES:
                yield (method, status, source), next(counts)


def _rejections(pool: Pool, _: float) -> Iterator[Row]:
    for code, count in pool.dependency.counters.rejections.items():
        yield (code,), count


def _budget(pool: Pool, now: float) -> Iterator[Row]:
    if pool.dependency.retry is not None:
        yield (), pool.dependency.budget.balance(now)


def _concurrency_limit(pool: Pool, _: float) -> Iterator[Row]:
    slots = pool.dependency.admission.gate.slots
    if slots is not None:
        yield (), slots.limit


def _tokens(pool: Pool, now: float) -> Iterator[Row]:
    bucket = pool.dependency.admission.gate.bucket
    if bucket is not None:
        yield (), bucket.tokens(now)


def _burst(pool: Pool, _: float) -> Iterator[Row]:
    bucket = pool.dependency.admission.gate.bucket
    if bucket is not None:
        yield (), bucket.burst


def _connections(pool: Pool, _: float) -> Iterator[Row]:
    yield ("active",), pool.active
    yield ("idle",), pool.idle


def _addresses(pool: Pool, now: float) -> Iterator[Row]:
    healthy, ejected = pool.ejection.counts(now)
    yield ("healthy",), healthy
    yield ("ejected",), ejected


def _tunnels(pool: Pool, _: float) -> Iterator[Row]:
    yield (), pool.dependency.tunnels.in_use


def _tunnel_octets(pool: Pool, _: float) -> Iterator[Row]:
    to_upstream, to_downstream = pool.dependency.counters.tunnel_octets
    yield ("upstream",), to_upstream
    yield ("downstream",), to_downstream


def _candidate_state(pool: Pool, _: float) -> Iterator[Row]:
    for candidate in pool.dependency.admission.candidates:
        present = candidate.gate.breaker.state
        if present is not State.DISABLED:
            for state in CANDIDATE_STATES:
                yield (candidate.name, state.value), float(state is present)


def _candidate_rejections(pool: Pool, _: float) -> Iterator[Row]:
    for candidate in pool.dependency.admission.candidates:
        for reason, count in zip(REASONS, candidate.refused, strict=True):
            yield (candidate.name, reason), count


def _candidate_transitions(pool: Pool, _: float) -> Iterator[Row]:
    transitions = pool.dependency.counters.candidate_transitions
    for candidate in pool.dependency.admission.candidates:
        if candidate.gate.breaker.state is not State.DISABLED:
            for state, count in transitions[candidate.name].items():
                yield (candidate.name, state.value), count


def _candidate_unobserved(pool: Pool, _: float) -> Iterator[Row]:
    for candidate in pool.dependency.admission.candidates:
        yield (candidate.name,), candidate.unobserved


FAMILIES: Final[tuple[Family, ...]] = (
    Family("gauge", "circuit_breaker_state", ("state",), _state, "1 for the state that the circuit is in, else 0."),
    Family(
        "counter",
        "circuit_breaker_transitions_total",
        ("from", "to", "reason"),
        _transitions,
        "Transitions of the circuit.",
    ),
    Family(
        "counter",
        "circuit_breaker_open_seconds_total",
        (),
        _one(lambda pool, now: pool.dependency.open_s(now)),
        "Seconds for which the circuit has been open or forced open.",
    ),
    Family(
        "gauge",
        "circuit_breaker_window_calls",
        (),
        _one(lambda pool, now: pool.dependency.admission.gate.breaker.view(now).counts.calls),
        "Calls in the window that ended as success or failure.",
    ),
    Family(
        "gauge",
        "circuit_breaker_window_failures",
        (),
        _one(lambda pool, now: pool.dependency.admission.gate.breaker.view(now).counts.failures),
        "Failures among the calls in the window.",
    ),
    Family(
        "gauge",
        "circuit_breaker_window_slow_calls",
        (),
        _one(lambda pool, now: pool.dependency.admission.gate.breaker.view(now).counts.slow),
        "Slow calls in the window, those in flight past slower_than included; 0 where no call is timed.",
    ),
    Family(
        "gauge",
        "circuit_breaker_failure_ratio_threshold",
        (),
        _threshold,
        "Share of failures at which the circuit opens, from 0 to 1; absent where that rule or the breaker is off.",
    ),
    Family(
        "counter",
        "circuit_breaker_calls_total",
        ("outcome",),
        _calls,
        "Attempts as the circuit breaker saw them end.",
    ),
    Family(
        "counter",
        "circuit_breaker_slow_calls_total",
        (),
        _one(lambda pool, _: pool.dependency.admission.gate.breaker.slow_calls),
        "Calls slower than slow_calls.slower_than.",
    ),
    Family(
        "counter",
        "sidecar_requests_total",
        ("method", "status", "source"),
        _requests,
        "Requests that have ended, by method, class of status, and who answered. "
        "A client that left is counted as 4xx of the sidecar.",
    ),
    Family(
        "counter",
        "sidecar_attempts_total",
        ("outcome",),
        _outcomes,
        "Attempts to get an answer from the dependency, retries included.",
    ),
    Family(
        "counter",
        "sidecar_retries_total",
        (),
        _one(lambda pool, _: pool.dependency.counters.retries),
        "Attempts beyond the first of a request.",
    ),
    Family(
        "counter",
        "sidecar_retry_budget_exhausted_total",
        (),
        _one(lambda pool, _: pool.dependency.counters.budget_exhausted),
        "Retries that were not made because the budget was spent.",
    ),
    Family(
        "gauge",
        "sidecar_retry_budget_balance",
        (),
        _budget,
        "Retries that could be made at once; absent where nothing is retried.",
    ),
    Family(
        "counter",
        "sidecar_connections_replaced_total",
        (),
        _one(lambda pool, _: pool.replaced),
        "Pooled connections that proved dead before a response byte and were replaced silently.",
    ),
    Family(
        "counter",
        "sidecar_rejections_total",
        ("reason",),
        _rejections,
        "Answers that the sidecar gave itself to requests for the dependency, by code.",
    ),
    Family(
        "counter",
        "sidecar_client_disconnects_total",
        (),
        _one(lambda pool, _: pool.dependency.counters.client_gone),
        "Requests whose client left before the end of the response.",
    ),
    Family(
        "gauge",
        "sidecar_in_flight_requests",
        (),
        _one(lambda pool, _: pool.dependency.counters.in_flight),
        "Requests under way, those that wait included.",
    ),
    Family(
        "gauge",
        "sidecar_concurrency_limit",
        (),
        _concurrency_limit,
        "Requests that may be under way; absent where unlimited.",
    ),
    Family(
        "gauge",
        "sidecar_queued_requests",
        (),
        _one(lambda pool, _: len(pool.dependency.admission.gate.queue)),
        "Requests that wait for a token or a slot.",
    ),
    Family("gauge", "sidecar_rate_limit_tokens", (), _tokens, "Tokens in the bucket; absent without a rate limit."),
    Family("gauge", "sidecar_rate_limit_burst", (), _burst, "Capacity of the bucket; absent without a rate limit."),
    Family("gauge", "sidecar_upstream_connections", ("state",), _connections, "Connections to the dependency."),
    Family(
        "gauge",
        "sidecar_upstream_addresses",
        ("state",),
        _addresses,
        "Addresses of the dependency: healthy ones, and those passed over because they fail.",
    ),
    Family(
        "counter",
        "sidecar_dns_failures_total",
        (),
        _one(lambda pool, _: pool.dependency.counters.dns_failures),
        "Lookups of an upstream's name that found nothing; the last good addresses serve on.",
    ),
    Family("gauge", "sidecar_tunnels", (), _tunnels, "Tunnels (CONNECT, WebSocket) that stand or are being set up."),
    Family(
        "counter",
        "sidecar_tunnels_opened_total",
        (),
        _one(lambda pool, _: pool.dependency.counters.tunnels),
        "Tunnels that have been set up.",
    ),
    Family(
        "counter",
        "sidecar_tunnel_seconds_total",
        (),
        _one(lambda pool, _: pool.dependency.counters.tunnel_s),
        "Seconds for which the tunnels that have ended stood.",
    ),
    Family(
        "counter",
        "sidecar_tunnel_bytes_total",
        ("direction",),
        _tunnel_octets,
        "Octets relayed in tunnels, towards the dependency (upstream) and the application (downstream).",
    ),
    Family(
        "gauge",
        "sidecar_candidate_state",
        ("candidate", "state"),
        _candidate_state,
        "1 for the state that the simulated circuit of a candidate is in, else 0.",
    ),
    Family(
        "counter",
        "sidecar_candidate_rejections_total",
        ("candidate", "reason"),
        _candidate_rejections,
        "Calls that a candidate would have refused.",
    ),
    Family(
        "counter",
        "sidecar_candidate_transitions_total",
        ("candidate", "state"),
        _candidate_transitions,
        "Transitions of a candidate's simulated circuit, by the state it came to.",
    ),
    Family(
        "counter",
        "sidecar_candidate_unobserved_total",
        ("candidate",),
        _candidate_unobserved,
        "Requests that the enforced policies refused, so that the candidate could not judge them.",
    ),
)

HISTOGRAMS: Final[tuple[HistogramFamily, ...]] = (
    HistogramFamily(
        "sidecar_request_duration_seconds",
        lambda pool: pool.dependency.counters.request_duration,
        "From a request's head to the end of its response.",
    ),
    HistogramFamily(
        "sidecar_upstream_duration_seconds",
        lambda pool: pool.dependency.counters.upstream_duration,
        "From an attempt's last request byte to its final response head.",
    ),
    HistogramFamily(
        "sidecar_queue_wait_seconds",
        lambda pool: pool.dependency.counters.queue_wait,
        "Time in the queue of the requests that had to wait.",
    ),
)
