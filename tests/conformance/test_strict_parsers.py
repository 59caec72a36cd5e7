"""The two parsers of the oracle: what they call ambiguous, and what they let pass."""

from __future__ import annotations

import asyncio

import pytest

from .answers import parse_answers
from .strict_request import Malformed, Request, marks, read_body, read_head

HOST = b"Host: a\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST


def parse(octets: bytes) -> Request:
    """Read one request from octets that end there."""

    async def read() -> Request:
        reader = asyncio.StreamReader()
        reader.feed_data(octets)
        reader.feed_eof()
        request = Request()
        try:
            await read_head(reader, request)
            await read_body(reader, request)
        except Malformed:
            request.complete = True
        except asyncio.IncompleteReadError:
            request.aborted = True
        return request

    return asyncio.run(read())


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", "request line"),
        (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", "request line"),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", "version"),
        (b"GET / HTTP/1.1\n" + HOST + b"\r\n", "bare LF"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\rc\r\n\r\n", "bare CR"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\0c\r\n\r\n", "NUL"),
        (b"GET / HTTP/1.1\r\n" + HOST + b" A: b\r\n\r\n", "folded header"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A : b\r\n\r\n", "header line"),
        (b"GET / HTTP/1.1\r\n\r\n", "0 Host lines"),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", "2 Host lines"),
        (POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "Content-Length"),
        (POST + b"Content-Length: +1\r\n\r\nx", "Content-Length"),
        (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "together"),
        (POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding"),
        (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding"),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.0"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n", "chunk line"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\nx\r\n0\r\n\r\n", "chunk line"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", "bare LF"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n", "chunk data"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nbad\r\n\r\n", "trailer line"),
    ],
)
def test_ambiguous_request_is_an_error(octets: bytes, error: str) -> None:
    """What two parsers could read differently is named."""
    request = parse(octets)
    assert any(error in found for found in request.errors), request.errors


@pytest.mark.parametrize(
    ("octets", "body"),
    [
        (POST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
        (POST + b"Content-Length: 003\r\n\r\nabc", b"abc"),
        (
            POST + b'Transfer-Encoding: Chunked\r\n\r\n1;a=b;c="d;e"\r\nx\r\n002\r\nyz\r\n0\r\nT: v\r\n\r\n',
            b"xyz",
        ),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b""),
        (b"GET /?a=%00 HTTP/1.0\r\n\r\n", b""),
    ],
)
def test_clean_request_has_no_error(octets: bytes, body: bytes) -> None:
    """What the grammar allows is whole, clean and has its body."""
    request = parse(octets)
    assert (request.complete, request.errors, request.body) == (True, [], body)


@pytest.mark.parametrize("cut", range(1, len(POST + b"Content-Length: 3\r\n\r\nabc")))
def test_every_cut_of_a_request_is_unfinished(cut: int) -> None:
    """A request that lacks octets is neither whole nor wrong."""
    request = parse((POST + b"Content-Length: 3\r\n\r\nabc")[:cut])
    assert (request.complete, request.aborted) == (False, True)


@pytest.mark.parametrize(
    ("octets", "remark"),
    [
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "invalid Host"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: \x01\r\n\r\n", "control octet"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 1\r\n\r\n", "forbidden trailer"),
    ],
)
def test_untidy_request_is_remarked_upon(octets: bytes, remark: str) -> None:
    """What has one meaning and is still not right is no error."""
    request = parse(octets)
    assert not request.errors
    assert any(remark in found for found in request.remarks), request.remarks


@pytest.mark.parametrize(
    ("octets", "mark"),
    [
        (b"GET /t/one?x HTTP/1.1\r\n" + HOST + b"\r\n", ("t", "one")),
        (b"GET /smuggled/two HTTP/1.1\r\n" + HOST + b"\r\n", ("smuggled", "two")),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"X-Case: three\r\n\r\n", ("t", "three")),
        (b"GET /canary/four HTTP/1.1\r\nHo", ("canary", "four")),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Referer: /t/five\r\n\r\n", None),
    ],
)
def test_request_names_its_case(octets: bytes, mark: tuple[str, str] | None) -> None:
    """By X-Case, by target, or by its first octets where no head could be read."""
    assert marks(parse(octets)) == mark


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("octets", "method", "framing", "body"),
    [
        (OK + b"Content-Length: 2\r\n\r\nab", "GET", "length", b"ab"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: v\r\n\r\n", "GET", "chunked", b"ab"),
        (OK + b"\r\nab", "GET", "close", b"ab"),
        (OK + b"Content-Length: 2\r\n\r\n", "HEAD", "none", b""),
        (b"HTTP/1.1 304 \r\nContent-Length: 2\r\n\r\n", "GET", "none", b""),
        (b"HTTP/1.1 103 E\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nab", "GET", "length", b"ab"),
    ],
)
def test_answer_ends_where_its_framing_says(octets: bytes, method: str, framing: str, body: bytes) -> None:
    """Each framing gives one whole answer, and no cut of it does."""
    received = parse_answers(octets, [method], ended=True)
    [answer] = received.finals
    assert (answer.complete, answer.framing, answer.body) == (True, framing, body)
    assert not answer.faults
    if framing != "close":
        for cut in range(len(octets)):
            assert parse_answers(octets[:cut], [method], ended=True).complete == 0


def test_body_that_ends_with_a_reset_is_cut() -> None:
    """Only FIN ends a close-delimited body."""
    assert parse_answers(OK + b"\r\nab", ["GET"], ended=True, clean_end=False).complete == 0


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        (b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "together"),
        (b"Content-Length: 1\r\nContent-Length: 1\r\n", "Content-Length"),
        (b"A: b\r\n c\r\n", "folded"),
        (b"A : b\r\n", "header line"),
        (b"A: b\rC: d\r\n", "header line"),
        (b"A: \0\r\n", "header line"),
        (b"Transfer-Encoding: gzip\r\n", "Transfer-Encoding"),
    ],
)
def test_ambiguous_answer_is_a_fault(head: bytes, fault: str) -> None:
    """What a client could read in two ways is named."""
    [answer] = parse_answers(OK + head + b"\r\n", ["GET"], ended=False).finals
    assert any(fault in found for found in answer.faults), answer.faults


@pytest.mark.parametrize("octets", [b"SSH-2.0-x\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 99 \r\n\r\n", b"\x15\x03"])
def test_what_is_not_http_is_garbage(octets: bytes) -> None:
    """Octets without a status line of HTTP/1 are no answer."""
    received = parse_answers(octets, ["GET"], ended=True)
    assert (received.finals, received.garbage) == ([], octets)
