"""The connections to one dependency: reused last in, first out; made when there is none; never more than allowed.

Requests that must wait stand in one queue. There are as many connection attempts under way as requests waiting (and
the limit allows); whatever becomes free first, a new connection or a returned one, goes to the request that has
waited longest. So a slow handshake delays nobody for whom a connection came free meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any, Final, Protocol, cast

from sidecar.errors import ConcurrencyLimited, Overloaded, Refusal, UpstreamFailure, UpstreamTimeout
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.runtime.deadlines import NEVER, Deadlines
from sidecar.runtime.dependency import Dependency
from sidecar.runtime.descriptors import none_left_for_dependency, too_few_for_dependency

# Ours, not the dependency's: no descriptor, no local port, no memory.
_LOCAL_ERRORS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)


class Waiter(Protocol):
    """What stands in the pool's queue: an exchange that wants a connection."""

    def on_connection(self, connection: UpstreamConnection) -> None:
        """A connection is there, fresh or returned, and belongs to the waiter now."""

    def on_no_connection(self, refusal: Refusal) -> None:
        """There will be none."""


class Pool:
    """The connections to one dependency.

    Args:
        dependency: whose.
        deadlines: the process's clock and wheel.

    Attributes:
        dependency: whose.
        replaced: pooled connections that proved dead before a response byte and were replaced silently.
    """

    __slots__ = (
        "_active",
        "_closed",
        "_deadlines",
        "_dials",
        "_idle",
        "_max_connections",
        "_max_idle",
        "_waiting",
        "connect_s",
        "dependency",
        "idle_timeout_s",
        "max_age_s",
        "replaced",
    )

    def __init__(self, dependency: Dependency, deadlines: Deadlines) -> None:
        self.dependency = dependency
        self._deadlines = deadlines
        settings = dependency.settings
        self._max_connections = settings.pool.max_connections
        self._max_idle = settings.pool.max_idle
        self.idle_timeout_s: float = settings.pool.idle_timeout
        self.max_age_s: float = settings.pool.max_age
        self.connect_s: float = settings.timeout.connect
        self._idle: dict[UpstreamConnection, None] = {}  # ordered: the last is the most recently used
        self._active: set[UpstreamConnection] = set()
        self._dials: dict[_Dial, None] = {}
        self._waiting: dict[Waiter, None] = {}
        self._closed = False
        self.replaced = 0

    def __repr__(self) -> str:
        return (
            f"<Pool {self.dependency.name} active={len(self._active)} idle={len(self._idle)} "
            f"connecting={len(self._dials)} waiting={len(self._waiting)}>"
        )

    @property
    def size(self) -> int:
        """Connections that exist or are being made."""
        return len(self._active) + len(self._idle) + len(self._dials)

    @property
    def active(self) -> int:
        """Connections in use."""
        return len(self._active)

    @property
    def idle(self) -> int:
        """Connections kept for reuse."""
        return len(self._idle)

    @property
    def saturated(self) -> bool:
        """Whether no further connection may be made."""
        return self.size >= self._max_connections

    @property
    def short(self) -> bool:
        """Whether more requests wait than connections are being made, because no more may be."""
        return len(self._waiting) > len(self._dials)

    def take(self) -> UpstreamConnection | None:
        """The most recently used idle connection that is still good, or None."""
        idle = self._idle
        while idle:
            connection, _ = idle.popitem()
            if connection.deadline > self._deadlines.now and connection.usable:
                self._active.add(connection)
                return connection
            connection.close()
        return None

    def wait(self, waiter: Waiter) -> None:
        """Put `waiter` at the end of the queue, and make a connection for it if one may be made."""
        self._waiting[waiter] = None
        self._dial_for_waiters()

    def leave(self, waiter: Waiter) -> None:
        """`waiter` wants no connection any more. An attempt that nobody else waits for is given up."""
        if waiter not in self._waiting:
            return
        del self._waiting[waiter]
        if len(self._dials) > len(self._waiting):
            newest, _ = self._dials.popitem()
            newest.cancel()

    def give_back(self, connection: UpstreamConnection) -> None:
        """An exchange is done with a connection that can serve another one."""
        if self._waiting:
            self._serve(connection)
            return
        self._active.discard(connection)
        if self._closed or len(self._idle) >= self._max_idle:
            connection.close()
        else:
            self._idle[connection] = None

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection has ended, in whatever state it was."""
        self._active.discard(connection)
        self._idle.pop(connection, None)
        if self._waiting:
            self._dial_for_waiters()

    def close(self) -> None:
        """Close what is idle and give up what is being made; what is in use ends with its exchange."""
        self._closed = True
        for connection in list(self._idle):
            connection.close()
        while self._dials:
            dial, _ = self._dials.popitem()
            dial.cancel()

    def _serve(self, connection: UpstreamConnection) -> None:
        waiter = next(iter(self._waiting))
        del self._waiting[waiter]
        self._active.add(connection)
        waiter.on_connection(connection)

    def _dial_for_waiters(self) -> None:
        while len(self._dials) < len(self._waiting):
            if self.saturated:
                if not self._idle:
                    return
                next(iter(self._idle)).close()  # a replacement wants a fresh connection; the oldest makes room
                continue
            dial = _Dial(self, self._deadlines)
            self._dials[dial] = None
            dial.start()

    def _dialed(self, dial: _Dial, connection: UpstreamConnection | None, refusal: Refusal | None) -> None:
        """A connection attempt that was not given up has ended: with a connection or with a refusal."""
        del self._dials[dial]
        if connection is not None:
            if self._waiting:
                self._serve(connection)
            else:
                connection.park()
                self.give_back(connection)
        elif refusal is not None and self._waiting:
            waiter = next(iter(self._waiting))
            del self._waiting[waiter]
            waiter.on_no_connection(refusal)
        if self._waiting:
            self._dial_for_waiters()  # of those that the limit kept from an attempt of their own

    def busy(self) -> ConcurrencyLimited:
        """The refusal for a request that has waited in vain for one of too few connections."""
        return ConcurrencyLimited(
            f"all {self._max_connections} connections to {self.dependency.name} (pool.max_connections) were in use "
            f"for {self.connect_s:g} s (timeout.connect)"
        )


class _Dial:
    """One attempt to connect."""

    __slots__ = ("_connection", "_deadlines", "_pool", "_task", "deadline", "watched")

    def __init__(self, pool: Pool, deadlines: Deadlines) -> None:
        self._pool = pool
        self._deadlines = deadlines
        self._task: asyncio.Task[None] | None = None
        self._connection: UpstreamConnection | None = None
        self.deadline = NEVER
        self.watched = NEVER

    def start(self) -> None:
        self.deadline = self._deadlines.now + self._pool.connect_s
        self._deadlines.watch(self)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        """End the attempt without a word to the pool. The task may not have run yet, so nothing is left to it."""
        self._deadlines.forget(self)
        if self._task is not None:
            self._task.cancel()
            self._task = None  # whose exception refers to its frame, and that to this object
        if self._connection is not None:  # which may be whole, and lost with the task's result
            self._connection.close()
            self._connection = None

    def on_deadline(self) -> None:
        self.cancel()
        refusal = UpstreamTimeout(
            f"{self._name} did not accept a connection within {self._pool.connect_s:g} s (timeout.connect)",
            "connection_timeout",
        )
        self._pool._dialed(self, None, refusal)

    async def _run(self) -> None:
        connection: UpstreamConnection | None = None
        refusal: Refusal | None = None
        try:
            connection = await self._connect()
        except OSError as error:
            refusal = self._explain(error)
        except Exception as error:  # noqa: BLE001  a defect: it is reported, and the waiter does not wait for ever
            refusal = UpstreamFailure(f"no connection to {self._name}: {error}", "destination_unavailable")
            context = {"message": f"connecting to {self._name} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        self._deadlines.forget(self)
        self._connection = None
        if connection is not None and not connection.usable:
            connection.close()
            connection = None
            refusal = UpstreamFailure(f"{self._name} closed the connection before it answered", "connection_terminated")
        self._pool._dialed(self, connection, refusal)

    async def _connect(self) -> UpstreamConnection:
        loop: Any = asyncio.get_running_loop()  # whose types ask for a subclass of asyncio.Protocol
        upstream = self._pool.dependency.settings.upstream[0]
        if none_left_for_dependency():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if upstream.unix_path is not None:
            transport, connection = await loop.create_unix_connection(self._make, upstream.unix_path)
        else:
            transport, connection = await loop.create_connection(self._make, upstream.host, upstream.port)
        if too_few_for_dependency(transport):
            transport.abort()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return cast("UpstreamConnection", connection)

    def _make(self) -> UpstreamConnection:
        self._connection = UpstreamConnection(self._pool, self._deadlines)
        return self._connection

    @property
    def _name(self) -> str:
        return self._pool.dependency.name

    def _explain(self, error: OSError) -> Refusal:
        if isinstance(error, socket.gaierror):
            host = self._pool.dependency.settings.upstream[0].host
            return UpstreamFailure(f"the name {host} of {self._name} does not resolve", "dns_error")
        if error.errno == errno.EAGAIN and self._pool.dependency.settings.upstream[0].unix_path is not None:
            return UpstreamFailure(
                f"{self._name} does not accept: the backlog of its socket is full", "connection_refused"
            )
        if error.errno in _LOCAL_ERRORS:
            return Overloaded(f"no connection to {self._name} could be made: {error.strerror} (on this side)")
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return UpstreamFailure(f"{self._name} cannot be reached: {error.strerror}", "destination_ip_unroutable")
        if error.errno == errno.ECONNRESET:
            return UpstreamFailure(f"{self._name} broke the connection before it answered", "connection_terminated")
        reason = error.strerror or "Connection refused at every address"
        return UpstreamFailure(f"no connection to {self._name}: {reason}", "connection_refused")
