"""A reader of HTTP/1.1 streams that shares nothing with the proxy: simple, slow, and only for sound messages."""

from __future__ import annotations

from typing import NamedTuple


class Message(NamedTuple):
    """One message, its chunks put together."""

    head: bytes
    body: bytes
    trailers: bytes


def _field(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        if line.lower().startswith(name + b":"):
            return line.partition(b":")[2].strip()
    return None


def _chunked(octets: bytes) -> tuple[bytes, bytes, bytes] | None:
    body = b""
    while True:
        line, found, octets = octets.partition(b"\r\n")
        if not found:
            return None
        size = int(line, 16)
        if size == 0:
            break
        if len(octets) < size + 2:
            return None
        assert octets[size : size + 2] == b"\r\n"
        body += octets[:size]
        octets = octets[size + 2 :]
    trailers = b""
    while True:
        line, found, octets = octets.partition(b"\r\n")
        if not found:
            return None
        if not line:
            return body, trailers, octets
        trailers += line + b"\r\n"


def read_one(octets: bytes, *, bodiless: bool = False, ended: bool = False) -> tuple[Message, bytes] | None:
    """The first message of a stream and what follows it; None while it is not whole.

    Args:
        octets: of the stream.
        bodiless: it answers HEAD.
        ended: nothing more comes, which delimits a response that nothing else does.
    """
    head, found, rest = octets.partition(b"\r\n\r\n")
    if not found:
        return None
    response = head.startswith(b"HTTP/")
    status = int(head[9:12]) if response else 0
    length = _field(head, b"content-length")
    if bodiless or (response and (status < 200 or status in (204, 304))):
        return Message(head, b"", b""), rest
    if (_field(head, b"transfer-encoding") or b"").lower() == b"chunked":
        parts = _chunked(rest)
        return None if parts is None else (Message(head, parts[0], parts[1]), parts[2])
    if length is not None:
        size = int(length)
        return None if len(rest) < size else (Message(head, rest[:size], b""), rest[size:])
    if not response:
        return Message(head, b"", b""), rest
    return (Message(head, rest, b""), b"") if ended else None
