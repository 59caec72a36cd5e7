"""TLS towards a dependency: what is not verified is not spoken to, and what has rotated is used."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import bodies
from .certificates import Authority, Mounted, Pair, written
from .harness import (
    MB,
    Ended,
    Sidecar,
    Upstream,
    Wire,
    answer,
    echo,
    eventually,
    get,
    post,
)
from .tls import TlsUpstream, TlsWire, client_context, connect_tls, server_context

pytestmark = pytest.mark.usefixtures("settled")

TIMEOUT = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s"}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def upstream(authority: Authority, folder: Path) -> Iterator[TlsUpstream]:
    with TlsUpstream(server_context(authority.good, folder)) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def others(authority: Authority, folder: Path) -> Iterator[dict[str, Upstream]]:
    """Servers that something is the matter with, each of which would answer."""

    def tls(pair: Pair, **options: Any) -> TlsUpstream:
        return TlsUpstream(server_context(pair, folder), **options)

    servers = {
        "expired": tls(authority.expired),
        "elsewhere": tls(authority.elsewhere),
        "stranger": tls(Authority().good),
        "mutual": TlsUpstream(server_context(authority.good, folder, client_ca=authority.pem)),
        "old": TlsUpstream(outdated(server_context(authority.good, folder))),
        "oldest_allowed": TlsUpstream(at_most_1_2(server_context(authority.good, folder))),
        "ipv6": tls(authority.good, host="::1"),
        "plaintext": Upstream(script=bad_request),
        "stalled": Upstream(script=Wire.await_end),
        "hanging_up": Upstream(script=lambda wire: None),
        "resetting": Upstream(script=reset_at_once),
    }
    with contextlib.ExitStack() as stack:
        for server in servers.values():
            stack.enter_context(server)
        yield servers


def reset_at_once(wire: Wire) -> None:
    wire.more()
    wire.reset()


def bad_request(wire: Wire) -> None:
    """What a server without TLS says to a handshake."""
    wire.more()
    wire.send(answer(status="400 Bad Request"))


def outdated(context: ssl.SSLContext) -> ssl.SSLContext:
    """`context`, for TLS 1.1 alone."""
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def at_most_1_2(context: ssl.SSLContext) -> ssl.SSLContext:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.fixture(scope="module")
def sidecar(
    folder: Path, authority: Authority, upstream: TlsUpstream, others: dict[str, Upstream]
) -> Iterator[Sidecar]:
    ca_file = written(folder / "ca.pem", authority.pem)
    other_ca = written(folder / "other.pem", Authority().pem)
    certificate = written(folder / "client.crt", authority.client.chain)
    key = written(folder / "client.key", authority.client.key)
    together = written(folder / "client.pem", authority.client.together)

    def dependency(name: str, server: Upstream = upstream, **settings: Any) -> dict[str, Any]:
        tls = {"ca_file": ca_file} | settings.pop("tls", {})
        timeout = TIMEOUT | settings.pop("timeout", {})
        if server is not upstream:
            settings["pool"] = {"max_idle": 0}
        url = f"https://{server.authority}"
        return {"upstream": url, "prefix": f"/{name}", "hosts": [], "timeout": timeout, "tls": tls} | settings

    settings: dict[str, dict[str, Any]] = {
        "plain": {},
        "uneasy": {"timeout": {"idle": "300ms"}},
        "named": {"tls": {"server_name": "payments.test"}},
        "misnamed": {"tls": {"server_name": "other.test"}},
        "unknown": {"tls": {"ca_file": other_ca}},
        "system": {"tls": {"ca_file": None}},
        "expired": {"server": others["expired"]},
        "elsewhere": {"server": others["elsewhere"]},
        "careless": {"server": others["elsewhere"], "tls": {"ca_file": None, "insecure_skip_verify": True}},
        "careless_2": {"server": others["stranger"], "tls": {"ca_file": None, "insecure_skip_verify": True}},
        "stranger": {"server": others["stranger"]},
        "mutual": {"server": others["mutual"], "tls": {"cert": certificate, "key": key}},
        "mutual_2": {"server": others["mutual"], "tls": {"cert": together}},
        "anonymous": {"server": others["mutual"]},
        "old": {"server": others["old"]},
        "oldest_allowed": {"server": others["oldest_allowed"]},
        "ipv6": {"server": others["ipv6"]},
        "plaintext": {"server": others["plaintext"]},
        "stalled": {"server": others["stalled"], "timeout": {"connect": "300ms"}},
        "hanging_up": {"server": others["hanging_up"]},
        "resetting": {"server": others["resetting"]},
        "fragile": {"server": others["expired"], "circuit_breaker": {"consecutive_failures": 3}},
    }
    dependencies = {name: dependency(name, **options) for name, options in settings.items()}
    with Sidecar(folder, dependencies) as sidecar:
        yield sidecar


# -- the ordinary case


def test_requests_travel_over_one_tls_connection(sidecar: Sidecar, upstream: TlsUpstream) -> None:
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        for number in range(5):
            wire.send(post(f"/plain/{number}", b"order"))
            assert wire.response().body == b"POST /%d" % number
        assert len(upstream.wires) == 1
        request = upstream.requests[0]
        assert request.get(b"host") == upstream.authority.encode()
        assert request.get(b"x-forwarded-proto") == b"http", "what the application spoke, not what we speak"
        assert isinstance(upstream.wires[0], TlsWire)
        assert upstream.wires[0].tls.version() == "TLSv1.3"


def test_tls_1_2_is_spoken_too(sidecar: Sidecar, others: dict[str, Upstream]) -> None:
    assert sidecar.ask(get("/oldest_allowed/x")).body == b"GET /x"
    wire = others["oldest_allowed"].wire()
    assert isinstance(wire, TlsWire)
    assert wire.tls.version() == "TLSv1.2"


def test_upstream_may_have_an_ipv6_address(sidecar: Sidecar, others: dict[str, Upstream]) -> None:
    assert sidecar.ask(get("/ipv6/x")).body == b"GET /x"
    assert others["ipv6"].requests[0].get(b"host") == others["ipv6"].authority.encode()


def test_server_name_is_asked_for_and_verified(sidecar: Sidecar, upstream: TlsUpstream) -> None:
    upstream.names.clear()
    assert sidecar.ask(get("/named/x")).body == b"GET /x"
    assert upstream.names == ["payments.test"]
    assert upstream.requests[-1].get(b"host") == upstream.authority.encode()

    assert sidecar.ask(get("/misnamed/x")).refusal == (502, "DOWNSTREAM_FAILURE", "tls_certificate_error")
    assert upstream.names == ["payments.test", "other.test"]


def test_address_is_no_server_name(sidecar: Sidecar, upstream: TlsUpstream) -> None:
    """RFC 6066 section 3: literal addresses are not permitted there. The certificate is for the address even so."""
    upstream.names.clear()
    assert sidecar.ask(get("/plain/x")).body == b"GET /x"

    assert upstream.names == [None]


@pytest.mark.parametrize("name", ["mutual", "mutual_2"])
def test_client_certificate_is_shown(sidecar: Sidecar, name: str) -> None:
    assert sidecar.ask(get(f"/{name}/x")).body == b"GET /x"


# -- refused

CERTIFICATE = ["expired", "elsewhere", "stranger", "unknown", "system", "misnamed"]


@pytest.mark.parametrize("name", CERTIFICATE)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_certificate_that_cannot_be_verified_is_502_and_hears_no_request(
    sidecar: Sidecar, upstream: TlsUpstream, others: dict[str, Upstream], name: str, method: str
) -> None:
    server = others.get(name, upstream)
    heard = len(server.requests)
    response = sidecar.ask(post(f"/{name}/x", b"order") if method == "POST" else get(f"/{name}/x"))

    assert response.refusal == (502, "DOWNSTREAM_FAILURE", "tls_certificate_error")
    assert name in response.detail
    assert len(server.requests) == heard


def test_missing_client_certificate_is_told_by_the_other_side(sidecar: Sidecar, others: dict[str, Upstream]) -> None:
    heard = len(others["mutual"].requests)
    response = sidecar.ask(get("/anonymous/x"))

    assert response.refusal == (502, "DOWNSTREAM_FAILURE", "tls_alert_received")
    assert len(others["mutual"].requests) == heard


def test_handshake_that_stalls_ends_at_the_connect_timeout(sidecar: Sidecar, others: dict[str, Upstream]) -> None:
    """timeout.total is 60 s here; a test that waited for that would have given up."""
    response = sidecar.ask(get("/stalled/x"))

    assert response.refusal == (504, "DOWNSTREAM_TIMEOUT", "connection_timeout")
    assert "timeout.connect" in response.detail
    eventually(lambda: sidecar.established(others["stalled"].port) == 0, "the stalled connection is closed")


def test_server_without_tls_is_502(sidecar: Sidecar, others: dict[str, Upstream]) -> None:
    response = sidecar.ask(get("/plaintext/x"))

    assert response.refusal == (502, "DOWNSTREAM_FAILURE", "tls_protocol_error")
    assert others["plaintext"].requests == []


def test_tls_1_1_is_refused(sidecar: Sidecar, authority: Authority, others: dict[str, Upstream]) -> None:
    """By either side, for none has a version that the other one would speak; who speaks the old one is served."""
    response = sidecar.ask(get("/old/x"))

    assert response.refusal[:2] == (502, "DOWNSTREAM_FAILURE")
    assert response.refusal[2] in ("tls_alert_received", "tls_protocol_error")
    assert others["old"].requests == []
    with connect_tls(("127.0.0.1", others["old"].port), outdated(client_context(authority.pem)), "localhost") as wire:
        wire.send(get("/x"))
        assert wire.response().body == b"GET /x"


@pytest.mark.parametrize("name", ["hanging_up", "resetting"])
def test_server_that_leaves_amid_the_handshake_is_502(sidecar: Sidecar, name: str) -> None:
    status, code, error = sidecar.ask(get(f"/{name}/x")).refusal

    assert (status, code) == (502, "DOWNSTREAM_FAILURE")
    assert error in ("connection_terminated", "tls_protocol_error")


def test_refused_certificates_open_the_circuit(sidecar: Sidecar) -> None:
    answers = [sidecar.ask(get("/fragile/x")) for _ in range(4)]

    assert [response.error for response in answers] == ["DOWNSTREAM_FAILURE"] * 3 + ["CIRCUIT_OPEN"]


@pytest.mark.parametrize("name", ["careless", "careless_2"])
def test_verification_that_is_switched_off_is_said_at_the_start(sidecar: Sidecar, name: str) -> None:
    assert sidecar.ask(get(f"/{name}/x")).body == b"GET /x"
    said = [line for line in sidecar.logged() if "insecure_skip_verify" in line["msg"] and f".{name}." in line["msg"]]

    assert [line["level"] for line in said] == ["warning"]


# -- the end of a stream

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
UNBOUNDED = b"HTTP/1.1 200 OK\r\n\r\nhello"


def ending(octets: bytes, how: Callable[[TlsWire], object], seen: threading.Event) -> Callable[[Wire], None]:
    """An upstream that answers with `octets`, and ends when the client has `seen` them."""

    def script(wire: Wire) -> None:
        assert isinstance(wire, TlsWire)
        wire.request()
        wire.send(octets)
        assert seen.wait(60)
        how(wire)

    return script


def cut_off(wire: TlsWire) -> None:
    """FIN without close_notify, which whoever is on the way can make."""
    wire.sock.shutdown(socket.SHUT_WR)
    wire.await_end()


def cut_amid_a_record(wire: TlsWire) -> None:
    wire.sock.sendall(wire.record(b"x" * 1000)[:500])
    cut_off(wire)


def test_response_that_ends_with_close_notify_is_whole(sidecar: Sidecar, upstream: TlsUpstream) -> None:
    seen = threading.Event()
    with upstream.play(ending(UNBOUNDED, TlsWire.finish, seen)), sidecar.connect() as wire:
        wire.send(get("/plain/x"))
        wire.head()
        assert wire.chunk() == b"hello"
        seen.set()

        assert wire.chunk() == b""


@pytest.mark.parametrize("octets", [UNBOUNDED, CHUNKED], ids=["by the end of the connection", "in chunks"])
@pytest.mark.parametrize("how", [cut_off, cut_amid_a_record, Wire.reset])
def test_response_that_ends_without_close_notify_is_cut_visibly(
    sidecar: Sidecar, upstream: TlsUpstream, octets: bytes, how: Callable[[TlsWire], object]
) -> None:
    """RFC 9112 section 9.8: it may have been cut by somebody else."""
    seen = threading.Event()
    with upstream.play(ending(octets, how, seen)), sidecar.connect() as wire:
        wire.send(get("/plain/x"))
        wire.head()
        assert wire.chunk() == b"hello"
        seen.set()

        with pytest.raises(Ended):
            assert wire.chunk() == "the last chunk says that the body is whole"


@pytest.mark.parametrize("how", [cut_off, Wire.reset])
def test_response_with_a_length_needs_no_close_notify(
    sidecar: Sidecar, upstream: TlsUpstream, how: Callable[[TlsWire], object]
) -> None:
    seen = threading.Event()
    with upstream.play(ending(answer(b"whole"), how, seen)), sidecar.connect() as wire:
        wire.send(get("/plain/x"))
        assert wire.response().body == b"whole"
        seen.set()
        eventually(lambda: sidecar.established(upstream.port) == 0, "the sidecar has noticed")


@pytest.mark.parametrize("how", [TlsWire.finish, cut_off, Wire.reset])
def test_idempotent_request_on_a_dying_pooled_connection_is_replaced_silently(
    sidecar: Sidecar, upstream: TlsUpstream, how: Callable[[TlsWire], object]
) -> None:
    def script(wire: Wire) -> None:
        if wire is not upstream.wires[0]:
            upstream.serve(wire)
        assert isinstance(wire, TlsWire)
        wire.request()
        wire.send(answer(b"warm"))
        wire.request()
        how(wire)

    with upstream.play(script):
        assert sidecar.ask(get("/plain/warm")).body == b"warm"
        assert sidecar.ask(get("/plain/x")).body == b"GET /x"
        assert len(upstream.wires) == 2


def test_upstream_that_stalls_in_its_body_is_cut_at_the_idle_timeout(sidecar: Sidecar, upstream: TlsUpstream) -> None:
    seen = threading.Event()
    with upstream.play(ending(CHUNKED, TlsWire.await_end, seen)), sidecar.connect() as wire:
        wire.send(get("/uneasy/x"))
        wire.head()
        assert wire.chunk() == b"hello"
        seen.set()

        with pytest.raises(Ended):
            wire.chunk()


# -- bodies


def test_large_bodies_both_ways_are_exact_with_a_slow_reader(sidecar: Sidecar, upstream: TlsUpstream) -> None:
    bodies.both_ways_are_exact_with_a_slow_reader(sidecar, upstream)


def test_client_that_reads_slowly_holds_the_upstream_back(sidecar: Sidecar, upstream: TlsUpstream) -> None:
    bodies.slow_client_holds_the_upstream_back(sidecar, upstream, buffered=2 * MB, memory=4 * MB)


def test_upstream_that_reads_slowly_holds_the_application_back(sidecar: Sidecar, upstream: TlsUpstream) -> None:
    bodies.slow_upstream_holds_the_application_back(sidecar, upstream, buffered=2 * MB, memory=4 * MB)


# -- files that change


class Rotating:
    """A server whose certificate changes, and a sidecar with a dependency on it for each mounted secret."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.authority = Authority()
        self.upstream = TlsUpstream(self._server())
        self.mounts = [Mounted(folder / f"secret{number}", **self.secret()) for number in range(count)]
        self.sidecar = Sidecar(
            folder,
            {
                f"d{number}": {
                    "upstream": f"https://127.0.0.1:{self.upstream.port}",
                    "prefix": f"/{number}",
                    "hosts": [],
                    "timeout": TIMEOUT,
                    "pool": {"max_idle": 0},
                    "tls": {"ca_file": mount.path("ca"), "cert": mount.path("cert"), "key": mount.path("key")},
                }
                for number, mount in enumerate(self.mounts)
            },
        )

    def _server(self) -> ssl.SSLContext:
        return server_context(self.authority.good, self.folder, client_ca=self.authority.pem)

    def secret(self) -> dict[str, bytes]:
        return {"ca": self.authority.pem, "cert": self.authority.client.chain, "key": self.authority.client.key}

    def rotate(self) -> None:
        """Everybody has new certificates, by an authority that nobody knew before."""
        self.authority = Authority()
        self.upstream.context = self._server()
        for mount in self.mounts:
            mount.swap(**self.secret())

    def await_use(self) -> None:
        """Each dependency is served on a new connection, which takes every one of the new files."""
        for number in range(len(self.mounts)):
            eventually(
                lambda number=number: self.sidecar.ask(get(f"/{number}/x")).status == 200,
                f"the new files are in force at dependency {number}",
            )


@pytest.fixture
def rotating(tmp_path: Path) -> Iterator[Callable[[int], Rotating]]:
    with contextlib.ExitStack() as stack:

        def make(count: int) -> Rotating:
            rotating = Rotating(tmp_path, count)
            stack.enter_context(rotating.upstream)
            stack.enter_context(rotating.sidecar)
            return rotating

        yield make


def test_renewed_files_are_used_and_connections_go_on(rotating: Callable[[int], Rotating]) -> None:
    at = rotating(1)
    rounds = itertools.count()
    go_on = threading.Semaphore(0)

    def script(wire: Wire) -> None:
        while True:
            request = wire.request()
            if request.target != b"/busy":
                echo(wire, request)
                continue
            wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while go_on.acquire(timeout=60) and (number := next(rounds)) < 10:
                wire.send(b"2\r\n%02d\r\n" % number)
            wire.send(b"0\r\n\r\n")

    with at.upstream.play(script), at.sidecar.connect() as busy:
        busy.send(get("/0/busy"))
        busy.head()
        for number in range(10):
            if number % 3 == 2:
                at.rotate()
                at.await_use()
            go_on.release()
            assert busy.chunk() == b"%02d" % number
        go_on.release()
        assert busy.chunk() == b"", "the connection from before all the rotations has served to its end"


def test_files_that_cannot_be_used_are_said_so_and_the_old_ones_stay(rotating: Callable[[int], Rotating]) -> None:
    at = rotating(1)
    at.sidecar.provoked.append("dependencies.d0.tls")

    def complaints() -> list[dict[str, Any]]:
        return [line for line in at.sidecar.logged() if line["level"] == "error" and "d0.tls" in line["msg"]]

    bad = {
        "no PEM": {"ca": b"nonsense"},
        "another key": {"key": Authority().client.key},
        "empty": {"cert": b""},
    }
    for number, files in enumerate(bad.values(), 1):
        at.mounts[0].swap(**at.secret() | files)
        eventually(lambda number=number: len(complaints()) == number, "it is said that they cannot be used")
        assert at.sidecar.ask(get("/0/x")).body == b"GET /x"
    at.rotate()
    at.await_use()


def test_a_hundred_rotations_leave_no_descriptor(rotating: Callable[[int], Rotating]) -> None:
    """Twenty-five mounted secrets, all of which change five times, the first time to get warm."""
    at = rotating(25)
    at.rotate()
    at.await_use()
    eventually(lambda: at.sidecar.established() == 0, "no connection is left")
    fds, rss = at.sidecar.fds(), at.sidecar.rss()
    for _ in range(4):
        at.rotate()
        at.await_use()
    eventually(lambda: at.sidecar.established() == 0, "no connection is left")

    assert at.sidecar.fds() <= fds
    assert at.sidecar.rss() - rss < 3 * MB
