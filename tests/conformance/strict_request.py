"""A request parser without mercy: what it cannot read in exactly one way it reports.

Used by the recording upstream. `Request.errors` are octets that two honest parsers could read
differently, so a proxy must never emit them; `Request.remarks` are untidy but have one meaning.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from .grammar import (
    CHUNK_LINE,
    CONTROL,
    DIGITS,
    FIELD_LINE,
    FORBIDDEN_IN_TRAILERS,
    HOST,
    REQUEST_LINE,
    Field,
    list_members,
    values,
)

# No case announces more and means it; beyond this the upstream drains and never calls it complete.
MAX_BODY_BYTES = 16 << 20
_RAW_KEPT_BYTES = 4096


@dataclass(eq=False)
class Request:
    """One request as it arrived upstream, or as much of it as did."""

    connection: int = 0
    index: int = 0
    """Position on its connection, from 0."""
    method: bytes = b""
    target: bytes = b""
    version: bytes = b""
    headers: list[Field] = field(default_factory=list)
    trailers: list[Field] = field(default_factory=list)
    body: bytes = b""
    raw: bytes = b""
    """The first octets as received, for attribution and for reports."""
    errors: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    head_complete: bool = False
    complete: bool = False
    """The message ended, or it went so wrong that the parser answered 400 to it."""
    aborted: bool = False
    """The connection ended inside the message."""

    def get(self, name: str) -> list[bytes]:
        """Values of the header lines called `name`, in order."""
        return values(self.headers, name.lower().encode())

    def keep_raw(self, data: bytes) -> None:
        """Remember the first octets; a large body would only bloat a report."""
        if len(self.raw) < _RAW_KEPT_BYTES:
            self.raw += data[: _RAW_KEPT_BYTES - len(self.raw)]


class Malformed(Exception):
    """The message cannot be read further; `Request.errors` says why."""


async def read_head(reader: asyncio.StreamReader, request: Request, first: bytes = b"") -> None:
    """Read request line and fields into `request`.

    Args:
        reader: of the connection.
        request: filled as far as the head can be read.
        first: an octet that the caller read already, to notice that a request began.

    Raises:
        Malformed: the head has an error; all of its lines were read where that was possible.
        asyncio.IncompleteReadError: the connection ended first.
    """
    line = await _line(reader, request, first)
    if match := REQUEST_LINE.fullmatch(line):
        request.method, request.target, request.version = match[1], match[2], match[3]
        if request.version not in (b"HTTP/1.1", b"HTTP/1.0"):
            request.errors.append(f"version {request.version!r}")
    else:
        request.errors.append(f"request line {line[:80]!r}")
    await _fields(reader, request, request.headers, "header")
    if not request.errors:
        _check_host(request)
        _check_framing(request)
    request.head_complete = True
    if request.errors:
        raise Malformed


def announces_body(request: Request) -> bool:
    """Whether octets follow the head."""
    length = request.get("content-length")
    return bool(request.get("transfer-encoding")) or bool(length and int(length[0]))


async def read_body(reader: asyncio.StreamReader, request: Request) -> None:
    """Read what the head announced, into `request.body` and `request.trailers`.

    Raises:
        Malformed: a chunk or a trailer is not what the grammar says.
        asyncio.IncompleteReadError: the connection ended first.
    """
    if request.get("transfer-encoding"):
        await _chunks(reader, request)
    elif length := request.get("content-length"):
        await _exactly(reader, request, int(length[0]))
    request.complete = True


async def _line(reader: asyncio.StreamReader, request: Request, first: bytes = b"") -> bytes:
    try:
        line = first if first == b"\n" else first + await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        request.keep_raw(first + error.partial)
        raise
    except asyncio.LimitOverrunError:
        request.errors.append("line too long for the upstream")
        raise Malformed from None
    request.keep_raw(line)
    if line.endswith(b"\r\n"):
        line = line[:-2]
    else:
        request.errors.append("line ends with a bare LF")
        line = line[:-1]
    if b"\r" in line:
        request.errors.append("bare CR inside a line")
    if b"\0" in line:
        request.errors.append("NUL inside a line")
    return line


async def _fields(reader: asyncio.StreamReader, request: Request, into: list[Field], kind: str) -> None:
    while line := await _line(reader, request):
        if line[:1] in (b" ", b"\t"):
            request.errors.append(f"folded {kind} line")
        elif match := FIELD_LINE.fullmatch(line):
            into.append((match[1].lower(), match[2]))
            if CONTROL.search(match[2]):
                request.remarks.append(f"control octet in {kind} {match[1].decode()}")
        else:
            request.errors.append(f"{kind} line {line[:60]!r}")


def _check_host(request: Request) -> None:
    hosts = request.get("host")
    if len(hosts) > 1 or (not hosts and request.version == b"HTTP/1.1"):
        request.errors.append(f"{len(hosts)} Host lines")
    if any(not HOST.fullmatch(host) for host in hosts):
        request.remarks.append(f"invalid Host {hosts[0][:60]!r}")


def _check_framing(request: Request) -> None:
    lengths, codings = request.get("content-length"), request.get("transfer-encoding")
    if lengths and codings:
        request.errors.append("Content-Length and Transfer-Encoding together")
    if len(lengths) > 1 or any(not DIGITS.fullmatch(length) for length in lengths):
        request.errors.append(f"Content-Length {lengths[:3]!r} is not one plain number")
    if not codings:
        return
    if request.version != b"HTTP/1.1":
        request.errors.append("Transfer-Encoding in HTTP/1.0")
    names = list_members(codings)
    known = all(name in (b"chunked", b"gzip", b"x-gzip", b"deflate", b"compress") for name in names)
    if len(codings) > 1 or not known or names[-1] != b"chunked" or names.count(b"chunked") != 1:
        request.errors.append(f"Transfer-Encoding {codings[:3]!r}")


async def _exactly(reader: asyncio.StreamReader, request: Request, size: int) -> None:
    if size > MAX_BODY_BYTES:
        while await reader.read(1 << 16):
            pass
        raise asyncio.IncompleteReadError(b"", size)
    try:
        request.body += await reader.readexactly(size)
    except asyncio.IncompleteReadError as error:
        request.body += error.partial
        raise


async def _chunks(reader: asyncio.StreamReader, request: Request) -> None:
    while True:
        line = await _line(reader, request)
        match = CHUNK_LINE.fullmatch(line)
        if match is None or request.errors:
            request.errors.append(f"chunk line {line[:40]!r}")
            raise Malformed
        size = int(match[1], 16)
        if size == 0:
            break
        await _exactly(reader, request, size)
        if await reader.readexactly(2) != b"\r\n":
            request.errors.append("chunk data without CRLF after it")
            raise Malformed
    await _fields(reader, request, request.trailers, "trailer")
    for name, _ in request.trailers:
        if name in FORBIDDEN_IN_TRAILERS:
            request.remarks.append(f"forbidden trailer {name.decode()}")
    if request.errors:
        raise Malformed


_MARK = re.compile(rb"/(t|smuggled|canary)/([a-z0-9-]+)")


def marks(request: Request) -> tuple[str, str] | None:
    """(kind, case id) by which a request names its case: an X-Case line, else its target, else its octets.

    Kind is `t` for what a case sends, `smuggled` for what must not become a request, `canary`.
    """
    if case := request.get("x-case"):
        return "t", case[0].decode("latin-1")
    found = _MARK.search(request.target) or (None if request.head_complete else _MARK.search(request.raw))
    return (found[1].decode(), found[2].decode()) if found else None
