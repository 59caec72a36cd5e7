"""The configuration: `load` turns a YAML file into a `Config`, or into a report of every mistake in it.

`schema` has every key; `json_schema` describes them to editors.
"""

from typing import Any

from sidecar.config.addresses import Address, TcpAddress, UnixAddress, Upstream
from sidecar.config.loading import LoadResult, load, load_text
from sidecar.config.policies import (
    Backoff,
    Budget,
    Candidate,
    CircuitBreaker,
    CircuitBreakerTerms,
    Concurrency,
    ConcurrencyTerms,
    Ejection,
    FailureRate,
    Fallback,
    HalfOpen,
    Queue,
    RateLimit,
    RateLimitTerms,
    Retry,
    SlowCalls,
)
from sidecar.config.schema import (
    AccessLog,
    Config,
    Defaults,
    Dependency,
    Listener,
    Metrics,
    Pool,
    Timeout,
)
from sidecar.config.terms import Window
from sidecar.config.tls import ListenerTls, Tls
from sidecar.errors import Problem

__all__ = [
    "AccessLog",
    "Address",
    "Backoff",
    "Budget",
    "Candidate",
    "CircuitBreaker",
    "CircuitBreakerTerms",
    "Concurrency",
    "ConcurrencyTerms",
    "Config",
    "Defaults",
    "Dependency",
    "Ejection",
    "FailureRate",
    "Fallback",
    "HalfOpen",
    "Listener",
    "ListenerTls",
    "LoadResult",
    "Metrics",
    "Pool",
    "Problem",
    "Queue",
    "RateLimit",
    "RateLimitTerms",
    "Retry",
    "SlowCalls",
    "TcpAddress",
    "Timeout",
    "Tls",
    "UnixAddress",
    "Upstream",
    "Window",
    "json_schema",
    "load",
    "load_text",
]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors; see `sidecar.config.editor`, which a running sidecar does not load."""
    from sidecar.config import editor

    return editor.json_schema()
