"""The books: each request is counted once, at its end, and written down where that is wanted."""

from __future__ import annotations

from typing import Final

from sidecar.errors import Fallback, Refusal
from sidecar.policy.candidate import REASONS
from sidecar.proxy.framing import RequestHead
from sidecar.proxy.headers import trace_id
from sidecar.runtime.dependency import Dependency

CLIENT_GONE: Final = "CLIENT_GONE"
"""The code, in the log, of a request whose client left before the end of its response."""

DOWNSTREAM_ERROR: Final = "DOWNSTREAM_ERROR"
"""The code, in the log, of a dependency's own 5xx."""

_CLIENT_GONE_STATUS: Final = 499
"""nginx's, for nobody ever receives it."""

_UPSTREAM: Final = 0
_SIDECAR: Final = 1


def account_response(
    dependency: Dependency,
    head: RequestHead,
    status: int,
    cut: Refusal | None,
    attempts: int,
    duration_s: float,
    waited_s: float,
) -> None:
    """Count a request that the dependency has answered.

    Args:
        dependency: which.
        head: of the request.
        status: of the response.
        cut: why the response broke off; None where it is whole.
        attempts: how often the dependency was asked.
        duration_s: from the request's head to this moment.
        waited_s: in the queue.
    """
    counters = dependency.counters
    counters.in_flight -= 1
    counters.count_request(head.method, status, _UPSTREAM, duration_s)
    log = dependency.log
    if log is not None and log.wants(status, False, duration_s):
        code = cut.code if cut is not None else DOWNSTREAM_ERROR if status >= 500 else None
        _write(dependency, head, status, code, attempts, duration_s, waited_s)


def account_tunnel(dependency: Dependency, head: RequestHead, status: int, duration_s: float) -> None:
    """Count a request that has become a tunnel; it is written down at the end of that."""
    counters = dependency.counters
    counters.in_flight -= 1
    counters.tunnels += 1
    counters.count_request(head.method, status, _UPSTREAM, duration_s)


def account_tunnel_over(
    dependency: Dependency,
    head: RequestHead,
    status: int,
    attempts: int,
    stood_s: float,
    duration_s: float,
    waited_s: float,
    octets: list[int],
) -> None:
    """Close the books on a tunnel.

    Args:
        dependency: to which it went.
        head: of the request that it began as.
        status: with which that was answered.
        attempts: how often the dependency was asked.
        stood_s: how long the tunnel stood.
        duration_s: from the request's head to this moment.
        waited_s: in the queue.
        octets: relayed, to the dependency and to the application.
    """
    dependency.counters.tunnel_s += stood_s
    log = dependency.log
    if log is not None and log.wants(status, False, duration_s):
        _write(dependency, head, status, None, attempts, duration_s, waited_s, octets)


def account_refusal(
    dependency: Dependency, head: RequestHead, refusal: Refusal, attempts: int, duration_s: float, waited_s: float
) -> Fallback | None:
    """Count a request that the sidecar answers itself.

    Returns:
        What is answered in place of the refusal; None for the refusal itself.
    """
    fallback = dependency.fallback_for(refusal.code, head.method)
    status = refusal.status if fallback is None else fallback.status
    counters = dependency.counters
    counters.in_flight -= 1
    counters.rejections[refusal.code] += 1
    counters.count_request(head.method, status, _SIDECAR, duration_s)
    if attempts == 0 and refusal.code in REASONS:  # not what would be no call under any settings
        dependency.admission.unobserved()
    log = dependency.log
    if log is not None and log.wants(status, True, duration_s):
        _write(dependency, head, status, refusal.code, attempts, duration_s, waited_s)
    return fallback


def account_client_gone(
    dependency: Dependency, head: RequestHead, attempts: int, duration_s: float, waited_s: float
) -> None:
    """Count a request whose client left before the end of its response."""
    counters = dependency.counters
    counters.in_flight -= 1
    counters.client_gone += 1
    counters.count_request(head.method, _CLIENT_GONE_STATUS, _SIDECAR, duration_s)
    log = dependency.log
    if log is not None and log.wants(_CLIENT_GONE_STATUS, False, duration_s):
        _write(dependency, head, _CLIENT_GONE_STATUS, CLIENT_GONE, attempts, duration_s, waited_s)


def _write(
    dependency: Dependency,
    head: RequestHead,
    status: int,
    code: str | None,
    attempts: int,
    duration_s: float,
    waited_s: float,
    octets: list[int] | None = None,
) -> None:
    log = dependency.log
    assert log is not None, "asked before"
    trace = trace_id(head.block)
    log.write(dependency.name, head.method, head.target, status, code, attempts, duration_s, waited_s, trace, octets)
