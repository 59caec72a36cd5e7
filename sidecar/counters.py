"""What is counted per dependency: plain integers, read when somebody scrapes.

Nothing here knows of Prometheus. A counter is an addition to an attribute or to a slot of a list; names and labels are
given to them in `telemetry`. Everything that can be counted stands at 0 from the beginning.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from sidecar.policy.states import TRANSITIONS, Outcome, Reason, State

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "other")
"""What methods fold into, so that a client cannot make series up (RFC 9110 section 9, RFC 5789)."""

STATUS_CLASSES: Final = ("2xx", "3xx", "4xx", "5xx")
"""Of final responses."""

SOURCES: Final = ("upstream", "sidecar")
"""Who an answer was from."""

OUTCOMES: Final = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED)

REJECTIONS: Final = (
    "RATE_LIMITED",
    "CIRCUIT_OPEN",
    "CONCURRENCY_LIMITED",
    "DOWNSTREAM_FAILURE",
    "DOWNSTREAM_TIMEOUT",
    "BAD_REQUEST",
    "REQUEST_TIMEOUT",
    "BODY_TOO_LARGE",
    "OVERLOADED",
    "DRAINING",
)
"""The codes of the answers that the sidecar itself gives to requests for a dependency."""

CANDIDATE_STATES: Final = (State.CLOSED, State.OPEN, State.HALF_OPEN)
"""Where the simulated circuit of a candidate can come to; nobody forces it."""

_METHOD_INDEX: Final = {method.encode(): index for index, method in enumerate(METHODS[:-1])}
_OTHER: Final = len(METHODS) - 1
_SUCCESS: Final = Outcome.SUCCESS
_FAILURE: Final = Outcome.FAILURE


class Histogram:
    """Durations in buckets. A value equal to a bound is in that bound's bucket, as in Prometheus.

    Args:
        bounds: upper bounds in seconds, increasing; a last one of infinity is understood.

    Attributes:
        counts: how many values are in each bucket, the one without a bound last; not cumulative.
        sum_s: of all values, in seconds.
    """

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = list(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum_s += seconds


class Counters:
    """What has happened to the requests for one dependency, and to its circuit.

    Args:
        bounds: of the histograms, in seconds.

    Attributes:
        requests: answers by method, class of status and source; see `request_index`.
        attempts: by outcome, in the order of `OUTCOMES`.
        retries: attempts beyond the first.
        budget_exhausted: retries that were not made for want of budget.
        rejections: answers of the sidecar's own, by code.
        client_gone: requests whose client left before the end of the response.
        dns_failures: lookups of an upstream's name that found nothing.
        tunnels: that have been set up.
        tunnel_s: seconds for which those that have ended stood.
        tunnel_octets: relayed in them, towards the dependency and towards the application.
        in_flight: requests under way, those that wait included.
        request_duration: from the request's head to the end of its response.
        upstream_duration: from the moment when an attempt's request was whole at the upstream to its response head.
        queue_wait: of requests that stood in the queue, whatever became of them.
        transitions: of the circuit, by states and reason; every legal one is there.
        candidate_transitions: of the candidates' circuits, by candidate and the state they came to.
        open_s: seconds for which the circuit has been open or forced open, up to its last transition.
    """

    __slots__ = (
        "attempts",
        "budget_exhausted",
        "candidate_transitions",
        "client_gone",
        "dns_failures",
        "in_flight",
        "open_s",
        "queue_wait",
        "rejections",
        "request_duration",
        "requests",
        "retries",
        "transitions",
        "tunnel_octets",
        "tunnel_s",
        "tunnels",
        "upstream_duration",
    )

    def __init__(self, bounds: Sequence[float]) -> None:
        self.requests = [0] * (len(METHODS) * len(STATUS_CLASSES) * len(SOURCES))
        self.attempts = [0] * len(OUTCOMES)
        self.retries = 0
        self.budget_exhausted = 0
        self.rejections: dict[str, int] = dict.fromkeys(REJECTIONS, 0)
        self.client_gone = 0
        self.dns_failures = 0
        self.tunnels = 0
        self.tunnel_s = 0.0
        self.tunnel_octets = [0, 0]
        self.in_flight = 0
        self.request_duration = Histogram(bounds)
        self.upstream_duration = Histogram(bounds)
        self.queue_wait = Histogram(bounds)
        self.transitions: dict[tuple[State, State, Reason], int] = {
            (origin, state, reason): 0 for (origin, state), reasons in TRANSITIONS.items() for reason in reasons
        }
        self.candidate_transitions: dict[str, dict[State, int]] = {}
        self.open_s = 0.0

    def count_request(self, method: bytes, status: int, source: int, duration_s: float) -> None:
        """Count one answer.

        Args:
            method: of the request, as it came.
            status: from 200 to 599; others count as the nearest class.
            source: 0 for the upstream's answer, 1 for one of our own.
            duration_s: from the request's head to the end of its response.
        """
        self.requests[request_index(_METHOD_INDEX.get(method, _OTHER), status, source)] += 1
        self.request_duration.observe(duration_s)

    def count_dns_failure(self) -> None:
        """Count a lookup that found nothing."""
        self.dns_failures += 1

    def count_attempt(self, outcome: Outcome) -> None:
        """Count one attempt that has ended."""
        self.attempts[0 if outcome is _SUCCESS else 1 if outcome is _FAILURE else 2] += 1


def request_index(method: int, status: int, source: int) -> int:
    """Where `Counters.requests` counts answers of one kind.

    Args:
        method: its place in `METHODS`.
        status: of the answer.
        source: its place in `SOURCES`.
    """
    status_class = status // 100 - 2
    if not 0 <= status_class < 4:
        status_class = 0 if status < 200 else 3
    return (method * 4 + status_class) * 2 + source  # as many as STATUS_CLASSES and SOURCES have
