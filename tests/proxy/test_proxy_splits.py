"""Every split of a conversation into reads gives the same messages out, on both sides."""

from __future__ import annotations

import functools
import itertools
import re
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proxy.naive import Message, read_one
from tests.proxy.transcript import GET, OK, Conversation, Peer, message

_DATE = re.compile(rb"\r\nDate: [^\r]*GMT")


class Script(NamedTuple):
    """What the client sends in all, and what the upstream answers to each request that reaches it."""

    client: bytes
    responses: list[bytes]
    shared: bool = False
    hangs_up: bool = False  # the upstream, behind each response
    outcomes: int = -1  # responses that the client gets, interim ones too; -1 is one each


def _post(body: bytes, *fields: str) -> bytes:
    return message("POST /p HTTP/1.1", "Host: app", *fields, body=body)


_CHUNKS = b'5;a="b"\r\nhello\r\n01\r\n\r\r\nB\r\n0\r\n\r\n0\r\n\r\nx\r\n00;z\r\nX-Sum: 1\r\nx_sum:2\r\nDigest:\r\n\r\n'
_CHUNKED = message("HTTP/1.1 200 OK", "Date: x", "Transfer-Encoding: chunked", body=_CHUNKS)

_SCRIPTS = {
    "one after another": Script(GET + GET + GET, [OK, OK, OK]),
    "empty lines in front": Script(b"\r\n\r\n" + GET + b"\r\n" + GET, [OK, OK]),
    "bodies by length": Script(
        _post(b"\r\n\r\n", "Content-Length: 4") + GET + _post(GET, f"Content-Length: {len(GET)}"), [OK, OK, OK]
    ),
    "chunks and trailers both ways": Script(
        _post(_CHUNKS, "Transfer-Encoding: chunked", "TE: trailers") + GET, [_CHUNKED, _CHUNKED]
    ),
    "empty chunked bodies": Script(
        _post(b"0\r\n\r\n", "Transfer-Encoding: chunked") * 2,
        [message("HTTP/1.1 200 OK", "Date: x", "Transfer-Encoding: chunked", body=b"0\r\n\r\n")] * 2,
    ),
    "no body to HEAD, 204 and 304": Script(
        message("HEAD /h HTTP/1.1", "Host: app") + GET + GET + GET,
        [
            message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 5"),
            message("HTTP/1.1 204 No Content", "Date: x"),
            message("HTTP/1.1 304 Not Modified", "Date: x", "Content-Length: 9"),
            OK,
        ],
    ),
    "interim responses": Script(
        GET + GET,
        [
            message("HTTP/1.1 103 Early Hints", "Link: a")
            + message("HTTP/1.1 102 Processing", "Content-Length: 0")
            + OK,
            message("HTTP/1.1 100 Continue") + _CHUNKED,
        ],
        outcomes=5,
    ),
    "delimited by close": Script(
        GET + GET, [message("HTTP/1.0 200 OK", "Date: x", body="a\r\n\r\nb")] * 2, hangs_up=True
    ),
    "HTTP/1.0 client": Script(message("GET /0 HTTP/1.0") + GET, [_CHUNKED], outcomes=1),
    "HTTP/1.0 client that persists": Script(message("GET /0 HTTP/1.0", "Connection: keep-alive") + GET, [OK, OK]),
    "close in the midst": Script(message("GET /c HTTP/1.1", "Host: app", "Connection: close") + GET, [OK], outcomes=1),
    "upgrade that is not made": Script(
        message("GET /u HTTP/1.1", "Host: app", "Connection: upgrade, x-a", "Upgrade: h2c", "X-A: 1")
        + _post(b"hi", "Content-Length: 2", "Upgrade: h2c", "Connection: upgrade")
        + GET,
        [OK, OK, OK],
    ),
    "odd octets": Script(
        message("GET /%00?\xe4=[]|^ HTTP/1.1".replace("\xe4", "a"), "hOST:app", "A:\t\xff\xfe ", "B:", "A: '\"<>\\")
        + GET,
        [message("HTTP/1.1 299 \xe4\t", "date: x", "A:\t\xff ", "a:", "content-length: 2", body="hi"), OK],
    ),
    "answers of our own": Script(
        message("GET /nowhere HTTP/1.1", "Host: app")
        + message("OPTIONS /p HTTP/1.1", "Host: payments:8080", "Max-Forwards: 0")
        + message("GET http://payments:8080/p HTTP/1.1", "Host: app")
        + message("GET http://evil/ HTTP/1.1", "Host: app")
        + message("GET /p HTTP/1.1", "Host: payments:8080"),
        [OK, OK],
        shared=True,
        outcomes=5,
    ),
    "fault behind a sound request": Script(
        GET + b"GET / HTTP/1.1\r\nHost: app\r\nHost: app\r\n\r\n" + GET, [OK], outcomes=2
    ),
    "malformed response": Script(
        GET + GET, [message("HTTP/1.1 200 OK", "Transfer-Encoding: chunked, chunked"), OK]
    ),
    "octets behind the answer": Script(GET, [OK + b"x"]),
}  # fmt: skip


class Outcome(NamedTuple):
    """What came out on both sides, and how it ended."""

    requests: list[Message]
    responses: list[Message]
    left_over: bytes
    client: str
    connections: int


def _pieces(stream: bytes, cuts: frozenset[int]) -> list[bytes]:
    places = [0, *sorted(cut for cut in cuts if 0 < cut < len(stream)), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(places)]


def _play(script: Script, client_cuts: frozenset[int], upstream_cuts: frozenset[int]) -> Outcome:
    talk = Conversation(shared=script.shared)
    client = talk.client()
    responses = iter(script.responses)
    upstreams: list[tuple[Peer, bytearray]] = []
    requests: list[Message] = []

    def upstream_answers() -> None:
        moved = True
        while moved:
            moved = False
            while not talk.no_upstream:
                upstreams.append((talk.upstream(), bytearray()))
            for peer, stream in upstreams:
                stream += peer.takes()
                if (found := read_one(bytes(stream))) is None:
                    continue
                request, stream[:] = found
                requests.append(request)
                for piece in _pieces(next(responses), upstream_cuts):
                    peer.sends(piece)
                if script.hangs_up:
                    peer.half_closes()
                moved = True

    for piece in _pieces(script.client, client_cuts):
        client.sends(piece)
        upstream_answers()
    octets = _DATE.sub(b"", client.takes())
    came: list[Message] = []
    wanted = len(script.responses) if script.outcomes < 0 else script.outcomes
    while len(came) < wanted:
        head_only = script.client.startswith(b"HEAD") and not came
        found = read_one(octets, bodiless=head_only, ended=client.ended == "fin")
        assert found is not None, octets
        came.append(found[0])
        octets = found[1]
    ended = client.ended
    assert talk.is_at_rest()
    talk.leaves_nothing()
    return Outcome(requests, came, octets, ended, len(talk.dialed))


_WHOLE: frozenset[int] = frozenset()
_EACH = frozenset(range(1, 2000))


@functools.cache
def _in_one_read(name: str) -> Outcome:
    return _play(_SCRIPTS[name], _WHOLE, _WHOLE)


@pytest.mark.parametrize("name", _SCRIPTS)
def test_in_one_read_every_request_reaches_its_answer(name: str) -> None:
    outcome = _in_one_read(name)
    assert len(outcome.requests) == len(_SCRIPTS[name].responses)
    assert outcome.left_over == b""


@pytest.mark.parametrize("name", _SCRIPTS)
def test_octet_by_octet(name: str) -> None:
    assert _play(_SCRIPTS[name], _EACH, _EACH) == _in_one_read(name)


@pytest.mark.parametrize("name", _SCRIPTS)
def test_in_two_reads_wherever_they_part(name: str) -> None:
    script = _SCRIPTS[name]
    longest = max(len(script.client), *map(len, script.responses))
    for cut in range(1, longest):
        assert _play(script, frozenset({cut}), frozenset({cut})) == _in_one_read(name), cut


_CUTS = st.one_of(st.frozensets(st.integers(1, 400), max_size=12), st.just(frozenset(range(1, 500))))


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(_SCRIPTS)), _CUTS, _CUTS)
def test_in_any_reads(name: str, client_cuts: frozenset[int], upstream_cuts: frozenset[int]) -> None:
    assert _play(_SCRIPTS[name], client_cuts, upstream_cuts) == _in_one_read(name)
