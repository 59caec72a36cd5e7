"""The answers that the sidecar gives itself, as octets (RFC 9457 problem details, RFC 9209 Proxy-Status)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from sidecar.errors import Fallback, Refusal

NAME: Final = "sidecar"
"""How this proxy calls itself in Via and Proxy-Status."""

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
# Printable ASCII less quote and backslash: what a Structured Field string holds without escaping (RFC 8941 3.3.3).
_STRING_SAFE: Final = dict.fromkeys((*range(32), 34, 92, 127), "?")
_END: Final = b"\r\n\r\n"
_CLOSE: Final = b"\r\nConnection: close\r\n\r\n"

_date_second = -1
_date_line = b""


def date_line() -> bytes:
    """A Date field line for now, led by CRLF; made once a second."""
    global _date_second, _date_line
    second = int(time.time())
    if second != _date_second:
        _date_second = second
        _date_line = b"\r\nDate: " + formatdate(second, usegmt=True).encode("ascii")
    return _date_line


def render(
    refusal: Refusal, dependency: str | None, fallback: Fallback | None, *, close: bool, head_only: bool
) -> bytes:
    """A whole response that says why a request was refused.

    A refusal that is given to many, as that of an open circuit, keeps what was made of it the first time.

    Args:
        refusal: what happened.
        dependency: its name, where one was found.
        fallback: what is configured to be answered in its place.
        close: the connection ends with this answer, and the answer says so.
        head_only: the request was HEAD: the head of the answer without its body.
    """
    if fallback is not None:
        return _render_fallback(refusal, fallback, close=close, head_only=head_only)
    if close or head_only:
        return _render(refusal, dependency, close=close, head_only=head_only)
    octets = refusal.octets
    if octets is None:
        octets = refusal.octets = _render(refusal, dependency, close=False, head_only=False)
    return octets


def _render(refusal: Refusal, dependency: str | None, *, close: bool, head_only: bool) -> bytes:
    problem: dict[str, object] = {
        "error": refusal.code,
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
    }
    if dependency is not None:
        problem["dependency"] = dependency
    retry_after = ""
    if refusal.retry_after_s is not None:
        problem["retry_after"] = round(refusal.retry_after_s, 3)
        retry_after = f"Retry-After: {retry_after_seconds(refusal.retry_after_s)}\r\n"
    body = json.dumps(problem).encode("ascii") + b"\n"
    head = (
        f"HTTP/1.1 {refusal.status} {_REASONS[refusal.status]}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        f"{retry_after}"
        f"Proxy-Status: {_proxy_status(refusal)}"
    ).encode("ascii")
    return head + date_line() + (_CLOSE if close else _END) + (b"" if head_only else body)


def _render_fallback(refusal: Refusal, fallback: Fallback, *, close: bool, head_only: bool) -> bytes:
    """The configured answer in place of a refusal; Proxy-Status still says what it stands in for."""
    start = f"HTTP/1.1 {fallback.status} {_REASONS.get(fallback.status, '')}".encode("ascii")
    mark = f"\r\nProxy-Status: {_proxy_status(refusal)}; fallback".encode("ascii")
    body = b"" if head_only else fallback.body
    return start + fallback.head + mark + date_line() + (_CLOSE if close else _END) + body


def _proxy_status(refusal: Refusal) -> str:
    details = refusal.detail.translate(_STRING_SAFE).encode("ascii", "replace").decode("ascii")
    return f'{NAME}; error={refusal.proxy_error}; details="{details}"'


def retry_after_seconds(wait_s: float) -> int:
    """A wait as Retry-After says it: whole seconds, none too few, at least 1 (RFC 9110 section 10.2.3)."""
    return max(1, math.ceil(wait_s))


def make_fallback(status: int, headers: Mapping[str, str], body: str) -> Fallback:
    """A fallback answer, made once.

    Args:
        status: of the answer; 204 and 304 have no body, whatever is given.
        headers: its fields; none about framing, connection or date.
        body: its text.
    """
    octets = b"" if status in (204, 304) else body.encode()
    head = "".join(f"\r\n{name}: {value}" for name, value in headers.items()).encode("latin-1")
    if status not in (204, 304):
        head += b"\r\nContent-Length: %d" % len(octets)
    return Fallback(status, head, octets)


def render_options(*, close: bool) -> bytes:
    """The answer to an OPTIONS that ends here, because its Max-Forwards is 0 (RFC 9110 section 7.6.2)."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: 0" + date_line() + (_CLOSE if close else _END)
