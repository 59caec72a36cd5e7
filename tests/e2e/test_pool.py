"""The connections to an upstream as the upstream sees them: reused, limited, and closed in time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from .harness import Message, Sidecar, Upstream, Wire, answer, eventually, get

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Sidecar]:
    def pool(prefix: str, connect: str = "20s", **settings: Any) -> dict[str, Any]:
        timeout = {"connect": connect, "first_byte": "60s", "total": "60s"}
        settings = {"idle_timeout": "1h", "max_age": "1h"} | settings
        return {"upstream": upstream.url, "prefix": prefix, "hosts": [], "timeout": timeout, "pool": settings}

    dependencies = {
        "plain": pool("/plain"),
        "two": pool("/two", max_connections=2),
        "one": pool("/one", max_connections=1, connect="200ms"),
        "brief": pool("/brief", idle_timeout="100ms"),
        "aging": pool("/aging", max_age="300ms"),
        "thrifty": pool("/thrifty", max_idle=1),
    }
    with Sidecar(tmp_path_factory.mktemp("pool"), dependencies) as sidecar:
        yield sidecar


class Gate:
    """Holds back each answer until it is let through by the target of its request. Answers name the connection."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._open: dict[bytes, threading.Event] = {}
        self.arrived: list[bytes] = []

    def __call__(self, wire: Wire, request: Message) -> None:
        event = self._open.setdefault(request.target, threading.Event())
        self.arrived.append(request.target)
        assert event.wait(60)
        wire.send(answer(b"%d" % self._upstream.wires.index(wire)))

    def let_through(self, *targets: str) -> None:
        for target in targets:
            self._open.setdefault(target.encode(), threading.Event()).set()

    def await_arrival(self, *targets: str) -> None:
        wanted = [target.encode() for target in targets]
        eventually(lambda: all(target in self.arrived for target in wanted), f"{targets} at the upstream")


def send(sidecar: Sidecar, *targets: str) -> list[Wire]:
    """One request on a connection of its own for each target, in that order as the sidecar sees it."""
    wires = []
    for target in targets:
        wires.append(sidecar.connect())
        wires[-1].send(get(target))
        sidecar.turn()
    return wires


def close(wires: list[Wire]) -> None:
    for wire in wires:
        wire.close()


def test_most_recently_used_connection_is_reused_first(sidecar: Sidecar, upstream: Upstream) -> None:
    gate = Gate(upstream)
    with upstream.replying(gate):
        wires = send(sidecar, "/plain/a", "/plain/b", "/plain/c")
        gate.await_arrival("/a", "/b", "/c")
        used = {}
        for name, wire in zip("bca", (wires[1], wires[2], wires[0]), strict=True):
            gate.let_through(f"/{name}")
            used[name] = wire.response().body
        again = send(sidecar, "/plain/d")
        gate.await_arrival("/d")
        again += send(sidecar, "/plain/e")
        gate.let_through("/d", "/e", "/f")
        bodies = [wire.response().body for wire in again]
        close(wires + again)
        last = sidecar.ask(get("/plain/f")).body

        assert bodies == [used["a"], used["c"]]
        assert last in bodies
        assert len(upstream.wires) == 3


def test_requests_beyond_max_connections_wait_in_order_of_arrival(sidecar: Sidecar, upstream: Upstream) -> None:
    gate = Gate(upstream)
    with upstream.replying(gate):
        wires = send(sidecar, *(f"/two/{number}" for number in range(6)))
        gate.await_arrival("/0", "/1")
        for turn, number in enumerate((1, 0, 2, 3, 4, 5)):
            gate.let_through(f"/{number}")
            assert wires[number].response().status == 200
            # Each connection is read by a thread of its own: what comes next must be there before it is overtaken.
            eventually(lambda turn=turn: len(gate.arrived) == min(3 + turn, 6), "the next has its turn")
        close(wires)

        assert sorted(gate.arrived[:2]) == [b"/0", b"/1"]
        assert gate.arrived[2:] == [b"/2", b"/3", b"/4", b"/5"]
        assert len(upstream.wires) == 2


def test_waiting_in_vain_for_a_connection_is_concurrency_limited(sidecar: Sidecar, upstream: Upstream) -> None:
    gate = Gate(upstream)
    with upstream.replying(gate):
        holder, *refused = send(sidecar, "/one/held", "/one/vain", "/one/vain2")
        answers = [wire.response() for wire in refused]
        gate.let_through("/held", "/later")
        held = holder.response()
        # Refused requests have cost their connections nothing.
        refused[0].send(get("/one/later"))
        later = refused[0].response()
        close([holder, *refused])

        assert [(refusal.status, refusal.error) for refusal in answers] == [(503, "CONCURRENCY_LIMITED")] * 2
        assert "pool.max_connections" in answers[0].detail
        assert b"error=connection_limit_reached" in (answers[0].get(b"proxy-status") or b"")
        assert (held.status, later.status) == (200, 200)
        assert gate.arrived == [b"/held", b"/later"]


def test_waiter_that_leaves_is_passed_over(sidecar: Sidecar, upstream: Upstream) -> None:
    gate = Gate(upstream)
    with upstream.replying(gate):
        wires = send(sidecar, "/two/0", "/two/1", "/two/leaves", "/two/stays")
        gate.await_arrival("/0", "/1")
        wires[2].reset()
        sidecar.turn()
        gate.let_through("/0", "/stays")
        assert wires[3].response().status == 200
        gate.let_through("/1")
        assert wires[1].response().status == 200
        close([wires[0], wires[1], wires[3]])

        assert b"/leaves" not in gate.arrived


def test_connection_idle_for_idle_timeout_is_closed(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.replying(lambda wire, request: wire.send(answer())):
        sidecar.ask(get("/plain/lasting"))
        sidecar.ask(get("/brief/ending"))
        assert len(upstream.wires) == 2
        eventually(lambda: sidecar.established(upstream.port) == 1, "the idle connection is closed")
        sidecar.ask(get("/plain/again"))
        assert len(upstream.wires) == 2
        sidecar.ask(get("/brief/again"))
        assert len(upstream.wires) == 3


def test_connection_is_not_used_beyond_max_age(sidecar: Sidecar, upstream: Upstream) -> None:
    """Beside one that may grow old, so that nothing but its age can be the reason."""

    def reply(wire: Wire, request: Message) -> None:
        wire.send(answer(b"%d" % upstream.wires.index(wire)))

    with upstream.replying(reply), sidecar.connect() as wire:

        def on_a_second_connection() -> bool:
            answers = []
            for target in ("/plain/x", "/aging/x"):
                wire.send(get(target))
                answers.append(wire.response().body)
            assert answers[0] == b"0", "a young connection is reused"
            return answers[1] != b"1"

        eventually(on_a_second_connection, "the first connection has grown too old")
        eventually(lambda: sidecar.established(upstream.port) == 1, "an idle connection is closed at its age")


def test_no_more_than_max_idle_connections_are_kept(sidecar: Sidecar, upstream: Upstream) -> None:
    gate = Gate(upstream)
    with upstream.replying(gate):
        wires = send(sidecar, "/thrifty/0", "/thrifty/1", "/thrifty/2")
        gate.await_arrival("/0", "/1", "/2")
        gate.let_through("/0", "/1", "/2", "/3")
        for wire in wires:
            assert wire.response().status == 200
        close(wires)
        eventually(lambda: sidecar.established(upstream.port) == 1, "all but one are closed")
        assert sidecar.ask(get("/thrifty/3")).status == 200
        assert len(upstream.wires) == 3
