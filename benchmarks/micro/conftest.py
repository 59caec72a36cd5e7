"""A data plane with nothing around it: the far ends are two objects that swallow what is written to them."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.config import load_text
from sidecar.proxy.listener import Listener
from sidecar.proxy.pool import Pool
from sidecar.proxy.resolver import system_lookup
from sidecar.proxy.routing import Router
from sidecar.runtime.deadlines import Deadlines
from sidecar.runtime.dependency import Dependency
from sidecar.telemetry.access import AccessLog
from sidecar.telemetry.sink import LogSink

REQUEST = (
    b"GET /small HTTP/1.1\r\nHost: app.local\r\nUser-Agent: bench/1.0\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip\r\nX-Request-Id: 0123456789abcdef\r\nAuthorization: Bearer abcdefghijklmnop\r\n"
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nX-Tenant: acme\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: upstream\r\nDate: Wed, 25 Nov 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: 25\r\n\r\n" + b'{"status":"ok","id":1234}'
)


class Nowhere(asyncio.Transport):
    """A transport that swallows everything."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 50_000) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Plane:
    """One client's connection and one upstream's, both open and idle.

    Args:
        dependencies: how many there are; the request is for the last.
        upstream: of that one, by address.
        keys: of that one.
    """

    def __init__(self, dependencies: int = 1, upstream: str | list[str] = "http://127.0.0.2:80", **keys: Any) -> None:
        names = [f"d{number}" for number in range(dependencies)]
        document = {
            "dependencies": {
                name: {"upstream": "http://127.0.0.1:80", "prefix": f"/{name}", **keys} for name in names[:-1]
            }
            | {names[-1]: {"upstream": upstream, "prefix": "/small", "strip_prefix": False, **keys}}
        }
        config = load_text(json.dumps(document), environ={}).config
        self.deadlines = Deadlines()
        self._sink = LogSink(os.open(os.devnull, os.O_WRONLY))
        log = AccessLog(self._sink, 0.01, frozenset({"rejected", "5xx", "slow"}), 1.0, random.random)
        self.pools = {
            name: Pool(Dependency(settings, self.deadlines, log=log), self.deadlines, system_lookup)
            for name, settings in config.dependencies.items()
        }
        self.pool = self.pools[names[-1]]
        router: Router[Pool] = Router(
            (self.pools[name], keys.hosts, keys.prefix, [80]) for name, keys in config.dependencies.items()
        )
        for pool in self.pools.values():
            pool.start()
        self.listener = Listener(config.listener, router, None, self.deadlines, log=log)
        self._client = self.listener()
        self._client.connection_made(Nowhere())
        self._upstream = self._connect()

    def _connect(self) -> Any:
        from sidecar.proxy.upstream import UpstreamConnection

        endpoint = self.pool.ejection.members[0]
        connection = UpstreamConnection(self.pool, endpoint, self.deadlines)
        connection.connection_made(Nowhere())
        connection.park()
        endpoint.busy += 1
        self.pool.give_back(connection)
        return connection

    def forwards(self) -> None:
        """One request, from the client to the upstream and back."""
        self._client.data_received(REQUEST)
        self._upstream.data_received(RESPONSE)

    def refuses(self) -> None:
        """One request that goes no further."""
        self._client.data_received(REQUEST)

    def close(self) -> None:
        self._sink.close(1)


@pytest.fixture
def plane() -> Any:
    made: list[Plane] = []

    def make(**keys: Any) -> Plane:
        made.append(Plane(**keys))
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[..., Plane]
