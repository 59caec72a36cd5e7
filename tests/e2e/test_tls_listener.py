"""TLS from the application: who is let in, what each side sees of the other's end, certificates that are renewed."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from . import bodies
from .certificates import Authority, Mounted, written
from .harness import (
    MB,
    PATIENCE_S,
    ROOT,
    Address,
    Ended,
    Message,
    Sidecar,
    Upstream,
    Wire,
    answer,
    connect,
    eventually,
    get,
    post,
)
from .tls import TlsSidecar, TlsUpstream, TlsWire, client_context, connect_tls, server_context
from .websockets import EchoServer, Frame, opened, read_frame, text

pytestmark = pytest.mark.usefixtures("settled")

TIMEOUT = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s", "tunnel": "1h"}


@dataclass
class Site:
    """Authorities of either side, and the ports beside the shared one."""

    authority: Authority
    clients: Authority
    folder: Path

    @property
    def trusting(self) -> ssl.SSLContext:
        """A client that trusts the sidecar and shows nothing."""
        return client_context(self.authority.pem)

    def own(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(Authority(), Authority(), tmp_path_factory.mktemp("tls-listener"))


@pytest.fixture(scope="module")
def secure(site: Site) -> Iterator[TlsUpstream]:
    """An upstream that speaks TLS itself."""
    with TlsUpstream(server_context(site.authority.good, site.folder)) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def echo_server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture(scope="module")
def sidecar(site: Site, upstream: Upstream, secure: TlsUpstream, echo_server: EchoServer) -> Iterator[TlsSidecar]:
    folder = site.folder
    ca_file = written(folder / "ca.pem", site.authority.pem)
    client_ca = written(folder / "clients.pem", site.clients.pem)
    cert = written(folder / "server.crt", site.authority.good.chain)
    key = written(folder / "server.key", site.authority.good.key)
    together = written(folder / "server.pem", site.authority.good.together)

    def dependency(prefix: str, url: str = upstream.url, **settings: Any) -> dict[str, Any]:
        return {"upstream": url, "prefix": prefix, "hosts": [], "timeout": TIMEOUT} | settings

    def own(name: str, **listener: Any) -> dict[str, Any]:
        return dependency(f"/{name}", listen=f"unix:{site.own(name)}", listener=listener)

    dependencies = {
        "plain": dependency("/plain"),
        "secure": dependency("/secure", f"https://{secure.authority}", tls={"ca_file": ca_file}, pool={"max_idle": 0}),
        "echo": dependency("/echo", echo_server.url, strip_prefix=False),
        "inherits": own("inherits"),
        "mutual": own("mutual", tls={"client_ca": client_ca}),
        "together": own("together", tls={"cert": together, "key": None}),
        "open": own("open", tls={"cert": None, "key": None}),
        "hasty": own("hasty", head_timeout="400ms"),
    }
    listener = {"tls": {"cert": cert, "key": key}}
    with TlsSidecar(site.trusting, folder, dependencies, listener=listener) as sidecar:
        yield sidecar


def failures(sidecar: Sidecar) -> float:
    return sidecar.metric("sidecar_tls_handshake_failures_total")


@contextlib.contextmanager
def counting(sidecar: Sidecar, count: int = 1) -> Iterator[None]:
    """So many handshakes fail meanwhile, and each is counted."""
    before = failures(sidecar)
    yield
    eventually(lambda: failures(sidecar) == before + count, f"{count} failed handshakes are counted")


# -- the ordinary case


def test_requests_are_served_over_tls_and_the_upstream_is_told(sidecar: TlsSidecar, upstream: Upstream) -> None:
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        for number in range(5):
            wire.send(post(f"/plain/{number}", b"order"))
            assert wire.response().body == b"POST /%d" % number
        assert [request.get(b"x-forwarded-proto") for request in upstream.requests] == [b"https"] * 5
        assert (wire.tls.version(), len(upstream.wires)) == ("TLSv1.3", 1)


def test_http_1_1_is_agreed_upon(sidecar: TlsSidecar, site: Site) -> None:
    context = site.trusting
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connect_tls(sidecar.address, context) as wire:
        assert wire.tls.selected_alpn_protocol() == "http/1.1"
        wire.send(get("/plain/x"))
        assert wire.response().body == b"GET /x"


def test_tls_on_both_sides(sidecar: TlsSidecar) -> None:
    assert sidecar.ask(post("/secure/x", b"order")).body == b"POST /x"


def test_pipelined_requests_keep_their_order(sidecar: TlsSidecar) -> None:
    with sidecar.connect() as wire:
        wire.send(b"".join(get(f"/plain/{number}") for number in range(200)))

        for number in range(200):
            assert wire.response().body == b"GET /%d" % number


@pytest.mark.parametrize("name", ["inherits", "together"])
def test_own_port_speaks_tls_too(sidecar: TlsSidecar, site: Site, name: str) -> None:
    with connect_tls(site.own(name), site.trusting) as wire:
        wire.send(get("/x"))
        assert wire.response().body == b"GET /x"


def test_own_port_may_speak_plain_http(sidecar: TlsSidecar, site: Site, upstream: Upstream) -> None:
    with upstream.play(upstream.serve), connect(site.own("open")) as wire:
        wire.send(get("/x"))
        assert wire.response().body == b"GET /x"
        assert upstream.requests[0].get(b"x-forwarded-proto") == b"http"


def test_websocket_over_tls(sidecar: TlsSidecar) -> None:
    with sidecar.connect() as wire:
        opened(wire, "/echo")
        for size in (1, 1000, 100_000):
            wire.send(text(b"x" * size))
            assert read_frame(wire) == Frame(1, b"x" * size)


# -- the handshake


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_current_versions_are_spoken(sidecar: TlsSidecar, site: Site, version: ssl.TLSVersion) -> None:
    context = site.trusting
    context.minimum_version = context.maximum_version = version
    with connect_tls(sidecar.address, context) as wire:
        wire.send(get("/plain/x"))
        assert wire.response().body == b"GET /x"


def test_tls_1_1_is_refused(sidecar: TlsSidecar, site: Site) -> None:
    context = site.trusting
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with counting(sidecar), pytest.raises((ssl.SSLError, Ended)):
        connect_tls(sidecar.address, context)


def stranger(site: Site) -> ssl.SSLContext:
    return client_context(site.authority.pem, Authority().client, site.folder)


def nobody(site: Site) -> ssl.SSLContext:
    return site.trusting


def expired(site: Site) -> ssl.SSLContext:
    return client_context(site.authority.pem, site.clients.expired, site.folder)


@pytest.mark.parametrize("who", [nobody, stranger, expired])
def test_client_without_a_valid_certificate_is_not_let_in(
    sidecar: TlsSidecar, site: Site, upstream: Upstream, who: Callable[[Site], ssl.SSLContext]
) -> None:
    """In TLS 1.3 its own handshake is over before it is told."""
    with (
        upstream.play(upstream.serve),
        counting(sidecar),
        connect_tls(site.own("mutual"), who(site)) as wire,
        contextlib.suppress(OSError),
    ):
        wire.send(get("/x"))
        with pytest.raises(Ended):
            wire.head()
    assert upstream.requests == []


def test_client_with_a_valid_certificate_is_let_in(sidecar: TlsSidecar, site: Site) -> None:
    context = client_context(site.authority.pem, site.clients.client, site.folder)
    with connect_tls(site.own("mutual"), context) as wire:
        wire.send(get("/x"))
        assert wire.response().body == b"GET /x"


def test_client_that_does_not_trust_us_is_counted(sidecar: TlsSidecar) -> None:
    with counting(sidecar), pytest.raises(ssl.SSLCertVerificationError):
        connect_tls(sidecar.address, client_context(Authority().pem))


def test_plain_http_at_a_tls_port_is_turned_away(sidecar: TlsSidecar, upstream: Upstream) -> None:
    with upstream.play(upstream.serve), counting(sidecar), connect(sidecar.address) as wire:
        wire.send(get("/plain/x"))
        with contextlib.suppress(Ended):
            wire.sock.settimeout(PATIENCE_S)
            said = wire.more()
            assert not said.startswith(b"HTTP/1.1 2")
        assert wire.await_end()
        assert upstream.requests == []


def test_tls_at_a_plain_port_is_turned_away(sidecar: TlsSidecar, site: Site) -> None:
    with pytest.raises((ssl.SSLError, Ended)):
        connect_tls(site.own("open"), site.trusting)


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The first octets of a ClientHello."""


@pytest.mark.parametrize("octets", [b"", HELLO[:1], HELLO], ids=["silent", "an octet", "half a hello"])
def test_handshake_that_stalls_is_ended_and_counted(sidecar: TlsSidecar, site: Site, octets: bytes) -> None:
    """listener.head_timeout governs here, since a handshake is a part of what comes before the first head."""
    with counting(sidecar), connect(site.own("hasty")) as wire:
        wire.send(octets)
        assert wire.await_end()


@pytest.mark.parametrize("octets", [b"", HELLO], ids=["silent", "half a hello"])
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_client_that_leaves_amid_the_handshake_leaves_nothing(sidecar: TlsSidecar, octets: bytes, end: str) -> None:
    """Who has not begun with it, such as a probe of the port, may be counted or not."""
    with counting(sidecar, 20) if octets else contextlib.nullcontext():
        for _ in range(20):
            with connect(sidecar.address) as wire:
                wire.send(octets)
                if end == "RST":
                    wire.reset()
    eventually(lambda: sidecar.established() == 0, "every connection is gone")


def test_garbage_is_counted_and_ended(sidecar: TlsSidecar) -> None:
    with counting(sidecar), connect(sidecar.address) as wire:
        wire.send(b"\0" * 100)
        assert wire.await_end()


# -- the end of a stream


def test_unbounded_answer_ends_with_close_notify(sidecar: TlsSidecar) -> None:
    with sidecar.connect() as wire:
        wire.send(b"GET /plain/x HTTP/1.0\r\n\r\n")
        assert wire.response().body == b"GET /x"
        assert wire.rest() == b""
        assert wire.notified


@pytest.mark.parametrize("framing", ["chunk", "close"])
def test_unbounded_answer_that_is_cut_has_no_close_notify(
    sidecar: TlsSidecar, upstream: Upstream, framing: str
) -> None:
    """To this client it would be the end of a whole body."""
    seen = threading.Event()

    def script(wire: Wire) -> None:
        wire.request()
        line = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" if framing == "chunk" else b"\r\nhello"
        wire.send(b"HTTP/1.1 200 OK\r\n" + line)
        assert seen.wait(60)
        wire.reset()

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(b"GET /plain/x HTTP/1.0\r\n\r\n")
        wire.head()
        assert wire.exactly(5) == b"hello"
        seen.set()
        wire.await_end()

        assert not wire.notified


def test_fin_behind_a_whole_request_cancels_it(sidecar: TlsSidecar, upstream: Upstream) -> None:
    for finish in (TlsWire.finish, Wire.finish, TlsWire.notify, Wire.reset):
        ends: list[Ended] = []

        def script(wire: Wire, ends: list[Ended] = ends) -> None:
            upstream.requests.append(wire.request())
            ends.append(wire.await_end())

        with upstream.play(script), sidecar.connect() as wire:
            wire.send(get("/plain/x"))
            eventually(lambda: upstream.requests, "the request has come")
            finish(wire)
            eventually(lambda ends=ends: ends, "the upstream's connection has ended")


def test_client_that_ignores_the_end_does_not_keep_its_connection(sidecar: TlsSidecar) -> None:
    """It says no close_notify of its own, and reads no more."""
    with sidecar.connect() as wire:
        wire.send(get("/plain/x", "Connection: close"))
        assert wire.response().body == b"GET /x"
        eventually(
            lambda: sidecar.established(wire.sock.getsockname()[1]) == 0, "the sidecar has closed the connection"
        )


# -- bodies


def test_large_bodies_both_ways_are_exact_with_a_slow_reader(sidecar: TlsSidecar, upstream: Upstream) -> None:
    bodies.both_ways_are_exact_with_a_slow_reader(sidecar, upstream)


def test_client_that_reads_slowly_holds_the_upstream_back(sidecar: TlsSidecar, upstream: Upstream) -> None:
    bodies.slow_client_holds_the_upstream_back(sidecar, upstream, buffered=2 * MB, memory=4 * MB)


def test_upstream_that_reads_slowly_holds_the_application_back(sidecar: TlsSidecar, upstream: Upstream) -> None:
    bodies.slow_upstream_holds_the_application_back(sidecar, upstream, buffered=2 * MB, memory=4 * MB)


# -- files that change


class Rotating:
    """A sidecar with as many ports as there are mounted secrets, each with its certificate and its clients' CA."""

    def __init__(self, folder: Path, upstream: Upstream, count: int) -> None:
        self.folder = folder
        self.authority = Authority()
        self.mounts = [Mounted(folder / f"secret{number}", **self.secret()) for number in range(count)]
        self.sidecar = Sidecar(
            folder,
            {
                f"d{number}": {
                    "upstream": upstream.url,
                    "hosts": [],
                    "timeout": TIMEOUT,
                    "pool": {"max_idle": 0},
                    "listen": f"unix:{folder}/{number}",
                    "listener": {
                        "tls": {
                            "cert": mount.path("cert"),
                            "key": mount.path("key"),
                            "client_ca": mount.path("client_ca"),
                        }
                    },
                }
                for number, mount in enumerate(self.mounts)
            },
        )
        self.addresses: list[Address] = [f"{folder}/{number}" for number in range(count)]

    def secret(self) -> dict[str, bytes]:
        good = self.authority.good
        return {"cert": good.chain, "key": good.key, "client_ca": self.authority.pem}

    def rotate(self) -> None:
        """Everybody has new certificates, by an authority that nobody knew before."""
        self.authority = Authority()
        for mount in self.mounts:
            mount.swap(**self.secret())

    def connect(self, number: int = 0) -> TlsWire:
        """A connection by the files of now."""
        context = client_context(self.authority.pem, self.authority.client, self.folder)
        return connect_tls(self.addresses[number], context)

    def in_force(self, number: int) -> bool:
        try:
            with self.connect(number) as wire:
                wire.send(get("/x"))
                return wire.response().body == b"GET /x"
        except (ssl.SSLError, Ended, OSError):
            return False

    def await_use(self) -> None:
        for number in range(len(self.mounts)):
            eventually(lambda number=number: self.in_force(number), f"the new files are in force at port {number}")


@pytest.fixture
def rotating(tmp_path: Path, upstream: Upstream) -> Iterator[Callable[[int], Rotating]]:
    with contextlib.ExitStack() as stack:

        def make(count: int) -> Rotating:
            rotating = Rotating(tmp_path, upstream, count)
            stack.enter_context(rotating.sidecar)
            return rotating

        yield make


def test_renewed_files_are_used_and_connections_go_on(rotating: Callable[[int], Rotating]) -> None:
    at = rotating(1)
    with at.connect() as busy:
        for number in range(3):
            busy.send(get(f"/{number}"))
            assert busy.response().body == b"GET /%d" % number
            at.rotate()
            at.await_use()
        busy.send(get("/last"))
        assert busy.response().body == b"GET /last"


def test_files_that_cannot_be_used_are_said_so_and_the_old_ones_stay(rotating: Callable[[int], Rotating]) -> None:
    at = rotating(1)
    at.sidecar.provoked.append("dependencies.d0.listener.tls")

    def complaints() -> int:
        return sum(line["level"] == "error" and "d0.listener.tls" in line["msg"] for line in at.sidecar.logged())

    bad = {"cert": b"nonsense", "key": Authority().good.key, "client_ca": b""}
    for number, (name, octets) in enumerate(bad.items(), 1):
        at.mounts[0].swap(**at.secret() | {name: octets})
        eventually(lambda number=number: complaints() == number, "it is said that they cannot be used")
        assert at.in_force(0)
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


def test_file_that_is_missing_at_the_start_is_told_and_nothing_is_served(tmp_path: Path, upstream: Upstream) -> None:
    tls = {"cert": str(tmp_path / "nothing.crt")}
    sidecar = Sidecar(tmp_path, {"plain": {"upstream": upstream.url}}, listener={"tls": tls})
    command = [sys.executable, "-m", "sidecar", "run", "--config", str(sidecar.config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    assert done.returncode != 0
    assert "listener.tls" in done.stderr + done.stdout
    assert "nothing.crt" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


# -- the drain


@pytest.fixture
def start(tmp_path: Path, site: Site, upstream: Upstream) -> Iterator[Callable[..., TlsSidecar]]:
    """Starts a sidecar of its own in front of `upstream`."""
    with contextlib.ExitStack() as stack:
        stack.callback(upstream.hang_up)

        def start(**settings: Any) -> TlsSidecar:
            together = written(tmp_path / "server.pem", site.authority.good.together)
            dependencies = {"plain": {"upstream": upstream.url, "prefix": "/plain", "timeout": TIMEOUT}}
            listener = {"tls": {"cert": together}}
            return stack.enter_context(TlsSidecar(site.trusting, tmp_path, dependencies, listener=listener, **settings))

        yield start


def test_drain_answers_what_is_under_way_and_says_goodbye(start: Callable[..., TlsSidecar], upstream: Upstream) -> None:
    sidecar = start(drain_idle="1ms")
    go_on = threading.Event()

    def reply(wire: Wire, request: Message) -> None:
        assert go_on.wait(60)
        wire.send(answer(b"x" * MB))

    with upstream.replying(reply), contextlib.ExitStack() as stack:
        wires = [stack.enter_context(sidecar.connect()) for _ in range(5)]
        for wire in wires[:3]:
            wire.send(get("/plain/held"))
        eventually(lambda: len(upstream.requests) == 3, "the requests are at the upstream")
        sidecar.running.terminate()
        eventually(lambda: sidecar.control("/readyz").status == 503, "it drains")
        with sidecar.connect() as late:
            late.send(get("/nowhere"))
            response = late.response()
            assert (response.status, response.closes) == (404, True)
        go_on.set()
        for wire in wires[:3]:
            response = wire.response()
            assert (response.body, response.closes) == (b"x" * MB, True)
        for number, wire in enumerate(wires):
            assert wire.rest() == b""
            if number < 3:
                assert wire.notified, f"connection {number} has had an answer, and ended as if that were cut"
            wire.close()

        assert sidecar.running.wait(PATIENCE_S) == 0


def test_connections_that_idle_or_never_shook_hands_do_not_hold_the_drain_up(
    start: Callable[..., TlsSidecar],
) -> None:
    sidecar = start(drain_idle="50ms", drain_timeout="1h")
    with sidecar.connect() as idle, connect(sidecar.address) as silent, connect(sidecar.address) as half:
        half.send(HELLO)
        sidecar.turn()
        sidecar.running.terminate()

        assert sidecar.running.wait(PATIENCE_S) == 0
        assert idle.rest() == b""
        assert silent.await_end()
        assert half.await_end()
