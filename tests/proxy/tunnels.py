"""Tunnels for the tests of them, and of what becomes none."""

from __future__ import annotations

from typing import Any

from tests.proxy.transcript import Conversation, Peer, message

UPGRADE = message("GET /chat HTTP/1.1", "Host: app", "Connection: Upgrade", "Upgrade: websocket", "Key: k")
UPGRADE_UPSTREAM = message(
    "GET /chat HTTP/1.1",
    "Host: payments:8080",
    "Key: k",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Via: 1.1 sidecar",
)
SWITCHING = message("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", "Accept: k")
SWITCHING_DOWNSTREAM = message(
    "HTTP/1.1 101 Switching Protocols", "Accept: k", "Via: 1.1 sidecar", "Connection: Upgrade", "Upgrade: websocket"
)
CONNECT = message("CONNECT payments:8080 HTTP/1.1", "Host: payments:8080")
ESTABLISHED = message("HTTP/1.1 200 Connection established")

WAYS = ["upgrade", "connect"]
"""To get a tunnel."""


def begin(talk: Conversation, way: str, *, tls: bool = False) -> tuple[Peer, Peer]:
    """A tunnel that stands, nothing in it yet: the client's end and the upstream's."""
    client = talk.client(tls=tls)
    client.sends(UPGRADE if way == "upgrade" else CONNECT)
    upstream = talk.upstream()
    upstream.takes()
    if way == "upgrade":
        upstream.sends(SWITCHING)
    client.gets(SWITCHING_DOWNSTREAM if way == "upgrade" else ESTABLISHED)
    return client, upstream


def tunnels_of(talk: Conversation) -> int:
    """Tunnels that stand or are being set up."""
    return talk.dependency.tunnels.in_use


def requests_of(talk: Conversation) -> dict[str, int]:
    """Requests that were counted, by method, class of status and source."""
    from sidecar.counters import METHODS, SOURCES, STATUS_CLASSES

    names = [f"{method} {status} {source}" for method in METHODS for status in STATUS_CLASSES for source in SOURCES]
    return {name: count for name, count in zip(names, talk.dependency.counters.requests, strict=True) if count}


def counted(talk: Conversation) -> dict[str, Any]:
    """What the counters say of tunnels."""
    counters = talk.dependency.counters
    return {
        "opened": counters.tunnels,
        "seconds": counters.tunnel_s,
        "octets": list(counters.tunnel_octets),
        "in_flight": counters.in_flight,
    }
