"""CONNECT: a tunnel to a dependency, for a client that has the sidecar for its proxy (RFC 9110 section 9.3.6).

What passes in it, TLS as a rule, is the client's and the dependency's own, so the policies see no requests. They see
the connecting: the circuit is asked, a token is taken, and whether there was a connection is the outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from sidecar.config import Upstream
from sidecar.errors import Refusal
from sidecar.policy.classify import End
from sidecar.policy.states import Permit
from sidecar.proxy import verdict
from sidecar.proxy.dial import Dial, Wire
from sidecar.proxy.dispatch import Dispatcher
from sidecar.proxy.endpoint import Endpoint
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.framing import RequestHead
from sidecar.proxy.pool import Pool
from sidecar.proxy.refusals import turned_away
from sidecar.proxy.routing import canonical_host
from sidecar.proxy.tunnel import TunnelEnd
from sidecar.runtime.deadlines import Deadlines

if TYPE_CHECKING:
    from sidecar.proxy.downstream import DownstreamConnection

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


class ConnectExchange(Exchange):
    """One CONNECT, up to the moment when its tunnel stands or it is refused. The arguments are those of `Exchange`."""

    __slots__ = ("_dial", "_endpoint")

    def __init__(self, downstream: DownstreamConnection, pool: Pool, head: RequestHead, deadlines: Deadlines) -> None:
        super().__init__(downstream, pool, head, deadlines)
        self._dial: Dial | None = None
        self._endpoint: Endpoint | None = None  # of the dial's present, or last, connection

    def start(self, dispatcher: Dispatcher, raw: bytes) -> None:
        """Let the tunnel in and connect, or refuse it; it does not wait for a token.

        Args:
            dispatcher: is not needed.
            raw: neither.
        """
        dependency = self.dependency
        now = self._began = self._deadlines.read()
        dependency.counters.in_flight += 1
        if dependency.admission.gate.breaker.refuses(now):
            self._finish(End.OWN_REFUSAL, now, turned_away(dependency, None, None, now))
            return
        if not self._may_switch(now):
            return
        self._octets = b""  # there is nothing to send again, so it can be tried again
        permit = self.enter(now)
        if permit is None:
            refusal = turned_away(dependency, dependency.admission.gate.lack, None, now)
            self._finish(End.OWN_REFUSAL, now, refusal)
        else:
            self.begin(permit, now)

    def enter(self, now: float) -> Permit | None:
        """As a tunnel, which has no slot."""
        return self.dependency.admission.enter_tunnel(now)

    def _connect(self, now: float) -> None:
        attempt = self._attempt
        assert attempt is not None
        attempt.tunnel = True
        only = _named(self.head.target, self.dependency.settings.upstream)
        self._dial = Dial(self._pool, self._deadlines, self._make, self._on_dialed, raw=True, only=only)
        self.wait_until(self.total_deadline)
        self._dial.start()

    def _make(self, endpoint: Endpoint) -> Wire:
        self._endpoint = endpoint
        return TunnelEnd()

    def _on_dialed(self, dial: Dial, wire: Wire | None, refusal: Refusal | None) -> None:
        self._dial = None
        if isinstance(wire, TunnelEnd):
            now = self._deadlines.read()
            if self._downstream.gone:
                wire.close()
                self._downstream.close()
                return
            attempt = self._attempt
            assert attempt is not None
            attempt.endpoint = self._endpoint
            attempt.status = 200
            early, wire.early = wire.early, b""
            self._become_tunnel(wire, 200, _ESTABLISHED, early, now)
        elif refusal is not None:
            self._fail(refusal, verdict.without_connection(refusal))

    def on_deadline(self) -> None:
        """There is no connection, and no time for one is left."""
        self.refuse(self._total_over(), self._end_of_total())

    def _let_upstream_go(self, *, whole: bool) -> None:
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None


def _named(authority: bytes, upstreams: Iterable[Upstream]) -> Upstream | None:
    """The upstream whose own host and port CONNECT names; None where it names the dependency as a whole.

    Args:
        authority: with a port, in any spelling: the upstream must be the one that the router found it by.
        upstreams: of the dependency. A Unix socket has no host.
    """
    name, port = canonical_host(authority)
    for upstream in upstreams:
        if upstream.port == int(port) and upstream.unix_path is None:
            if canonical_host(upstream.host_and_port.encode("ascii"))[0] == name:
                return upstream
    return None
