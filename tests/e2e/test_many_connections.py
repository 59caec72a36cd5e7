"""Ten thousand connections, and the moment when no descriptor is left."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .harness import Sidecar, Upstream, Wire, eventually, get, missing, steady

MANY = 10_000
MB = 1_000_000


@pytest.fixture
def sidecar(tmp_path: Path, upstream: Upstream) -> Iterator[Sidecar]:
    timeout = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s"}
    plain: dict[str, Any] = {"upstream": upstream.url, "prefix": "/plain", "timeout": timeout}
    with Sidecar(tmp_path, {"plain": plain}, listener={"keepalive_timeout": "10m"}) as sidecar:
        yield sidecar


@pytest.fixture
def descriptors() -> Iterator[None]:
    """As many descriptors as may be had; enough, or the test cannot be made."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MANY + 500:
        missing(f"{MANY} connections need as many descriptors, and the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("descriptors")
def test_ten_thousand_idle_connections_are_carried(sidecar: Sidecar, upstream: Upstream) -> None:
    fds, rss = sidecar.fds(), sidecar.rss()
    request = get("/plain/x")
    wires: list[Wire] = []
    with contextlib.ExitStack() as stack:
        while len(wires) < MANY:
            batch = [stack.enter_context(sidecar.connect()) for _ in range(500)]
            wires += batch
            for wire in (*batch[::10], batch[-1]):  # some have served, some are fresh; the last one is accepted last
                wire.send(request)
                assert wire.response().body == b"GET /x"
        assert sidecar.fds() >= fds + MANY
        assert sidecar.rss() - rss < MANY * 10_000, "a connection costs less than 10 kB"

        assert sidecar.control("/livez").status == 200
        assert sidecar.ask(request).status == 200
        for wire in wires[:: MANY // 100]:
            wire.send(request)
            assert wire.response().body == b"GET /x"
        for wire in wires:
            wire.reset()  # leaves no TIME_WAIT behind
    upstream.hang_up()
    eventually(lambda: sidecar.fds() <= fds, "every descriptor is given back")


# -- when descriptors run out


def limit_descriptors(sidecar: Sidecar, limit: int) -> None:
    _, hard = sidecar.running.rlimit(psutil.RLIMIT_NOFILE)
    sidecar.running.rlimit(psutil.RLIMIT_NOFILE, (limit, hard))


def lives(sidecar: Sidecar) -> bool:
    return sidecar.control("/livez").status == 200


@pytest.fixture
def crowd(sidecar: Sidecar) -> Iterator[list[Wire]]:
    """All the connections that a sidecar with 200 descriptors takes in."""
    limit_descriptors(sidecar, 200)
    with contextlib.ExitStack() as stack:
        wires: list[Wire] = []
        while True:
            wire = stack.enter_context(sidecar.connect())
            wire.send(get("/nowhere"))
            response = wire.response()
            if response.status != 404:
                assert (response.status, response.error, response.closes) == (503, "OVERLOADED", True)
                break
            wires.append(wire)
            assert len(wires) < 200
        yield wires


def test_last_descriptors_are_not_for_a_crowd_of_clients(
    sidecar: Sidecar, upstream: Upstream, crowd: list[Wire]
) -> None:
    assert len(crowd) > 100
    for _ in range(100):
        assert sidecar.ask(get("/nowhere")).error == "OVERLOADED"
    assert lives(sidecar)
    crowd[0].send(get("/plain/x"))
    assert crowd[0].response().body == b"GET /x"
    crowd.pop().reset()
    eventually(lambda: sidecar.ask(get("/nowhere")).status == 404, "there is room for one again")


def test_requests_beyond_the_descriptors_are_refused_and_it_lives(
    sidecar: Sidecar, upstream: Upstream, crowd: list[Wire]
) -> None:
    with upstream.play(lambda wire: wire.await_end()):
        for number, wire in enumerate(crowd):
            wire.send(get(f"/plain/{number}"))
        eventually(
            lambda: sum(not wire.silent for wire in crowd) + len(upstream.wires) >= len(crowd), "all are dealt with"
        )
        refused = [wire for wire in crowd if not wire.silent]
        assert 0 < len(refused) < len(crowd)
        for wire in refused:
            response = wire.response()
            assert (response.status, response.error) == (503, "OVERLOADED")
            assert b"error=proxy_internal_response" in (response.get(b"proxy-status") or b"")
        assert lives(sidecar)


def test_sidecar_without_any_descriptor_goes_on_and_accepts_again(sidecar: Sidecar, upstream: Upstream) -> None:
    with sidecar.connect() as wire:
        wire.send(get("/plain/x"))
        assert wire.response().status == 200
        limit_descriptors(sidecar, sidecar.fds())
        for _ in range(50):
            with sidecar.connect() as refused, contextlib.suppress(OSError):
                refused.send(get("/nowhere"))
                assert refused.await_end()
        wire.send(get("/nowhere"))
        assert wire.response().status == 404, "who is connected is served"
        # Of the processor's time, not the clock's: a loop that turns in circles takes all that it is given.
        steady(lambda: int(sidecar.cpu_s() / 0.1))
        limit_descriptors(sidecar, 1000)
        assert sidecar.ask(get("/plain/again")).body == b"GET /again"
        assert lives(sidecar)
