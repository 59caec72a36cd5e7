"""The read-only listener."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sidecar.control.health import health_application


async def test_alive_whether_ready_or_not(aiohttp_client: Callable[..., Any]) -> None:
    client = await aiohttp_client(health_application(lambda: "draining"))
    async with client.get("/livez") as response:
        assert (response.status, await response.text()) == (200, "alive\n")


async def test_readiness_is_asked_anew_each_time_and_says_why_not(aiohttp_client: Callable[..., Any]) -> None:
    reasons = iter(["starting", None, "draining"])
    client = await aiohttp_client(health_application(lambda: next(reasons)))
    answers = []
    for _ in range(3):
        async with client.get("/readyz") as response:
            answers.append((response.status, await response.text()))
    assert answers == [(503, "not ready: starting\n"), (200, "ready\n"), (503, "not ready: draining\n")]


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_head_is_get_without_a_body(aiohttp_client: Callable[..., Any], path: str) -> None:
    client = await aiohttp_client(health_application(lambda: None))
    async with client.head(path) as response:
        assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_other_method_is_refused(aiohttp_client: Callable[..., Any], path: str, method: str) -> None:
    client = await aiohttp_client(health_application(lambda: None))
    async with client.request(method, path) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"


async def test_unknown_path_is_not_found(aiohttp_client: Callable[..., Any]) -> None:
    client = await aiohttp_client(health_application(lambda: None))
    async with client.get("/") as response:
        assert response.status == 404
