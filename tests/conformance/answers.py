"""What the client received, cut into answers by a strict reading of RFC 9112."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .grammar import CHUNK_LINE, CONTROL, DIGITS, FIELD_LINE, STATUS_LINE, Field, list_members, values


@dataclass
class Answer:
    """One response as the client would understand it."""

    status: int = 0
    version: bytes = b""
    headers: list[Field] = field(default_factory=list)
    trailers: list[Field] = field(default_factory=list)
    body: bytes = b""
    head: bytes = b""
    framing: str = "none"
    """none, length, chunked or close."""
    complete: bool = False
    faults: list[str] = field(default_factory=list)
    """Octets that a client could read in more than one way."""
    remarks: list[str] = field(default_factory=list)

    def get(self, name: str) -> list[bytes]:
        """Values of the header lines called `name`, in order."""
        return values(self.headers, name.lower().encode())


@dataclass
class Received:
    """Everything that one client connection brought."""

    finals: list[Answer] = field(default_factory=list)
    interims: list[Answer] = field(default_factory=list)
    garbage: bytes = b""
    """Octets that are not HTTP/1.1."""
    cut_head: bool = False
    """The last octets are the beginning of a head."""

    @property
    def complete(self) -> int:
        """How many final answers are whole."""
        return sum(answer.complete for answer in self.finals)

    @property
    def statuses(self) -> list[int]:
        """Statuses of the final answers, whole or not."""
        return [answer.status for answer in self.finals]


def parse_answers(buffer: bytes, methods: Sequence[str], *, ended: bool, clean_end: bool = True) -> Received:
    """Split `buffer` into answers.

    Args:
        buffer: all octets received so far.
        methods: of the requests sent, in order; GET where it is shorter.
        ended: the peer has closed.
        clean_end: it closed with FIN rather than RST; only then is a close-delimited body whole.
    """
    received, position = Received(), 0
    while position < len(buffer):
        end = buffer.find(b"\r\n\r\n", position)
        if end < 0:
            received.cut_head = b"HTTP/1.".startswith(buffer[position : position + 7])
            received.garbage = b"" if received.cut_head else buffer[position:]
            break
        answer = _head(buffer[position : end + 4])
        if answer is None:
            received.garbage = buffer[position:]
            break
        position = end + 4
        if 100 <= answer.status < 200 and answer.status != 101:
            answer.complete = True
            received.interims.append(answer)
            continue
        nth = len(received.finals)
        received.finals.append(answer)
        method = methods[nth] if nth < len(methods) else "GET"
        position = _body(answer, buffer, position, method, ended and clean_end)
        if not answer.complete:
            break
    return received


def _head(head: bytes) -> Answer | None:
    lines = head[:-4].split(b"\r\n")
    match = STATUS_LINE.fullmatch(lines[0])
    if match is None:
        return None
    answer = Answer(status=int(match[2]), version=match[1], head=head)
    if not match[3]:
        answer.remarks.append("no space after the status")
    for line in lines[1:]:
        field_match = FIELD_LINE.fullmatch(line)
        if line[:1] in (b" ", b"\t"):
            answer.faults.append("folded header line")
        elif field_match is None:
            answer.faults.append(f"header line {line[:60]!r}")
        else:
            answer.headers.append((field_match[1].lower(), field_match[2]))
            if CONTROL.search(field_match[2]):
                answer.remarks.append(f"control octet in header {field_match[1].decode()}")
    lengths, codings = answer.get("content-length"), answer.get("transfer-encoding")
    if lengths and codings:
        answer.faults.append("Content-Length and Transfer-Encoding together")
    if len(lengths) > 1 or any(not DIGITS.fullmatch(length) for length in lengths):
        answer.faults.append(f"Content-Length {lengths[:3]!r} is not one plain number")
    if answer.status < 200 or answer.status == 204:
        # RFC 9112 section 6.1, RFC 9110 section 8.6: neither may be sent; the first one desynchronises.
        if codings:
            answer.faults.append(f"Transfer-Encoding in a {answer.status}")
        if lengths:
            answer.remarks.append(f"Content-Length in a {answer.status}")
    return answer


def _body(answer: Answer, buffer: bytes, position: int, method: str, ended: bool) -> int:
    codings = list_members(answer.get("transfer-encoding"))
    lengths = answer.get("content-length")
    if method == "HEAD" or answer.status in (101, 204, 304):
        answer.complete = True
        return position
    if codings:
        answer.framing = "chunked"
        if codings != [b"chunked"]:
            answer.faults.append(f"Transfer-Encoding {codings!r}")
            return len(buffer)
        return _chunked(answer, buffer, position)
    if lengths and DIGITS.fullmatch(lengths[0]):
        answer.framing = "length"
        size = int(lengths[0])
        answer.body = buffer[position : position + size]
        answer.complete = len(answer.body) == size
        return position + len(answer.body)
    answer.framing = "close"
    answer.body = buffer[position:]
    answer.complete = ended and not answer.faults
    return len(buffer)


def _chunked(answer: Answer, buffer: bytes, position: int) -> int:
    while (end := buffer.find(b"\r\n", position)) >= 0:
        match = CHUNK_LINE.fullmatch(buffer[position:end])
        if match is None:
            answer.faults.append(f"chunk line {buffer[position:end][:40]!r}")
            return len(buffer)
        size, position = int(match[1], 16), end + 2
        if size == 0:
            return _trailers(answer, buffer, position)
        answer.body += buffer[position : position + size]
        after = buffer[position + size : position + size + 2]
        if not b"\r\n".startswith(after):
            answer.faults.append("chunk data without CRLF after it")
            return len(buffer)
        if len(after) < 2:
            return len(buffer)
        position += size + 2
    return len(buffer)


def _trailers(answer: Answer, buffer: bytes, position: int) -> int:
    while (end := buffer.find(b"\r\n", position)) >= 0:
        line, position = buffer[position:end], end + 2
        if not line:
            answer.complete = True
            return position
        if match := FIELD_LINE.fullmatch(line):
            answer.trailers.append((match[1].lower(), match[2]))
        else:
            answer.faults.append(f"trailer line {line[:60]!r}")
    return len(buffer)
