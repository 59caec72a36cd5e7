"""Two connections wired to each other: what comes on one goes out on the other, as it is.

A tunnel begins where HTTP ends: behind the 101 of an upgrade, or the 200 of a CONNECT. From then on both transports
belong to it, and neither the connection that spoke HTTP before nor the pool knows of it. It ends when both sides have
ended, when nothing has moved for `timeout.tunnel`, or when the sidecar stops. FIN is passed on where the transport can
(TLS knows no half-closed connection); RST ends both with RST.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from sidecar.proxy.account import account_tunnel_over
from sidecar.proxy.transports import WRITE_BUFFER_HIGH, make_close_a_reset, unsent
from sidecar.runtime.deadlines import NEVER, Deadlines
from sidecar.runtime.dependency import Dependency

if TYPE_CHECKING:
    from sidecar.proxy.framing import RequestHead

_CLOSE_S: Final = 2.0
"""How long what is on its way may take to leave when a tunnel is closed."""

TO_UPSTREAM: Final = 0
TO_DOWNSTREAM: Final = 1


class TunnelEnd:
    """One of the two connections of a tunnel.

    An asyncio protocol by its methods, not by inheritance, which a compiled class could not have.

    Attributes:
        transport: of the connection; None before there is one.
        early: octets that came before there was a tunnel for them: who accepts a connection may speak first.
        blocked: the far end reads more slowly than is sent to it.
        eof: the far end has sent FIN.
        lost: the connection has ended.
    """

    __slots__ = (
        "_closed",
        "_left",
        "_other",
        "_paused",
        "_tunnel",
        "_unsent_before",
        "blocked",
        "early",
        "eof",
        "lost",
        "towards",
        "transport",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.early = b""
        self.blocked = False
        self.eof = False
        self.lost = False
        self.towards = TO_UPSTREAM  # where what comes from here goes
        self._unsent_before = 0
        self._closed = False
        self._left = False
        self._paused = False
        self._tunnel: Tunnel | None = None
        self._other: TunnelEnd | None = None

    def __repr__(self) -> str:
        state = "lost" if self.lost else "eof" if self.eof else "open" if self.transport else "new"
        return f"<TunnelEnd {state}{' blocked' if self.blocked else ''}>"

    # -- for whoever makes it

    @property
    def usable(self) -> bool:
        """Whether the connection is open, as far as is known."""
        return self.transport is not None and not self.transport.is_closing()

    def close(self) -> None:
        """End the connection at once, made or not."""
        self._closed = True
        if self.transport is not None:
            self.transport.abort()

    def take_over(self, transport: asyncio.Transport, *, blocked: bool, paused: bool, eof: bool) -> None:
        """A connection that spoke HTTP before is this from now on.

        Args:
            transport: of the connection, which is open.
            blocked: the far end reads more slowly than is sent to it.
            paused: it is not read at present.
            eof: the far end has sent FIN.
        """
        self.transport = transport
        self.blocked = blocked
        self.eof = eof
        self._paused = paused
        transport.set_protocol(cast("asyncio.BaseProtocol", self))

    def join(self, tunnel: Tunnel, other: TunnelEnd, towards: int) -> None:
        """The tunnel begins."""
        self._tunnel = tunnel
        self._other = other
        self.towards = towards

    # -- what the tunnel does with it

    def send(self, octets: bytes) -> None:
        """Send octets to the far end."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(octets)

    def pause(self) -> None:
        """What comes from the far end is not wanted at present."""
        transport = self.transport
        if transport is not None and not self._paused and not self.eof and not transport.is_closing():
            self._paused = True
            transport.pause_reading()

    def resume(self) -> None:
        """It is wanted again."""
        transport = self.transport
        if transport is not None and self._paused and not self.eof and not transport.is_closing():
            self._paused = False
            transport.resume_reading()

    def finish(self) -> None:
        """Nothing more will be sent: FIN, or the end of a connection that knows no such thing."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if transport.can_write_eof():
            transport.write_eof()
        else:
            self.leave()

    def pass_eof_on(self) -> bool:
        """The far end has sent FIN, and so shall the other end. False: with that, this end is closed as well."""
        other = self._other
        if other is None:  # the tunnel has yet to begin, and hears of it then
            return True
        other.finish()
        if not other.eof and self.transport is not None and self.transport.can_write_eof():
            return True
        self.leave()
        other.leave()
        return False

    def leave(self) -> None:
        """End the connection once everything has left."""
        self._left = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def drop(self) -> None:
        """End the connection at once; with RST where that loses octets, which nobody would miss behind FIN."""
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.reset()
        else:
            self.close()

    def look(self) -> bool:
        """Whether the far end has taken octets since this was last asked, of those that it had yet to take."""
        transport, before = self.transport, self._unsent_before
        if transport is None or self.lost:
            return False
        self._unsent_before = unsent(transport)
        return 0 < self._unsent_before != before

    def reset(self) -> None:
        """End the connection with RST."""
        if self.transport is not None:
            make_close_a_reset(self.transport)
            self.transport.abort()

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._closed:  # given up while it was being made
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_HIGH)
        # To pause it here has no effect: uvloop begins to read behind this, in any case.

    def data_received(self, data: bytes) -> None:
        if self._tunnel is not None and self._other is not None:
            self._tunnel.count(self.towards, len(data))
            self._other.send(data)
        else:
            self.early += data
            self.pause()

    def eof_received(self) -> bool:
        self.eof = True
        return self.pass_eof_on()

    def pause_writing(self) -> None:
        self.blocked = True
        self.look()
        if self._other is not None:
            self._other.pause()

    def resume_writing(self) -> None:
        self.blocked = False
        if self._other is not None:
            self._other.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        tunnel, other = self._tunnel, self._other
        self._tunnel = self._other = None  # no cycle is left for the garbage collector
        if tunnel is None or other is None:
            return
        if not other.lost:
            if exc is None or self._left:  # an end that is leaving may fail to, which is not the far end's RST
                other.leave()
            else:
                other.reset()
        tunnel.on_end_lost()


class Tunnel:
    """A tunnel of an application to a dependency, from the answer that made it one.

    Args:
        dependency: to which it goes; one of its `tunnels` is taken and given back at the end.
        deadlines: the process's clock and wheel.
        head: of the request that asked for it.
        status: that it was answered with: 101 or 200.
        began: process time of the request's head, in seconds, from which the log counts.
        attempts: how often the dependency was asked.
        waited_s: of the request, in the queue.
        on_over: told of its end.

    Attributes:
        last: process time at which octets last came, in seconds.
        deadline, watched: see `Watched`.
    """

    __slots__ = (
        "_attempts",
        "_began",
        "_closing",
        "_deadlines",
        "_dependency",
        "_downstream",
        "_head",
        "_hurried",
        "_lost",
        "_octets",
        "_on_over",
        "_since",
        "_status",
        "_upstream",
        "_waited_s",
        "deadline",
        "last",
        "watched",
    )

    def __init__(
        self,
        dependency: Dependency,
        deadlines: Deadlines,
        head: RequestHead,
        status: int,
        began: float,
        attempts: int,
        waited_s: float,
        on_over: Callable[[Tunnel], None],
    ) -> None:
        self._dependency = dependency
        self._deadlines = deadlines
        self._head = head
        self._status = status
        self._began = began
        self._attempts = attempts
        self._waited_s = waited_s
        self._on_over = on_over
        self._downstream = TunnelEnd()
        self._upstream = TunnelEnd()
        self._octets = [0, 0]
        self._lost = 0  # sides that have ended
        self._closing = False  # no side is kept open any more
        self._hurried = False  # nor waited for, however much it has yet to take
        self._since = deadlines.read()
        self.last = deadlines.now
        self.deadline = NEVER
        self.watched = NEVER

    def __repr__(self) -> str:
        return f"<Tunnel {self._dependency.name} {self._downstream!r} {self._upstream!r} octets={self._octets}>"

    def begin(self, downstream: TunnelEnd, upstream: TunnelEnd, sent: bytes, received: bytes) -> None:
        """Wire the two ends to each other.

        Args:
            downstream: the application's end; what it brings is taken from now on.
            upstream: the dependency's, likewise.
            sent: octets of the application that have come already.
            received: octets of the dependency that have.
        """
        self._downstream, self._upstream = downstream, upstream
        downstream.join(self, upstream, TO_UPSTREAM)
        upstream.join(self, downstream, TO_DOWNSTREAM)
        self.count(TO_UPSTREAM, len(sent))
        self.count(TO_DOWNSTREAM, len(received))
        self._deadlines.watch(self)
        if sent:
            upstream.send(sent)
        if received:
            downstream.send(received)
        for end, other in ((downstream, upstream), (upstream, downstream)):
            if end.eof:
                end.pass_eof_on()
            elif other.blocked:
                end.pause()
            else:
                end.resume()

    def count(self, towards: int, size: int) -> None:
        """Octets have come, and go on."""
        self._octets[towards] += size
        self._dependency.counters.tunnel_octets[towards] += size
        self.last = self._deadlines.now
        if not self._closing:
            self.deadline = self.last + self._dependency.tunnel_s

    def on_deadline(self) -> None:
        """Nothing has come for a long time. Where it is only slow to leave, that is no silence."""
        if not self._hurried:
            idle_s = self._dependency.idle_s if self._lost else self._dependency.tunnel_s
            for end in (self._downstream, self._upstream):
                if (end.blocked or self._lost) and end.look():
                    self._wait(idle_s)
                    return
        if self._closing:
            self.abort()
        else:
            self.close()

    def close(self) -> None:
        """End both sides, once what is on its way has left, and at the latest soon."""
        if not self._closing:
            self._closing = self._hurried = True
            self._wait(_CLOSE_S)
            self._downstream.leave()
            self._upstream.leave()

    def abort(self) -> None:
        """End both sides at once."""
        self._downstream.drop()
        self._upstream.drop()

    def _wait(self, seconds: float) -> None:
        self.deadline = self._deadlines.now + seconds
        self._deadlines.watch(self)

    def on_end_lost(self) -> None:
        """One side has ended. When both have, the tunnel is over."""
        self._lost += 1
        if self._lost == 1:
            if not self._closing:  # the other side has so long to take any of what is left
                self._closing = True
                self._downstream.look()
                self._upstream.look()
                self._wait(self._dependency.idle_s)
            return
        self._deadlines.forget(self)
        self._dependency.tunnels.release()
        now = self._deadlines.read()
        account_tunnel_over(
            self._dependency,
            self._head,
            self._status,
            self._attempts,
            now - self._since,
            now - self._began,
            self._waited_s,
            self._octets,
        )
        self._on_over(self)
