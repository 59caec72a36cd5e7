"""From a request's head to its dependency, and to the head that goes there."""

from __future__ import annotations

from sidecar.errors import ForbiddenRoute, NoRoute
from sidecar.proxy.framing import RequestHead
from sidecar.proxy.headers import Forwarding, request_for_upstream
from sidecar.proxy.pool import Pool
from sidecar.proxy.routing import Router


class Dispatcher:
    """Finds the dependencies that the requests of one connection are for.

    Args:
        router: the routes of the shared port, which absolute-form targets are looked up in on every port.
        pool: the one dependency of a port of its own, else None.
        forwarding: the connection's X-Forwarded lines.
    """

    __slots__ = ("_forwarding", "_host", "_host_pool", "_pool", "_router")

    def __init__(self, router: Router[Pool], pool: Pool | None, forwarding: Forwarding) -> None:
        self._router = router
        self._pool = pool
        self._forwarding = forwarding
        self._host: bytes | None = None  # of the last request, with the dependency that it named
        self._host_pool: Pool | None = None

    def route(self, head: RequestHead) -> Pool:
        """The dependency that a request names, by the port that it came to or by what it says.

        Raises:
            NoRoute: there is none.
        """
        pool = self._pool
        if head.method == b"CONNECT":
            named = self._router.by_tunnel(head.target)
            if named is None or (pool is not None and named is not pool):
                raise ForbiddenRoute("no dependency has the host and port that CONNECT asks for")
            if named.dependency.tunnels.limit == 0:
                raise ForbiddenRoute(f"tunnels to {named.dependency.name} are switched off (max_tunnels: 0)")
            return named
        if head.absolute:
            named = self._router.by_authority(head.host or b"")
            if named is None or (pool is not None and named is not pool):
                raise ForbiddenRoute("no dependency has the host and port that the request's target names")
            return named
        if pool is not None:
            return pool
        host = head.host
        if host != self._host or host is None:
            self._host = host
            self._host_pool = self._router.by_host(host) if host else None
        pool = self._host_pool or self._router.by_path(head.target)
        if pool is None:
            raise NoRoute("neither the Host nor the path of the request belongs to a dependency; see hosts and prefix")
        return pool

    def octets(self, head: RequestHead, raw: bytes, pool: Pool) -> bytes:
        """The head that goes to the dependency.

        Args:
            head: as it was parsed.
            raw: its octets.
            pool: where it goes.

        Raises:
            BadRequest: a field that a proxy must act on is malformed.
        """
        dependency = pool.dependency
        target = head.target
        if dependency.strip and self._pool is None and _has_prefix(target, dependency.prefix):
            target = target[dependency.strip :]
            if target[:1] != b"/":
                target = b"/" + target
        return request_for_upstream(head, target, dependency.host_line, self._forwarding, raw.find(b"_") >= 0)


def _has_prefix(target: bytes, prefix: bytes) -> bool:
    """Whether the path begins with the whole segments of `prefix`; also asked where it was Host that decided."""
    return target.startswith(prefix) and target[len(prefix) : len(prefix) + 1] in (b"", b"/", b"?")
