"""The read-only listener."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from sidecar.control.readonly import readonly_application

PATHS = ["/livez", "/readyz", "/metrics"]


def application(reasons: Iterator[str | None] | None = None) -> web.Application:
    async def render(accept: str) -> tuple[bytes, str]:
        return f"asked for {accept}\n".encode(), "text/plain; version=0.0.4; charset=utf-8"

    return readonly_application(lambda: None if reasons is None else next(reasons), render)


async def test_alive_whether_ready_or_not(aiohttp_client: Callable[..., Any]) -> None:
    client = await aiohttp_client(application(iter(["draining"])))
    async with client.get("/livez") as response:
        assert (response.status, await response.text()) == (200, "alive\n")


async def test_readiness_is_asked_anew_each_time_and_says_why_not(aiohttp_client: Callable[..., Any]) -> None:
    client = await aiohttp_client(application(iter(["starting", None, "draining"])))
    answers = []
    for _ in range(3):
        async with client.get("/readyz") as response:
            answers.append((response.status, await response.text()))
    assert answers == [(503, "not ready: starting\n"), (200, "ready\n"), (503, "not ready: draining\n")]


async def test_metrics_are_rendered_in_the_format_that_is_asked_for(aiohttp_client: Callable[..., Any]) -> None:
    client = await aiohttp_client(application())
    async with client.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as response:
        assert await response.text() == "asked for application/openmetrics-text\n"
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_get_without_a_body(aiohttp_client: Callable[..., Any], path: str) -> None:
    client = await aiohttp_client(application())
    async with client.head(path) as response:
        assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_other_method_is_refused(aiohttp_client: Callable[..., Any], path: str, method: str) -> None:
    client = await aiohttp_client(application())
    async with client.request(method, path) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"


async def test_unknown_path_is_not_found(aiohttp_client: Callable[..., Any]) -> None:
    client = await aiohttp_client(application())
    async with client.get("/") as response:
        assert response.status == 404
