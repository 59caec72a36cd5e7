"""One attempt to get a connection to a dependency: at one address, and where that fails at another.

The name may have no address yet; then the attempt waits for the lookup. Every address has `timeout.connect`, its TLS
handshake included.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.config import Upstream
from sidecar.errors import Overloaded, Refusal, UpstreamFailure, UpstreamTimeout
from sidecar.policy.states import Outcome
from sidecar.proxy.endpoint import Endpoint
from sidecar.proxy.tls import SHUTDOWN_S, tls_failure
from sidecar.runtime.deadlines import NEVER, Deadlines
from sidecar.runtime.descriptors import none_left_for_dependency, too_few_for_dependency

if TYPE_CHECKING:
    from sidecar.proxy.pool import Pool

MOST_ADDRESSES: Final = 3
"""Addresses that are tried at most. Each may cost its whole timeout, and the request has one of its own."""

# Ours, not the dependency's: no descriptor, no local port, no memory.
_LOCAL_ERRORS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)

# From here no way leads to an address, and as a rule to none of its kind: there is no route, no address of our own (or
# no port of it left), no such protocol in the kernel. So it is on a host without IPv6, which finds such addresses all
# the same; and as nothing there is ever busy, they would all stand in front of those of IPv4.
_NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class Wire(Protocol):
    """What is made by a dial: an asyncio protocol."""

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as is known; asked right after it was made."""

    def close(self) -> None:
        """End it, made or not."""


class Dial:
    """One attempt to connect.

    Args:
        pool: of the dependency.
        deadlines: the process's clock and wheel.
        make: makes the protocol for a connection to an address.
        done: told how it ended, unless it was cancelled: with a connection or with a refusal.
        raw: without TLS, whatever the dependency speaks.
        only: the one of its upstreams that will do; None for any.

    Attributes:
        deadline, watched: see `Watched`.
    """

    __slots__ = (
        "_deadlines",
        "_done",
        "_endpoint",
        "_make",
        "_no_way",
        "_only",
        "_pool",
        "_raw",
        "_refusal",
        "_task",
        "_tried",
        "_wire",
        "deadline",
        "watched",
    )

    def __init__(
        self,
        pool: Pool,
        deadlines: Deadlines,
        make: Callable[[Endpoint], Wire],
        done: Callable[[Dial, Wire | None, Refusal | None], None],
        *,
        raw: bool = False,
        only: Upstream | None = None,
    ) -> None:
        self._pool = pool
        self._deadlines = deadlines
        self._make = make
        self._done = done
        self._raw = raw
        self._only = only
        self._task: asyncio.Task[None] | None = None
        self._wire: Wire | None = None
        self._endpoint: Endpoint | None = None
        self._tried: list[Endpoint] = []
        self._no_way: list[bool] = []  # to IPv6 (True), to IPv4 (False), as far as that has shown
        self._refusal: Refusal | None = None  # of the last address to which there is a way
        self.deadline = NEVER
        self.watched = NEVER

    def __repr__(self) -> str:
        return f"<Dial {self._pool.dependency.name} {self._endpoint!r} tried={len(self._tried)}>"

    def start(self, endpoint: Endpoint | None = None) -> None:
        """Begin with this address, or with the one whose turn it is."""
        self._try(endpoint or self._first())

    def _first(self) -> Endpoint | None:
        ejection, only = self._pool.ejection, self._only
        if only is None:
            return ejection.pick(self._deadlines.now)
        return ejection.pick_where(lambda each: each.place.upstream == only, self._deadlines.now)

    def _next(self) -> Endpoint | None:
        """One that has not been tried, of a kind to which there is a way if there is any."""
        ejection, only, no_way, now = self._pool.ejection, self._only, self._no_way, self._deadlines.now
        passed_over = set(self._tried)
        if only is not None:
            passed_over.update(each for each in ejection.members if each.place.upstream != only)
        if no_way:
            without_way = {each for each in ejection.members if (":" in each.place.ip) in no_way}
            elsewhere = ejection.pick_other(passed_over | without_way, now)
            if elsewhere is not None:
                return elsewhere
        return ejection.pick_other(passed_over, now)

    def cancel(self) -> None:
        """End the attempt without a word to anybody. The task may not have run yet, so nothing is left to it."""
        self._deadlines.forget(self)
        if self._task is not None:
            self._task.cancel()
            self._task = None  # whose exception refers to its frame, and that to this object
        if self._wire is not None:  # which may be whole, and lost with the task's result
            self._wire.close()
            self._wire = None
        self._leave_endpoint()

    def _try(self, endpoint: Endpoint | None) -> None:
        self._endpoint = endpoint
        if endpoint is not None:
            endpoint.busy += 1
            self._tried.append(endpoint)
        self.deadline = self._deadlines.now + self._pool.connect_s
        self._deadlines.watch(self)
        self._task = asyncio.get_running_loop().create_task(self._run(endpoint))

    def _leave_endpoint(self) -> None:
        if self._endpoint is not None:
            self._endpoint.busy -= 1
            self._endpoint = None

    def _try_another(self, refusal: Refusal, *, no_way: bool = False) -> None:
        """It is the address that failed: another one, if there is one, else the end."""
        if not no_way:
            self._refusal = refusal
        failed = self._endpoint
        self._leave_endpoint()
        if failed is not None:
            failed.judge(Outcome.FAILURE, self._deadlines.now)
            if not self._raw and self._pool.serve_instead(self, failed):
                return
            if len(self._tried) < MOST_ADDRESSES:
                another = self._next()
                if another is not None:
                    self._try(another)
                    return
        self._done(self, None, self._refusal or refusal)

    def on_deadline(self) -> None:
        self._deadlines.forget(self)
        endpoint, name, connect_s = self._endpoint, self._name, self._pool.connect_s
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if endpoint is None:
            detail = f"the names of {name} were not resolved within {connect_s:g} s (timeout.connect)"
            self._try_another(UpstreamTimeout(detail, "dns_timeout"))
            return
        made = " and complete its TLS handshake" if self._speaks_tls(endpoint) else ""
        detail = f"{name} did not accept a connection{made} within {connect_s:g} s (timeout.connect){self._where()}"
        self._try_another(UpstreamTimeout(detail, "connection_timeout"))

    async def _run(self, endpoint: Endpoint | None) -> None:
        if endpoint is None:
            await self._find_out()
            return
        wire: Wire | None = None
        refusal: Refusal | None = None
        no_way = False
        try:
            wire = await self._connect(endpoint)
        except OSError as error:
            refusal = self._explain(endpoint, error)
            no_way = error.errno in _NO_WAY
            if no_way:
                self._no_way.append(":" in endpoint.place.ip)
        except Exception as error:  # noqa: BLE001  a defect: it is reported, and the waiter does not wait for ever
            refusal = UpstreamFailure(f"no connection to {self._name}: {error}", "destination_unavailable")
            context = {"message": f"connecting to {self._name} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        self._deadlines.forget(self)
        self._task = None
        self._wire = None
        if wire is not None and not wire.usable:
            wire.close()
            wire = None
            refusal = UpstreamFailure(f"{self._name} closed the connection before it answered", "connection_terminated")
        if wire is not None and endpoint.gone:  # it has vanished meanwhile, and may be somebody else's by now
            wire.close()
            self._leave_endpoint()
            self._try(self._first())
        elif wire is not None:
            self._leave_endpoint()
            self._done(self, wire, None)
        elif isinstance(refusal, Overloaded) and not no_way:
            self._leave_endpoint()
            self._done(self, None, refusal)
        elif refusal is not None:
            self._try_another(refusal, no_way=no_way)

    async def _find_out(self) -> None:
        """Wait for an address."""
        pool = self._pool
        await pool.resolver.look(self._only)
        self._deadlines.forget(self)
        self._task = None
        endpoint = self._first()
        if endpoint is not None:
            self._try(endpoint)
            return
        names = ", ".join(dict.fromkeys(upstream.host for upstream in pool.dependency.settings.upstream))
        detail = f"the name {names} of {self._name} does not resolve: {pool.resolver.reason}"
        self._done(self, None, UpstreamFailure(detail, "dns_error"))

    async def _connect(self, endpoint: Endpoint) -> Wire:
        loop: Any = asyncio.get_running_loop()  # whose types ask for a subclass of asyncio.Protocol
        place = endpoint.place
        if none_left_for_dependency():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._wire = wire = self._make(endpoint)
        options: dict[str, Any] = {}
        if self._speaks_tls(endpoint):
            tls = self._pool.tls
            assert tls is not None, "whoever has an https upstream has a context"
            options = {
                "ssl": tls.context,
                "server_hostname": endpoint.server_name,
                "ssl_handshake_timeout": 2 * self._pool.connect_s + 1,  # never: the wheel is there before
                "ssl_shutdown_timeout": SHUTDOWN_S,
            }
        if place.upstream.unix_path is not None:
            transport, _ = await loop.create_unix_connection(lambda: wire, place.upstream.unix_path)
        else:
            transport, _ = await loop.create_connection(lambda: wire, place.ip, place.upstream.port, **options)
        if too_few_for_dependency(transport):
            transport.abort()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return wire

    def _speaks_tls(self, endpoint: Endpoint) -> bool:
        return endpoint.server_name is not None and not self._raw

    @property
    def _name(self) -> str:
        return self._pool.dependency.name

    def _where(self) -> str:
        """Which address was the last, where that is not plain from the configuration."""
        endpoint = self._endpoint
        if endpoint is None or len(self._pool.ejection.members) <= 1:
            return ""
        return f" at {endpoint}" if len(self._tried) == 1 else f" at {endpoint}, nor at {len(self._tried) - 1} before"

    def _explain(self, endpoint: Endpoint, error: OSError) -> Refusal:
        name, unix = self._name, endpoint.place.upstream.unix_path is not None
        if isinstance(error, ssl.SSLError):
            return tls_failure(name, error)
        if error.errno == errno.EAGAIN and unix:
            return UpstreamFailure(f"{name} does not accept: the backlog of its socket is full", "connection_refused")
        if error.errno in _LOCAL_ERRORS:
            return Overloaded(f"no connection to {name} could be made: {error.strerror} (on this side)")
        where = self._where()
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return UpstreamFailure(f"{name} cannot be reached: {error.strerror}{where}", "destination_ip_unroutable")
        if isinstance(error, ConnectionResetError):  # without a number where it is amid a TLS handshake
            return UpstreamFailure(f"{name} broke the connection before it answered{where}", "connection_terminated")
        reason = error.strerror or str(error) or "Connection refused"
        return UpstreamFailure(f"no connection to {name}: {reason}{where}", "connection_refused")
