"""The books: each request is counted once, at its end, and written down where that is wanted."""

from __future__ import annotations

from typing import Final

from sidecar.errors import Refusal
from sidecar.policy.candidate import REASONS
from sidecar.proxy.framing import RequestHead
from sidecar.proxy.headers import trace_id
from sidecar.runtime.dependency import Dependency

CLIENT_GONE: Final = "CLIENT_GONE"
DOWNSTREAM_ERROR: Final = "DOWNSTREAM_ERROR"

_CLIENT_GONE_STATUS: Final = 499
"""Under which a request is counted whose client left; nginx's, for nobody ever receives it."""

_UPSTREAM: Final = 0
_SIDECAR: Final = 1


def account(
    dependency: Dependency,
    head: RequestHead,
    *,
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
    code = cut.code if cut is not None else DOWNSTREAM_ERROR if status >= 500 else None
    _close(dependency, head, status, code, _UPSTREAM, False, attempts, duration_s, waited_s)


def account_refusal(
    dependency: Dependency, head: RequestHead, refusal: Refusal, attempts: int, duration_s: float, waited_s: float
) -> None:
    """Count a request that the sidecar answers itself, and choose between the refusal and its fallback."""
    refusal.fallback = dependency.fallback_for(refusal.code, head.method)
    status = refusal.status if refusal.fallback is None else refusal.fallback.status
    dependency.counters.rejections[refusal.code] += 1
    if attempts == 0 and refusal.code in REASONS:  # not what would be no call under any settings
        dependency.admission.unobserved()
    _close(dependency, head, status, refusal.code, _SIDECAR, True, attempts, duration_s, waited_s)


def account_client_gone(
    dependency: Dependency, head: RequestHead, attempts: int, duration_s: float, waited_s: float
) -> None:
    """Count a request whose client left before the end of its response."""
    dependency.counters.client_gone += 1
    _close(dependency, head, _CLIENT_GONE_STATUS, CLIENT_GONE, _SIDECAR, False, attempts, duration_s, waited_s)


def _close(
    dependency: Dependency,
    head: RequestHead,
    status: int,
    code: str | None,
    source: int,
    rejected: bool,
    attempts: int,
    duration_s: float,
    waited_s: float,
) -> None:
    counters = dependency.counters
    counters.in_flight -= 1
    counters.count_request(head.method, status, source, duration_s)
    log = dependency.log
    if log is not None and log.wants(status, rejected, duration_s):
        trace = trace_id(head.block)
        log.write(dependency.name, head.method, head.target, status, code, attempts, duration_s, waited_s, trace)
