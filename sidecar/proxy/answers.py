"""The answers that the sidecar gives itself, as octets (RFC 9457 problem details, RFC 9209 Proxy-Status)."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from sidecar.errors import Refusal

NAME: Final = "sidecar"
"""How this proxy calls itself in Via and Proxy-Status."""

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
# Printable ASCII less quote and backslash: what a Structured Field string holds without escaping (RFC 8941 3.3.3).
_STRING_SAFE: Final = dict.fromkeys((*range(32), 34, 92, 127), "?")

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


def render(refusal: Refusal, dependency: str | None, *, close: bool, head_only: bool) -> bytes:
    """A whole response that says why a request was refused.

    Args:
        refusal: what happened.
        dependency: its name, where one was found.
        close: the connection ends with this answer, and the answer says so.
        head_only: the request was HEAD: the head of the answer without its body.
    """
    problem: dict[str, object] = {
        "error": refusal.code,
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
    }
    if dependency is not None:
        problem["dependency"] = dependency
    body = json.dumps(problem).encode("ascii") + b"\n"
    details = refusal.detail.translate(_STRING_SAFE).encode("ascii", "replace").decode("ascii")
    head = (
        f"HTTP/1.1 {refusal.status} {_REASONS[refusal.status]}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        f'Proxy-Status: {NAME}; error={refusal.proxy_error}; details="{details}"'
    ).encode("ascii")
    end = b"\r\nConnection: close\r\n\r\n" if close else b"\r\n\r\n"
    return head + date_line() + end + (b"" if head_only else body)


def render_options(*, close: bool) -> bytes:
    """The answer to an OPTIONS that ends here, because its Max-Forwards is 0 (RFC 9110 section 7.6.2)."""
    end = b"\r\nConnection: close\r\n\r\n" if close else b"\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\nContent-Length: 0" + date_line() + end
