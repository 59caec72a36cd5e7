"""Bodies in the chunked coding: taken apart by llhttp, put together again in our own words.

Every framing decision is llhttp's. What it cannot tell is where in a read a message ended, and the octets behind it
belong to the next request. A chunked message can end nowhere but right behind CRLF CRLF (RFC 9112 section 7.1: the
last chunk or the last trailer, then the empty line), so `feed_exact` hands the parser no more than up to the next
such place, and looks whether the message is over.

Chunk extensions are dropped (RFC 9112 section 7.1.1 lets a recipient ignore them) and chunk sizes are not preserved.
"""

from __future__ import annotations

from typing import Any, Final

import httptools

from sidecar.proxy.fields import render_trailers

LAST_CHUNK: Final = b"0\r\n\r\n"
_END: Final = b"\r\n\r\n"
# The parser is given a head of its own, so that one decoder serves requests and responses. After "Connection: close"
# it reports octets behind the message as an error rather than parsing them as a next one.
_HEAD: Final = b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


class ChunkedError(ValueError):
    """The octets are not a valid chunked body, or its trailers are too large."""


class ChunkedDecoder:
    """Decodes one chunked body.

    Args:
        max_overhead: octets that may come in a row without a single octet of body (extensions, trailers).

    Attributes:
        done: the last chunk and its trailers have been read.
        surplus: octets came behind the end (only after `feed`; `feed_exact` leaves them unread).
        trailers: the trailer fields, as they came.
    """

    __slots__ = (
        "_max_overhead",
        "_parser",
        "_pieces",
        "_started",
        "_tail",
        "_trailer_size",
        "_without_body",
        "done",
        "surplus",
        "trailers",
    )

    def __init__(self, max_overhead: int) -> None:
        self._max_overhead = max_overhead
        self._without_body = 0
        self._pieces: list[bytes] = []
        self._tail = b""
        self.done = False
        self.surplus = False
        self.trailers: list[tuple[bytes, bytes]] = []
        self._started = False
        self._trailer_size = 0
        self._parser: Any = httptools.HttpRequestParser(self)
        self._parser.feed_data(_HEAD)
        self._started = True

    def feed(self, data: bytes) -> bytes:
        """Decode all of `data` and return the body octets in it.

        Raises:
            ChunkedError: malformed coding.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.done:
                raise ChunkedError(str(error)) from None
            self.surplus = True
        return self._take(len(data))

    def feed_exact(self, data: bytes) -> tuple[bytes, int]:
        """Decode up to the end of the message; return the body octets and how many octets of `data` were used.

        Raises:
            ChunkedError: malformed coding.
        """
        used = 0
        try:
            for end in self._possible_ends(data):
                self._parser.feed_data(data[used:end])
                used = end
                if self.done:
                    break
        except httptools.HttpParserError as error:
            raise ChunkedError(str(error)) from None
        self._tail = (self._tail + data[-3:])[-3:]
        return self._take(used), used

    def _possible_ends(self, data: bytes) -> list[int]:
        seam = self._tail + data[:3]
        ends = []
        at = seam.find(_END)
        while at >= 0:
            end = at + 4 - len(self._tail)
            if 0 < end <= 3:
                ends.append(end)
            at = seam.find(_END, at + 1)
        at = data.find(_END)
        while at >= 0:
            ends.append(at + 4)
            at = data.find(_END, at + 1)
        if not ends or ends[-1] != len(data):
            ends.append(len(data))
        return ends

    def _take(self, size: int) -> bytes:
        if self._trailer_size > self._max_overhead:
            raise ChunkedError("the trailers are too large")
        pieces = self._pieces
        if not pieces:
            self._without_body += size
            if self._without_body > self._max_overhead:
                raise ChunkedError("chunk extensions or trailers are too large")
            return b""
        self._without_body = 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    def release(self) -> None:
        """Let go of the parser, which refers back to this object: no cycle is left for the garbage collector."""
        self._parser = None

    # What httptools calls.

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._started:
            self.trailers.append((name, value.strip(b" \t")))
            self._trailer_size += len(name) + len(value) + 4

    def on_message_complete(self) -> None:
        self.done = True


def encode_chunk(data: bytes) -> bytes:
    """One chunk. `data` must not be empty: an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def encode_end(trailers: list[tuple[bytes, bytes]]) -> bytes:
    """The last chunk with those trailers that may be forwarded."""
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n%b\r\n" % render_trailers(trailers)
