"""Upgrade, up to the moment when its tunnel stands or is refused (RFC 9110 section 7.8), told as conversations."""

from __future__ import annotations

import pytest

from tests.proxy.test_proxy_policies import FAIL, ask, counts, half_open, trip
from tests.proxy.transcript import GET, GET_UPSTREAM, OK, OK_DOWNSTREAM, message
from tests.proxy.tunnels import (
    SWITCHING,
    SWITCHING_DOWNSTREAM,
    UPGRADE,
    UPGRADE_UPSTREAM,
    counted,
    requests_of,
    tunnels_of,
)

_FRAMES = b"\x81\x05hello"
_SMUGGLED = message("GET /admin HTTP/1.1", "Host: app")


def _upgrade(*fields: str, start: str = "GET /chat HTTP/1.1") -> bytes:
    return message(start, "Host: app", *fields)


def _switch(*fields: str) -> bytes:
    return message("HTTP/1.1 101 Switching Protocols", *fields, "Connection: Upgrade")


# -- what the upstream gets


def test_upgrade_becomes_a_tunnel(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    upstream.gets(UPGRADE_UPSTREAM)
    client.gets_nothing()
    upstream.sends(SWITCHING)
    client.gets(SWITCHING_DOWNSTREAM)
    client.sends(b"ping")
    upstream.gets(b"ping")
    upstream.sends(b"pong")
    client.gets(b"pong")
    assert (client.ended, upstream.ended) == ("open", "open")


@pytest.mark.parametrize(
    ("fields", "upgrade"),
    [
        (["Connection: upgrade", "Upgrade: websocket"], "websocket"),
        (["connection: keep-alive, UPGRADE", "upgrade: WebSocket"], "WebSocket"),
        (["Connection: keep-alive", "Connection: Upgrade", "Upgrade: websocket"], "websocket"),
        (["Upgrade: websocket", "Connection: Upgrade"], "websocket"),
        (["Connection: Upgrade", "Upgrade: foo/2, websocket ,bar"], "foo/2, websocket ,bar"),
        (["Connection: Upgrade", "Upgrade: foo", "Upgrade: websocket"], "foo, websocket"),
        (["Connection: Upgrade", "Upgrade: foo", "upgrade:", "Upgrade: websocket"], "foo, , websocket"),
        (["Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0"], "websocket"),
        (["Connection: Upgrade", "Upgrade: websocket", "TE: trailers"], "websocket"),
        (["Connection: Upgrade, TE", "Upgrade: websocket", "TE: trailers"], "websocket"),
        (["Connection: Upgrade, Keep-Alive", "Keep-Alive: timeout=5", "Upgrade: websocket"], "websocket"),
        (["Connection: Upgrade", "Proxy-Connection: keep-alive", "Upgrade: websocket"], "websocket"),
        (["Connection: Upgrade", "Upgrade: h2o/1, httpx, xhttp/2"], "h2o/1, httpx, xhttp/2"),
    ],
)
def test_upgrade_is_forwarded_with_connection_of_our_own(converse, fields: list[str], upgrade: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(_upgrade(*fields))
    upstream = talk.upstream()
    lengths = [field for field in fields if field.startswith("Content-Length")]
    own = ["Connection: Upgrade", f"Upgrade: {upgrade}", "Via: 1.1 sidecar"]
    upstream.gets(message("GET /chat HTTP/1.1", "Host: payments:8080", *lengths, *own))
    assert tunnels_of(talk) == 1


def test_fields_that_connection_names_beside_upgrade_end_here(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(_upgrade("Connection: Upgrade, X-Hop", "X-Hop: 1", "Upgrade: websocket", "X-End: 2"))
    own = ["Connection: Upgrade", "Upgrade: websocket", "Via: 1.1 sidecar"]
    talk.upstream().gets(message("GET /chat HTTP/1.1", "Host: payments:8080", "X-End: 2", *own))


@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS", "DELETE"])
def test_any_method_without_a_body_may_upgrade(converse, method: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(_upgrade("Connection: Upgrade", "Upgrade: foo", start=f"{method} / HTTP/1.1"))
    talk.upstream().sends(message("HTTP/1.1 101 X", "Upgrade: foo", "Connection: Upgrade"), b"of foo")
    assert client.takes().endswith(b"\r\n\r\nof foo")


_PLAINLY = [
    (["Connection: Upgrade", "Upgrade: websocket", "Content-Length: 2"], b"hi"),
    (["Connection: Upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked"], b"2\r\nhi\r\n0\r\n\r\n"),
    (["Connection: Upgrade", "Upgrade: websocket", "Content-Length: 2", "Expect: 100-continue"], b"hi"),
    (["Upgrade: websocket"], b""),
    (["Connection: keep-alive", "Upgrade: websocket"], b""),
    (["Connection: upgraded", "Upgrade: websocket"], b""),
    (["Connection: Upgrade"], b""),
    (["Connection: Upgrade", "Upgrade:"], b""),
    (["Connection: Upgrade", "Upgrade: , ,"], b""),
    (["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"], b""),
    (["Connection: Upgrade", "Upgrade: H2C"], b""),
    (["Connection: Upgrade", "Upgrade: h2"], b""),
    (["Connection: Upgrade", "Upgrade: HTTP/2.0"], b""),
    (["Connection: Upgrade", "Upgrade: http/3, websocket"], b""),
    (["Connection: Upgrade", "Upgrade: websocket,\th2C"], b""),
    (["Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c"], b""),
    (["Connection: Upgrade", "Upgrade: H2/1"], b""),
]


@pytest.mark.parametrize(("fields", "body"), _PLAINLY)
@pytest.mark.parametrize("start", ["POST /a HTTP/1.1"])
def test_what_cannot_switch_goes_on_plainly(converse, start: str, fields: list[str], body: bytes) -> None:
    talk = converse()
    client = talk.client()
    client.sends(_upgrade(*fields, start=start) + body)
    upstream = talk.upstream()
    gone = ("Connection", "Upgrade", "HTTP2")
    left = [field for field in fields if not field.startswith((*gone, "Transfer-Encoding"))]
    own = [field for field in fields if field.startswith("Transfer-Encoding")]
    upstream.gets(message("POST /a HTTP/1.1", "Host: payments:8080", *left, *own, "Via: 1.1 sidecar", body=body))
    assert tunnels_of(talk) == 0
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    client.sends(GET)
    upstream.gets(GET_UPSTREAM)


@pytest.mark.parametrize("version", ["1.0"])
def test_http_1_0_cannot_switch(converse, version: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(_upgrade("Connection: Upgrade, keep-alive", "Upgrade: websocket", start=f"GET /a HTTP/{version}"))
    upstream = talk.upstream()
    upstream.gets(message("GET /a HTTP/1.1", "Host: payments:8080", "Via: 1.0 sidecar"))
    upstream.sends(SWITCHING)
    assert client.gets_refusal(502, "DOWNSTREAM_FAILURE").proxy_error == "http_protocol_error"


def test_without_tunnels_upgrade_goes_on_plainly(converse) -> None:
    talk = converse(max_tunnels=0)
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    upstream.gets(message("GET /chat HTTP/1.1", "Host: payments:8080", "Key: k", "Via: 1.1 sidecar"))
    upstream.sends(SWITCHING)
    assert client.gets_refusal(502, "DOWNSTREAM_FAILURE").proxy_error == "http_protocol_error"


# -- the 101, as the application gets it


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        (["upgrade: websocket", "connection: upgrade"], []),
        (["Date: x", "Upgrade: websocket", "Connection: Upgrade"], ["Date: x"]),
        (["Upgrade: websocket", "Connection: Upgrade, X-Hop", "X-Hop: 1", "A: 1"], ["A: 1"]),
        (["Keep-Alive: timeout=5", "Connection: Upgrade, Keep-Alive", "Upgrade: websocket"], []),
        (["Content-Length: 5", "Upgrade: websocket", "Connection: Upgrade"], []),
        (
            ["Upgrade: websocket", "Connection: Upgrade", "Set-Cookie: a", "Set-Cookie: b"],
            ["Set-Cookie: a", "Set-Cookie: b"],
        ),
        (["Proxy-Connection: close", "Upgrade: websocket", "Connection: Upgrade, close"], []),
        (["Upgrade: websocket", "Connection: Upgrade", "Transfer-Encoding: chunked"], []),
    ],
)
def test_head_of_the_101_says_connection_and_upgrade_and_via(converse, sent: list[str], got: list[str]) -> None:
    talk = converse()
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 101 Switching Protocols", *sent))
    own = ["Via: 1.1 sidecar", "Connection: Upgrade", "Upgrade: websocket"]
    client.gets(message("HTTP/1.1 101 Switching Protocols", *got, *own))
    client.sends(b"x")
    upstream.takes()
    upstream.sends(b"y")
    client.gets(b"y")


@pytest.mark.parametrize(
    ("asked", "agreed", "got"),
    [
        (["websocket"], ["WebSocket"], "WebSocket"),
        (["foo/2, websocket"], ["foo/2"], "foo/2"),
        (["foo/2, websocket"], ["websocket, foo/2"], "websocket, foo/2"),
        (["foo", "bar"], ["bar", "foo"], "bar, foo"),
    ],
)
def test_protocol_agreed_to_is_one_of_those_asked_for(converse, asked: list[str], agreed: list[str], got: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(_upgrade("Connection: Upgrade", *(f"Upgrade: {each}" for each in asked)))
    talk.upstream().sends(message("HTTP/1.1 101 X", "Connection: Upgrade", *(f"Upgrade: {each}" for each in agreed)))
    client.gets(message("HTTP/1.1 101 X", "Via: 1.1 sidecar", "Connection: Upgrade", f"Upgrade: {got}"))


@pytest.mark.parametrize("split", [1, 7, 1000])
def test_octets_behind_the_101_are_of_the_tunnel(converse, split: int) -> None:
    talk = converse()
    client = talk.client()
    client.sends(UPGRADE)
    octets = SWITCHING + _FRAMES + b"HTTP/1.1 200 OK\r\n\r\n"
    talk.upstream().sends(*(octets[at : at + split] for at in range(0, len(octets), split)))
    client.gets(SWITCHING_DOWNSTREAM + _FRAMES + b"HTTP/1.1 200 OK\r\n\r\n")
    assert counted(talk)["octets"] == [0, len(_FRAMES) + 19]


@pytest.mark.parametrize("at_once", [True, False])
def test_interim_heads_in_front_of_the_101_pass(converse, at_once: bool) -> None:
    talk = converse()
    client = talk.client()
    client.sends(UPGRADE)
    hints = message("HTTP/1.1 103 Early Hints", "Link: </a>")
    reads = [hints + hints + SWITCHING + b"x"] if at_once else [hints, hints, SWITCHING, b"x"]
    talk.upstream().sends(*reads)
    passed = message("HTTP/1.1 103 Early Hints", "Link: </a>", "Via: 1.1 sidecar")
    client.gets(2 * passed + SWITCHING_DOWNSTREAM + b"x")


# -- octets that the application sends before there is an answer


@pytest.mark.parametrize("reads", [[UPGRADE + _FRAMES], [UPGRADE, _FRAMES], [UPGRADE[:-1], UPGRADE[-1:] + _FRAMES]])
def test_octets_sent_ahead_go_to_an_upstream_that_agrees(converse, reads: list[bytes]) -> None:
    talk = converse()
    client = talk.client()
    client.sends(*reads)
    upstream = talk.upstream()
    upstream.gets(UPGRADE_UPSTREAM)
    client.sends(b"more")
    upstream.gets_nothing()
    upstream.sends(SWITCHING)
    upstream.gets(_FRAMES + b"more")
    client.sends(b"!")
    upstream.gets(b"!")
    assert counted(talk)["octets"] == [len(_FRAMES) + 5, 0]


def test_octets_sent_ahead_are_read_as_far_as_max_read_ahead(converse) -> None:
    talk = converse(listener={"max_read_ahead": 100})
    client = talk.client()
    client.sends(UPGRADE, b"a" * 60, b"b" * 60, b"c" * 60, b"d" * 60)
    assert not client.transport.reading
    upstream = talk.upstream()
    upstream.gets(UPGRADE_UPSTREAM)
    upstream.sends(SWITCHING)
    upstream.gets(b"a" * 60 + b"b" * 60 + b"c" * 60 + b"d" * 60)
    assert (client.transport.reading, client.transport.pauses) == (True, 1)


_REFUSED = message("HTTP/1.1 403 Forbidden", "Date: x", "Content-Length: 2", body="no")


@pytest.mark.parametrize("reads", [[UPGRADE + _SMUGGLED], [UPGRADE, _SMUGGLED], [UPGRADE[:-1], UPGRADE[-1:] + b"G"]])
def test_octets_sent_ahead_are_nobodys_request_when_the_upstream_does_not_agree(converse, reads: list[bytes]) -> None:
    talk = converse()
    client = talk.client()
    client.sends(*reads)
    upstream = talk.upstream()
    upstream.gets(UPGRADE_UPSTREAM)
    upstream.sends(_REFUSED)
    client.gets(
        message(
            "HTTP/1.1 403 Forbidden",
            "Date: x",
            "Content-Length: 2",
            "Via: 1.1 sidecar",
            "Connection: close",
            body="no",
        )
    )
    client.sends(_SMUGGLED, _SMUGGLED)
    upstream.gets_nothing()
    assert (client.ended, talk.no_upstream, tunnels_of(talk)) == ("fin", True, 0)


def test_octets_sent_within_the_refusal_are_nobodys_request_either(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    upstream.takes()
    upstream.sends(_REFUSED[:-1])
    client.sends(_SMUGGLED)
    upstream.sends(b"o")
    assert client.takes().endswith(b"no")
    upstream.gets_nothing()
    assert (client.ended, talk.no_upstream) == ("fin", True)


@pytest.mark.parametrize(
    "keys",
    [
        {"max_tunnels": 0},
        {"rate_limit": {"rate": "1/minute", "burst": 1}},
        {"circuit_breaker": {"consecutive_failures": 1}},
        {"shared": True, "hosts": ["elsewhere"]},
    ],
)
def test_octets_sent_ahead_are_nobodys_request_behind_an_answer_of_our_own(converse, keys) -> None:
    talk = converse(**keys)
    if "rate_limit" in keys or "circuit_breaker" in keys:
        ask(talk, FAIL)
    client = talk.client()
    client.sends(UPGRADE + _SMUGGLED)
    if "max_tunnels" in keys:
        talk.upstream().sends(SWITCHING)
    assert client.gets_answer().fields["connection"] == "close"
    client.sends(_SMUGGLED)
    client.gets_nothing()
    assert (client.ended, talk.no_upstream) == ("fin", True)


def test_octets_sent_ahead_are_nobodys_request_behind_options_that_end_here(converse) -> None:
    talk = converse()
    client = talk.client()
    options = _upgrade("Connection: Upgrade", "Upgrade: foo", "Max-Forwards: 0", start="OPTIONS / HTTP/1.1")
    client.sends(options + _SMUGGLED)
    assert b"\r\nConnection: close\r\n" in client.takes()
    assert (client.ended, talk.dialed) == ("fin", [])


@pytest.mark.parametrize("keys", [{}, {"shared": True, "hosts": ["elsewhere"]}])
def test_octets_sent_behind_the_refusal_are_nobodys_request_either(converse, keys) -> None:
    talk = converse(**keys)
    client = talk.client()
    client.sends(UPGRADE)
    if not keys:
        talk.upstream().sends(_REFUSED)
    assert b"\r\nConnection: close\r\n" in client.takes()
    client.sends(_SMUGGLED)
    client.gets_nothing()
    assert (client.ended, talk.no_upstream) == ("fin", True)


def test_upgrade_behind_requests_sent_ahead_waits_its_turn(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET + UPGRADE + _FRAMES)
    upstream = talk.upstream()
    upstream.gets(GET_UPSTREAM)
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    upstream.gets(UPGRADE_UPSTREAM)
    upstream.sends(SWITCHING)
    client.gets(SWITCHING_DOWNSTREAM)
    upstream.gets(_FRAMES)


# -- a 101 that is wrong


@pytest.mark.parametrize(
    ("asked", "switch", "says"),
    [
        (GET, SWITCHING, "which nobody asked for"),
        (_upgrade("Upgrade: websocket"), SWITCHING, "which nobody asked for"),
        (_upgrade("Connection: Upgrade", "Upgrade: h2c"), _switch("Upgrade: h2c"), "which nobody asked for"),
        (UPGRADE, message("HTTP/1.1 101 X", "Connection: Upgrade"), "without Upgrade, or without Connection: Upgrade"),
        (UPGRADE, message("HTTP/1.1 101 X", "Upgrade: websocket"), "without Upgrade, or without Connection: Upgrade"),
        (UPGRADE, message("HTTP/1.1 101 X", "Upgrade: websocket", "Connection: close"), "without Connection: Upgrade"),
        (UPGRADE, _switch("Upgrade:"), "without Upgrade, or without Connection: Upgrade"),
        (UPGRADE, _switch("Upgrade: ,"), "to a protocol that was not asked for"),
        (UPGRADE, _switch("Upgrade: h2c"), "to a protocol that was not asked for"),
        (UPGRADE, _switch("Upgrade: websocket, h2c"), "to a protocol that was not asked for"),
        (UPGRADE, _switch("Upgrade: websocket", "Upgrade: x"), "to a protocol that was not asked for"),
        (UPGRADE, _switch("Upgrade: websocket/13"), "to a protocol that was not asked for"),
        (UPGRADE, _switch("Upgrade: websocket", "Transfer-Encoding: gzip"), "cannot be relied on"),
    ],
)
@pytest.mark.parametrize("hinted", [False, True])
def test_switch_that_was_not_asked_for_is_502(converse, asked: bytes, switch: bytes, says: str, hinted: bool) -> None:
    talk = converse(circuit_breaker={"consecutive_failures": 2})
    client = talk.client()
    client.sends(asked)
    upstream = talk.upstream()
    if hinted:
        upstream.sends(message("HTTP/1.1 103 Early Hints"))
        client.takes()
    upstream.sends(switch + OK)
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert says in answer.detail
    assert answer.proxy_error == "http_protocol_error"
    assert (client.ended, upstream.ended) == ("fin" if asked is UPGRADE else "open", "closed")
    assert (counts(talk), tunnels_of(talk), counted(talk)["opened"]) == ((0, 1, 0), 0, 0)
    client.sends(GET)
    assert talk.no_upstream == (asked is UPGRADE)


def test_switch_amid_the_body_of_a_request_is_502_and_ends_its_connection(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Content-Length: 9", body="abc"))
    talk.upstream().sends(SWITCHING)
    client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    client.sends(b"defghi" + _SMUGGLED)
    assert (client.ended, talk.no_upstream) == ("fin", True)


def test_second_101_is_the_tunnels(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(UPGRADE)
    talk.upstream().sends(SWITCHING + SWITCHING)
    client.gets(SWITCHING_DOWNSTREAM + SWITCHING)


# -- answers that are no 101


@pytest.mark.parametrize("status", ["403 Forbidden", "426 Upgrade Required", "200 OK", "503 Service Unavailable"])
@pytest.mark.parametrize("fields", [["Content-Length: 2"], ["Content-Length: 2", "Upgrade: x", "Connection: Upgrade"]])
def test_upgrade_refused_is_an_ordinary_response(converse, status: str, fields: list[str]) -> None:
    talk = converse(concurrency={"limit": 1})
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    upstream.takes()
    assert (tunnels_of(talk), talk.gate.slots.in_use) == (1, 1)
    upstream.sends(message(f"HTTP/1.1 {status}", "Date: x", *fields, body="no"))
    own = ["Via: 1.1 sidecar", "Connection: close"]
    client.gets(message(f"HTTP/1.1 {status}", "Date: x", "Content-Length: 2", *own, body="no"))
    assert (tunnels_of(talk), talk.gate.slots.in_use, client.ended) == (0, 0, "fin")
    other = talk.client()
    other.sends(GET)  # on the upstream's same connection
    upstream.gets(GET_UPSTREAM)
    upstream.sends(OK)
    other.gets(OK_DOWNSTREAM)
    assert len(talk.dialed) == 1


def test_upgrade_refused_in_the_chunked_coding_is_an_ordinary_response(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", "Transfer-Encoding: chunked", body="2\r\nhi\r\n0\r\n\r\n"))
    assert client.takes().endswith(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
    assert client.ended == "fin"
    upstream.takes()
    talk.client().sends(GET)
    upstream.gets(GET_UPSTREAM)


# -- policies


def test_slot_is_held_until_the_101_and_free_behind_it(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 1, "max_wait": "5s"})
    client, other = talk.client(), talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    other.sends(GET)
    assert (talk.gate.slots.in_use, len(talk.gate.queue), talk.no_upstream) == (1, 1, True)
    upstream.sends(SWITCHING)
    assert len(talk.gate.queue) == 0
    talk.upstream().sends(OK)
    other.gets(OK_DOWNSTREAM)
    assert talk.gate.slots.in_use == 0
    client.sends(b"x")
    assert upstream.takes().endswith(b"x")


def test_upgrade_waits_in_the_queue_for_a_slot(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 1, "max_wait": "5s"})
    other, client = talk.client(), talk.client()
    other.sends(GET)
    first = talk.upstream()
    first.takes()
    client.sends(UPGRADE + _FRAMES)
    assert (talk.no_upstream, tunnels_of(talk)) == (True, 1)
    talk.passes(3)
    first.sends(OK)
    first.gets(UPGRADE_UPSTREAM)
    first.sends(SWITCHING)
    client.gets(SWITCHING_DOWNSTREAM)
    first.gets(_FRAMES)


def test_upgrade_that_waits_in_the_queue_in_vain_gives_its_tunnel_back(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 1, "max_wait": "1s"}, max_tunnels=1)
    other, client = talk.client(), talk.client()
    other.sends(GET)
    client.sends(UPGRADE)
    assert tunnels_of(talk) == 1
    talk.passes(1.1)
    client.gets_refusal(503, "CONCURRENCY_LIMITED")
    assert tunnels_of(talk) == 0


def test_open_circuit_refuses_an_upgrade(converse) -> None:
    talk = converse(circuit_breaker={"consecutive_failures": 1})
    trip(talk)
    client = talk.client()
    client.sends(UPGRADE)
    client.gets_refusal(503, "CIRCUIT_OPEN")
    assert (client.ended, tunnels_of(talk)) == ("fin", 0)


def test_tunnel_is_the_success_of_its_trial(converse) -> None:
    talk = converse(
        circuit_breaker={"consecutive_failures": 1, "half_open": {"trials": 1, "successes": 1}},
    )
    half_open(talk)
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    upstream.takes()
    assert ask(talk) == 503
    upstream.sends(SWITCHING)
    assert talk.state == "closed"
    upstream.resets()  # which is no failure of any call
    assert talk.state == "closed"
    assert client.ended == "reset"


def test_wrong_switch_is_the_failure_of_its_trial(converse) -> None:
    talk = converse(circuit_breaker={"consecutive_failures": 1})
    half_open(talk)
    client = talk.client()
    client.sends(UPGRADE)
    talk.upstream().sends(_switch("Upgrade: other"))
    client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert talk.state == "open"


def test_tunnel_ends_no_streak_twice_and_counts_as_one_success(converse) -> None:
    talk = converse(candidates={"c": {"concurrency": {"limit": 1}}})
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    upstream.sends(SWITCHING)
    assert counts(talk) == (1, 0, 0)
    upstream.half_closes()
    client.half_closes()
    assert counts(talk) == (1, 0, 0)
    assert talk.dependency.admission.candidates[0].gate.slots.in_use == 0


def test_rate_limit_refuses_an_upgrade_without_a_token(converse) -> None:
    talk = converse(rate_limit={"rate": "1/minute", "burst": 1})
    assert ask(talk) == 200
    client = talk.client()
    client.sends(UPGRADE)
    client.gets_refusal(429, "RATE_LIMITED")
    assert tunnels_of(talk) == 0


def test_upgrade_is_tried_again_on_another_connection(converse) -> None:
    talk = converse(retry={"attempts": 2, "on": [503]})
    client = talk.client()
    client.sends(UPGRADE + _FRAMES)
    upstream = talk.upstream()
    upstream.takes()
    upstream.sends(FAIL)
    assert tunnels_of(talk) == 1
    talk.passes(1)
    upstream.gets(UPGRADE_UPSTREAM)
    upstream.sends(SWITCHING)
    client.gets(SWITCHING_DOWNSTREAM)
    upstream.gets(_FRAMES)
    (line,) = talk.log.lines or [None]
    assert line is None  # of the tunnel there is none before its end


def test_upgrade_that_is_not_tried_again_gives_its_tunnel_back(converse) -> None:
    talk = converse(retry={"attempts": 2, "on": [503]}, max_tunnels=1)
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    upstream.sends(FAIL)
    talk.passes(1)
    upstream.sends(FAIL)
    assert client.takes().startswith(b"HTTP/1.1 503 ")
    assert tunnels_of(talk) == 0


def test_dead_connection_under_an_upgrade_is_replaced_silently(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    first = talk.upstream()
    first.sends(OK)
    client.takes()
    client.sends(UPGRADE + _FRAMES)
    first.half_closes()
    second = talk.upstream()
    second.gets(UPGRADE_UPSTREAM)
    second.sends(SWITCHING)
    client.gets(SWITCHING_DOWNSTREAM)
    second.gets(_FRAMES)
    assert talk.pool.replaced == 1


def test_fallback_stands_in_for_a_tunnel_that_cannot_be(converse) -> None:
    keys = {"on": ["DOWNSTREAM_FAILURE", "CONCURRENCY_LIMITED"], "methods": ["GET"], "status": 203, "body": "old"}
    talk = converse(fallback=keys, max_tunnels=1)
    client = talk.client()
    client.sends(UPGRADE)
    second = talk.client()
    second.sends(UPGRADE)
    assert second.gets_answer().body == b"old"
    talk.upstream().resets()
    answer = client.gets_answer()
    assert (answer.status, answer.body) == (203, b"old")
    assert tunnels_of(talk) == 0


# -- as many tunnels as may be


def test_tunnel_too_many_is_refused_before_anything_is_asked(converse) -> None:
    talk = converse(max_tunnels=2, rate_limit={"rate": "1/minute", "burst": 4})
    clients = [talk.client() for _ in range(2)]
    for client in clients:
        client.sends(UPGRADE)
    stands, is_being_set_up = talk.upstream(), talk.upstream()
    stands.sends(SWITCHING)
    third = talk.client()
    third.sends(UPGRADE)
    answer = third.gets_refusal(503, "CONCURRENCY_LIMITED")
    assert answer.detail == (
        "2 tunnels to payments stand or are being set up, and no more may (max_tunnels); when one ends is not known"
    )
    assert (answer.fields["retry-after"], answer.proxy_error) == ("1", "connection_limit_reached")
    assert (third.ended, talk.no_upstream) == ("fin", True)
    assert talk.gate.bucket.tokens(talk.deadlines.read()) == pytest.approx(2)
    stands.resets()
    fourth = talk.client()
    fourth.sends(UPGRADE)
    talk.upstream().sends(SWITCHING)
    fourth.gets(SWITCHING_DOWNSTREAM)
    fourth.resets()
    is_being_set_up.sends(_REFUSED)
    assert tunnels_of(talk) == 0


def _refused(talk, client, upstream) -> None:
    upstream.sends(_REFUSED)


def _failed(talk, client, upstream) -> None:
    upstream.resets()


def _client_gone(talk, client, upstream) -> None:
    client.resets()


def _timeout(talk, client, upstream) -> None:
    talk.passes(6)


def _drain(talk, client, upstream) -> None:
    talk.do(client.protocol.end)


def _abort(talk, client, upstream) -> None:
    talk.do(talk.listener.abort)


def _tunnel_over(talk, client, upstream) -> None:
    upstream.sends(SWITCHING)
    assert tunnels_of(talk) == 1
    upstream.half_closes()
    client.half_closes()


def _tunnel_reset(talk, client, upstream) -> None:
    upstream.sends(SWITCHING)
    client.resets()


@pytest.mark.parametrize(
    "end", [_refused, _failed, _client_gone, _timeout, _drain, _abort, _tunnel_over, _tunnel_reset]
)
def test_tunnel_is_given_back_however_it_ends(converse, end) -> None:
    talk = converse(max_tunnels=1, concurrency={"limit": 1})
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    assert tunnels_of(talk) == 1
    end(talk, client, upstream)
    assert (tunnels_of(talk), talk.gate.slots.in_use) == (0, 0)
    assert (talk.listener.in_flight, counted(talk)["in_flight"]) == (0, 0)
    assert sum(requests_of(talk).values()) == 1


# -- the client


@pytest.mark.parametrize("way", ["resets", "half_closes", "closes"])
def test_client_that_leaves_before_the_101_ends_the_upstreams_part(converse, way: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    getattr(client, way)()
    assert (client.ended, upstream.ended) == ("closed", "closed")
    assert (counts(talk), talk.listener.connections) == ((0, 0, 1), 0)


def test_client_that_has_closed_its_side_before_the_101_is_heard_of_in_the_tunnel(converse) -> None:
    talk = converse(listener={"allow_half_close": True})
    client = talk.client()
    client.sends(UPGRADE + _FRAMES)
    client.half_closes()
    upstream = talk.upstream()
    upstream.sends(SWITCHING)
    assert upstream.takes().endswith(_FRAMES)
    assert (client.ended, upstream.ended) == ("open", "fin")
    upstream.sends(b"bye")
    client.gets(SWITCHING_DOWNSTREAM + b"bye")
    upstream.half_closes()
    assert (client.ended, upstream.ended) == ("closed", "closed")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("error", [None, ConnectionResetError(104, "Connection reset by peer")])
def test_client_that_leaves_as_the_101_comes_leaves_no_tunnel_behind(converse, tls: bool, error) -> None:
    talk = converse(max_tunnels=1)
    client = talk.client(tls=tls)
    client.sends(UPGRADE)
    upstream = talk.upstream()
    with talk.loop.running():
        client.transport.fail(error)  # of which nobody has been told yet
        upstream.transport.arrive(SWITCHING)
    talk.loop.settle()
    assert upstream.ended == "closed"
    assert (tunnels_of(talk), talk.listener.connections, talk.listener.tunnels) == (0, 0, 0)
    assert (counted(talk)["opened"], counted(talk)["in_flight"]) == (0, 0)


# -- drain


def test_draining_listener_lets_upgrades_through(converse) -> None:
    talk = converse()
    talk.listener.draining = True
    client = talk.client()
    client.sends(UPGRADE)
    talk.upstream().sends(SWITCHING)
    client.gets(SWITCHING_DOWNSTREAM)


def test_upgrade_without_an_answer_is_told_when_the_drain_is_over(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(UPGRADE)
    upstream = talk.upstream()
    talk.do(client.protocol.end)
    client.gets_refusal(503, "DRAINING")
    assert (client.ended, upstream.ended) == ("fin", "closed")
