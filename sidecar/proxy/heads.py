"""Heads taken out of a stream of octets: where one begins and ends, how large it may be, what llhttp says of it.

A reader is shown reads and gives back heads. It holds the parser, and the part of a head that has come so far; it
writes nothing and knows no connection. What is there of a head is parsed at once, so that garbage is noticed before it
is whole; the octets themselves are kept, because they are what travels on.
"""

from __future__ import annotations

import re
from typing import Any, Final

import httptools

from sidecar.config import Listener as Limits
from sidecar.errors import BadRequest, HeadersTooLarge, NotImplementedMethod, UpstreamFailure, UriTooLong
from sidecar.proxy.fields import kind_by_spelling, kind_of
from sidecar.proxy.framing import Field, RequestHead, ResponseHead, parse_request_head, parse_response_head
from sidecar.proxy.partial import PartialHead

_END: Final = b"\r\n\r\n"

_MAX_EMPTY_LINES: Final = 4
"""Empty lines skipped in front of a request line; RFC 9112 section 2.2 asks for one."""

_SWITCHED: Final = "Pause on CONNECT/Upgrade"
"""What llhttp finds wrong with a 101 that lacks Upgrade, or the option of Connection that goes with it."""

_METHOD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32} ")
_METHOD_SO_FAR: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")


class HeadReader:
    """What the two readers share: the fields that llhttp reports, and the head that is not whole yet."""

    __slots__ = ("_fields", "_parser", "_partial")

    def __init__(self) -> None:
        self._fields: list[Field] = []
        self._parser: Any = None  # one of httptools, made when there is something to read
        self._partial: PartialHead | None = None

    def release(self) -> None:
        """Let go of the parser, which refers back to this object, and of what has come."""
        self._parser = None
        self._partial = None
        self._fields = []

    @property
    def begun(self) -> bool:
        """Whether a part of a head has come."""
        return self._partial is not None

    def on_header(self, name: bytes, value: bytes) -> None:
        """What httptools calls for each field."""
        try:
            kind = kind_by_spelling[name]
        except KeyError:
            kind = kind_of(name)
        if kind:
            self._fields.append((kind, name, value.strip(b" \t")))


class RequestReader(HeadReader):
    """Reads the heads of an application's requests.

    Args:
        limits: what bounds them.
        careless: a head of up to this many octets cannot exceed any of the limits.

    Attributes:
        raw: the octets of the head that `read` gave back last.
        rest: the octets behind it in the same read.
    """

    __slots__ = ("_careless", "_empty_lines", "_limits", "raw", "rest")

    def __init__(self, limits: Limits, careless: int) -> None:
        super().__init__()
        self._limits = limits
        self._careless = careless
        self._empty_lines = 0
        self.raw = b""
        self.rest = b""

    def read(self, data: bytes) -> RequestHead | None:
        """Take in a read. None: no head is whole yet, and all of the read is taken in.

        Raises:
            Refusal: the head, or what there is of it, is refused.
        """
        while True:
            partial = self._partial
            if partial is None:
                if data[:2] == b"\r\n":
                    data = self._skip_empty_lines(data)
                    if not data:
                        return None
                used = data.find(_END) + 4
                if used >= 4:
                    raw = octets = data if used == len(data) else data[:used]
                    break
                partial = self._partial = PartialHead()
                partial.add(data)
            else:
                used = partial.add(data)
                if used >= 0:
                    self._partial = None
                    octets = bytes(partial.data[partial.parsed :])
                    raw = self._skip_empty_lines(bytes(partial.data))
                    if raw:
                        break
                    data = data[used:]
                    continue
                if partial.data[:2] == b"\r\n":  # an empty line, cut in two by the reads
                    self._partial = None
                    data = bytes(partial.data)
                    continue
            self._read_part(partial)
            return None
        if len(raw) > self._careless:
            self._check_sizes(raw)
        self._feed(octets, raw)
        fields = self._fields
        self._fields = []
        head = parse_request_head(raw, fields)
        if head.chunked or head.content_length:
            self._parser = None  # it waits for the body, which it is not shown
        self._empty_lines = 0
        self.raw = raw
        self.rest = data[used:] if used < len(data) else b""
        return head

    def _read_part(self, partial: PartialHead) -> None:
        raw = partial.data
        self._check_part_sizes(raw)
        # A method is parsed when it is whole: part of one that is merely unknown could not be told from nonsense.
        if not _METHOD_SO_FAR.fullmatch(raw):
            octets = bytes(raw[partial.parsed :])
            partial.parsed = len(raw)
            self._feed(octets, raw)

    def _skip_empty_lines(self, data: bytes) -> bytes:
        while data[:2] == b"\r\n":
            data = data[2:]
            self._empty_lines += 1
            if self._empty_lines > _MAX_EMPTY_LINES:
                raise BadRequest("there are too many empty lines in front of the request line")
        return data

    def _feed(self, octets: bytes, raw: bytes | bytearray) -> None:
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(octets)
        except httptools.HttpParserUpgrade:
            self._parser = None  # the head asks for CONNECT or Upgrade, after which it would parse nothing more
        except httptools.HttpParserInvalidMethodError:
            if _METHOD.match(raw):
                raise NotImplementedMethod("the method is not one that this proxy carries") from None
            raise BadRequest("the method is malformed") from None
        except httptools.HttpParserError as error:
            raise BadRequest(f"the request is malformed: {error}") from None

    def _check_part_sizes(self, raw: bytes | bytearray) -> None:
        """Hold a head, or the part of it that has come, to what bounds it as a whole; no work per octet in it."""
        limits = self._limits
        line = limits.max_request_line
        if len(raw) > line + 1 and raw.find(b"\r\n", 0, line + 2) < 0:  # one more may be half of the line's end
            raise UriTooLong(f"the request line exceeds {line} octets (listener.max_request_line)")
        if len(raw) > limits.max_headers:
            raise HeadersTooLarge(f"the head exceeds {limits.max_headers} octets (listener.max_headers)")

    def _check_sizes(self, raw: bytes) -> None:
        """Hold a whole head that is larger than the smallest limit to each of them."""
        self._check_part_sizes(raw)
        limits = self._limits
        lines = raw.split(b"\r\n")[1:]
        if max(map(len, lines), default=0) > limits.max_header:
            raise HeadersTooLarge(f"a header exceeds {limits.max_header} octets (listener.max_header)")
        if len(lines) - 2 > limits.max_header_count:
            raise HeadersTooLarge(f"there are more than {limits.max_header_count} headers (listener.max_header_count)")


class ResponseReader(HeadReader):
    """Reads the heads of an upstream's responses.

    Args:
        limit: octets of a final head, and of all the interim heads in front of it together.

    Attributes:
        end: position in the last read behind the head that `read` gave back.
    """

    __slots__ = ("_interim", "_limit", "end")

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._interim = 0
        self.end = 0

    def expect(self) -> None:
        """A request is out: what comes now is its response, with a limit of its own."""
        self._interim = 0

    def skip(self, body: bytes | None) -> None:
        """A body comes that is not read here; given whole, it keeps the parser for the next response."""
        if body is None:
            self._parser = None
        elif self._parser is not None:
            self._parser.feed_data(body)

    def read(self, data: bytes, at: int) -> ResponseHead | None:
        """Take in a read. None: no head is whole yet, and all of the read is taken in.

        Args:
            data: the read.
            at: from where on; above 0 for what follows an interim head.

        Raises:
            UpstreamFailure: the head, or what there is of it, is malformed or too large.
        """
        partial = self._partial
        if partial is None:
            end = data.find(_END, at) + 4
            if end < 4:
                partial = self._partial = PartialHead()
                partial.add(data[at:])
                self._feed(data[at:])
                self._check_size(len(partial.data))
                return None
            raw = octets = data[at:end]
        else:
            end = partial.add(data)
            if end < 0:
                self._feed(data)
                self._check_size(len(partial.data))
                return None
            octets = data[:end]
            raw = bytes(partial.data)
            self._partial = None
        self._feed(octets)
        self._check_size(len(raw))
        head = parse_response_head(raw, self._fields)
        self._fields = []
        if head.status < 200:
            self._interim += len(raw)
            self._check_size(self._interim)
            self._parser = None  # which may wait for a body, or take a 1xx for the connection's last message
        self.end = end
        return head

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise UpstreamFailure(
                f"the head of the upstream's response exceeds {self._limit} octets (max_response_head)",
                "http_response_header_section_size",
            )

    def _feed(self, octets: bytes) -> None:
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(octets)
        except httptools.HttpParserUpgrade:
            self._parser = None
        except httptools.HttpParserError as error:
            self._parser = None
            detail = f"the upstream's response is not valid HTTP: {error}"
            if str(error) == _SWITCHED:
                detail = "the upstream switched protocols without Upgrade, or without Connection: Upgrade"
            raise UpstreamFailure(detail, "http_protocol_error") from None
