"""The sidecar as an HTTP proxy: absolute targets and tunnels, by real clients and octet by octet."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from .certificates import Authority, written
from .harness import (
    IN_BETWEEN,
    MB,
    PATIENCE_S,
    Background,
    Ended,
    Flood,
    Message,
    Sidecar,
    Upstream,
    Wire,
    connect,
    eventually,
    free_port,
    fresh_host,
    get,
    need,
    steady,
)
from .names import Names
from .tls import TlsUpstream, server_context

settled = pytest.mark.usefixtures("settled")

TIMEOUT = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s", "tunnel": "1h"}


def dead_address() -> str:
    host = fresh_host()
    return f"{host}:{free_port(host)}"


# -- real clients


@dataclass
class Site:
    """A sidecar that knows where payments.test is, which its clients do not."""

    sidecar: Sidecar
    plain: Upstream
    secure: TlsUpstream
    stranger: Upstream
    ca_file: str

    @property
    def urls(self) -> list[str]:
        return [f"http://payments.test:{self.plain.port}/plain", f"https://payments.test:{self.secure.port}/secure"]

    def environment(self, no_proxy: str) -> dict[str, str]:
        host, port = self.sidecar.address
        proxy = f"http://{host}:{port}"
        variables = {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": no_proxy}
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        authorities = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), self.ca_file)
        return kept | authorities | variables | {name.upper(): value for name, value in variables.items()}

    def run(self, client: str, *urls: str, no_proxy: str = "") -> list[dict[str, Any]]:
        """What a client makes of each of `urls`, which it asks for twice."""
        environment = self.environment(no_proxy)
        if client == "curl":
            return [self._curl(url, environment) for url in urls for _ in range(2)]
        program = Path(__file__).with_name("proxy_client.py")
        command = [sys.executable, "-I", str(program), client, *urls]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    @staticmethod
    def _curl(url: str, environment: dict[str, str]) -> dict[str, Any]:
        command = [need("curl"), "--silent", "--show-error", "--write-out", "\n%{http_code}", url]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            return {"url": url, "error": done.stderr}
        body, _, status = done.stdout.rpartition("\n")
        return {"url": url, "status": int(status), "body": body}


CLIENTS = ["curl", "requests", "httpx", "httpx_async", "aiohttp"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("clients")
    authority = Authority()
    names = Names(folder / "names")
    names["payments.test"] = ("127.0.0.2",)
    with (
        Upstream(host="127.0.0.2") as plain,
        TlsUpstream(server_context(authority.good, folder), host="127.0.0.2") as secure,
        Upstream() as stranger,
    ):
        dependencies = {
            "plain": {"upstream": f"http://payments.test:{plain.port}", "timeout": TIMEOUT},
            "secure": {"upstream": f"https://payments.test:{secure.port}", "timeout": TIMEOUT},
        }
        sidecar = Sidecar(folder, dependencies)
        sidecar.within = names.within
        with sidecar:
            yield Site(sidecar, plain, secure, stranger, written(folder / "ca.pem", authority.pem))


@pytest.mark.parametrize("client", CLIENTS)
def test_client_finds_both_kinds_of_dependency_through_the_proxy(site: Site, client: str) -> None:
    """The client alone could not even resolve the name; and it verifies the certificate, which the tunnel brings it."""
    tunnels = site.sidecar.metric("sidecar_tunnels_opened_total", dependency="secure")
    outcomes = site.run(client, *site.urls)

    assert [outcome.get("body", outcome) for outcome in outcomes] == ["GET /plain"] * 2 + ["GET /secure"] * 2
    assert {outcome["status"] for outcome in outcomes} == {200}
    assert site.sidecar.metric("sidecar_tunnels_opened_total", dependency="secure") > tunnels
    assert site.sidecar.metric("sidecar_tunnels_opened_total", dependency="plain") == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_client_is_refused_what_no_dependency_names(site: Site, client: str) -> None:
    authority = site.stranger.authority
    plain, *others = site.run(client, f"http://{authority}/x", f"https://{authority}/x")[1:]

    assert plain["status"] == 403
    assert json.loads(plain["body"])["error"] == "NO_ROUTE"
    for outcome in others:
        assert "403" in outcome["error"]
    assert site.stranger.wires == []


@pytest.mark.parametrize("client", CLIENTS)
def test_client_goes_past_the_proxy_where_it_is_told_to(site: Site, client: str) -> None:
    url = f"http://{site.stranger.authority}/x"
    site.stranger.wires.clear()
    outcomes = site.run(client, url, no_proxy="localhost,127.0.0.1")

    assert [(outcome["status"], outcome["body"]) for outcome in outcomes] == [(200, "GET /x")] * 2
    site.stranger.wires.clear()


@pytest.mark.parametrize("client", CLIENTS)
def test_client_does_not_accept_another_certificate_in_a_tunnel(site: Site, client: str, tmp_path: Path) -> None:
    before, site.secure.context = site.secure.context, server_context(Authority().good, tmp_path)
    try:
        outcomes = site.run(client, site.urls[1])
    finally:
        site.secure.context = before

    for outcome in outcomes:
        assert "certificate" in outcome["error"].lower()


# -- octet by octet


@pytest.fixture(scope="module")
def other() -> Iterator[Upstream]:
    with Upstream() as other:
        yield other


@pytest.fixture(scope="module")
def six() -> Iterator[Upstream]:
    with Upstream(host="::1") as six:
        yield six


class Full:
    """A port whose kernel takes no further connection and refuses none: the backlog is full."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.address: tuple[str, int] = self.listener.getsockname()
        self._first = socket.create_connection(self.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._first.close()
        self.listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    def accept(self) -> Wire:
        """Take what fills it, and whatever connection the kernel takes next."""
        self.listener.settimeout(PATIENCE_S)
        self.listener.accept()[0].close()
        return Wire(self.listener.accept()[0], "sidecar")


@pytest.fixture(scope="module")
def full() -> Iterator[Full]:
    with Full() as full:
        yield full


@pytest.fixture(scope="module")
def late() -> Iterator[Full]:
    """Full for as long as a test does not accept."""
    with Full() as late:
        yield late


@pytest.fixture(scope="module")
def sidecar(
    tmp_path_factory: pytest.TempPathFactory,
    upstream: Upstream,
    other: Upstream,
    six: Upstream,
    full: Full,
    late: Full,
) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("proxy")

    def dependency(name: str, url: str = upstream.url, **settings: Any) -> dict[str, Any]:
        """At `name`.test, and a number of ports of which only one is the upstream's."""
        timeout = TIMEOUT | settings.pop("timeout", {})
        authority = url.partition("://")[2]
        hosts = [f"{name}.test:{authority.rpartition(':')[2]}"]
        return {"upstream": url, "hosts": hosts, "timeout": timeout} | settings

    dependencies = {
        "plain": dependency("plain", prefix="/plain"),
        "other": dependency("other", other.url),
        "own": dependency("own", listen=f"unix:{folder}/own"),
        "six": dependency("six", six.url, hosts=[six.authority]),
        "bare": dependency("bare", hosts=["bare.test"]),
        "listed": dependency(
            "listed", upstream=[upstream.url, other.url], hosts=[upstream.authority, other.authority, "listed.test:80"]
        ),
        "two": dependency("two", max_tunnels=2),
        "none": dependency("none", max_tunnels=0),
        "slot": dependency("slot", concurrency={"limit": 1}),
        "limited": dependency("limited", rate_limit={"rate": "1/hour", "burst": 2}),
        "dead": dependency("dead", f"http://{dead_address()}", hosts=["dead.test:80"]),
        "fragile": dependency(
            "fragile",
            f"http://{dead_address()}",
            hosts=["fragile.test:80"],
            circuit_breaker={"consecutive_failures": 2},
        ),
        "full": dependency("full", full.url, hosts=["full.test:80"], timeout={"connect": "300ms"}),
        "hanging": dependency("hanging", full.url, hosts=["hanging.test:80"]),
        "late": dependency("late", late.url, hosts=["late.test:80"]),
        "brief": dependency("brief", timeout={"tunnel": "300ms"}),
        "hasty": dependency("hasty", timeout={"connect": "20s", "first_byte": "100ms", "idle": "100ms"}),
    }
    with Sidecar(folder, dependencies, listener={"keepalive_timeout": "1h"}) as sidecar:
        yield sidecar


def connecting(authority: str, *lines: str) -> bytes:
    return get(authority, *lines, method="CONNECT", host=authority)


def tunnel(wire: Wire, authority: str) -> Message:
    """Open a tunnel on `wire`; the head of the answer."""
    wire.send(connecting(authority))
    head = wire.head()
    assert head.status == 200, (head, wire.more())
    return head


@pytest.fixture
def at(upstream: Upstream) -> Callable[[str], str]:
    """The authority of a dependency of `upstream`'s."""
    return lambda name: f"{name}.test:{upstream.port}"


def speak(wire: Wire) -> None:
    """Prove that a tunnel leads to a `mirror`."""
    wire.send(b"hello")
    assert wire.exactly(5) == b"hello"


def mirror(wire: Wire) -> None:
    """Send back whatever comes."""
    while True:
        wire.send(wire.more())


@settled
def test_absolute_targets_of_several_dependencies_share_a_connection(
    sidecar: Sidecar, upstream: Upstream, other: Upstream
) -> None:
    with sidecar.connect() as wire:
        for number in range(3):
            for name, server in (("two", upstream), ("other", other)):
                authority = f"{name}.test:{server.port}"
                wire.send(get(f"http://{authority}/{name}/{number}", host=authority))
                assert wire.response().body == f"GET /{name}/{number}".encode()
    other.hang_up()


@settled
def test_connect_opens_a_tunnel_for_octets_as_they_are(
    sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]
) -> None:
    with upstream.play(mirror), sidecar.connect() as wire:
        head = tunnel(wire, at("plain"))
        # RFC 9110 section 9.3.6: neither of these is sent, for the connection is no longer framed.
        assert head.get(b"content-length") is None
        assert head.get(b"transfer-encoding") is None
        for octets in (b"\0", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 1000):
            wire.send(octets)
            assert wire.exactly(len(octets)) == octets
        assert len(upstream.wires) == 1


@settled
def test_octets_behind_a_connect_are_the_first_of_the_tunnel(
    sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]
) -> None:
    with upstream.play(mirror), sidecar.connect() as wire:
        wire.send(connecting(at("plain")) + b"hello")
        assert wire.head().status == 200

        assert wire.exactly(5) == b"hello"


@settled
def test_upstream_may_speak_first(sidecar: Sidecar, late: Full) -> None:
    """Its words may be there in the moment in which the sidecar learns that it is connected."""
    with sidecar.connect() as wire:
        wire.send(connecting("late.test:80"))
        eventually(lambda: sidecar.established(late.address[1]) == 1, "it is being connected")
        with sidecar.standing_still():
            server = late.accept()
            server.send(b"220 ready\r\n")
        with server:
            assert wire.head().status == 200
            assert wire.exactly(11) == b"220 ready\r\n"
            wire.send(b"hello")
            assert server.exactly(5) == b"hello"


@settled
def test_http_in_a_tunnel_is_none_of_the_sidecars(
    sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]
) -> None:
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        tunnel(wire, at("plain"))
        wire.send(get("/plain/x"))
        assert wire.response().body == b"GET /plain/x"
        assert upstream.requests[0].get(b"x-forwarded-for") is None


@settled
def test_connect_to_ipv6(sidecar: Sidecar, six: Upstream) -> None:
    with sidecar.connect() as wire:
        tunnel(wire, six.authority)
        wire.send(get("/x"))
        assert wire.response().body == b"GET /x"
    six.hang_up()


@settled
def test_connect_to_one_of_a_list_goes_to_that_one(sidecar: Sidecar, upstream: Upstream, other: Upstream) -> None:
    for server in (upstream, other):
        with server.play(mirror):
            for number in range(1, 6):
                with sidecar.connect() as wire:
                    tunnel(wire, server.authority)
                    speak(wire)
                    assert len(server.wires) == number


@settled
def test_tunnel_through_a_port_of_its_own(sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]) -> None:
    with upstream.play(mirror), connect(f"{sidecar.folder}/own") as wire:
        tunnel(wire, at("own"))
        speak(wire)


# -- refused


@settled
def test_connect_to_what_no_dependency_names_is_403(
    sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]
) -> None:
    with upstream.play(mirror):
        for authority in (
            "127.0.0.1:1",
            "unknown.test:443",
            f"plain.test:{sidecar.address[1]}",
            f"plain.test:{upstream.port + 1 if upstream.port < 65535 else 1}",
            f"{sidecar.host}:{sidecar.address[1]}",
            f"{sidecar.host}:{sidecar.metrics[1]}",
            "bare.test:80",
            "bare.test:443",
        ):
            assert sidecar.ask(connecting(authority)).refusal[:2] == (403, "NO_ROUTE"), authority
        with sidecar.connect() as wire:
            tunnel(wire, at("bare"))
            speak(wire)
        with connect(f"{sidecar.folder}/own") as wire:
            wire.send(connecting(at("plain")))
            assert wire.response().refusal[:2] == (403, "NO_ROUTE")
        assert len(upstream.wires) == 1


@settled
def test_connect_that_is_malformed_is_400(sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]) -> None:
    with upstream.play(mirror):
        for octets in (
            get("/plain/x", method="CONNECT"),
            get("plain.test", method="CONNECT"),
            get("plain.test:", method="CONNECT"),
            get(f"http://{at('plain')}/", method="CONNECT"),
            get(at("plain"), "Content-Length: 5", method="CONNECT", host=at("plain")) + b"hello",
            get(at("plain"), "Transfer-Encoding: chunked", method="CONNECT", host=at("plain")) + b"0\r\n\r\n",
        ):
            assert sidecar.ask(octets).status in (400, 403), octets
        assert upstream.wires == []


@settled
def test_too_many_tunnels_are_refused(sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]) -> None:
    with upstream.play(mirror), contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(sidecar.connect()) for _ in range(2))
        tunnel(first, at("two"))
        tunnel(second, at("two"))
        speak(first)
        speak(second)
        refused = sidecar.ask(connecting(at("two")))
        assert refused.refusal == (503, "CONCURRENCY_LIMITED", "connection_limit_reached")
        assert "max_tunnels" in refused.detail
        assert len(upstream.wires) == 2
        first.reset()
        eventually(lambda: sidecar.metric("sidecar_tunnels", dependency="two") == 1, "one tunnel is left")
        with sidecar.connect() as third:
            tunnel(third, at("two"))


@settled
def test_without_tunnels_a_connect_is_403(sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]) -> None:
    with upstream.play(mirror):
        refused = sidecar.ask(connecting(at("none")))
        assert refused.refusal[:2] == (403, "NO_ROUTE")
        assert "max_tunnels" in refused.detail
        assert upstream.wires == []


@settled
def test_rate_limit_is_of_connects(sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]) -> None:
    with upstream.play(mirror):
        for _ in range(2):
            with sidecar.connect() as wire:
                tunnel(wire, at("limited"))
                speak(wire)
        refused = sidecar.ask(connecting(at("limited")))

        assert refused.refusal == (429, "RATE_LIMITED", "http_request_denied")
        assert refused.get(b"retry-after") is not None
        assert len(upstream.wires) == 2


@settled
def test_circuit_is_opened_by_connects_that_fail_and_refuses_others(sidecar: Sidecar) -> None:
    for _ in range(2):
        refused = sidecar.ask(connecting("fragile.test:80"))
        assert refused.refusal == (502, "DOWNSTREAM_FAILURE", "connection_refused")
    assert sidecar.state("fragile") == "open"

    refused = sidecar.ask(connecting("fragile.test:80"))
    assert refused.refusal == (503, "CIRCUIT_OPEN", "destination_unavailable")
    assert refused.get(b"retry-after") is not None


@settled
def test_connect_that_fails_is_told_like_that_of_a_request(sidecar: Sidecar) -> None:
    assert sidecar.ask(connecting("dead.test:80")).refusal == (502, "DOWNSTREAM_FAILURE", "connection_refused")
    assert sidecar.ask(connecting("full.test:80")).refusal == (504, "DOWNSTREAM_TIMEOUT", "connection_timeout")


@settled
def test_client_that_leaves_before_its_tunnel_stands_ends_the_connecting(sidecar: Sidecar, full: Full) -> None:
    for end in (Wire.reset, Wire.finish):
        with sidecar.connect() as wire:
            wire.send(connecting("hanging.test:80"))
            eventually(lambda: sidecar.established(full.address[1]) == 1, "it is being connected")
            end(wire)
            eventually(lambda: sidecar.established(full.address[1]) == 0, "it is given up")
    eventually(lambda: sidecar.metric("sidecar_tunnels", dependency="hanging") == 0, "nothing is counted any more")


@settled
def test_tunnel_holds_no_slot(sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]) -> None:
    with upstream.play(mirror), sidecar.connect() as first, sidecar.connect() as second:
        tunnel(first, at("slot"))
        tunnel(second, at("slot"))


# -- the end of a tunnel


@settled
@pytest.mark.parametrize("side", ["client", "upstream"])
def test_fin_passes_and_the_other_direction_goes_on(
    sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str], side: str
) -> None:
    def first(wire: Wire) -> bytes:
        """The side that has said all that it will say, and listens."""
        if side == "upstream":
            assert wire.exactly(1) == b"!"
        wire.send(b"question")
        wire.finish()
        return wire.rest()

    def second(wire: Wire) -> bytes:
        """The side that listens to the end, and then speaks."""
        if side == "upstream":
            wire.send(b"!")
        question = wire.rest()
        for _ in range(100):
            wire.send(b"answer" * 1000)
        wire.finish()
        return question

    heard: list[bytes] = []
    here, there = (first, second) if side == "client" else (second, first)
    with upstream.play(lambda wire: heard.append(there(wire))), sidecar.connect() as wire:
        tunnel(wire, at("plain"))
        mine = here(wire)
        eventually(lambda: heard, "the upstream has heard everything")

    assert {mine, heard[0]} == {b"question", b"answer" * 100_000}


@settled
@pytest.mark.parametrize("side", ["client", "upstream"])
def test_rst_passes(sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str], side: str) -> None:
    ends: list[Ended] = []
    go_on = threading.Event()

    def script(wire: Wire) -> None:
        wire.send(wire.exactly(5))
        if side == "client":
            ends.append(wire.await_end())
        else:
            assert go_on.wait(60)
            wire.reset()

    with upstream.play(script), sidecar.connect() as wire:
        tunnel(wire, at("plain"))
        wire.send(b"hello")
        assert wire.exactly(5) == b"hello"
        if side == "client":
            wire.reset()
            eventually(lambda: ends, "the upstream's connection has ended")
        else:
            go_on.set()
            ends.append(wire.await_end())
        assert ends[0].reset


@settled
def test_silent_tunnel_ends_at_its_timeout_and_no_other_timeout_ends_one(
    sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]
) -> None:
    """first_byte and idle are shorter in the one that stays than the time after which the other one goes."""
    ends: list[Ended] = []

    def script(wire: Wire) -> None:
        try:
            mirror(wire)
        except Ended as end:
            ends.append(end)

    with upstream.play(script), sidecar.connect() as stays, sidecar.connect() as goes:
        tunnel(stays, at("hasty"))
        tunnel(goes, at("brief"))
        speak(goes)
        assert goes.await_end()
        eventually(lambda: ends, "the upstream's connection has ended too")

        speak(stays)


@settled
def test_hundreds_of_tunnels_leave_nothing(sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]) -> None:
    def come_and_go(times: int) -> None:
        for number in range(times):
            with upstream.play(mirror), sidecar.connect() as wire:
                wire.send(connecting(at("plain")))
                if number % 5:
                    assert wire.head().status == 200
                if number % 3:
                    wire.send(b"x" * 10_000)
                if number % 2:
                    wire.reset()
        eventually(lambda: sidecar.established() == 0, "every connection is gone")

    come_and_go(60)
    fds, rss = sidecar.fds(), sidecar.rss()
    come_and_go(300)

    assert sidecar.fds() <= fds
    assert sidecar.rss() - rss < 2 * MB
    assert sidecar.metric("sidecar_tunnels") == 0


# -- flow


@settled
def test_large_streams_both_ways_at_once_are_exact(
    sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]
) -> None:
    there, back = random.Random(1).randbytes(20 * MB), random.Random(2).randbytes(20 * MB)
    heard: list[bytes] = []

    def script(wire: Wire) -> None:
        assert wire.exactly(1) == b"!"
        with Background(lambda: wire.send(back)):
            heard.append(hashlib.sha256(wire.exactly(len(there))).digest())

    with upstream.play(script), sidecar.connect(receive_buffer=16384) as wire:
        tunnel(wire, at("plain"))
        wire.send(b"!")
        with Background(lambda: wire.send(there)):
            assert hashlib.sha256(wire.exactly(len(back))).digest() == hashlib.sha256(back).digest()
        eventually(lambda: heard == [hashlib.sha256(there).digest()], "the upstream has all of it")


@settled
@pytest.mark.parametrize("slow", ["client", "upstream"])
def test_side_that_reads_slowly_holds_the_other_back(
    sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str], slow: str
) -> None:
    flood = Flood()
    go_on = threading.Event()

    def drink(wire: Wire) -> None:
        assert go_on.wait(60)
        left = flood.size
        while left:
            left -= len(wire.more())

    pour, swallow = (flood, drink) if slow == "upstream" else (drink, flood)
    before = sidecar.rss()
    with (
        upstream.play(lambda wire: wire.exactly(1) and swallow(wire)),
        sidecar.connect(receive_buffer=4096) as wire,
    ):
        tunnel(wire, at("plain"))
        wire.send(b"!")
        with Background(lambda: pour(wire)):
            assert steady(lambda: flood.sent) < IN_BETWEEN + 2 * MB
            assert sidecar.rss() - before < 3 * MB
            go_on.set()
        eventually(lambda: flood.sent == flood.size, "all of it has passed")


# -- the books


@settled
def test_tunnels_and_their_octets_are_counted(sidecar: Sidecar, upstream: Upstream, at: Callable[[str], str]) -> None:
    def books() -> list[float]:
        return [
            sidecar.metric("sidecar_tunnels_opened_total", dependency="plain"),
            sidecar.metric("sidecar_tunnel_bytes_total", dependency="plain", direction="upstream"),
            sidecar.metric("sidecar_tunnel_bytes_total", dependency="plain", direction="downstream"),
            sidecar.metric("sidecar_requests_total", dependency="plain"),
            sidecar.metric("sidecar_attempts_total", dependency="plain", outcome="success"),
            sidecar.metric("circuit_breaker_calls_total", dependency="plain", outcome="success"),
        ]

    def script(wire: Wire) -> None:
        wire.exactly(1234)
        wire.send(b"x" * 56_789)
        wire.await_end()

    before = books()
    seconds = sidecar.metric("sidecar_tunnel_seconds_total", dependency="plain")
    with upstream.play(script), sidecar.connect() as wire:
        tunnel(wire, at("plain"))
        eventually(lambda: sidecar.metric("sidecar_tunnels", dependency="plain") == 1, "the tunnel is counted")
        wire.send(b"x" * 1234)
        wire.exactly(56_789)
        wire.close()
        eventually(lambda: sidecar.metric("sidecar_tunnels", dependency="plain") == 0, "the tunnel has ended")

    after = books()
    assert [late - early for late, early in zip(after, before, strict=True)][:5] == [1, 1234, 56_789, 1, 1]
    assert sidecar.metric("sidecar_tunnel_seconds_total", dependency="plain") > seconds
    assert sidecar.metric("sidecar_in_flight_requests", dependency="plain") == 0


# -- the drain


def test_drain_ends_silent_tunnels_and_leaves_busy_ones_their_time(tmp_path: Path, upstream: Upstream) -> None:
    dependency = {"upstream": upstream.url, "timeout": TIMEOUT}
    sidecar = Sidecar(tmp_path, {"plain": dependency}, drain_idle="500ms", drain_timeout="1h")
    with upstream.play(mirror), sidecar, sidecar.connect() as busy, sidecar.connect() as silent:
        tunnel(busy, upstream.authority)
        tunnel(silent, upstream.authority)
        sidecar.running.terminate()
        eventually(lambda: sidecar.control("/readyz").status == 503, "it drains")
        ended = False
        while not ended:
            ended = not silent.silent
            speak(busy)
        assert not silent.await_end().reset
        silent.close()
        busy.close()

        assert sidecar.running.wait(PATIENCE_S) == 0
