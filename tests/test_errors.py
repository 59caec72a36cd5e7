"""The exception tree, and what each refusal tells the application."""

from __future__ import annotations

import pytest

from sidecar import errors
from sidecar.errors import ConfigError, Problem, Refusal, SidecarError, StartError

_REFUSALS = [
    (errors.BadRequest, "BAD_REQUEST", 400, "http_request_error", True),
    (errors.RequestTimeout, "REQUEST_TIMEOUT", 408, "http_request_error", True),
    (errors.BodyTooLarge, "BODY_TOO_LARGE", 413, "http_request_error", True),
    (errors.UriTooLong, "URI_TOO_LONG", 414, "http_request_error", True),
    (errors.HeadersTooLarge, "HEADERS_TOO_LARGE", 431, "http_request_error", True),
    (errors.NotImplementedMethod, "NOT_IMPLEMENTED", 501, "http_request_error", True),
    (errors.NoRoute, "NO_ROUTE", 404, "destination_not_found", False),
    (errors.ForbiddenRoute, "NO_ROUTE", 403, "destination_not_found", False),
    (errors.RateLimited, "RATE_LIMITED", 429, "http_request_denied", False),
    (errors.CircuitOpen, "CIRCUIT_OPEN", 503, "destination_unavailable", False),
    (errors.ConcurrencyLimited, "CONCURRENCY_LIMITED", 503, "connection_limit_reached", False),
    (errors.ConnectionLimited, "CONNECTION_LIMITED", 503, "proxy_internal_response", True),
    (errors.Overloaded, "OVERLOADED", 503, "proxy_internal_response", True),
    (errors.Draining, "DRAINING", 503, "proxy_internal_response", True),
    (errors.UpstreamFailure, "DOWNSTREAM_FAILURE", 502, "destination_unavailable", False),
    (errors.UpstreamTimeout, "DOWNSTREAM_TIMEOUT", 504, "http_response_timeout", False),
]


@pytest.mark.parametrize(("kind", "code", "status", "proxy_error", "close"), _REFUSALS)
def test_refusal_has_its_code_status_and_proxy_status(
    kind: type[Refusal], code: str, status: int, proxy_error: str, close: bool
) -> None:
    refusal = kind("what happened")
    assert (refusal.code, refusal.status, refusal.proxy_error, refusal.close) == (code, status, proxy_error, close)
    assert refusal.detail == str(refusal) == "what happened"
    assert refusal.title


def test_table_holds_every_refusal() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Refusal)}
    assert kinds - {Refusal} == {row[0] for row in _REFUSALS}


@pytest.mark.parametrize("kind", [errors.UpstreamFailure, errors.UpstreamTimeout])
def test_upstream_failure_says_in_proxy_status_what_failed(kind: type[errors.UpstreamFailure]) -> None:
    assert kind("x", "connection_timeout").proxy_error == "connection_timeout"


def test_everything_raised_on_purpose_is_one_tree() -> None:
    for kind in (ConfigError, StartError, Refusal):
        assert issubclass(kind, SidecarError)


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (Problem("a.yaml", 3, 7, "listen", "must be short"), "a.yaml:3:7: listen: must be short"),
        (Problem("a.yaml", 3, 7, "", "must be a mapping"), "a.yaml:3:7: must be a mapping"),
        (Problem("a.yaml", None, None, "", "cannot be read"), "a.yaml: cannot be read"),
        (Problem("a.yaml", 3, 7, "x", "is odd", "warning"), "a.yaml:3:7: warning: x: is odd"),
    ],
)
def test_problem_is_one_line_of_a_report(problem: Problem, line: str) -> None:
    assert str(problem) == line


def test_config_error_is_the_whole_report() -> None:
    problems = [Problem("f", 1, 1, "a", "one"), Problem("f", 2, 1, "b", "two")]
    error = ConfigError(iter(problems))
    assert str(error) == "f:1:1: a: one\nf:2:1: b: two"
    assert error.problems == tuple(problems)
