"""The exceptions of this project, one tree.

    SidecarError
    ├── ConfigError             the configuration cannot be used; carries every mistake found
    ├── StartError              a listener cannot be bound, a part is missing
    └── Refusal                 an answer that the sidecar gives itself; carries code, status and Proxy-Status error
        ├── BadRequest, RequestTimeout, BodyTooLarge, UriTooLong, HeadersTooLarge, NotImplementedMethod
        ├── NoRoute, ForbiddenRoute
        ├── RateLimited, CircuitOpen, ConcurrencyLimited
        ├── ConnectionLimited, Overloaded, Draining
        └── UpstreamFailure, UpstreamTimeout

Who raises what: `config` raises `ConfigError`, `app` raises `StartError`, `proxy` raises (or builds) `Refusal`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal


class SidecarError(Exception):
    """Base of every error that this project raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration, or one warning about it; `str()` is one line of a report.

    Attributes:
        file: the name of the file, as it was given.
        line, column: where, counted from 1; None where the file as a whole is meant.
        path: the dotted path of the key; empty at the root.
        message: what is allowed and what was found.
        severity: whether the configuration can be used in spite of it.
    """

    file: str
    line: int | None
    column: int | None
    path: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}:{self.column}"
        parts = [place, "warning"] if self.severity == "warning" else [place]
        return ": ".join([*parts, *filter(None, [self.path]), self.message])


class ConfigError(SidecarError):
    """The configuration cannot be used; `str()` is the whole report, one line a mistake.

    Attributes:
        problems: every mistake, in the order of the file.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class StartError(SidecarError):
    """The sidecar cannot start: a port is taken, a socket path cannot be used, a part is missing."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """An answer that the configuration gives in place of a refusal.

    Attributes:
        status: of the answer.
        head: its field lines, each led by CRLF, Content-Length included.
        body: its octets.
    """

    status: int
    head: bytes
    body: bytes


class Refusal(SidecarError):
    """An answer that the sidecar gives itself instead of the dependency's.

    A refusal is a value more often than an exception: `framing` and `routing` raise it, everything else
    hands it to `answers.render`.

    Attributes:
        code: one of the fixed codes of the problem body (`error`), spoken from the application's side.
        status: HTTP status code.
        proxy_error: Proxy-Status error type (RFC 9209 section 2.3).
        title: the code in words, the same for every occurrence.
        close: whether the connection to the application ends with this answer.
        detail: what happened this time, to which dependency, and what to do.
        retry_after_s: when it makes sense to come back, in seconds from now; None where nobody knows.
        octets: the whole answer, once it has been made for a connection that persists; see `answers.render`.
    """

    code: ClassVar[str]
    status: int
    proxy_error: str
    title: ClassVar[str]
    close: bool = False

    def __init__(self, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.octets: bytes | None = None


class BadRequest(Refusal):
    """The request is malformed, or two parsers could read it differently (RFC 9112 section 11.2)."""

    code, status, proxy_error = "BAD_REQUEST", 400, "http_request_error"
    title, close = "The request is not valid HTTP/1.1", True


class RequestTimeout(Refusal):
    """The application did not send its head or body in time (RFC 9110 section 15.5.9)."""

    code, status, proxy_error = "REQUEST_TIMEOUT", 408, "http_request_error"
    title, close = "The request did not arrive in time", True


class BodyTooLarge(Refusal):
    """The request's body exceeds `max_body`."""

    code, status, proxy_error = "BODY_TOO_LARGE", 413, "http_request_error"
    title, close = "The request body is too large", True


class UriTooLong(Refusal):
    """The request line exceeds `max_request_line`."""

    code, status, proxy_error = "URI_TOO_LONG", 414, "http_request_error"
    title, close = "The request line is too long", True


class HeadersTooLarge(Refusal):
    """A header, their count, or all of them together exceed the listener's limits (RFC 6585 section 5)."""

    code, status, proxy_error = "HEADERS_TOO_LARGE", 431, "http_request_error"
    title, close = "The request headers are too large", True


class NotImplementedMethod(Refusal):
    """The method, or the transfer coding, is not one that this proxy carries (RFC 9110 section 15.6.2)."""

    code, status, proxy_error = "NOT_IMPLEMENTED", 501, "http_request_error"
    title, close = "The proxy does not carry this kind of request", True


class NoRoute(Refusal):
    """No dependency is named by this request."""

    code, status, proxy_error = "NO_ROUTE", 404, "destination_not_found"
    title = "No dependency is configured for this request"


class ForbiddenRoute(NoRoute):
    """An absolute-form or CONNECT target names a destination that the configuration does not."""

    status = 403


class RateLimited(Refusal):
    """The dependency's token bucket is empty (RFC 6585 section 4)."""

    code, status, proxy_error = "RATE_LIMITED", 429, "http_request_denied"
    title = "The rate limit of the dependency is reached"


class CircuitOpen(Refusal):
    """The dependency's circuit is open, or lets only a part of the calls through at present."""

    code, status, proxy_error = "CIRCUIT_OPEN", 503, "destination_unavailable"
    title = "The circuit of the dependency is open"


class ConcurrencyLimited(Refusal):
    """As many requests to the dependency are under way as may be, or no connection to it is free."""

    code, status, proxy_error = "CONCURRENCY_LIMITED", 503, "connection_limit_reached"
    title = "The dependency is busy with as many requests as it may have"


class ConnectionLimited(Refusal):
    """The listener carries as many connections as it may."""

    code, status, proxy_error = "CONNECTION_LIMITED", 503, "proxy_internal_response"
    title, close = "The sidecar has too many connections", True


class Overloaded(Refusal):
    """The sidecar itself lacks something: descriptors, local ports, memory. Nobody's failure but its own."""

    code, status, proxy_error = "OVERLOADED", 503, "proxy_internal_response"
    title, close = "The sidecar is short of resources", True


class Draining(Refusal):
    """The sidecar is stopping and its time to do so is over."""

    code, status, proxy_error = "DRAINING", 503, "proxy_internal_response"
    title, close = "The sidecar is shutting down", True


class UpstreamFailure(Refusal):
    """The dependency could not be reached, broke the connection or answered with something else than HTTP.

    Args:
        detail: what happened, in words.
        proxy_error: one of connection_refused, connection_terminated, http_protocol_error, dns_error,
            tls_certificate_error, tls_alert_received, tls_protocol_error, destination_ip_unroutable,
            destination_unavailable, http_response_header_section_size, http_response_incomplete (RFC 9209 section 2.3).
    """

    code, status, proxy_error = "DOWNSTREAM_FAILURE", 502, "destination_unavailable"
    title = "The dependency failed"

    def __init__(self, detail: str, proxy_error: str = "destination_unavailable") -> None:
        super().__init__(detail)
        self.proxy_error = proxy_error


class UpstreamTimeout(Refusal):
    """The dependency did not connect, answer or read in time.

    Args:
        detail: which timeout, with its value.
        proxy_error: connection_timeout, dns_timeout or http_response_timeout (RFC 9209 section 2.3).
    """

    code, status, proxy_error = "DOWNSTREAM_TIMEOUT", 504, "http_response_timeout"
    title = "The dependency did not answer in time"

    def __init__(self, detail: str, proxy_error: str = "http_response_timeout") -> None:
        super().__init__(detail)
        self.proxy_error = proxy_error
