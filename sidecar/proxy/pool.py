"""The connections to one dependency: reused last in, first out; made when there is none; never more than allowed.

Where it has several addresses, the one whose turn it is comes first (`policy.ejection`), then a connection to it.
Addresses that are no longer there are drained: what is idle is closed, what is in use ends with its exchange.

Requests that must wait stand in one queue. There are as many connection attempts under way as requests waiting (and
the limit allows); whatever becomes free first, a new connection or a returned one, goes to the request that has
waited longest. So a slow handshake delays nobody for whom a connection came free meanwhile.
"""

from __future__ import annotations

from typing import Protocol, cast

from sidecar.errors import ConcurrencyLimited, Refusal
from sidecar.policy.ejection import Ejection
from sidecar.proxy.dial import Dial, Wire
from sidecar.proxy.endpoint import Endpoint
from sidecar.proxy.resolver import Lookup, Place, Resolver
from sidecar.proxy.tls import TlsContext
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.runtime import policies
from sidecar.runtime.deadlines import Deadlines
from sidecar.runtime.dependency import Dependency


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
        lookup: finds the addresses behind a name.
        tls: for connections to an upstream that speaks it.

    Attributes:
        dependency, tls: as given.
        resolver: keeps the addresses up to date, from `start` on.
        ejection: the addresses, and which of them is next.
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
        "_single",
        "_turn",
        "_waiting",
        "connect_s",
        "dependency",
        "ejection",
        "idle_timeout_s",
        "max_age_s",
        "replaced",
        "resolver",
        "tls",
    )

    def __init__(
        self, dependency: Dependency, deadlines: Deadlines, lookup: Lookup, tls: TlsContext | None = None
    ) -> None:
        self.dependency = dependency
        self.tls = tls
        self._deadlines = deadlines
        settings = dependency.settings
        self._max_connections = settings.pool.max_connections
        self._max_idle = settings.pool.max_idle
        self.idle_timeout_s: float = settings.pool.idle_timeout
        self.max_age_s: float = settings.pool.max_age
        self.connect_s: float = settings.timeout.connect
        self.ejection: Ejection[Endpoint] = Ejection(policies.ejection_settings(settings.ejection), dependency.rng)
        self.resolver = Resolver(
            dependency.name,
            settings.upstream,
            settings.dns_refresh,
            lookup,
            self._use,
            dependency.counters.count_dns_failure,
        )
        self._single: Endpoint | None = None  # the one address, where there is but one
        self._turn: Endpoint | None = None  # whose turn it was at the last `take`, where that has found nothing
        self._idle = 0  # connections, at all endpoints together
        self._active: set[UpstreamConnection] = set()
        self._dials: dict[Dial, None] = {}
        self._waiting: dict[Waiter, None] = {}
        self._closed = False
        self.replaced = 0

    def __repr__(self) -> str:
        return (
            f"<Pool {self.dependency.name} active={len(self._active)} idle={self._idle} "
            f"connecting={len(self._dials)} waiting={len(self._waiting)}>"
        )

    @property
    def size(self) -> int:
        """Connections that exist or are being made."""
        return len(self._active) + self._idle + len(self._dials)

    @property
    def active(self) -> int:
        """Connections in use."""
        return len(self._active)

    @property
    def idle(self) -> int:
        """Connections kept for reuse."""
        return self._idle

    @property
    def saturated(self) -> bool:
        """Whether no further connection may be made."""
        return self.size >= self._max_connections

    @property
    def short(self) -> bool:
        """Whether more requests wait than connections are being made, because no more may be."""
        return len(self._waiting) > len(self._dials)

    # -- addresses

    def start(self) -> None:
        """Find out where the dependency is, and keep finding out."""
        self.resolver.start()

    def _use(self, places: list[Place]) -> None:
        """These are its addresses from now on."""
        known = {endpoint.place: endpoint for endpoint in self.ejection.members}
        present = [known.pop(place) if place in known else self._endpoint(place) for place in places]
        self.ejection.replace(present, self._deadlines.now)
        self._single = present[0] if len(present) == 1 else None
        for endpoint in known.values():
            endpoint.gone = True
            for connection in list(endpoint.idle):
                connection.close()

    def _endpoint(self, place: Place) -> Endpoint:
        dependency, upstream = self.dependency, place.upstream
        line, own_host = dependency.host_line, None
        if line is not None and upstream.authority != dependency.settings.upstream[0].authority:
            own_host = line + b"\r\n", b"\r\nHost: %b\r\n" % upstream.authority.encode("ascii")
        server_name = (dependency.settings.tls.server_name or upstream.host) if upstream.scheme == "https" else None
        return Endpoint(place, own_host, server_name, self.ejection)

    # -- connections

    def take(self) -> UpstreamConnection | None:
        """An idle connection that is still good, to the address whose turn it is, or None.

        Of that address it is the most recently used one. Where no further connection may be made, any address will do.
        """
        self._turn = None
        if not self._idle:
            return None
        now = self._deadlines.now
        endpoint = self._single or self.ejection.pick(now)
        if endpoint is not None:
            connection = self._take_from(endpoint, now)
            if connection is not None:
                return connection
        if self._idle and self.saturated:
            for other in self.ejection.in_order():
                connection = self._take_from(other, now)
                if connection is not None:
                    return connection
        self._turn = endpoint
        return None

    def _take_from(self, endpoint: Endpoint, now: float) -> UpstreamConnection | None:
        idle = endpoint.idle
        while idle:
            connection, _ = idle.popitem()
            self._idle -= 1
            if connection.deadline > now and connection.usable:
                endpoint.busy += 1
                self._active.add(connection)
                return connection
            connection.close()
        return None

    def wait(self, waiter: Waiter) -> None:
        """Put `waiter` at the end of the queue, and make a connection for it if one may be made.

        Where it has just asked in vain (`take`), to the address whose turn it was: another draw would find one that has
        an idle connection, and dial it all the same.
        """
        turn, self._turn = self._turn, None
        self._waiting[waiter] = None
        self._dial_for_waiters(turn)

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
        endpoint = connection.endpoint
        if self._closed or endpoint.gone:
            connection.close()
            return
        if self._waiting:
            self._serve(connection)
            return
        self._active.discard(connection)
        endpoint.busy -= 1
        if self._idle >= self._max_idle:
            connection.close()
        else:
            endpoint.idle[connection] = None
            self._idle += 1

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection has ended, in whatever state it was."""
        endpoint = connection.endpoint
        if connection in self._active:
            self._active.discard(connection)
            endpoint.busy -= 1
        elif connection in endpoint.idle:
            del endpoint.idle[connection]
            self._idle -= 1
        if self._waiting:
            self._dial_for_waiters()

    def close(self) -> None:
        """Close what is idle and give up what is being made; what is in use ends with its exchange."""
        self._closed = True
        self.resolver.stop()
        for endpoint in self.ejection.members:
            for connection in list(endpoint.idle):
                connection.close()
        while self._dials:
            dial, _ = self._dials.popitem()
            dial.cancel()

    def _serve(self, connection: UpstreamConnection) -> None:
        waiter = next(iter(self._waiting))
        del self._waiting[waiter]
        waiter.on_connection(connection)

    def _dial_for_waiters(self, turn: Endpoint | None = None) -> None:
        while len(self._dials) < len(self._waiting):
            if self.saturated:
                if not self._idle:
                    return
                self._make_room()
                continue
            dial = Dial(self, self._deadlines, self._make, self._dialed)
            self._dials[dial] = None
            dial.start(turn)

    def _make_room(self) -> None:
        """A replacement wants a fresh connection, and no more may be made: the one that idled longest, at the address
        with the most of them, goes."""
        endpoint = max(self.ejection.members, key=lambda endpoint: len(endpoint.idle))
        next(iter(endpoint.idle)).close()

    def serve_instead(self, dial: Dial, failed: Endpoint) -> bool:
        """The address `failed` has failed a dial. Where a connection to another one is idle, that serves whoever waits.

        Returns:
            Whether the dial is over.
        """
        if self._waiting and self._single is None:
            now = self._deadlines.now
            for endpoint in self.ejection.in_order():
                connection = None if endpoint is failed else self._take_from(endpoint, now)
                if connection is not None:
                    del self._dials[dial]
                    self._serve(connection)
                    return True
        return False

    def _make(self, endpoint: Endpoint) -> Wire:
        return UpstreamConnection(self, endpoint, self._deadlines)

    def _dialed(self, dial: Dial, wire: Wire | None, refusal: Refusal | None) -> None:
        """A connection attempt that was not given up has ended: with a connection or with a refusal."""
        del self._dials[dial]
        if wire is not None:
            connection = cast("UpstreamConnection", wire)
            connection.endpoint.busy += 1
            self._active.add(connection)
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
