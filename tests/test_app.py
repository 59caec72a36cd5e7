"""The composition root: what it binds and lets go, and when a drain is over."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp.http_parser
import pytest
import yaml

from sidecar.app import App, _raise_descriptor_limit
from sidecar.config import load_text
from sidecar.errors import StartError
from sidecar.runtime.deadlines import Deadlines
from tests.e2e.harness import free_port, fresh_host

Make = Callable[..., App]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Builds an app on free ports; stops it at the end."""
    host = fresh_host()
    apps = []

    def make(dependency: dict[str, Any] | None = None, **settings: Any) -> App:
        dependency = {"upstream": "http://127.0.0.1:1", "prefix": "/a"} | (dependency or {})
        config = {
            "listen": f"{host}:0",
            "metrics": {"listen": f"{host}:{free_port(host)}"},
            "drain_idle": "1ms",
            "dependencies": {"a": dependency},
        } | settings
        app = App(load_text(yaml.safe_dump(config), environ={}).config)
        app.metrics = config["metrics"]["listen"]
        apps.append(app)
        return app

    yield make
    for app in apps:
        await app.stop(at_once=True)


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def ask(text: str, octets: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address(text))
    writer.write(octets)
    answer = await reader.read()
    writer.close()
    return answer


async def status_of(text: str, target: str) -> int:
    answer = await ask(text, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return int(answer.split(b" ")[1])


def is_free(text: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address(text)) != 0


# -- start


async def test_started_app_tells_the_ports_that_the_kernel_chose(make: Make, tmp_path: Path) -> None:
    app = make({"listen": f"unix:{tmp_path}/a.sock"})
    await app.start()
    shared, own = app.bound

    assert address(shared)[1] > 0
    assert await status_of(shared, "/nowhere") == 404
    assert own == f"{tmp_path}/a.sock"
    assert await status_of(app.metrics, "/readyz") == 200


async def test_failed_start_leaves_nothing_bound(make: Make) -> None:
    with socket.create_server((fresh_host(), 0)) as taken:
        host, port = taken.getsockname()
        app = make({"listen": f"{host}:{port}"})
        with pytest.raises(StartError, match=rf"^dependencies\.a\.listen: cannot listen on {host}:{port}: Address"):
            await app.start()

    assert is_free(app.metrics)
    # The shared port was bound before it failed.
    assert app.bound == [] or is_free(app.bound[0])


async def test_socket_file_that_nobody_listens_on_is_replaced(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    await make({"listen": f"unix:{path}"}).start()

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


async def test_socket_file_in_use_is_not_taken_over(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "used.sock"
    with socket.socket(socket.AF_UNIX) as used:
        used.bind(str(path))
        used.listen()
        with pytest.raises(StartError, match=r"used\.sock is in use by another process"):
            await make({"listen": f"unix:{path}"}).start()

    assert path.exists()


async def test_file_that_is_no_socket_is_left_alone(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("precious")
    with pytest.raises(StartError, match="exists and is no socket"):
        await make({"listen": f"unix:{path}"}).start()

    assert path.read_text() == "precious"


async def test_start_without_the_c_parser_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = aiohttp.http_parser
    monkeypatch.setattr(parser, "HttpRequestParser", parser.HttpRequestParserPy)
    app = make()
    with pytest.raises(StartError, match="C parser"):
        await app.start()

    assert is_free(app.metrics)


def test_descriptor_limit_is_raised_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 100, before[1]))
        _raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# -- drain and stop


async def test_drain_without_requests_is_over_by_itself(make: Make) -> None:
    app = make(drain_timeout="1h")
    await app.start()
    await app.drain()

    assert await status_of(app.metrics, "/readyz") == 503
    assert await status_of(app.metrics, "/livez") == 200


async def test_hurry_ends_a_drain(make: Make) -> None:
    app = make(drain_idle="1h", drain_timeout="1h")
    await app.start()
    hurry = asyncio.Event()
    draining = asyncio.create_task(app.drain(hurry))
    while await status_of(app.metrics, "/readyz") != 503:
        await asyncio.sleep(0)
    assert not draining.done()
    hurry.set()
    await draining


async def test_each_request_puts_the_end_of_a_drain_off(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    deadlines = Deadlines(lambda: now)
    monkeypatch.setattr("sidecar.app.Deadlines", lambda: deadlines)
    monkeypatch.setattr("sidecar.app._DRAIN_LOOK_S", 0.001)
    app = make(drain_idle="300ms", drain_timeout="1h")
    await app.start()
    draining = asyncio.create_task(app.drain())

    async def let_pass_200_ms() -> None:
        """On the clock of the app, where that is less than a standstill; the drain looks at it several times."""
        nonlocal now
        now += 0.2
        while deadlines.now < now:
            await asyncio.sleep(0.001)
        assert [await status_of(app.metrics, "/readyz") for _ in range(3)] == [503] * 3

    for _ in range(20):
        await let_pass_200_ms()
        assert not draining.done(), "it serves on for as long as it is asked"
        assert await status_of(app.bound[0], "/nowhere") == 404
    await let_pass_200_ms()
    await let_pass_200_ms()
    await draining


async def test_stopped_app_has_let_go_of_everything(make: Make, tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    app = make({"listen": f"unix:{tmp_path}/a.sock"})
    await app.start()
    reader, writer = await asyncio.open_connection(*address(app.bound[0]))
    await status_of(app.metrics, "/livez")
    await app.stop()

    assert await reader.read() == b""
    writer.close()
    assert is_free(app.metrics)
    assert is_free(app.bound[0])
    assert asyncio.all_tasks() == before
