"""Upgrades: WebSocket conversations are the same as without a sidecar, and nothing else gets a tunnel."""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import (
    PATIENCE_S,
    Ended,
    Message,
    Sidecar,
    Upstream,
    Wire,
    answer,
    connect,
    echo,
    eventually,
    get,
    missing,
    post,
)
from .websocket_cases import CASES, COMPRESSED, Case, Compressed, goodbye
from .websockets import ACCEPT, EchoServer, Frame, conversation, inflated, opened, read_frame, text, upgrade

MANY = 1000
MB = 1_000_000

settled = pytest.mark.usefixtures("settled")


@pytest.fixture(scope="module")
def echo_server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture(scope="module")
def descriptors() -> Iterator[None]:
    """Enough of them for both ends of many connections, or the tests cannot be made."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * MANY:
        missing(f"{MANY} WebSockets need {3 * MANY} descriptors, and the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, echo_server: EchoServer) -> Iterator[Sidecar]:
    def dependency(prefix: str, **settings: Any) -> dict[str, Any]:
        timeout = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s", "tunnel": "1h"}
        timeout |= settings.pop("timeout", {})
        return {"upstream": upstream.url, "prefix": prefix, "hosts": [], "timeout": timeout} | settings

    dependencies = {
        "echo": dependency("/echo", upstream=echo_server.url, strip_prefix=False, max_tunnels=2 * MANY),
        "plain": dependency("/plain"),
        "two": dependency("/two", max_tunnels=2),
        "none": dependency("/none", max_tunnels=0),
        "slot": dependency("/slot", concurrency={"limit": 1}),
        "brief": dependency("/brief", timeout={"tunnel": "300ms"}),
        "hasty": dependency("/hasty", timeout={"first_byte": "100ms", "idle": "100ms", "total": "100ms"}),
    }
    with Sidecar(tmp_path_factory.mktemp("websocket"), dependencies) as sidecar:
        yield sidecar


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
SWITCHED = SWITCH + b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"


def switching(upstream: Upstream, then: Callable[[Wire], None]) -> Callable[[Wire], None]:
    """An upstream that agrees to every upgrade, and then does as it is told."""

    def script(wire: Wire) -> None:
        upstream.requests.append(wire.request())
        wire.send(SWITCHED)
        then(wire)

    return script


def mirror(wire: Wire) -> None:
    """Send back whatever comes."""
    while True:
        wire.send(wire.more())


# -- conversations


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_conversation_is_the_same_directly_and_through_the_sidecar(
    sidecar: Sidecar, echo_server: EchoServer, case: Case
) -> None:
    with connect(echo_server.address) as wire:
        directly = conversation(wire, "/echo", case.pieces)
    with sidecar.connect() as wire:
        through = conversation(wire, "/echo", case.pieces)

    assert directly.frames == list(case.answer)
    assert (directly.reset, directly.rest) == (False, b"")
    assert through == directly


@pytest.mark.parametrize("case", COMPRESSED, ids=lambda case: case.name)
def test_compressed_conversation_is_the_same_directly_and_through_the_sidecar(
    sidecar: Sidecar, echo_server: EchoServer, case: Compressed
) -> None:
    offer = "; ".join(filter(None, ["Sec-WebSocket-Extensions: permessage-deflate", case.offer]))
    with connect(echo_server.address) as wire:
        directly = conversation(wire, "/echo", case.pieces, offer)
    with sidecar.connect() as wire:
        through = conversation(wire, "/echo", case.pieces, offer)

    agreed = directly.agreed[b"sec-websocket-extensions"] or b""
    takeover = b"server_no_context_takeover" not in agreed
    assert agreed.startswith(b"permessage-deflate")
    assert inflated(directly.frames[:-1], takeover=takeover) == list(case.messages)
    assert directly.frames[-1] == goodbye(1000)
    assert through == directly


def test_subprotocol_is_agreed_end_to_end(sidecar: Sidecar, echo_server: EchoServer) -> None:
    with sidecar.connect() as wire:
        head = opened(wire, "/echo", "Sec-WebSocket-Protocol: superchat, chat")

        assert head.get(b"sec-websocket-protocol") == b"chat"


@pytest.mark.usefixtures("descriptors")
def test_a_thousand_websockets_at_once(sidecar: Sidecar, echo_server: EchoServer) -> None:
    eventually(lambda: sidecar.established() == 0, "no connection is left from before")
    fds, rss = sidecar.fds(), sidecar.rss()
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(sidecar.connect()) for _ in range(MANY)]
        for wire in wires:
            wire.send(upgrade("/echo"))
        for wire in wires:
            assert wire.head().status == 101
        assert echo_server.open == MANY
        assert sidecar.metric("sidecar_tunnels", dependency="echo") == MANY
        for _ in range(3):
            for number, wire in enumerate(wires):
                wire.send(text(f"nonce {number}"))
            for number, wire in enumerate(wires):
                assert read_frame(wire) == Frame(1, b"nonce %d" % number)
        assert sidecar.rss() - rss < MANY * 30_000
        for wire in wires[::2]:
            wire.reset()
    eventually(lambda: echo_server.open == 0, "the server has noticed that all of them are gone")
    eventually(lambda: sidecar.fds() <= fds, "every descriptor is given back")
    assert sidecar.metric("sidecar_tunnels", dependency="echo") == 0


# -- what opens a tunnel


@settled
def test_upgrade_reaches_the_upstream_as_it_is_and_nothing_else_that_is_hop_by_hop(
    sidecar: Sidecar, upstream: Upstream
) -> None:
    with upstream.play(switching(upstream, mirror)), sidecar.connect() as wire:
        wire.send(
            get(
                "/plain/chat?room=1",
                "Connection: keep-alive, Upgrade, X-Hop",
                "Upgrade: websocket",
                "X-Hop: to the sidecar alone",
                "Sec-WebSocket-Key: abc",
            )
        )
        assert wire.head().status == 101
        (request,) = upstream.requests

        assert request.start == b"GET /chat?room=1 HTTP/1.1"
        assert request.get(b"upgrade") == b"websocket"
        assert (request.get(b"connection") or b"").lower() == b"upgrade"
        assert request.get(b"sec-websocket-key") == b"abc"
        assert request.get(b"host") == upstream.authority.encode()
        assert request.get(b"x-hop") is None


@settled
def test_any_protocol_can_be_upgraded_to(sidecar: Sidecar, upstream: Upstream) -> None:
    def script(wire: Wire) -> None:
        wire.request()
        wire.send(b"HTTP/1.1 101 Over\r\nConnection: upgrade\r\nUpgrade: Custom/1.0\r\n\r\nfirst words")
        mirror(wire)

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/x", "Connection: upgrade", "Upgrade: custom/1.0", method="OPTIONS"))
        head = wire.head()
        assert (head.status, head.get(b"upgrade")) == (101, b"Custom/1.0")
        assert wire.exactly(11) == b"first words", "what came with the answer belongs to the tunnel"
        for size in (1, 10, 100_000):
            wire.send(b"\0" * size)
            assert wire.exactly(size) == b"\0" * size


@settled
def test_octets_behind_the_request_reach_the_upstream_once_it_has_agreed(sidecar: Sidecar, upstream: Upstream) -> None:
    """A client should wait, and one that does not must get the same answer as without a sidecar."""
    with upstream.play(switching(upstream, mirror)), sidecar.connect() as wire:
        wire.send(upgrade("/plain/x") + b"too early")
        assert wire.head().status == 101

        assert wire.exactly(9) == b"too early"


@settled
def test_upgrade_of_http10_goes_plainly(sidecar: Sidecar, upstream: Upstream) -> None:
    """RFC 9110 section 7.8: it must be ignored."""
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        wire.send(b"GET /plain/x HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")

        assert wire.response().body == b"GET /x"
        assert upstream.requests[0].get(b"upgrade") is None


@settled
@pytest.mark.parametrize(
    "lines", [("Upgrade: websocket",), ("Connection: upgrade",), ("Connection: close", "Upgrade: websocket")]
)
def test_half_an_upgrade_is_none(sidecar: Sidecar, upstream: Upstream, lines: tuple[str, ...]) -> None:
    with upstream.play(upstream.serve):
        response = sidecar.ask(get("/plain/x", *lines))

        assert response.body == b"GET /x"
        assert upstream.requests[0].get(b"upgrade") is None
        assert b"upgrade" not in (upstream.requests[0].get(b"connection") or b"").lower()


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")


@settled
def test_h2c_goes_plainly(sidecar: Sidecar, upstream: Upstream) -> None:
    """In a tunnel of HTTP/2 requests would pass that nobody has looked at."""
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        for number in range(2):
            wire.send(get(f"/plain/{number}", *H2C))
            assert wire.response().body == b"GET /%d" % number
        for request in upstream.requests:
            assert request.get(b"upgrade") is None
            assert request.get(b"http2-settings") is None


BODIES = {
    "length": ("Content-Length: 5", b"hello"),
    "chunked": ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
}


@settled
@pytest.mark.parametrize("framing", BODIES)
def test_upgrade_with_a_body_goes_plainly(sidecar: Sidecar, upstream: Upstream, framing: str) -> None:
    line, body = BODIES[framing]
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        for number in range(2):
            wire.send(get(f"/plain/{number}", "Connection: Upgrade", "Upgrade: websocket", line, method="POST") + body)
            assert wire.response().body == b"POST /%d" % number
        assert [request.body for request in upstream.requests] == [b"hello", b"hello"]
        assert [request.get(b"upgrade") for request in upstream.requests] == [None, None]


@settled
def test_without_tunnels_an_upgrade_goes_plainly(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(upstream.serve):
        response = sidecar.ask(upgrade("/none/x"))

        assert response.body == b"GET /x"
        assert upstream.requests[0].get(b"upgrade") is None


# -- 101 at the wrong time


UNASKED = {
    "nobody asked": get("/plain/x"),
    "the request had a body": post("/plain/x", b"hello", "Connection: Upgrade", "Upgrade: websocket"),
    "there are no tunnels": upgrade("/none/x"),
    "for another protocol": get("/plain/x", "Connection: Upgrade", "Upgrade: custom"),
    "for h2c": get("/plain/x", *H2C),
    "of HTTP/1.0": b"GET /plain/x HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@settled
@pytest.mark.parametrize("why", UNASKED)
def test_101_at_the_wrong_time_is_502(sidecar: Sidecar, upstream: Upstream, why: str) -> None:
    with upstream.play(switching(upstream, mirror)):
        response = sidecar.ask(UNASKED[why])

        assert (response.status, response.error) == (502, "DOWNSTREAM_FAILURE")
        assert b"error=http_protocol_error" in (response.get(b"proxy-status") or b"")
        eventually(lambda: sidecar.established(upstream.port) == 0, "the upstream's connection is closed")


@settled
def test_101_without_a_protocol_is_502(sidecar: Sidecar, upstream: Upstream) -> None:
    """RFC 9110 section 15.2.2: it must name the protocol."""

    def script(wire: Wire) -> None:
        wire.request()
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n")
        wire.await_end()

    with upstream.play(script):
        response = sidecar.ask(upgrade("/plain/x"))

        assert (response.status, response.error) == (502, "DOWNSTREAM_FAILURE")


# -- refused


def refusing(wire: Wire, request: Message) -> None:
    """403 to an upgrade, an echo to everything else."""
    if request.get(b"upgrade") is None:
        echo(wire, request)
    else:
        wire.send(answer(b"not here", status="403 Forbidden"))


@settled
def test_refused_upgrade_is_answered_and_the_upstreams_connection_serves_on(
    sidecar: Sidecar, upstream: Upstream
) -> None:
    """The application's ends, for what may follow on it is of the other protocol."""
    with upstream.replying(refusing):
        for number in range(3):
            with sidecar.connect() as wire:
                wire.send(upgrade("/plain/x"))
                refused = wire.response()
                assert (refused.status, refused.body, refused.closes) == (403, b"not here", True)
                assert wire.rest() == b""
            assert sidecar.ask(get(f"/plain/{number}")).body == b"GET /%d" % number
        assert len(upstream.wires) == 1


@settled
def test_octets_behind_a_refused_upgrade_are_not_taken_for_a_request(sidecar: Sidecar, upstream: Upstream) -> None:
    """They were meant for the other protocol: a browser's page could choose them, and smuggle a request."""
    with upstream.replying(refusing), sidecar.connect() as wire:
        wire.send(upgrade("/plain/x") + get("/plain/smuggled"))

        assert wire.response().status == 403
        assert wire.rest() == b""
        assert [request.target for request in upstream.requests] == [b"/x"]


@settled
def test_octets_that_come_before_the_refusal_are_not_taken_for_a_request(sidecar: Sidecar, upstream: Upstream) -> None:
    go_on = threading.Event()

    def reply(wire: Wire, request: Message) -> None:
        assert go_on.wait(60)
        refusing(wire, request)

    with upstream.replying(reply), sidecar.connect() as wire:
        wire.send(upgrade("/plain/x"))
        eventually(lambda: upstream.requests, "the upgrade is at the upstream")
        wire.send(get("/plain/smuggled"))
        sidecar.turn()
        go_on.set()

        assert wire.response().status == 403
        assert wire.rest() == b""
        assert [request.target for request in upstream.requests] == [b"/x"]


@settled
def test_too_many_tunnels_are_refused_and_requests_are_served_on(sidecar: Sidecar, upstream: Upstream) -> None:
    def reply(wire: Wire, request: Message) -> None:
        if request.get(b"upgrade") is None:
            echo(wire, request)
        else:
            wire.send(SWITCHED)
            mirror(wire)

    with upstream.replying(reply), contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(sidecar.connect()) for _ in range(2))
        opened(first, "/two/1")
        opened(second, "/two/2")
        refused = sidecar.ask(upgrade("/two/3"))
        assert refused.refusal == (503, "CONCURRENCY_LIMITED", "connection_limit_reached")
        assert "max_tunnels" in refused.detail
        assert sidecar.ask(get("/two/plainly")).body == b"GET /plainly"
        assert len(upstream.requests) == 3
        second.reset()
        eventually(lambda: sidecar.metric("sidecar_tunnels", dependency="two") == 1, "one tunnel is left")
        with sidecar.connect() as third:
            opened(third, "/two/3")


@settled
def test_open_tunnel_holds_no_slot(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(switching(upstream, mirror)), sidecar.connect() as first, sidecar.connect() as second:
        opened(first, "/slot/1")
        opened(second, "/slot/2")


# -- the end of a tunnel


@settled
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_end_of_the_client_reaches_the_upstream(sidecar: Sidecar, upstream: Upstream, end: str) -> None:
    ends: list[Ended] = []

    def then(wire: Wire) -> None:
        assert wire.exactly(6) == b"before"
        ends.append(wire.await_end())
        if end == "FIN":
            wire.send(b"behind")

    with upstream.play(switching(upstream, then)), sidecar.connect() as wire:
        opened(wire, "/plain/x")
        wire.send(b"before")
        if end == "FIN":
            wire.finish()
            assert wire.rest() == b"behind", "one direction is closed, the other is not"
        else:
            sidecar.turn()
            wire.reset()
            eventually(lambda: ends, "the upstream's connection has ended")
        assert ends[0].reset == (end == "RST")


@settled
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_end_of_the_upstream_reaches_the_client(sidecar: Sidecar, upstream: Upstream, end: str) -> None:
    behind: list[bytes] = []
    read = threading.Event()

    def then(wire: Wire) -> None:
        wire.send(b"before")
        if end == "FIN":
            wire.finish()
            behind.append(wire.rest())
        else:
            assert read.wait(60)
            wire.reset()

    with upstream.play(switching(upstream, then)), sidecar.connect() as wire:
        opened(wire, "/plain/x")
        assert wire.exactly(6) == b"before"
        read.set()
        ended = wire.await_end()
        assert ended.reset == (end == "RST")
        if end == "FIN":
            wire.send(b"behind")
            wire.finish()
            eventually(lambda: behind == [b"behind"], "one direction was closed, the other was not")


@settled
def test_silent_tunnel_ends_at_its_timeout_and_no_other_timeout_ends_one(sidecar: Sidecar, upstream: Upstream) -> None:
    """first_byte, idle and total are shorter in the one that stays than the time after which the other one goes."""
    ends: list[Ended] = []

    def then(wire: Wire) -> None:
        try:
            mirror(wire)
        except Ended as end:
            ends.append(end)

    with upstream.play(switching(upstream, then)), sidecar.connect() as stays, sidecar.connect() as goes:
        opened(stays, "/hasty/x")
        opened(goes, "/brief/x")
        for _ in range(5):
            goes.send(b"busy")
            assert goes.exactly(4) == b"busy"
        assert goes.await_end()
        eventually(lambda: ends, "the upstream's connection has ended too")

        assert stays.silent
        stays.send(b"still here")
        assert stays.exactly(10) == b"still here"


# -- the books


@settled
def test_tunnels_and_their_octets_are_counted(sidecar: Sidecar, upstream: Upstream) -> None:
    def books() -> tuple[float, float, float]:
        def metric(name: str, **labels: str) -> float:
            return sidecar.metric(name, dependency="plain", **labels)

        return (
            metric("sidecar_tunnels_opened_total"),
            metric("sidecar_tunnel_bytes_total", direction="upstream"),
            metric("sidecar_tunnel_bytes_total", direction="downstream"),
        )

    def then(wire: Wire) -> None:
        wire.exactly(1000)
        wire.send(b"x" * 2345)
        wire.await_end()

    before = books()
    seconds = sidecar.metric("sidecar_tunnel_seconds_total", dependency="plain")
    with upstream.play(switching(upstream, then)), sidecar.connect() as wire:
        opened(wire, "/plain/x")
        eventually(lambda: sidecar.metric("sidecar_tunnels", dependency="plain") == 1, "the tunnel is counted")
        wire.send(b"x" * 1000)
        wire.exactly(2345)
        wire.close()
        eventually(lambda: sidecar.metric("sidecar_tunnels", dependency="plain") == 0, "the tunnel has ended")

    assert [after - earlier for after, earlier in zip(books(), before, strict=True)] == [1, 1000, 2345]
    assert sidecar.metric("sidecar_tunnel_seconds_total", dependency="plain") > seconds


# -- the drain


@pytest.fixture
def start(tmp_path: Path, upstream: Upstream) -> Iterator[Callable[..., Sidecar]]:
    """Starts a sidecar of its own in front of `upstream`."""
    with contextlib.ExitStack() as stack:
        stack.callback(upstream.hang_up)

        def start(**settings: Any) -> Sidecar:
            timeout = {"connect": "20s", "first_byte": "60s", "total": "60s", "tunnel": "1h"}
            dependency = {"upstream": upstream.url, "prefix": "/plain", "timeout": timeout}
            return stack.enter_context(Sidecar(tmp_path, {"plain": dependency}, **settings))

        yield start


def test_drain_ends_silent_tunnels(start: Callable[..., Sidecar], upstream: Upstream) -> None:
    sidecar = start(drain_idle="50ms", drain_timeout="1h")
    ends: list[Ended] = []

    def then(wire: Wire) -> None:
        try:
            mirror(wire)
        except Ended as end:
            ends.append(end)

    with upstream.play(switching(upstream, then)), contextlib.ExitStack() as stack:
        wires = [stack.enter_context(sidecar.connect()) for _ in range(3)]
        for wire in wires:
            opened(wire, "/plain/x")
        sidecar.running.terminate()
        for wire in wires:
            assert not wire.await_end().reset
            wire.close()

        assert sidecar.running.wait(PATIENCE_S) == 0
        eventually(lambda: len(ends) == 3, "the upstream's connections have ended")


def test_drain_leaves_a_busy_tunnel_alone_until_its_time_is_over(
    start: Callable[..., Sidecar], upstream: Upstream
) -> None:
    sidecar = start(drain_idle="1s", drain_timeout="3s")
    with upstream.play(switching(upstream, mirror)), sidecar.connect() as busy, sidecar.connect() as silent:
        opened(busy, "/plain/busy")
        opened(silent, "/plain/silent")
        sidecar.running.terminate()
        rounds = 0
        with pytest.raises((Ended, OSError)):
            while True:
                rounds += silent.silent is False  # those behind the end of the other one
                busy.send(b"busy")
                assert busy.exactly(4) == b"busy"
        silent.close()
        busy.close()

        assert rounds > 0, "the silent one ended first"
        assert sidecar.running.wait(PATIENCE_S) == 0
