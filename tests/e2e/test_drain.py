"""How a sidecar stops: SIGTERM loses no request, a drain has its time, a second signal ends it."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import (
    PATIENCE_S,
    Background,
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
    post,
    steady,
)

Start = Callable[..., Sidecar]


@pytest.fixture
def start(tmp_path: Path, upstream: Upstream) -> Iterator[Start]:
    """Starts a sidecar in front of `upstream`."""
    with contextlib.ExitStack() as stack:
        # Behind the sidecar's end, so that what is left at the upstream is ended by nobody but the sidecar.
        stack.callback(upstream.hang_up)

        def start(**settings: Any) -> Sidecar:
            timeout = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s"}
            dependency = {"upstream": upstream.url, "prefix": "/plain", "timeout": timeout}
            dependency["listen"] = f"unix:{tmp_path}/own"
            return stack.enter_context(Sidecar(tmp_path, {"plain": dependency}, **settings))

        yield start


def exit_status(sidecar: Sidecar) -> int:
    return int(sidecar.running.wait(PATIENCE_S))


class Held:
    """Holds an answer back until it is let through."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._go_on = threading.Event()

    def __call__(self, wire: Wire, request: Message) -> None:
        assert self._go_on.wait(60)
        echo(wire, request)

    def await_requests(self, count: int) -> None:
        eventually(lambda: len(self._upstream.requests) >= count, f"{count} requests at the upstream")

    def let_through(self) -> None:
        self._go_on.set()


def test_sigterm_under_load_loses_no_request(start: Start, upstream: Upstream) -> None:
    sidecar = start(drain_idle="1ms")
    held = Held(upstream)
    before, after = itertools.count(), itertools.count()
    enough = threading.Event()

    def reply(wire: Wire, request: Message) -> None:
        (held if request.target == b"/last" else echo)(wire, request)

    def client(name: int) -> None:
        """Ask until the drain has closed a good many connections under us all."""
        number = 0
        while not enough.is_set():
            with sidecar.connect() as wire:
                closes = False
                while not closes and not enough.is_set():
                    number += 1
                    wire.send(post(f"/plain/{name}/{number}", b"order"))
                    response = wire.response()
                    assert response.body == b"POST /%d/%d" % (name, number)
                    closes = response.closes
                    if next(after if closes else before) > 200 and closes:
                        enough.set()

    with upstream.replying(reply), contextlib.ExitStack() as stack:
        # The drain goes on for as long as this one is under way, however long a client takes between two requests.
        last = stack.enter_context(sidecar.connect())
        last.send(get("/plain/last"))
        held.await_requests(1)
        clients = [stack.enter_context(Background(lambda name=name: client(name))) for name in range(6)]
        eventually(lambda: len(upstream.requests) > 300, "the load is on")
        sidecar.running.terminate()
        for each in clients:
            each.join()
        held.let_through()
        response = last.response()
        last.close()

        assert (response.body, response.closes) == (b"GET /last", True)
        assert exit_status(sidecar) == 0
        assert len(upstream.requests) == 1 + next(before) + next(after)


def test_readiness_goes_first_and_requests_are_served_on(start: Start, upstream: Upstream) -> None:
    sidecar = start(drain_idle="50ms")
    held = Held(upstream)
    with upstream.replying(held), sidecar.connect() as idle, sidecar.connect() as wire:
        idle.send(get("/nowhere"))
        assert not idle.response().closes
        wire.send(get("/plain/held"))
        held.await_requests(1)
        sidecar.running.terminate()
        eventually(lambda: sidecar.control("/readyz").status == 503, "it is not ready any more")
        assert b"draining" in sidecar.control("/readyz").body
        assert sidecar.control("/livez").status == 200
        # A connection from before, and new ones on either kind of port.
        idle.send(get("/nowhere"))
        late = idle.response()
        assert (late.status, late.closes) == (404, True)
        assert idle.rest() == b""
        new = sidecar.ask(get("/nowhere"))
        assert (new.status, new.closes) == (404, True)
        with connect(f"{sidecar.folder}/own") as own:
            own.send(get("/new"))
            held.await_requests(2)
            held.let_through()
            answers = [wire.response(), own.response()]
        for each in (wire, idle):
            each.close()

        assert [response.body for response in answers] == [b"GET /held", b"GET /new"]
        assert [response.closes for response in answers] == [True, True]
        assert exit_status(sidecar) == 0


def test_idle_connections_do_not_hold_the_drain_up(start: Start) -> None:
    sidecar = start(drain_idle="50ms", drain_timeout="60s")
    with sidecar.connect() as idle, connect(f"{sidecar.folder}/own") as own:
        sidecar.turn()
        sidecar.running.terminate()

        assert exit_status(sidecar) == 0
        assert idle.rest() == own.rest() == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_either_signal_drains(start: Start, upstream: Upstream, number: signal.Signals) -> None:
    sidecar = start()
    held = Held(upstream)
    with upstream.replying(held), sidecar.connect() as wire:
        wire.send(get("/plain/held"))
        held.await_requests(1)
        sidecar.running.send_signal(number)
        eventually(lambda: sidecar.control("/readyz").status == 503, "it drains")
        held.let_through()

        assert wire.response().body == b"GET /held"
        wire.close()
        assert exit_status(sidecar) == 0


def test_drain_timeout_answers_what_has_no_answer_and_cuts_the_rest_visibly(start: Start, upstream: Upstream) -> None:
    sidecar = start(drain_timeout="300ms")

    def script(wire: Wire) -> None:
        upstream.requests.append(head := wire.head())
        if head.target == b"/begun":
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        if head.target == b"/chunked":
            wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        wire.await_end()

    with upstream.play(script), contextlib.ExitStack() as stack:
        wires = [stack.enter_context(sidecar.connect()) for _ in range(5)]
        silent, uploading, begun, chunked, arriving = wires
        silent.send(get("/plain/silent"))
        uploading.send(get("/plain/uploading", "Content-Length: 10", method="POST") + b"hello")
        begun.send(get("/plain/begun"))
        begun.until(b"hello")
        chunked.send(get("/plain/chunked"))
        chunked.until(b"hello\r\n")
        arriving.send(b"GET /plain/arriving HTTP/1.1\r\nHost")
        eventually(lambda: len(upstream.requests) == 4, "every request is at the upstream")
        sidecar.turn()
        sidecar.running.terminate()

        for wire in (silent, uploading):
            response = wire.response()
            assert (response.status, response.error, response.closes) == (503, "DRAINING", True)
            assert "drain_timeout" in response.detail
            assert wire.rest() == b""
        for wire in (begun, chunked, arriving):
            with pytest.raises(Ended) as end:
                wire.exactly(1)
            assert not end.value.reset
        for wire in wires:
            wire.close()
        assert exit_status(sidecar) == 0


def test_clients_that_ignore_the_end_do_not_hold_it_up(start: Start, upstream: Upstream) -> None:
    sidecar = start(drain_timeout="100ms")
    held = Held(upstream)
    with upstream.replying(held), sidecar.connect() as wire:
        wire.send(get("/plain/held"))
        held.await_requests(1)
        sidecar.running.terminate()

        assert exit_status(sidecar) == 0
        assert wire.response().error == "DRAINING"
        held.let_through()


def test_answers_that_a_slow_client_still_reads_are_not_cut_by_the_end_of_the_drain(
    start: Start, upstream: Upstream
) -> None:
    """No exchange is under way then: the upstream is done, and what the kernel did not take waits in the sidecar."""
    sidecar = start(drain_idle="1ms")
    body = b"x" * 50_000
    answered: list[Wire] = []

    def reply(wire: Wire, request: Message) -> None:
        wire.send(answer(body))
        answered.append(wire)

    def waits_for_the_client() -> bool:
        """Whether the sidecar has read every answer that it has asked for, and asks no further."""
        count = len(answered)
        sidecar.turn()
        return 0 < count == len(upstream.requests) and answered[-1].silent

    with upstream.replying(reply), sidecar.connect(receive_buffer=65536) as wire:
        wire.send(get("/plain/x") * 500)
        eventually(waits_for_the_client, "the client holds it up")
        asked = len(upstream.requests)
        assert asked < 500
        sidecar.running.terminate()
        eventually(lambda: sidecar.control("/readyz").status == 503, "it drains")
        assert steady(sidecar.running.poll) is None, "it waits for the client"

        answers = [wire.response()]
        while not answers[-1].closes:
            answers.append(wire.response())
        assert all(response.body == body for response in answers)
        assert len(answers) > asked, "what waited behind them is answered too, by the one that says so the last"
        wire.close()
        assert exit_status(sidecar) == 0


@pytest.mark.parametrize(("second", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_second_signal_ends_it_at_once(start: Start, upstream: Upstream, second: signal.Signals, status: int) -> None:
    sidecar = start(drain_timeout="1h")
    ends: list[Ended] = []

    def script(wire: Wire) -> None:
        upstream.requests.append(wire.request())
        ends.append(wire.await_end())

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/held"))
        eventually(lambda: upstream.requests, "the request is at the upstream")
        sidecar.running.terminate()
        eventually(lambda: sidecar.control("/readyz").status == 503, "it drains")
        sidecar.running.send_signal(second)

        assert exit_status(sidecar) == status
        assert wire.await_end()
        eventually(lambda: ends, "the upstream's connection has ended")
    sidecar.exit_status = status


def test_restart_binds_at_once(start: Start, upstream: Upstream) -> None:
    """In spite of connections in TIME_WAIT, and of the socket file where the process was killed."""
    sidecar = start(drain_idle="1ms")
    with upstream.play(upstream.serve):
        for kill in (False, True):
            with sidecar.connect() as wire, connect(f"{sidecar.folder}/own") as own:
                wire.send(get("/plain/1", "Connection: close"))
                assert wire.rest().endswith(b"GET /1")
                wire.close()
                own.send(get("/2"))
                assert own.response().body == b"GET /2"
                if kill:
                    sidecar.kill()
                else:
                    sidecar.running.terminate()
                    assert exit_status(sidecar) == 0
            sidecar.start()
        assert sidecar.ask(get("/plain/3")).body == b"GET /3"
