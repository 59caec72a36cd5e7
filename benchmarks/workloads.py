"""What the load generator asks for, and the bodies that it carries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

SMALL_BODY = json.dumps(
    {"id": "ord-20931", "status": "confirmed", "amount": 1299, "currency": "EUR", "items": [3, 7, 12]}
).encode()

POST_ANSWER = b'{"accepted": true}'

LARGE_SIZE_BYTES = 1 << 20

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

# Eight, besides the Host that wrk adds: about what a service's HTTP client and its tracing send.
REQUEST_HEADERS: tuple[tuple[str, str], ...] = (
    ("Accept", "application/json"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Accept-Language", "en"),
    ("Cache-Control", "no-cache"),
    ("Traceparent", TRACEPARENT),
    ("User-Agent", "orders/1.4.2 (python)"),
    ("X-Request-Id", "7b1d6f0e-53c1-4f0a-9a53-0f6c2b8d6a10"),
    ("X-Tenant", "emea-retail"),
)


def _post_body(size_bytes: int = 1024) -> bytes:
    """A JSON document of exactly `size_bytes`."""
    frame = b'{"payload": "%s"}'
    filler = (b"0123456789abcdef" * (size_bytes // 16 + 1))[: size_bytes - len(frame % b"")]
    return frame % filler


POST_BODY = _post_body()


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load.

    Attributes:
        name: What the command line and the JSON call it.
        title: What the printed table calls it.
        method: The request method.
        path: The path that the upstream serves it on.
        connections: Keep-alive connections that wrk holds, each with one request in flight.
        body: The request body, empty for none.
        answer_bytes: Size of the answer's body.
        unit: What its requests per second are.
        upstream_closes: Whether the upstream closes its connection behind each answer.
    """

    name: str
    title: str
    method: str
    path: str
    connections: int
    answer_bytes: int
    body: bytes = b""
    unit: str = "req/s"
    upstream_closes: bool = False

    def headers(self) -> dict[str, str]:
        """The request headers besides Host and Content-Length."""
        headers = dict(REQUEST_HEADERS)
        if self.body:
            headers["Content-Type"] = "application/json"
        return headers

    def write_script(self, folder: Path) -> Path | None:
        """Writes the Lua file that wrk needs to send a body; None when the workload has none."""
        if not self.body:
            return None
        script = folder / f"{self.name}.lua"
        # JSON's string escapes are valid in Lua for the ASCII that the bodies are made of.
        script.write_text(
            f"wrk.method = {json.dumps(self.method)}\nwrk.body = {json.dumps(self.body.decode('ascii'))}\n"
        )
        return script


SMALL_GET = Workload(
    "small-get", "small GET, 64 connections", "GET", "/small", connections=64, answer_bytes=len(SMALL_BODY)
)
LARGE_GET = Workload(
    # 16 are enough to keep any proxy busy, and few enough that socket buffers do not become the benchmark.
    "large-get",
    "1 MiB response, 16 connections",
    "GET",
    "/large",
    connections=16,
    answer_bytes=LARGE_SIZE_BYTES,
    unit="MiB/s",
)
POST = Workload(
    "post",
    "1 KiB POST, 64 connections",
    "POST",
    "/post",
    connections=64,
    answer_bytes=len(POST_ANSWER),
    body=POST_BODY,
)
LATENCY = Workload(
    "latency",
    "small GET, one connection",
    "GET",
    "/small",
    connections=1,
    answer_bytes=len(SMALL_BODY),
)
HANDSHAKE = Workload(
    "handshake",
    "small GET, each on a new upstream connection, 64 connections",
    "GET",
    "/closing",
    connections=64,
    answer_bytes=len(SMALL_BODY),
    unit="handshakes/s",
    upstream_closes=True,
)

WORKLOADS: tuple[Workload, ...] = (SMALL_GET, LARGE_GET, POST, LATENCY, HANDSHAKE)
