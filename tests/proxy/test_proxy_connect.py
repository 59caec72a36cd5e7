"""CONNECT, up to the moment when its tunnel stands or is refused (RFC 9110 section 9.3.6), told as conversations."""

from __future__ import annotations

import errno

import pytest

from sidecar.config import Upstream
from tests.proxy.test_proxy_policies import ask, counts, half_open, trip
from tests.proxy.transcript import GET, OK, OK_DOWNSTREAM, message
from tests.proxy.tunnels import CONNECT, ESTABLISHED, counted, requests_of, tunnels_of

_HELLO = b"\x16\x03\x01\x00\x05hello"
_SMUGGLED = message("GET /admin HTTP/1.1", "Host: app")
_REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


def _connect(authority: str, *fields: str, version: str = "1.1") -> bytes:
    return message(f"CONNECT {authority} HTTP/{version}", f"Host: {authority}", *fields)


def test_connect_becomes_a_tunnel(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(CONNECT)
    client.gets(ESTABLISHED)
    upstream = talk.upstream()
    upstream.gets_nothing()
    assert upstream.address == ("payments", 8080)
    client.sends(_HELLO)
    upstream.gets(_HELLO)
    upstream.sends(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client.gets(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client.sends(_SMUGGLED)  # which is none here: the octets are the dependency's
    upstream.gets(_SMUGGLED)
    assert (client.ended, upstream.ended) == ("open", "open")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("fields", [[], ["Proxy-Connection: keep-alive"], ["Connection: close"], ["Upgrade: x"]])
def test_fields_of_a_connect_say_nothing_to_anybody(converse, version: str, fields: list[str]) -> None:
    talk = converse()
    client = talk.client()
    client.sends(_connect("payments:8080", *fields, version=version))
    client.gets(ESTABLISHED)
    talk.upstream().gets_nothing()


# -- where to


_SHARED = {
    "shared": True,
    "upstream": ["http://a.test:8080", "http://b.test:9090", "http://[::1]:7070"],
    "others": {
        "web": {"upstream": "http://web"},
        "safe": {"upstream": "https://safe"},
        "named": {"upstream": "http://10.0.0.1:8443", "hosts": ["named.test", "alias.test:443"]},
        "local": {"upstream": "unix:/run/a.sock", "hosts": ["local.test", "local.test:80"]},
        "none": {"upstream": "http://none.test:1", "max_tunnels": 0},
    },
}


@pytest.mark.parametrize(
    ("authority", "address"),
    [
        ("a.test:8080", ("a.test", 8080)),
        ("A.Test:8080", ("a.test", 8080)),
        ("a.test.:8080", ("a.test", 8080)),
        ("a.test:08080", ("a.test", 8080)),
        ("b.test:9090", ("b.test", 9090)),
        ("B.TEST.:9090", ("b.test", 9090)),
        ("b.test:09090", ("b.test", 9090)),
        ("[::1]:7070", ("::1", 7070)),
        ("web:80", ("web", 80)),
        ("safe:443", ("safe", 443)),
        ("named.test:8443", ("10.0.0.1", 8443)),
        ("alias.test:443", ("10.0.0.1", 8443)),
        ("local.test:80", "/run/a.sock"),
    ],
)
def test_tunnel_goes_to_the_upstream_that_is_named(converse, authority: str, address: object) -> None:
    talk = converse(**_SHARED)
    for rng in (0.0, 0.4, 0.9):  # whichever would be the turn of a request
        talk.rng = lambda rng=rng: rng
        client = talk.client()
        client.sends(_connect(authority))
        client.gets(ESTABLISHED)
        assert talk.upstream().address == address
        client.resets()


@pytest.mark.parametrize(
    "authority",
    [
        "evil.test:443",
        "a.test:443",
        "a.test:80",
        "a.test:9090",
        "a.test:",
        "a.test..:8080",
        "xa.test:8080",
        "a.test:80800",
        "a.test:99999",
        "web:443",
        "web:8080",
        "safe:80",
        "named.test:443",
        "named.test:80",
        "10.0.0.1:8443",
        "alias.test:8443",
        "local.test:81",
        "none.test:1",
        "[::2]:7070",
        "[0:0::1]:7070",
        ":8080",
        "127.0.0.1:21090",
        "169.254.169.254:80",
    ],
)
@pytest.mark.parametrize("later", [True, False])
def test_tunnel_to_what_the_configuration_does_not_name_is_403(converse, authority: str, later: bool) -> None:
    talk = converse(**_SHARED)
    client = talk.client()
    connect = message(f"CONNECT {authority} HTTP/1.1", "Host: a.test:8080")
    client.sends(*([connect, _SMUGGLED] if later else [connect + _SMUGGLED]))
    answer = client.gets_refusal(403, "NO_ROUTE")
    assert answer.fields["connection"] == "close"
    client.sends(_SMUGGLED)
    client.gets_nothing()
    assert (client.ended, talk.dialed, talk.listener.in_flight) == ("fin", [], 0)
    assert talk.listener.unrouted["NO_ROUTE"] == 1


@pytest.mark.parametrize(
    "target",
    [
        "a.test",
        "/",
        "/a:8080",
        "/a:b",
        "http://a.test:8080/",
        "a.test:8080/",
        "a.test:8080?x",
        "a.test:8080#x",
        "u@a.test:8080",
        "u:p@a.test:8080",
        "a.test:8o80",
        "a.test:-1",
        "a.test:+8080",
        "a.test:808080",
        "::1:7070",
        "[::1:7070",
        "[::1]7070",
        "[::1]",
        "a.test:8080:8080",
        "a.test%zz:8080",
        "*",
        "*:8080",
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_target_that_is_no_authority_reaches_nobody(converse, target: str, split: bool) -> None:
    talk = converse(**_SHARED)
    client = talk.client()
    octets = message(f"CONNECT {target} HTTP/1.1", "Host: a.test:8080") + _SMUGGLED
    client.sends(*([octets[at : at + 1] for at in range(len(octets))] if split else [octets]))
    answer = client.gets_answer()
    assert (answer.status, answer.code) in ((400, "BAD_REQUEST"), (403, "NO_ROUTE"))
    client.gets_nothing()
    assert (client.ended, talk.dialed) == ("fin", [])


@pytest.mark.parametrize(
    "connect",
    [
        message("CONNECT payments:8080 HTTP/1.1"),
        message("CONNECT payments:8080 HTTP/1.1", "Host: a", "Host: b"),
        message("CONNECT payments:8080 HTTP/1.1", "Host: a", "Content-Length: 2", body="hi"),
        message("CONNECT payments:8080 HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", body="0\r\n\r\n"),
    ],
)
def test_connect_without_a_host_or_with_a_body_is_400(converse, connect: bytes) -> None:
    talk = converse()
    client = talk.client()
    client.sends(connect + _SMUGGLED)
    client.gets_refusal(400, "BAD_REQUEST")
    assert (client.ended, talk.dialed) == ("fin", [])


def test_port_of_one_dependency_tunnels_to_no_other(converse) -> None:
    talk = converse(others={"orders": {"upstream": "http://orders:9000"}})
    client = talk.client()
    client.sends(_connect("orders:9000"))
    client.gets_refusal(403, "NO_ROUTE")
    client = talk.client()
    client.sends(CONNECT)
    client.gets(ESTABLISHED)


def test_host_of_a_connect_is_not_asked(converse) -> None:
    talk = converse(shared=True)
    client = talk.client()
    client.sends(message("CONNECT payments:8080 HTTP/1.1", "Host: evil"))
    client.gets(ESTABLISHED)
    assert talk.dialed == [("payments", 8080)]


def test_upstream_that_speaks_tls_is_dialled_raw(converse) -> None:
    talk = converse(upstream="https://payments")
    client = talk.client()
    client.sends(_connect("payments:443"))
    client.gets(ESTABLISHED)
    upstream = talk.upstream()
    assert upstream.transport.can_write_eof()  # which a connection over TLS could not
    client.sends(_HELLO)
    upstream.gets(_HELLO)


@pytest.mark.parametrize("order", [["unix:/run/a.sock", "http://localhost:80"], ["http://localhost:80", "unix:/a"]])
def test_localhost_is_no_unix_socket(converse, order: list[str]) -> None:
    talk = converse(upstream=order, hosts=["localhost:80"])
    for rng in (0.0, 0.9):
        talk.rng = lambda rng=rng: rng
        client = talk.client()
        client.sends(_connect("localhost:80"))
        client.gets(ESTABLISHED)
    assert talk.dialed == [("localhost", 80)] * 2


def test_tunnel_passes_from_one_address_of_its_name_to_another(converse) -> None:
    talk = converse(
        upstream=["http://a.test:8080", "http://b.test:8080"], addresses={"a.test": ["10.0.0.1", "10.0.0.2"]}
    )
    talk.dialing = {"10.0.0.1": _REFUSED, "10.0.0.2": _REFUSED}
    client = talk.client()
    client.sends(_connect("a.test:8080"))
    assert client.gets_refusal(502, "DOWNSTREAM_FAILURE").proxy_error == "connection_refused"
    assert sorted(talk.dialed) == [("10.0.0.1", 8080), ("10.0.0.2", 8080)]


def test_tunnel_to_a_name_without_addresses_waits_for_its_lookup(converse) -> None:
    talk = converse(upstream="http://a.test:8080", addresses={"a.test": "hang"})
    client = talk.client()
    client.sends(_connect("a.test:8080"))
    client.gets_nothing()
    talk.finds("a.test", ["10.0.0.1"])
    client.gets(ESTABLISHED)
    assert talk.dialed == [("10.0.0.1", 8080)]


def test_tunnel_to_a_name_that_does_not_resolve_is_502(converse) -> None:
    talk = converse(upstream="http://a.test:8080", addresses={"a.test": OSError(-2, "Name or service not known")})
    client = talk.client()
    client.sends(_connect("a.test:8080"))
    assert client.gets_refusal(502, "DOWNSTREAM_FAILURE").proxy_error == "dns_error"


# -- octets that are there before the tunnel is


@pytest.mark.parametrize("reads", [[CONNECT + _HELLO], [CONNECT, _HELLO], [CONNECT[:-1], CONNECT[-1:] + _HELLO]])
def test_octets_of_the_client_sent_ahead_go_to_the_upstream(converse, reads: list[bytes]) -> None:
    talk = converse()
    talk.dialing = "hang"
    client = talk.client()
    client.sends(*reads)
    client.sends(b"more")
    client.gets_nothing()
    talk.accepts()
    client.gets(ESTABLISHED)
    talk.upstream().gets(_HELLO + b"more")
    assert counted(talk)["octets"] == [len(_HELLO) + 4, 0]


def test_client_is_read_ahead_as_far_as_max_read_ahead(converse) -> None:
    talk = converse(listener={"max_read_ahead": 100})
    talk.dialing = "hang"
    client = talk.client()
    client.sends(CONNECT, *[b"x" * 60] * 9)
    assert not client.transport.reading
    talk.accepts()
    talk.upstream().gets(b"x" * 540)
    assert (client.transport.reading, client.transport.pauses) == (True, 1)


@pytest.mark.parametrize("reads", [[b"220 hello\r\n"], [b"220 ", b"hello\r\n"]])
def test_upstream_that_speaks_first_is_heard(converse, reads: list[bytes]) -> None:
    talk = converse()
    talk.greeting = reads
    client = talk.client()
    client.sends(CONNECT)
    client.gets(ESTABLISHED + b"220 hello\r\n")
    upstream = talk.upstream()
    assert upstream.transport.reading
    upstream.sends(b"more")
    client.gets(b"more")
    assert counted(talk)["octets"] == [0, 15]


def test_upstream_that_has_said_everything_at_once_is_heard(converse) -> None:
    talk = converse()
    talk.greeting = [b"bye", b""]
    client = talk.client()
    client.sends(CONNECT)
    client.gets(ESTABLISHED + b"bye")
    upstream = talk.upstream()
    assert (client.ended, upstream.ended) == ("fin", "open")
    client.sends(b"thanks")
    client.half_closes()
    upstream.gets(b"thanks")
    assert (client.ended, upstream.ended) == ("closed", "closed")


def test_upstream_that_closes_its_side_at_once_leaves_the_other_open(converse) -> None:
    talk = converse()
    talk.greeting = [b""]
    client = talk.client()
    client.sends(CONNECT)
    client.gets(ESTABLISHED)
    upstream = talk.upstream()
    assert (client.ended, upstream.ended) == ("fin", "open")
    client.sends(b"x")
    upstream.gets(b"x")


def test_client_that_has_closed_its_side_while_connecting_is_heard_of_in_the_tunnel(converse) -> None:
    talk = converse(listener={"allow_half_close": True})
    talk.dialing = "hang"
    client = talk.client()
    client.sends(CONNECT + b"request")
    client.half_closes()
    talk.accepts()
    upstream = talk.upstream()
    upstream.gets(b"request")
    assert (client.ended, upstream.ended) == ("open", "fin")
    upstream.sends(b"response")
    upstream.half_closes()
    client.gets(ESTABLISHED + b"response")
    assert (client.ended, upstream.ended) == ("closed", "closed")


def test_both_sides_closed_before_the_tunnel_begins(converse) -> None:
    talk = converse(listener={"allow_half_close": True})
    talk.dialing = "hang"
    talk.greeting = [b"b", b""]
    client = talk.client()
    client.sends(CONNECT + b"a")
    client.half_closes()
    talk.accepts()
    client.gets(ESTABLISHED + b"b")
    upstream = talk.upstream()
    upstream.gets(b"a")
    assert (client.ended, upstream.ended) == ("closed", "closed")


# -- policies


def test_tunnel_takes_no_slot_and_does_not_wait_for_one(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 1, "max_wait": "5s"})
    busy, waits, client = talk.client(), talk.client(), talk.client()
    busy.sends(GET)
    first = talk.upstream()
    waits.sends(GET)
    assert (talk.gate.slots.in_use, len(talk.gate.queue)) == (1, 1)
    client.sends(CONNECT)
    client.gets(ESTABLISHED)
    assert (talk.gate.slots.in_use, len(talk.gate.queue)) == (1, 1)
    first.sends(OK, OK)
    waits.gets(OK_DOWNSTREAM)


def test_candidates_take_no_slot_for_a_tunnel_that_stands(converse) -> None:
    talk = converse(candidates={"c": {"concurrency": {"limit": 1}}})
    for _ in range(3):
        client = talk.client()
        client.sends(CONNECT)
        client.gets(ESTABLISHED)
    candidate = talk.dependency.admission.candidates[0]
    assert (candidate.gate.slots.in_use, candidate.refused) == (0, [0, 0, 0])


def test_tunnel_takes_a_token_and_does_not_wait_for_one(converse) -> None:
    talk = converse(rate_limit={"rate": "1/minute", "burst": 1}, queue={"limit": 9, "max_wait": "5s"})
    client, other = talk.client(), talk.client()
    client.sends(CONNECT)
    client.gets(ESTABLISHED)
    other.sends(CONNECT + _HELLO)
    answer = other.gets_refusal(429, "RATE_LIMITED")
    assert answer.fields["connection"] == "close"
    assert (other.ended, tunnels_of(talk), len(talk.gate.queue)) == ("fin", 1, 0)
    assert talk.dependency.counters.rejections["RATE_LIMITED"] == 1


def test_whoever_waits_for_a_token_comes_before_a_tunnel(converse) -> None:
    talk = converse(rate_limit={"rate": "1/second", "burst": 1}, queue={"limit": 9, "max_wait": "5s"})
    ask(talk)
    waits, client = talk.client(), talk.client()
    waits.sends(GET)
    client.sends(CONNECT)
    client.gets_refusal(429, "RATE_LIMITED")
    talk.passes(1.1)
    assert len(talk.gate.queue) == 0


def test_open_circuit_refuses_a_tunnel(converse) -> None:
    talk = converse(circuit_breaker={"consecutive_failures": 1}, rate_limit={"rate": "1/minute", "burst": 5})
    trip(talk)
    client = talk.client()
    client.sends(CONNECT + _SMUGGLED)
    client.gets_refusal(503, "CIRCUIT_OPEN")
    client.sends(_SMUGGLED)
    client.gets_nothing()
    assert (client.ended, tunnels_of(talk), talk.no_upstream) == ("fin", 0, True)
    assert talk.gate.bucket.tokens(talk.deadlines.read()) == pytest.approx(4)


def test_tunnel_is_a_trial_and_its_connection_a_success(converse) -> None:
    talk = converse(circuit_breaker={"consecutive_failures": 1, "half_open": {"trials": 1, "successes": 1}})
    half_open(talk)
    talk.dialing = "hang"
    client, other = talk.client(), talk.client()
    client.sends(CONNECT)
    other.sends(CONNECT)
    other.gets_refusal(503, "CIRCUIT_OPEN")
    assert tunnels_of(talk) == 1
    talk.accepts()
    client.gets(ESTABLISHED)
    assert talk.state == "closed"
    talk.upstream().resets()
    assert (talk.state, client.ended) == ("closed", "reset")


@pytest.mark.parametrize(
    ("error", "status", "proxy_error", "counted_as"),
    [
        (_REFUSED, 502, "connection_refused", (0, 1, 0)),
        (OSError(errno.EHOSTUNREACH, "No route to host"), 502, "destination_ip_unroutable", (0, 1, 0)),
        (OSError(errno.EMFILE, "Too many open files"), 503, "", (0, 0, 1)),
        (ConnectionResetError(errno.ECONNRESET, "reset"), 502, "connection_terminated", (0, 1, 0)),
        ("reset", 502, "connection_terminated", (0, 1, 0)),
    ],
)
def test_connection_that_cannot_be_made_is_the_dependencys_failure(
    converse, error, status: int, proxy_error: str, counted_as: tuple[int, int, int]
) -> None:
    talk = converse()
    talk.dialing = error
    client = talk.client()
    client.sends(CONNECT + _SMUGGLED)
    answer = client.gets_answer()
    assert answer.status == status
    assert proxy_error in answer.fields["proxy-status"]
    assert answer.fields["connection"] == "close"
    client.sends(_SMUGGLED)
    client.gets_nothing()
    assert (client.ended, tunnels_of(talk), counts(talk)) == ("fin", 0, counted_as)
    assert requests_of(talk) == {"CONNECT 5xx sidecar": 1}
    line = talk.log.lines[-1]
    assert (line.method, line.target, line.status, line.attempts) == (b"CONNECT", b"payments:8080", status, 1)
    assert line.octets is None


def test_failures_to_connect_open_the_circuit(converse) -> None:
    talk = converse(circuit_breaker={"consecutive_failures": 2})
    talk.dialing = _REFUSED
    for _ in range(2):
        client = talk.client()
        client.sends(CONNECT)
        client.gets_answer()
    assert talk.state == "open"


def test_connect_timeout_is_504(converse) -> None:
    talk = converse(timeout={"connect": "2s"})
    talk.dialing = "hang"
    client = talk.client()
    client.sends(CONNECT)
    talk.passes(1.9)
    client.gets_nothing()
    talk.passes(0.2)
    answer = client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert answer.proxy_error == "connection_timeout"
    assert "within 2 s (timeout.connect)" in answer.detail
    assert (client.ended, counts(talk), talk.hanging) == ("fin", (0, 1, 0), 0)


def test_total_timeout_is_504(converse) -> None:
    talk = converse(timeout={"connect": "9s", "total": "3s"})
    talk.dialing = "hang"
    client = talk.client()
    client.sends(CONNECT)
    talk.passes(2.9)
    client.gets_nothing()
    talk.passes(0.2)
    answer = client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert "(timeout.total)" in answer.detail
    assert (client.ended, counts(talk), talk.hanging, tunnels_of(talk)) == ("fin", (0, 1, 0), 0, 0)


def test_total_timeout_says_nothing_to_a_tunnel_that_stands(converse) -> None:
    talk = converse(timeout={"total": "3s", "first_byte": "1s", "idle": "2s"})
    client = talk.client()
    client.sends(CONNECT)
    client.gets(ESTABLISHED)
    talk.passes(60)
    assert (client.ended, talk.upstream().ended) == ("open", "open")


# -- another attempt


def test_connection_that_was_refused_is_tried_again(converse) -> None:
    talk = converse(retry={"attempts": 3, "on": ["connect_error"]})
    talk.dialing = _REFUSED
    client = talk.client()
    client.sends(CONNECT + _HELLO)
    client.gets_nothing()
    assert tunnels_of(talk) == 1
    talk.dialing = "accept"
    talk.passes(1)
    client.gets(ESTABLISHED)
    talk.upstream().gets(_HELLO)
    assert (len(talk.dialed), talk.dependency.counters.retries, counts(talk)) == (2, 1, (1, 1, 0))
    client.resets()
    assert talk.log.lines[-1].attempts == 2


def test_each_attempt_takes_a_token(converse) -> None:
    talk = converse(retry={"attempts": 3, "on": ["connect_error"]}, rate_limit={"rate": "1/minute", "burst": 2})
    talk.dialing = _REFUSED
    client = talk.client()
    client.sends(CONNECT)
    talk.passes(5)
    assert client.gets_refusal(502, "DOWNSTREAM_FAILURE").proxy_error == "connection_refused"
    assert (len(talk.dialed), talk.gate.bucket.tokens(talk.deadlines.read()) < 1) == (2, True)


def test_last_attempt_that_fails_is_the_answer(converse) -> None:
    talk = converse(retry={"attempts": 2, "on": ["connect_error"]})
    talk.dialing = _REFUSED
    client = talk.client()
    client.sends(CONNECT + _SMUGGLED)
    talk.passes(1)
    client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert (client.ended, len(talk.dialed), counts(talk)) == ("fin", 2, (0, 2, 0))


def test_methods_that_are_listed_leave_connect_out(converse) -> None:
    talk = converse(retry={"attempts": 2, "on": ["connect_error"], "methods": ["GET"]})
    talk.dialing = _REFUSED
    client = talk.client()
    client.sends(CONNECT)
    client.gets_refusal(502, "DOWNSTREAM_FAILURE")


@pytest.mark.parametrize("way", ["resets", "half_closes", "closes"])
def test_client_that_leaves_between_two_attempts_ends_them(converse, way: str) -> None:
    talk = converse(retry={"attempts": 2, "on": ["connect_error"]})
    talk.dialing = _REFUSED
    client = talk.client()
    client.sends(CONNECT)
    getattr(client, way)()
    talk.passes(5)
    assert (len(talk.dialed), tunnels_of(talk), client.ended) == (1, 0, "closed")


# -- as many as may be


def test_tunnel_too_many_is_refused(converse) -> None:
    talk = converse(max_tunnels=1)
    client, other = talk.client(), talk.client()
    client.sends(CONNECT)
    other.sends(CONNECT + _SMUGGLED)
    answer = other.gets_refusal(503, "CONCURRENCY_LIMITED")
    assert "(max_tunnels)" in answer.detail
    assert (other.ended, len(talk.dialed)) == ("fin", 1)
    client.resets()
    third = talk.client()
    third.sends(CONNECT)
    third.gets(ESTABLISHED)
    assert requests_of(talk) == {"CONNECT 2xx upstream": 2, "CONNECT 5xx sidecar": 1}


def test_connect_without_tunnels_says_that_they_are_switched_off(converse) -> None:
    talk = converse(max_tunnels=0)
    client = talk.client()
    client.sends(CONNECT)
    assert client.gets_refusal(403, "NO_ROUTE").detail == "tunnels to payments are switched off (max_tunnels: 0)"


def test_tunnels_take_none_of_the_pools_connections(converse) -> None:
    talk = converse(pool={"max_connections": 1})
    clients = [talk.client() for _ in range(3)]
    for client in clients:
        client.sends(CONNECT)
        client.gets(ESTABLISHED)
        talk.upstream()
    assert repr(talk.pool) == "<Pool payments active=0 idle=0 connecting=0 waiting=0>"
    assert ask(talk) == 200


def _client_resets(talk, client) -> None:
    client.resets()


def _client_half_closes(talk, client) -> None:
    client.half_closes()


def _refuses(talk, client) -> None:
    talk.refuses(_REFUSED)


def _times_out(talk, client) -> None:
    talk.passes(2.1)


def _drains(talk, client) -> None:
    talk.do(client.protocol.end)


def _aborts(talk, client) -> None:
    talk.do(talk.listener.abort)


_WAYS = [_client_resets, _client_half_closes, _refuses, _times_out, _drains, _aborts]


@pytest.mark.parametrize(
    ("dialing", "end"), [("hang", end) for end in _WAYS] + [("late", end) for end in _WAYS if end is not _refuses]
)
def test_whatever_ends_the_connecting_gives_everything_back(converse, dialing: str, end) -> None:
    talk = converse(max_tunnels=1, timeout={"connect": "2s"})
    talk.dialing = dialing
    client = talk.client()
    client.sends(CONNECT + _HELLO)
    assert (talk.hanging, tunnels_of(talk), talk.listener.in_flight) == (1, 1, 1)
    end(talk, client)
    assert (talk.hanging, tunnels_of(talk), talk.listener.in_flight) == (0, 0, 0)
    assert talk.listener.tunnels == 0
    assert counted(talk) == {"opened": 0, "seconds": 0, "octets": [0, 0], "in_flight": 0}
    assert sum(requests_of(talk).values()) == 1
    assert len(talk.log.lines) == 1


@pytest.mark.parametrize("order", ["connection first", "client first"])
@pytest.mark.parametrize("tls", [False, True])
def test_client_that_leaves_as_the_connection_comes_leaves_no_tunnel_behind(converse, order: str, tls: bool) -> None:
    talk = converse(max_tunnels=1)
    talk.dialing = "hang"
    client = talk.client(tls=tls)
    client.sends(CONNECT)
    with talk.loop.running():
        if order == "client first":
            client.transport.fail(ConnectionResetError(104, "Connection reset by peer"))
        talk._hanging.popleft().set_result(None)
        if order == "connection first":
            client.transport.fail(ConnectionResetError(104, "Connection reset by peer"))
    talk.loop.settle()
    if not talk.no_upstream:
        assert talk.upstream().ended in ("closed", "reset")
    assert (tunnels_of(talk), talk.listener.connections, talk.listener.tunnels) == (0, 0, 0)


def test_success_of_connecting_is_the_addresss(converse) -> None:
    talk = converse(
        ejection={"consecutive_failures": 2, "max": "100%"}, addresses={"payments": ["10.0.0.1", "10.0.0.2"]}
    )
    talk.dialing = {"10.0.0.2": _REFUSED}  # which is asked first, as the stage draws its numbers
    for _ in range(6):
        client = talk.client()
        client.sends(CONNECT)
        client.gets(ESTABLISHED)
    assert talk.pool.ejection.counts(talk.deadlines.read()) == (1, 1)
    assert counts(talk) == (6, 0, 0)


def test_upstream_of_a_list_is_known_by_host_and_port() -> None:
    assert Upstream("::1", 80).host_and_port == "[::1]:80"
