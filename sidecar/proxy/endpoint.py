"""One address of a dependency, with the connections to it that wait to be used again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sidecar.policy.ejection import Ejection, Member
from sidecar.policy.states import Outcome
from sidecar.proxy.resolver import Place

log = logging.getLogger("sidecar.names")

if TYPE_CHECKING:
    from sidecar.proxy.upstream import UpstreamConnection


class Endpoint(Member):
    """One address of a dependency.

    Args:
        place: where it is.
        own_host: where its Host is not its dependency's, the line of that and its own, CRLF before and behind.
        server_name: the name that its certificate must have, where it speaks TLS.
        ejection: what it is a member of.

    Attributes:
        place, own_host, server_name: as given.
        idle: connections kept for reuse; the last is the most recently used.
        gone: the dependency has no such address any more: nothing new goes there.
    """

    __slots__ = ("_ejection", "gone", "idle", "own_host", "place", "server_name")

    def __init__(
        self,
        place: Place,
        own_host: tuple[bytes, bytes] | None,
        server_name: str | None,
        ejection: Ejection[Endpoint],
    ) -> None:
        super().__init__()
        self._ejection = ejection
        self.place = place
        self.own_host = own_host
        self.server_name = server_name
        self.idle: dict[UpstreamConnection, None] = {}
        self.gone = False

    def __repr__(self) -> str:
        out = " ejected" if self.ejected else ""
        return f"<Endpoint {self}{out} busy={self.busy} idle={len(self.idle)}>"

    def judge(self, outcome: Outcome, now: float) -> None:
        """An attempt that went to it has ended. A success need not be told where no failure came before."""
        if outcome is Outcome.FAILURE:
            if self._ejection.failed(self, now):
                what = "%s at %s is passed over for %g s: it has failed too often in a row"
                log.warning(what, self.place.upstream, self.place.ip or "its path", self.until - now)
        elif outcome is Outcome.SUCCESS:
            self._ejection.succeeded(self, now)

    def __str__(self) -> str:
        """Where it is, for a message."""
        upstream = self.place.upstream
        return str(upstream) if upstream.unix_path is not None else f"{self.place.ip} port {upstream.port}"
