"""Bodies that flow: as they come, at constant memory, each side held back by the other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from . import bodies
from .harness import (
    IN_BETWEEN,
    MB,
    Background,
    Ended,
    Flood,
    Sidecar,
    Upstream,
    Wire,
    answer,
    eventually,
    get,
    post,
    steady,
)

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Sidecar]:
    def dependency(prefix: str, **timeout: str) -> dict[str, Any]:
        timeout = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s"} | timeout
        return {"upstream": upstream.url, "prefix": prefix, "hosts": [], "timeout": timeout}

    dependencies = {"plain": dependency("/plain"), "hasty": dependency("/hasty", idle="300ms")}
    with Sidecar(tmp_path_factory.mktemp("streaming"), dependencies) as sidecar:
        yield sidecar


# -- as they come


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_each_event_arrives_before_the_next_is_sent(sidecar: Sidecar, upstream: Upstream, framing: str) -> None:
    arrived = threading.Semaphore(0)
    events = [b"data: %d\n\n" % number for number in range(50)]

    def script(wire: Wire) -> None:
        wire.request()
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        wire.send(b"Transfer-Encoding: chunked\r\n\r\n" if framing == "chunked" else b"\r\n")
        for event in events:
            wire.send(b"%x\r\n%b\r\n" % (len(event), event) if framing == "chunked" else event)
            assert arrived.acquire(timeout=60)
        if framing == "chunked":
            wire.send(b"0\r\n\r\n")

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/events"))
        assert wire.head().get(b"transfer-encoding") == b"chunked"
        for event in events:
            assert wire.chunk() == event
            arrived.release()
        assert wire.chunk() == b""


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_each_part_of_an_upload_arrives_before_the_next_is_sent(
    sidecar: Sidecar, upstream: Upstream, framing: str
) -> None:
    arrived = threading.Semaphore(0)
    parts = [b"part %03d" % number for number in range(50)]

    def script(wire: Wire) -> None:
        wire.head()
        for part in parts:
            assert (wire.chunk() if framing == "chunked" else wire.exactly(len(part))) == part
            arrived.release()
        if framing == "chunked":
            assert wire.until(b"\r\n") + wire.until(b"\r\n") == b"0"
        wire.send(answer(b"all"))

    with upstream.play(script), sidecar.connect() as wire:
        line = "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {8 * len(parts)}"
        wire.send(get("/plain/upload", line, method="POST"))
        for part in parts:
            wire.send(b"8\r\n%b\r\n" % part if framing == "chunked" else part)
            assert arrived.acquire(timeout=60)
        if framing == "chunked":
            wire.send(b"0\r\n\r\n")
        assert wire.response().body == b"all"


def test_answer_and_upload_flow_at_the_same_time(sidecar: Sidecar, upstream: Upstream) -> None:
    def script(wire: Wire) -> None:
        wire.head()
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in iter(wire.chunk, b""):
            wire.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        wire.until(b"\r\n")
        wire.send(b"0\r\n\r\n")

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/both", "Transfer-Encoding: chunked", method="POST"))
        wire.head()
        for number in range(50):
            wire.send(b"4\r\n%04d\r\n" % number)
            assert wire.chunk() == b"%04d" % number
        wire.send(b"0\r\n\r\n")
        assert wire.chunk() == b""


def test_trailers_travel_both_ways(sidecar: Sidecar, upstream: Upstream) -> None:
    def script(wire: Wire) -> None:
        upstream.requests.append(wire.request())
        wire.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"
        )
        wire.await_end()

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/x", "Transfer-Encoding: chunked", "TE: trailers", "Connection: TE", method="POST"))
        wire.send(b"3\r\nabc\r\n0\r\nX-Check: 1\r\n\r\n")
        response = wire.response()

        assert (response.body, response.trailers) == (b"ok", [(b"X-Sum", b"7")])
        assert (upstream.requests[0].body, upstream.requests[0].trailers) == (b"abc", [(b"X-Check", b"1")])


# -- at constant memory


def test_client_that_reads_slowly_holds_the_upstream_back(sidecar: Sidecar, upstream: Upstream) -> None:
    flood = Flood()

    def script(wire: Wire) -> None:
        wire.request()
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % flood.size)
        flood(wire)
        wire.await_end()

    before = sidecar.rss()
    with upstream.play(script), sidecar.connect(receive_buffer=4096) as wire:
        wire.send(get("/plain/big"))
        wire.head()
        for number in range(2):
            held = steady(lambda: flood.sent) - number * 2 * MB
            assert held < IN_BETWEEN + MB, "what the client has not read is not read from the upstream"
            assert sidecar.rss() - before < 3 * MB
            wire.exactly(2 * MB)
        left = flood.size - 4 * MB
        while left:
            left -= len(wire.more())
        assert sidecar.rss() - before < 3 * MB


def test_many_clients_that_do_not_read_cost_two_buffers_each(sidecar: Sidecar, upstream: Upstream) -> None:
    clients = 20
    floods = [Flood() for _ in range(clients)]

    def script(wire: Wire) -> None:
        flood = floods[int(wire.request().target[1:])]
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % flood.size)
        flood(wire)

    before = sidecar.rss()
    with upstream.play(script), contextlib.ExitStack() as stack:
        for number in range(clients):
            wire = stack.enter_context(sidecar.connect(receive_buffer=4096))
            wire.send(get(f"/plain/{number}"))
        eventually(lambda: all(flood.sent for flood in floods), "every answer has begun")
        steady(lambda: sum(flood.sent for flood in floods))
        assert all(flood.sent < IN_BETWEEN + MB for flood in floods)
        # uvloop reads up to 256 KiB at a time, and 64 KiB in a transport pause the other side.
        assert sidecar.rss() - before < clients * 2 * 320 * 1024


def test_upstream_that_reads_slowly_holds_the_application_back(sidecar: Sidecar, upstream: Upstream) -> None:
    bodies.slow_upstream_holds_the_application_back(sidecar, upstream, buffered=MB, memory=3 * MB)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_upstream_that_never_reads_is_504_at_the_idle_timeout(
    sidecar: Sidecar, upstream: Upstream, framing: str
) -> None:
    flood = Flood()
    leave = threading.Event()

    def script(wire: Wire) -> None:
        wire.head()
        assert leave.wait(60)

    def upload(wire: Wire) -> None:
        with contextlib.suppress(OSError):
            flood(wire)

    before = sidecar.rss()
    with upstream.play(script), sidecar.connect() as wire:
        chunked = framing == "chunked"
        line = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {flood.size}"
        wire.send(get("/hasty/upload", line, method="POST") + (b"%x\r\n" % flood.size if chunked else b""))
        with Background(lambda: upload(wire)):
            response = wire.response()
            assert sidecar.rss() - before < 3 * MB
            assert flood.sent < flood.size
        leave.set()

        assert (response.status, response.error, response.closes) == (504, "DOWNSTREAM_TIMEOUT", True)
        assert "timeout.idle" in response.detail


def test_client_that_never_reads_is_cut_at_the_idle_timeout(sidecar: Sidecar, upstream: Upstream) -> None:
    flood = Flood()

    def script(wire: Wire) -> None:
        wire.request()
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % flood.size)
        flood(wire)

    with upstream.play(script), sidecar.connect(receive_buffer=4096) as wire:
        wire.send(get("/hasty/big"))
        wire.head()
        eventually(lambda: sidecar.established() == 0, "both connections are closed")
        assert flood.sent < flood.size
        with pytest.raises(Ended):
            wire.exactly(flood.size)


# -- 100-continue


EXPECT = "Expect: 100-continue"


def test_continue_is_the_upstreams_to_give(sidecar: Sidecar, upstream: Upstream) -> None:
    heads: list[bytes | None] = []
    agree = threading.Event()

    def script(wire: Wire) -> None:
        head = wire.head()
        heads.append(head.get(b"expect"))
        assert agree.wait(60)
        wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        wire.send(answer(wire.exactly(4)))
        wire.await_end()

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/x", EXPECT, "Content-Length: 4", method="POST"))
        eventually(lambda: heads, "the upstream has the head")
        sidecar.turn()
        assert wire.silent
        agree.set()
        assert wire.response().status == 100
        wire.send(b"body")
        assert wire.response().body == b"body"
        assert heads == [b"100-continue"]


@pytest.mark.parametrize("status", ["417 Expectation Failed", "401 Unauthorized"])
def test_refused_expectation_reaches_the_client_without_a_100(
    sidecar: Sidecar, upstream: Upstream, status: str
) -> None:
    ends: list[Ended] = []

    def script(wire: Wire) -> None:
        wire.head()
        wire.send(answer(b"no", status=status))
        ends.append(wire.await_end())

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/x", EXPECT, "Content-Length: 4", method="POST"))
        response = wire.response()

        assert (response.status, response.body) == (int(status[:3]), b"no")
        # Nobody can tell whether the body will come, so neither connection can serve another request.
        assert response.closes
        eventually(lambda: ends, "the upstream's connection has ended")


def test_own_refusal_of_an_expectation_comes_without_a_100(sidecar: Sidecar) -> None:
    with sidecar.connect() as wire:
        wire.send(get("/nowhere", EXPECT, "Content-Length: 4", method="POST"))

        assert wire.response().status == 404


def test_client_that_does_not_wait_for_100_is_served(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(upstream.serve):
        response = sidecar.ask(post("/plain/x", b"body", EXPECT))

        assert (response.status, upstream.requests[0].body) == (200, b"body")
