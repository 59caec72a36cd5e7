"""A program that asks for URLs by a library of its users' choice, and knows of a proxy by its environment alone.

    python proxy_client.py LIBRARY URL...

It prints what became of each URL, as an object of JSON in a line.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Callable, Iterable

Outcome = tuple[int, str]


def by_requests(urls: Iterable[str]) -> Iterable[Outcome]:
    import requests

    with requests.Session() as session:
        for url in urls:
            response = session.get(url, timeout=60)
            yield response.status_code, response.text


def by_httpx(urls: Iterable[str]) -> Iterable[Outcome]:
    import httpx

    with httpx.Client(timeout=60) as client:
        for url in urls:
            response = client.get(url)
            yield response.status_code, response.text


def by_httpx_async(urls: Iterable[str]) -> Iterable[Outcome]:
    import httpx

    async def fetch() -> list[Outcome]:
        async with httpx.AsyncClient(timeout=60) as client:
            responses = [await client.get(url) for url in urls]
        return [(response.status_code, response.text) for response in responses]

    return asyncio.run(fetch())


def by_aiohttp(urls: Iterable[str]) -> Iterable[Outcome]:
    import aiohttp

    async def fetch() -> list[Outcome]:
        outcomes = []
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
        async with aiohttp.ClientSession(trust_env=True, connector=connector) as session:
            for url in urls:
                async with session.get(url) as response:
                    outcomes.append((response.status, await response.text()))
        return outcomes

    return asyncio.run(fetch())


LIBRARIES: dict[str, Callable[[Iterable[str]], Iterable[Outcome]]] = {
    "requests": by_requests,
    "httpx": by_httpx,
    "httpx_async": by_httpx_async,
    "aiohttp": by_aiohttp,
}


def main(library: str, *urls: str) -> None:
    for url in urls:
        try:
            for status, body in LIBRARIES[library]([url, url]):  # the second time on the same connection, as a rule
                print(json.dumps({"url": url, "status": status, "body": body}))
        except Exception as error:  # noqa: BLE001  (whatever a library raises is its outcome)
            print(json.dumps({"url": url, "error": f"{type(error).__name__}: {error}"}))


if __name__ == "__main__":
    main(*sys.argv[1:])
