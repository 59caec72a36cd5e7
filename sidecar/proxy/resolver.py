"""The names of a dependency's upstreams, and the addresses behind them, looked up again and again.

A lookup goes to a thread (getaddrinfo knows /etc/hosts, search domains and whatever else the host is configured with,
and blocks), so the loop never waits for one; and there is at most one under way for a name, so a resolver that hangs
takes one thread for each and no more. What is found stays in force until something else is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from sidecar.config import Upstream

log = logging.getLogger("sidecar.names")

MOST_ADDRESSES: Final = 256
"""Of one name. Whoever answers for it must not decide how much memory that takes."""


class Place(NamedTuple):
    """Where one connection can go.

    Attributes:
        upstream: as the configuration names it.
        ip: an address in text; empty for a Unix socket.
    """

    upstream: Upstream
    ip: str


class Lookup(Protocol):
    """Finds the addresses behind a name."""

    def __call__(self, host: str, port: int) -> Awaitable[Sequence[str]]:
        """Addresses in text, the preferred first.

        Raises:
            OSError: there are none, or whoever should know does not answer.
        """


async def system_lookup(host: str, port: int) -> list[str]:
    """What the host's own resolver says, of IPv4 and IPv6.

    In a thread of its own, not by `loop.getaddrinfo`: uvloop has four threads for that, which four names that hang take
    from all others, and either loop waits at its end for those under way, longer than the process may take to stop.

    Raises:
        OSError: there are none, or whoever should know does not answer, or no thread can be had.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def ask() -> None:
        found: list[str] | Exception
        try:
            # Without AI_ADDRCONFIG, which takes ::1 away from localhost where no other interface speaks IPv6.
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(address[0]) for *_, address in addresses))
        except Exception as error:  # noqa: BLE001  whatever it is, it is for whoever waits
            found = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, found)

    def deliver(found: list[str] | Exception) -> None:
        if answer.done():  # given up
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    try:
        threading.Thread(target=ask, name=f"lookup of {host}", daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    return await answer


class Resolver:
    """The addresses of one dependency.

    Args:
        dependency: its name, for the log.
        upstreams: as the configuration names them.
        refresh_s: seconds between two lookups of a name.
        lookup: finds addresses.
        on_places: told what there is at the start, and again whenever it has changed.
        on_failure: told of each lookup that failed.

    Attributes:
        reason: why there are no addresses, where there are none.
    """

    def __init__(
        self,
        dependency: str,
        upstreams: Sequence[Upstream],
        refresh_s: float,
        lookup: Lookup,
        on_places: Callable[[list[Place]], None],
        on_failure: Callable[[], None],
    ) -> None:
        self._dependency = dependency
        self._upstreams = upstreams
        self._refresh_s = refresh_s
        self._lookup = lookup
        self._on_places = on_places
        self._on_failure = on_failure
        self.reason = "it has not been looked up yet"
        self._found: dict[Upstream, tuple[str, ...]] = {}  # the last good answer for each; also of what is no name
        self._failing: set[Upstream] = set()
        self._told: list[Place] | None = None
        self._lookups: dict[Upstream, asyncio.Task[None]] = {}  # the one under way for each name, or the last
        self._rounds: list[asyncio.Task[None]] = []
        for upstream in upstreams:
            if upstream.unix_path is not None:
                self._found[upstream] = ("",)
            elif is_address(upstream.host):
                self._found[upstream] = (upstream.host,)
        self._names = [upstream for upstream in upstreams if upstream not in self._found]

    def start(self) -> None:
        """Tell what is known already, and begin to look up what is not."""
        self._tell()
        if self._names:
            loop = asyncio.get_running_loop()
            self._rounds = [loop.create_task(self._keep_looking(upstream)) for upstream in self._names]

    def stop(self) -> None:
        """Look nothing up any more."""
        for task in (*self._rounds, *self._lookups.values()):
            task.cancel()
        self._rounds.clear()
        self._lookups.clear()

    async def look(self, only: Upstream | None = None) -> None:
        """Look the names up until there is an address, or until it turns out that there is none.

        Args:
            only: the one of the upstreams that matters; None where any does.
        """
        wanted = self._upstreams if only is None else (only,)
        under_way = {self._lookup_of(upstream) for upstream in self._names if upstream in wanted}
        while under_way and not any(upstream in self._found for upstream in wanted):
            # A caller that is cancelled leaves the lookups alone.
            _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)

    def _lookup_of(self, upstream: Upstream) -> asyncio.Task[None]:
        """The lookup that is under way, or else one that begins now."""
        task = self._lookups.get(upstream)
        if task is None or task.done():
            task = self._lookups[upstream] = asyncio.get_running_loop().create_task(self._look_up(upstream))
        return task

    async def _keep_looking(self, upstream: Upstream) -> None:
        """Each name for itself: one that hangs keeps no other waiting."""
        while True:
            await asyncio.wait({self._lookup_of(upstream)})
            await asyncio.sleep(self._refresh_s)

    async def _look_up(self, upstream: Upstream) -> None:
        try:
            found = self._chosen(upstream, await self._lookup(upstream.host, upstream.port))
            if not found:
                raise OSError("the answer is empty")
        except (OSError, UnicodeError) as error:  # the codec for names refuses some before anybody is asked
            self._failed(upstream, error)
            return
        except Exception as error:  # noqa: BLE001  a defect: it is reported, and the next lookup is made all the same
            context = {"message": f"the lookup of {upstream.host} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
            self._failed(upstream, error)
            return
        if upstream in self._failing:
            self._failing.discard(upstream)
            log.info("the name %s of %s resolves again", upstream.host, self._dependency)
        self._found[upstream] = found
        self._tell()

    def _chosen(self, upstream: Upstream, found: Sequence[str]) -> tuple[str, ...]:
        """Each once, in an order that does not depend on the answer's; of too many those that are in use already."""
        known = self._found.get(upstream, ())
        unique = sorted(dict.fromkeys(found), key=lambda ip: ip not in known)
        return tuple(sorted(unique[:MOST_ADDRESSES]))

    def _failed(self, upstream: Upstream, error: Exception) -> None:
        self._on_failure()
        self.reason = str(getattr(error, "strerror", None) or error) or type(error).__name__
        if upstream in self._failing:  # said once, not every few seconds
            return
        self._failing.add(upstream)
        known = len(self._found.get(upstream, ()))
        log.warning(
            "the name %s of %s does not resolve (%s); %s",
            upstream.host,
            self._dependency,
            self.reason,
            f"its last good addresses ({known}) serve on" if known else "no address is known",
        )

    def _tell(self) -> None:
        places = [Place(upstream, ip) for upstream in self._upstreams for ip in self._found.get(upstream, ())]
        if places != self._told:
            self._told = places
            self._on_places(places)


def is_address(host: str) -> bool:
    """Whether a host is an address already, so that nobody need be asked."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
