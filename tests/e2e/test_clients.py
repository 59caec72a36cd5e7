"""What an application can do: old versions, many requests at once, and leaving at any moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .harness import Background, Ended, Message, Sidecar, Upstream, Wire, answer, connect, eventually, get, post

pytestmark = pytest.mark.usefixtures("settled")

MB = 1_000_000


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("clients")

    def dependency(prefix: str, **settings: Any) -> dict[str, Any]:
        timeout = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s"}
        return {"upstream": upstream.url, "prefix": prefix, "hosts": [], "timeout": timeout} | settings

    dependencies = {
        "plain": dependency("/plain"),
        "fresh": dependency("/fresh", pool={"max_idle": 0}),
        "single": dependency("/single", pool={"max_connections": 1}),
        "half": dependency("/half", listen=f"unix:{folder}/half.sock", listener={"allow_half_close": True}),
    }
    with Sidecar(folder, dependencies) as sidecar:
        yield sidecar


# -- HTTP/1.0


def test_http10_client_is_answered_and_its_connection_closed(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        wire.send(b"GET /plain/old HTTP/1.0\r\n\r\n")

        assert wire.response().body == b"GET /old"
        assert wire.rest() == b""
        assert upstream.requests[0].start == b"GET /old HTTP/1.1"


def test_http10_client_may_keep_its_connection(sidecar: Sidecar) -> None:
    with sidecar.connect() as wire:
        for number in range(3):
            wire.send(b"GET /plain/%d HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % number)
            response = wire.response()
            assert (response.body, response.get(b"connection")) == (b"GET /%d" % number, b"keep-alive")


def test_http10_client_gets_neither_chunks_nor_interim_answers(sidecar: Sidecar, upstream: Upstream) -> None:
    octets = (
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nold\r\n0\r\n\r\n"
    )
    with upstream.replying(lambda wire, request: wire.send(octets)), sidecar.connect() as wire:
        wire.send(b"GET /plain/old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head = wire.head()

        assert head.start == b"HTTP/1.1 200 OK"
        assert (head.get(b"transfer-encoding"), head.get(b"connection")) == (None, None)
        assert wire.rest() == b"old"


# -- pipelining


def test_200_requests_in_one_write_are_answered_in_their_order(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        wire.send(b"".join(get(f"/plain/{number}") for number in range(200)))

        for number in range(200):
            assert wire.response().body == b"GET /%d" % number
        assert len(upstream.wires) == 1


def test_pipelined_requests_of_every_kind_keep_their_order(sidecar: Sidecar) -> None:
    kinds = {
        "get": lambda number: get(f"/plain/{number}"),
        "head": lambda number: get(f"/plain/{number}", method="HEAD"),
        "post": lambda number: post(f"/plain/{number}", b"b" * number * 50),
        "chunked": lambda number: (
            get(f"/plain/{number}", "Transfer-Encoding: chunked", method="PUT") + b"1\r\nx\r\n0\r\n\r\n"
        ),
        "nowhere": lambda number: get("/nowhere"),
    }
    order = list(kinds) * 30
    octets = b"".join(kinds[kind](number) for number, kind in enumerate(order))
    with sidecar.connect() as wire, Background(lambda: wire.send(octets)):
        for number, kind in enumerate(order):
            response = wire.response(bodiless=kind == "head")
            if kind == "nowhere":
                assert response.status == 404
                continue
            method = {"chunked": "PUT"}.get(kind, kind.upper())
            assert response.body == (b"" if kind == "head" else b"%b /%d" % (method.encode(), number))


def test_pipeline_behind_a_closing_request_is_not_answered(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        wire.send(get("/plain/last", "Connection: close") + get("/plain/never"))

        assert wire.response().body == b"GET /last"
        assert wire.rest() == b""
        assert [request.target for request in upstream.requests] == [b"/last"]


# -- half-closing


def test_fin_behind_a_whole_request_cancels_it(sidecar: Sidecar, upstream: Upstream) -> None:
    ends: list[Ended] = []

    def script(wire: Wire) -> None:
        upstream.requests.append(wire.request())
        ends.append(wire.await_end())

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/x"))
        eventually(lambda: upstream.requests, "the request has come")
        wire.finish()

        assert wire.rest() == b""
        eventually(lambda: ends, "the upstream's connection has ended")


def test_half_closed_client_is_answered_where_that_is_allowed(sidecar: Sidecar, upstream: Upstream) -> None:
    go_on = threading.Event()

    def reply(wire: Wire, request: Message) -> None:
        assert go_on.wait(60)
        wire.send(answer(b"x" * MB))

    with upstream.replying(reply), connect(f"{sidecar.folder}/half.sock") as wire:
        wire.send(get("/half/x"))
        wire.finish()
        upstream.wire()
        sidecar.turn()
        go_on.set()

        assert wire.response().body == b"x" * MB
        assert wire.rest() == b""


# -- leaving


class Stage:
    """How far an exchange is when its client leaves: plays the upstream, and drives the client up to there."""

    def __init__(self, name: str, sidecar: Sidecar, upstream: Upstream) -> None:
        self._sidecar = sidecar
        self._upstream = upstream
        self._drive: Callable[[Wire], None] = getattr(self, name)
        self._there = threading.Semaphore(0)
        self.answer = b""

    def script(self, wire: Wire) -> None:
        while True:
            head = wire.head()
            if head.target == b"/whole":
                wire.send(answer(b"whole"))
                continue
            if self.answer:
                wire.send(self.answer)
            self._there.release()
            try:
                while True:
                    wire.more()
            finally:
                self._there.release()

    def reach(self, wire: Wire) -> None:
        self._drive(wire)

    def _await_upstream(self) -> None:
        assert self._there.acquire(timeout=60)

    def await_end(self) -> None:
        """The upstream's connection has ended, where there was one."""
        if self._drive not in (self.nothing, self.part_of_a_head, self.answered):
            self._await_upstream()

    def nothing(self, wire: Wire) -> None:
        self._sidecar.turn()

    def part_of_a_head(self, wire: Wire) -> None:
        wire.send(b"GET /plain/x HTTP/1.1\r\nHost")
        self._sidecar.turn()

    def answered(self, wire: Wire) -> None:
        wire.send(get("/plain/whole"))
        assert wire.response().body == b"whole"

    def head_only(self, wire: Wire) -> None:
        wire.send(get("/plain/x", "Content-Length: 10", method="POST"))
        self._await_upstream()

    def part_of_a_body(self, wire: Wire) -> None:
        wire.send(get("/plain/x", "Transfer-Encoding: chunked", method="POST") + b"a\r\nhello")
        self._await_upstream()

    def no_answer_yet(self, wire: Wire) -> None:
        wire.send(get("/plain/x"))
        self._await_upstream()

    def pipelined(self, wire: Wire) -> None:
        wire.send(get("/plain/x") * 3)
        self._await_upstream()

    def part_of_an_answer(self, wire: Wire) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
        wire.send(get("/plain/x"))
        self._await_upstream()
        wire.until(b"hello")

    def part_of_a_chunked_answer(self, wire: Wire) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        wire.send(get("/plain/x"))
        self._await_upstream()
        wire.until(b"hello")

    def answered_amid_the_body(self, wire: Wire) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        wire.send(get("/plain/x", "Content-Length: 10", method="POST") + b"12345")
        self._await_upstream()
        wire.until(b"hello")


STAGES = [name for name in vars(Stage) if not name.startswith("_") and name not in ("script", "reach", "await_end")]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_client_that_leaves_takes_its_upstream_exchange_along(
    sidecar: Sidecar, upstream: Upstream, stage: str, how: str
) -> None:
    at = Stage(stage, sidecar, upstream)
    with upstream.play(at.script), sidecar.connect() as wire:
        at.reach(wire)
        if how == "RST":
            wire.reset()
        else:
            wire.finish()
        at.await_end()
        eventually(lambda: sidecar.established() - sidecar.established(upstream.port) == 0, "its connection is gone")


def test_client_that_leaves_the_queue_for_a_connection_is_forgotten(sidecar: Sidecar, upstream: Upstream) -> None:
    go_on = threading.Event()

    def reply(wire: Wire, request: Message) -> None:
        assert go_on.wait(60)
        wire.send(answer(request.target))

    with upstream.replying(reply), sidecar.connect() as first, sidecar.connect() as last:
        first.send(get("/single/first"))
        eventually(lambda: upstream.requests, "the first request is there")
        for number in range(20):
            with sidecar.connect() as wire:
                wire.send(get(f"/single/{number}"))
                sidecar.turn()
                wire.reset()
        last.send(get("/single/last"))
        sidecar.turn()
        go_on.set()

        assert first.response().body == b"/first"
        assert last.response().body == b"/last"
        assert [request.target for request in upstream.requests] == [b"/first", b"/last"]


def test_clients_that_leave_at_any_moment_leave_nothing_behind(sidecar: Sidecar, upstream: Upstream) -> None:
    """Not at a stage but as it happens: before, amid and behind the connect to the upstream."""
    with upstream.play(upstream.serve):
        for number in range(300):
            with sidecar.connect() as wire:
                wire.send(get(f"/fresh/{number}", "Content-Length: 3", method="PUT") + b"abc")
                for _ in range(number % 20):
                    _ = wire.silent  # a moment, longer each time
                wire.reset()
        eventually(lambda: sidecar.established() == 0, "every connection is gone")


def test_hundreds_of_clients_that_leave_cost_nothing_that_stays(sidecar: Sidecar, upstream: Upstream) -> None:
    def leave(times: int) -> None:
        for number in range(times):
            at = Stage(STAGES[number % len(STAGES)], sidecar, upstream)
            with upstream.play(at.script), sidecar.connect() as wire:
                at.reach(wire)
                if number // len(STAGES) % 2:
                    wire.reset()
                else:
                    wire.close()
                at.await_end()
        eventually(lambda: sidecar.established() == 0, "every connection is gone")

    leave(100)
    fds, rss = sidecar.fds(), sidecar.rss()
    leave(400)

    assert sidecar.fds() <= fds
    assert sidecar.rss() - rss < 2 * MB
