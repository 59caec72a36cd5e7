"""The limits towards the application: each has its own answer, and none costs the upstream anything."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from .harness import (
    Background,
    Ended,
    Message,
    Sidecar,
    Upstream,
    Wire,
    answer,
    connect,
    eventually,
    get,
    kernel_holds,
    post,
    steady,
)

pytestmark = pytest.mark.usefixtures("settled")

MB = 1_000_000
MOST_CONNECTIONS = 20


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("limits")
    timeout = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s"}
    plain: dict[str, Any] = {"upstream": upstream.url, "prefix": "/plain", "timeout": timeout}

    def own(name: str, **listener: str) -> dict[str, Any]:
        """Only who tests a short timeout meets one: on a socket of its own, and not on the shared port."""
        return plain | {"prefix": None, "listen": f"unix:{folder}/{name}", "listener": listener}

    dependencies = {
        "plain": plain,
        "small": plain | {"prefix": "/small", "max_body": "1000B"},
        "brief": own("brief", keepalive_timeout="200ms"),
        "hasty": own("hasty", head_timeout="400ms", body_timeout="400ms"),
    }
    listener = {
        "max_connections": MOST_CONNECTIONS,
        "max_request_line": "256B",
        "max_header": "256B",
        "max_headers": "1KiB",
        "max_header_count": 20,
        "max_read_ahead": "1KiB",
        "head_timeout": "60s",
        "body_timeout": "60s",
    }
    with Sidecar(folder, dependencies, listener=listener) as sidecar:
        yield sidecar


LINE = "/plain/" + "x" * 200
OVERSIZE = {
    "request line": (get("/plain/" + "x" * 300), 414, "URI_TOO_LONG", "max_request_line"),
    "endless request line": (b"GET /plain/" + b"x" * 300, 414, "URI_TOO_LONG", "max_request_line"),
    "header": (get("/plain/x", "X-Long: " + "x" * 300), 431, "HEADERS_TOO_LARGE", "max_header"),
    "endless header": (get("/plain/x")[:-2] + b"X-Long: " + b"x" * 1000, 431, "HEADERS_TOO_LARGE", "max_headers"),
    "headers together": (
        get("/plain/x", *(f"X-{number}: {'x' * 200}" for number in range(6))),
        431,
        "HEADERS_TOO_LARGE",
        "max_headers",
    ),
    "count of headers": (
        get("/plain/x", *(f"X-{number}: y" for number in range(30))),
        431,
        "HEADERS_TOO_LARGE",
        "max_header_count",
    ),
    "body by its length": (post("/small/x", b"x" * 1001), 413, "BODY_TOO_LARGE", "max_body"),
    "body announced": (get("/small/x", "Content-Length: 1001", method="PUT"), 413, "BODY_TOO_LARGE", "max_body"),
}


@pytest.mark.parametrize("what", OVERSIZE)
def test_oversize_is_refused_before_the_upstream_hears_of_it(sidecar: Sidecar, upstream: Upstream, what: str) -> None:
    octets, status, code, limit = OVERSIZE[what]
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        wire.send(octets)
        response = wire.response()

        assert (response.status, response.error, response.closes) == (status, code, True)
        assert limit in response.detail
        assert wire.rest() == b""
        assert upstream.wires == []


def test_what_just_fits_is_served(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        target = "/plain/" + "x" * (256 - len("GET /plain/ HTTP/1.1"))
        wire.send(get(target, "X-Long: " + "x" * (256 - len("X-Long: ")), *(f"X-{n}: y" for n in range(18))))
        assert wire.response().status == 200
        wire.send(post("/small/x", b"x" * 1000))
        assert wire.response().status == 200
        assert len(upstream.requests[1].body) == 1000


def test_chunked_body_beyond_max_body_is_413_and_its_upload_ends(sidecar: Sidecar, upstream: Upstream) -> None:
    ends: list[Ended] = []

    begun = threading.Event()

    def script(wire: Wire) -> None:
        wire.head()
        assert len(wire.chunk()) == 500
        begun.set()
        ends.append(wire.await_end())

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/small/x", "Transfer-Encoding: chunked", method="POST"))
        wire.send(b"1f4\r\n%b\r\n" % (b"x" * 500))
        assert begun.wait(60)
        wire.send(b"1f5\r\n%b\r\n" % (b"x" * 501))
        response = wire.response()

        assert (response.status, response.error, response.closes) == (413, "BODY_TOO_LARGE", True)
        eventually(lambda: ends, "the upstream's connection has ended")


@pytest.mark.parametrize("octets", [b"G", b"GET /plain/x HTTP/1.1\r\nHost: a\r\n"])
def test_head_that_does_not_come_in_time_is_408(sidecar: Sidecar, octets: bytes) -> None:
    with connect(f"{sidecar.folder}/hasty") as wire:
        wire.send(octets)
        response = wire.response()

        assert (response.status, response.error, response.closes) == (408, "REQUEST_TIMEOUT", True)
        assert "head_timeout" in response.detail
        assert wire.rest() == b""


@pytest.mark.parametrize(
    "octets",
    [
        get("/plain/x", "Content-Length: 10", method="POST") + b"hello",
        get("/plain/x", "Transfer-Encoding: chunked", method="POST") + b"a\r\nhello",
    ],
)
def test_body_that_stalls_is_408_and_no_fault_of_the_upstream(
    sidecar: Sidecar, upstream: Upstream, octets: bytes
) -> None:
    ends: list[Ended] = []

    def script(wire: Wire) -> None:
        wire.head()
        ends.append(wire.await_end())

    with upstream.play(script), connect(f"{sidecar.folder}/hasty") as wire:
        wire.send(octets)
        response = wire.response()

        assert (response.status, response.error, response.closes) == (408, "REQUEST_TIMEOUT", True)
        assert b"error=http_request_error" in (response.get(b"proxy-status") or b"")
        eventually(lambda: ends, "the upstream's connection has ended")


def test_bad_chunk_behind_a_good_head_is_400(sidecar: Sidecar, upstream: Upstream) -> None:
    ends: list[Ended] = []
    good = threading.Event()

    def script(wire: Wire) -> None:
        wire.head()
        assert wire.chunk() == b"good"
        good.set()
        ends.append(wire.await_end())

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/x", "Transfer-Encoding: chunked", method="POST") + b"4\r\ngood\r\n")
        eventually(good.is_set, "the good chunk has come")  # a bad one before it would end the connection without it
        wire.send(b"bad\n")
        response = wire.response()

        assert (response.status, response.error, response.closes) == (400, "BAD_REQUEST", True)
        eventually(lambda: ends, "the upstream's connection has ended")


@pytest.mark.parametrize("octets", [b"", get("/plain/x")])
def test_idle_connection_is_closed_without_a_word(sidecar: Sidecar, octets: bytes) -> None:
    with contextlib.ExitStack() as stack:
        with sidecar.standing_still():  # so that the request is there before its connection can idle
            wire = stack.enter_context(connect(f"{sidecar.folder}/brief"))
            other = stack.enter_context(sidecar.connect())
            wire.send(octets)
        if octets:
            assert wire.response().status == 200
        assert wire.rest() == b""
        assert other.silent, "the one on the shared port may idle for longer"


def test_connections_beyond_the_limit_are_turned_away_with_503(sidecar: Sidecar, upstream: Upstream) -> None:
    go_on = threading.Event()

    def reply(wire: Wire, request: Message) -> None:
        assert go_on.wait(60)
        wire.send(answer(request.target))

    with upstream.replying(reply), contextlib.ExitStack() as stack:
        wires = [stack.enter_context(sidecar.connect()) for _ in range(MOST_CONNECTIONS)]
        for number, wire in enumerate(wires):
            wire.send(get(f"/plain/{number}"))
        eventually(lambda: len(upstream.requests) == MOST_CONNECTIONS, "every request is under way")
        for _ in range(3):
            with sidecar.connect() as turned_away:
                response = turned_away.response()
                assert (response.status, response.error, response.closes) == (503, "CONNECTION_LIMITED", True)
                assert turned_away.rest() == b""
        go_on.set()
        for number, wire in enumerate(wires):
            assert wire.response().body == b"/%d" % number
        wires[0].reset()
        eventually(lambda: sidecar.ask(get("/plain/free")).body == b"/free", "there is room for one again")


def test_client_that_sends_ahead_is_not_read_beyond_the_limit(sidecar: Sidecar, upstream: Upstream) -> None:
    """A pipelined upload stays with its sender while the request before it is being answered."""
    go_on = threading.Event()
    size, sent = kernel_holds() // MB * MB + 20 * MB, 0

    def reply(wire: Wire, request: Message) -> None:
        assert go_on.wait(60)
        wire.send(answer(b"%d" % len(request.body)))

    def send(wire: Wire) -> None:
        nonlocal sent
        wire.send(get("/plain/first") + get("/plain/second", f"Content-Length: {size}", method="POST"))
        while sent < size:
            wire.send(b"x" * 100_000)
            sent += 100_000

    before = sidecar.rss()
    with upstream.replying(reply), sidecar.connect() as wire, Background(lambda: send(wire)):
        assert steady(lambda: sent) < kernel_holds() + MB
        assert sidecar.rss() - before < 2 * MB
        go_on.set()

        assert wire.response().body == b"0"
        assert wire.response().body == b"%d" % size
