"""One address that the application connects to, in the shape that aiohttp's ServerRunner asks of a server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from sidecar.config import Listener as Settings
from sidecar.errors import ConnectionLimited, Overloaded, Refusal
from sidecar.proxy.dispatch import Dispatcher
from sidecar.proxy.downstream import DownstreamConnection
from sidecar.proxy.framing import RequestHead
from sidecar.proxy.handshake import Handshake
from sidecar.proxy.headers import Forwarding, trace_id
from sidecar.proxy.pool import Pool
from sidecar.proxy.routing import Router
from sidecar.proxy.tls import TlsContext
from sidecar.proxy.tunnel import Tunnel
from sidecar.runtime.deadlines import Deadlines
from sidecar.runtime.dependency import RequestLog
from sidecar.runtime.descriptors import too_few_for_application

handshake_log = logging.getLogger("sidecar.tls")

_TELL_HANDSHAKE_S: Final = 10.0
"""How often a failed handshake of a client is told at most; all of them are counted."""

UNROUTED: Final = (
    "NO_ROUTE",
    "BAD_REQUEST",
    "REQUEST_TIMEOUT",
    "URI_TOO_LONG",
    "HEADERS_TOO_LARGE",
    "NOT_IMPLEMENTED",
    "CONNECTION_LIMITED",
    "OVERLOADED",
)
"""The codes of the answers to what is no request for any dependency."""

_UNIX_PEER: Final = "127.0.0.1"  # whoever opens a socket file is on this host
_GONE_PEER: Final = "0.0.0.0"  # whom nobody should trust


class Listener:
    """A protocol factory with the connections that it made.

    aiohttp's sites call it for each accepted connection; ServerRunner calls `pre_shutdown` and `shutdown` at the end.

    Args:
        settings: limits and timeouts towards the application.
        router: for a shared listener and for absolute-form targets.
        pool: the one dependency of a listener of its own, else None.
        deadlines: the process's clock and wheel.
        tls: where it speaks TLS.
        log: told of each answer to what was no request for any dependency, if anybody is.

    Attributes:
        careless_head: heads up to this many octets cannot exceed any single limit.
        draining: responses end their connections.
        keepalive_s: how long a connection may be idle, in seconds.
        in_flight: exchanges under way.
        last_request: process time in seconds of the latest request's head.
        failed_handshakes: TLS handshakes of clients that came to nothing.
        unrouted: answers to what was no request for any dependency, by code.
        log: told of each of them, if anybody is.
    """

    def __init__(
        self,
        settings: Settings,
        router: Router[Pool],
        pool: Pool | None,
        deadlines: Deadlines,
        tls: TlsContext | None = None,
        log: RequestLog | None = None,
    ) -> None:
        self.settings = settings
        self.router = router
        self.pool = pool
        self.deadlines = deadlines
        self.tls = tls
        self.careless_head = min(
            settings.max_request_line, settings.max_header, settings.max_headers, settings.max_header_count * 4
        )
        self.keepalive_s: float = settings.keepalive_timeout
        self.draining = False
        self.in_flight = 0
        self.last_request = deadlines.now
        self.unrouted: dict[str, int] = dict.fromkeys(UNROUTED, 0)
        self.log = log
        self._connections: set[DownstreamConnection] = set()
        self._tunnels: set[Tunnel] = set()
        self._handshakes: set[Handshake] = set()
        self._tell_handshake_at = 0.0
        self.failed_handshakes = 0
        self._last_gone = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Listener connections={len(self._connections)} in_flight={self.in_flight} draining={self.draining}>"

    @property
    def connections(self) -> int:
        """How many connections the application has open here, those of tunnels included."""
        return len(self._connections) + len(self._tunnels) + len(self._handshakes)

    @property
    def tunnels(self) -> int:
        """How many of them are tunnels."""
        return len(self._tunnels)

    @property
    def flushing(self) -> bool:
        """Whether a part of an answer has yet to leave one of them."""
        return any(connection.flushing for connection in self._connections)

    def __call__(self) -> DownstreamConnection | Handshake:
        return DownstreamConnection(self) if self.tls is None else Handshake(self, self.tls)

    def admit_handshake(self, handshake: Handshake, transport: asyncio.BaseTransport) -> bool:
        """Take in a new connection that speaks TLS; False where there is no room for it, or no descriptor."""
        if self._no_room(transport) is not None:
            self.unrouted["CONNECTION_LIMITED"] += 1
            return False
        self._handshakes.add(handshake)
        self._last_gone.clear()
        return True

    def on_handshake_over(self, handshake: Handshake) -> None:
        """A handshake has ended, in whatever way."""
        self._handshakes.discard(handshake)
        self._note_last()

    def on_handshake_failed(self, error: OSError) -> None:
        """A handshake has failed: counted, and told in the log unless that was just done."""
        self.failed_handshakes += 1
        now = self.deadlines.now
        if now >= self._tell_handshake_at:
            self._tell_handshake_at = now + _TELL_HANDSHAKE_S
            reason = getattr(error, "reason", None) or str(error) or "the client has left"
            handshake_log.warning("a TLS handshake of a client failed: %s (%d so far)", reason, self.failed_handshakes)

    def admit(self, connection: DownstreamConnection, transport: asyncio.BaseTransport) -> Refusal | None:
        """Take in a new connection, or say why it must be turned away."""
        refusal = self._no_room(transport)
        if refusal is None:
            self._connections.add(connection)
            self._last_gone.clear()
        return refusal

    def _no_room(self, transport: asyncio.BaseTransport) -> Refusal | None:
        limit = self.settings.max_connections
        if self.connections >= limit:
            return ConnectionLimited(f"this listener carries {limit} connections already (listener.max_connections)")
        if too_few_for_application(transport):
            return Overloaded("the sidecar has too few descriptors left for another connection (ulimit -n)")
        return None

    def on_connection_lost(self, connection: DownstreamConnection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        self._note_last()

    def on_tunnel(self, tunnel: Tunnel) -> None:
        """A connection is about to go on as a part of a tunnel."""
        self._tunnels.add(tunnel)

    def on_tunnel_over(self, tunnel: Tunnel) -> None:
        """A tunnel has ended."""
        self._tunnels.discard(tunnel)
        self._note_last()

    def close_silent_tunnels(self, silent_s: float) -> None:
        """Close the tunnels in which nothing has moved for so many seconds."""
        for tunnel in list(self._tunnels):
            if self.deadlines.now - tunnel.last >= silent_s:
                tunnel.close()

    def _note_last(self) -> None:
        if not self.connections:
            self._last_gone.set()

    def count_unrouted(self, refusal: Refusal, head: RequestHead | None) -> None:
        """A refusal is the answer to something that was no request for a dependency; `head` where it had one."""
        self.unrouted[refusal.code] += 1
        log = self.log
        if log is not None and log.wants(refusal.status, True, 0.0):
            method, target, trace = b"", b"", None
            if head is not None:
                method, target, trace = head.method, head.target, trace_id(head.block)
            log.write("", method, target, refusal.status, refusal.code, 0, 0.0, 0.0, trace)

    def dispatcher(self, transport: asyncio.Transport) -> Dispatcher:
        """What finds the dependencies that the requests of a connection are for."""
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            address = peer[0]
        else:  # the name of a Unix peer, as a rule empty; none where a client has left before it could be asked for
            address = _GONE_PEER if peer is None else _UNIX_PEER
        scheme = "http" if self.tls is None else "https"
        forwarding = Forwarding(self.settings.forwarded, address, scheme, self.settings.trusted_proxies)
        return Dispatcher(self.router, self.pool, forwarding)

    # What aiohttp's ServerRunner calls.

    def pre_shutdown(self) -> None:
        """No further connection is accepted: close those without a request."""
        for handshake in list(self._handshakes):
            handshake.close()
        for connection in [connection for connection in self._connections if connection.idle]:
            connection.close()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  (ServerRunner passes it)
        """Answer or cut what the drain has left, and close it: each when its client has noticed, all in `timeout`."""
        for connection in list(self._connections):
            connection.end()
        self.close_silent_tunnels(0.0)
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._last_gone.wait(), timeout)
        self.abort()
        await asyncio.sleep(0)  # let the transports report their end

    def abort(self) -> None:
        """Close every connection at once."""
        for handshake in list(self._handshakes):
            handshake.close()
        for connection in list(self._connections):
            connection.close()
        for tunnel in list(self._tunnels):
            tunnel.abort()
