"""What a peer may send at most, and what it may not send at all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httptools
import pytest

from tests.proxy.transcript import GET, GET_UPSTREAM, OK, OK_DOWNSTREAM, message

_CONTINUE = b"HTTP/1.1 100 \r\n\r\n"  # as short as they come
_SMALL = {"max_request_line": 100, "max_header": 200, "max_headers": 500, "max_header_count": 9}
_POST_CHUNKED = message("POST /a HTTP/1.1", "Host: app", "Transfer-Encoding: chunked")
_OK_CHUNKED = message("HTTP/1.1 200 OK", "Date: x", "Transfer-Encoding: chunked")


def _octet_by_octet(octets: bytes) -> list[bytes]:
    return [octets[at : at + 1] for at in range(len(octets))]


# -- interim responses


@pytest.mark.parametrize("at_once", [1, 7, 5000])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_flood_of_interim_responses_is_502_after_max_response_head_octets_in_all(
    converse, version: str, at_once: int
) -> None:
    talk = converse(max_response_head=1700)
    client = talk.client()
    client.sends(message(f"GET /a HTTP/{version}", "Host: app", "Connection: keep-alive"))
    upstream = talk.upstream()
    sent = 0
    while upstream.ended == "open":
        assert sent <= 100
        upstream.sends(_CONTINUE * at_once)
        sent += at_once
    interim, answer, _ = client.takes().partition(b"HTTP/1.1 502 ")
    assert answer
    assert interim.count(b"HTTP/1.1 100 ") == (100 if version == "1.1" else 0)
    assert client.ended == ("open" if version == "1.1" else "fin")
    assert talk.is_at_rest()


def test_interim_responses_up_to_that_pass(converse) -> None:
    talk = converse(max_response_head=1700)
    client = talk.client()
    for _ in range(2):  # counted anew for each request
        client.sends(GET)
        upstream = talk.upstream() if not talk.no_upstream else upstream  # noqa: F821
        upstream.sends(_CONTINUE * 95 + OK)
        octets = client.takes()
        assert octets.count(b"HTTP/1.1 100 ") == 95
        assert octets.endswith(OK_DOWNSTREAM)
    assert len(talk.dialed) == 1


def test_octets_behind_the_interim_response_that_is_too_much_are_not_looked_at(
    converse, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = _count_octets_shown_to(monkeypatch, "HttpResponseParser")
    talk = converse(max_response_head=1700)
    client = talk.client()
    client.sends(GET)
    talk.upstream().sends(_CONTINUE * 100_000)
    assert client.takes().count(b"HTTP/1.1 502 ") == 1
    assert sum(shown) <= 1700 + len(_CONTINUE)


_SPOILERS = [
    b"HTTP/1.0 100 Continue\r\n\r\n",
    b"HTTP/1.0 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\nTransfer-Encoding: chunked\r\n\r\n",
]


@pytest.mark.parametrize("interim", _SPOILERS)
@pytest.mark.parametrize("split", ["one read", "two reads", "octets"])
def test_interim_response_does_not_spoil_the_answer_behind_it(converse, interim: bytes, split: str) -> None:
    talk = converse()
    client = talk.client()
    octets = interim + OK
    reads = {"one read": [octets], "two reads": [interim, OK], "octets": _octet_by_octet(octets)}[split]
    for _ in range(2):  # the second time on the same connections
        client.sends(GET)
        upstream = talk.upstream() if not talk.no_upstream else upstream  # noqa: F821
        upstream.sends(*reads)
        got = client.takes()
        assert got.startswith(b"HTTP/1.1 1")
        assert got.endswith(b"\r\n\r\n" + OK_DOWNSTREAM)
        assert b"onnection" not in got
    assert (len(talk.dialed), client.ended) == (1, "open")


# -- trailers


def _trailers(size: int) -> bytes:
    """Trailer lines of that many octets in all, and the empty line."""
    lines = [b"A: " + b"x" * 95 + b"\r\n"] * (size // 100 - 1)
    return b"".join(lines) + b"A: " + b"x" * (size - 100 * len(lines) - 5) + b"\r\n\r\n"


@pytest.mark.parametrize("body", [b"", b"1\r\nx\r\n"])
@pytest.mark.parametrize("parts", [1, 2, 100])
def test_trailers_of_a_request_beyond_max_headers_are_refused(converse, body: bytes, parts: int) -> None:
    talk = converse(listener=_SMALL)
    client = talk.client()
    octets = body + b"0\r\n" + _trailers(600)
    size = -(-len(octets) // parts)
    client.sends(_POST_CHUNKED, *(octets[at : at + size] for at in range(0, len(octets), size)))
    client.gets_refusal(400, "BAD_REQUEST")
    upstream = talk.upstream()
    assert b"A: " not in upstream.takes()
    assert (client.ended, upstream.ended) == ("fin", "closed")
    assert talk.is_at_rest()


def test_trailers_of_a_request_in_one_read_with_all_of_it_are_refused_too(converse) -> None:
    talk = converse(listener=_SMALL)
    client = talk.client()
    client.sends(_POST_CHUNKED + b"1\r\nx\r\n0\r\n" + _trailers(600) + GET)
    client.gets_refusal(400, "BAD_REQUEST")
    assert client.ended == "fin"
    assert talk.is_at_rest()


@pytest.mark.parametrize("body", [b"", b"1\r\nx\r\n"])
@pytest.mark.parametrize("parts", [1, 2, 100])
def test_trailers_of_a_response_beyond_max_response_head_cut_it(converse, body: bytes, parts: int) -> None:
    talk = converse(max_response_head=500)
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    octets = body + b"0\r\n" + _trailers(600)
    size = -(-len(octets) // parts)
    upstream.sends(_OK_CHUNKED, *(octets[at : at + size] for at in range(0, len(octets), size)))
    got = client.takes()
    assert got.startswith(b"HTTP/1.1 200 ")
    assert not got.endswith(b"0\r\n\r\n")
    assert b"A: " not in got
    assert (client.ended, upstream.ended) == ("fin", "closed")
    assert talk.is_at_rest()


def test_trailers_of_a_response_in_one_read_with_its_head_make_it_502(converse) -> None:
    talk = converse(max_response_head=500)
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(_OK_CHUNKED + b"1\r\nx\r\n0\r\n" + _trailers(600))
    client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert upstream.ended == "closed"


def test_trailers_up_to_the_limits_pass_both_ways(converse) -> None:
    talk = converse(listener=_SMALL, max_response_head=500)
    client = talk.client()
    ending = b"0\r\n" + _trailers(490)
    client.sends(_POST_CHUNKED, b"1\r\nx\r\n" + ending)
    upstream = talk.upstream()
    assert upstream.takes().endswith(ending)
    upstream.sends(_OK_CHUNKED, b"1\r\nx\r\n" + ending)
    assert client.takes().endswith(ending)
    assert (client.ended, upstream.ended) == ("open", "open")


# -- requests that are refused


@pytest.mark.parametrize("method", ["CONNECT", "GET", "OPTIONS", "POST"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("split", [False, True])
def test_request_line_without_a_target_is_400(converse, method: str, version: str, split: bool) -> None:
    talk = converse()
    client = talk.client()
    octets = message(f"{method}  HTTP/{version}", "Host: app")
    client.sends(*(_octet_by_octet(octets) if split else [octets]))
    client.gets_refusal(400, "BAD_REQUEST")
    assert (client.ended, talk.dialed) == ("fin", [])


@pytest.mark.parametrize(
    "fields",
    [
        ["Max-Forwards: 5", "Max-Forwards: 5"],
        ["Max-Forwards: 0", "Max-Forwards: 0"],
        ["max-forwards: 5", "Max-Forwards: 7"],
        ["Max-Forwards: 5", "max-forwards: x"],
    ],
)
def test_second_max_forwards_is_400(converse, fields: list[str]) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("OPTIONS /a HTTP/1.1", "Host: app", *fields))
    assert client.gets_refusal(400, "BAD_REQUEST").detail == "Max-Forwards must be a number, stated once"
    assert (client.ended, talk.dialed) == ("fin", [])


@pytest.mark.parametrize("host", ["a%zz", "a%", "a%2", "%%41", "a%2g"])
@pytest.mark.parametrize("absolute", [False, True])
def test_host_with_a_broken_percent_encoding_is_400(converse, host: str, absolute: bool) -> None:
    talk = converse()
    client = talk.client()
    if absolute:
        client.sends(message(f"GET http://{host}/a HTTP/1.1", "Host: app"))
    else:
        client.sends(message("GET /a HTTP/1.1", f"Host: {host}"))
    client.gets_refusal(400, "BAD_REQUEST")
    assert (client.ended, talk.dialed) == ("fin", [])


@pytest.mark.parametrize(("authority", "keys"), [("evil:443", {}), ("payments:8080", {"max_tunnels": 0})])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("later", [True, False])
def test_request_behind_a_refused_connect_is_not_executed(
    converse, authority: str, keys: dict[str, int], shared: bool, later: bool
) -> None:
    talk = converse(shared=shared, prefix="/", **keys)
    client = talk.client()
    connect = message(f"CONNECT {authority} HTTP/1.1", f"Host: {authority}")
    client.sends(*([connect, GET] if later else [connect + GET]))
    client.gets_refusal(403, "NO_ROUTE")
    assert (client.ended, talk.dialed) == ("fin", [])


@pytest.mark.parametrize("method", ["FROB", "X-Y", "get", "GETS", "GE", "A" * 32])
@pytest.mark.parametrize("split", [False, True])
def test_unknown_method_is_501_in_one_piece_and_octet_by_octet(converse, method: str, split: bool) -> None:
    talk = converse()
    client = talk.client()
    octets = message(f"{method} /a HTTP/1.1", "Host: app")
    client.sends(*(_octet_by_octet(octets) if split else [octets]))
    client.gets_refusal(501, "NOT_IMPLEMENTED")
    assert (client.ended, talk.dialed) == ("fin", [])


@pytest.mark.parametrize("start", ["G\x00T /a HTTP/1.1", "G(T /a HTTP/1.1", f"{'A' * 33} /a HTTP/1.1", "\x16\x03\x01"])
@pytest.mark.parametrize("split", [False, True])
def test_nonsense_for_a_method_is_400_in_one_piece_and_octet_by_octet(converse, start: str, split: bool) -> None:
    talk = converse()
    client = talk.client()
    octets = message(start, "Host: app")
    client.sends(*(_octet_by_octet(octets) if split else [octets]))
    client.gets_refusal(400, "BAD_REQUEST")
    assert (client.ended, talk.dialed) == ("fin", [])


# -- work


def _count_octets_shown_to(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """How many octets the connections show to llhttp, call by call; bodies in the chunked coding aside."""
    shown: list[int] = []
    real: Any = getattr(httptools, name)

    class Parser:
        def __init__(self, protocol: object) -> None:
            self._parser = real(protocol)

        def feed_data(self, data: bytes) -> None:
            shown.append(len(data))
            self._parser.feed_data(data)

    monkeypatch.setattr(httptools, name, Parser)
    return shown


class _CountedLimits:
    """The settings of a listener, with how often each of them is asked for."""

    def __init__(self, settings: object) -> None:
        self._settings = settings
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.asked[name] += 1
        return getattr(self._settings, name)


def test_large_head_that_comes_octet_by_octet_is_parsed_and_measured_once(
    converse, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = _count_octets_shown_to(monkeypatch, "HttpRequestParser")
    talk = converse()
    limits = talk.listener.settings = _CountedLimits(talk.listener.settings)
    client = talk.client()
    fields = [f"A{number}: " + "a" * 300 for number in range(195)]
    head = message("GET /a HTTP/1.1", "Host: app", *fields)
    assert 58_000 < len(head) < 65_536
    client.sends(*_octet_by_octet(head))
    assert (limits.asked["max_header"], limits.asked["max_header_count"]) == (1, 1)  # each takes a look at every line
    assert sum(shown) == len(head)
    upstream = talk.upstream()
    upstream.gets(message("GET /a HTTP/1.1", "Host: payments:8080", *fields, "Via: 1.1 sidecar"))
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)


@pytest.mark.parametrize("split", [False, True])
def test_small_head_is_not_measured_line_by_line_at_all(converse, split: bool) -> None:
    talk = converse()
    limits = talk.listener.settings = _CountedLimits(talk.listener.settings)
    client = talk.client()
    client.sends(*(_octet_by_octet(GET) if split else [GET]))
    assert (limits.asked["max_header"], limits.asked["max_header_count"]) == (0, 0)
    talk.upstream().gets(GET_UPSTREAM)
