"""Which dependency a request is for: by authority of an absolute-form target, by Host, by longest path prefix.

Each step is a dict lookup, a prefix one per path segment, so the cost does not grow with the number of
dependencies. Whatever a request says, it can only choose among what the configuration names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

Target = TypeVar("Target")


def canonical_host(host: bytes) -> tuple[bytes, bytes]:
    """Name and port of a Host value, lower-case and without the root's dot; the port is empty where none is stated.

    Args:
        host: a value that `framing` has accepted.
    """
    host = host.lower()
    if host.endswith(b"]"):
        return host, b""
    name, _, port = host.partition(b":") if not host.startswith(b"[") else host.rpartition(b":")
    return name.removesuffix(b"."), port


class Router(Generic[Target]):
    """The routes of one listener.

    Args:
        routes: for each target its hosts (`name` or `name:port`), its prefix or None, and the ports of its upstreams.
    """

    __slots__ = ("_any_port", "_authorities", "_deepest", "_hosts", "_prefixes", "_tunnels")

    def __init__(self, routes: Iterable[tuple[Target, Iterable[str], str | None, Iterable[int]]]) -> None:
        self._hosts: dict[bytes, Target] = {}
        self._any_port: dict[bytes, Target] = {}
        self._authorities: dict[tuple[bytes, int], Target] = {}
        self._tunnels: dict[tuple[bytes, int], Target] = {}
        self._prefixes: dict[bytes, Target] = {}
        for target, hosts, prefix, upstream_ports in routes:
            for host in hosts:
                name, port = canonical_host(host.encode("ascii"))
                if port:
                    self._hosts[name + b":" + port] = target
                    self._authorities[name, int(port)] = target
                    self._tunnels[name, int(port)] = target
                else:
                    self._any_port[name] = target
                    self._authorities.setdefault((name, 80), target)
                    for upstream_port in upstream_ports:
                        self._authorities.setdefault((name, upstream_port), target)
                        self._tunnels.setdefault((name, upstream_port), target)
            if prefix is not None:
                self._prefixes[prefix.rstrip("/").encode("ascii")] = target
        self._deepest = max((prefix.count(b"/") for prefix in self._prefixes), default=0)

    def by_authority(self, authority: bytes) -> Target | None:
        """The target that an absolute-form target names: host and port must both be configured."""
        name, port = canonical_host(authority)
        return self._authorities.get((name, int(port) if port else 80))

    def by_tunnel(self, authority: bytes) -> Target | None:
        """The target that CONNECT names: as an entry of `hosts` with its port, or, for an entry without one, with the
        port of an upstream.

        Unlike a request, a tunnel is never for the default port unless that is one of these.

        Args:
            authority: the target, which llhttp lets begin with a slash.
        """
        name, port = canonical_host(authority)
        return self._tunnels.get((name, int(port))) if port.isdigit() else None

    def by_host(self, host: bytes) -> Target | None:
        """The target that a Host field names; an entry without a port matches any, since the port is the sidecar's.

        A Host without a port is for the default one, be it of http or of https.
        """
        name, port = canonical_host(host)
        if port:
            target = self._hosts.get(name + b":" + port)
            if target is not None:
                return target
        else:
            target = self._hosts.get(name + b":80") or self._hosts.get(name + b":443")
            if target is not None:
                return target
        return self._any_port.get(name)

    def by_path(self, target: bytes) -> Target | None:
        """The target whose prefix is the longest that ends at a segment of the path."""
        prefixes = self._prefixes
        if not prefixes:
            return None
        path = target.partition(b"?")[0]
        end = 0
        for _ in range(self._deepest):
            end = path.find(b"/", end + 1)
            if end < 0:
                end = len(path)
                break
        while end > 0:
            found = prefixes.get(path[:end])
            if found is not None:
                return found
            end = path.rfind(b"/", 0, end)
        return prefixes.get(b"")
