"""One try to get an answer from a dependency: what the policies and the counters see of it."""

from __future__ import annotations

from typing import Final

from sidecar.policy.classify import End
from sidecar.policy.states import Outcome, Permit
from sidecar.proxy.endpoint import Endpoint
from sidecar.proxy.headers import trace_id
from sidecar.runtime.deadlines import NEVER
from sidecar.runtime.dependency import Dependency

# Bound to the module: cheaper to read than an attribute of an enum.
_RESPONSE: Final = End.RESPONSE
_FAILURE: Final = Outcome.FAILURE


class Attempt:
    """An attempt, from the moment when the gate has let it in to `settle`.

    Args:
        dependency: that is asked.
        permit: from its gate.
        now: present process time in seconds.

    Attributes:
        began: when the gate let it in.
        endpoint: the address that it went to; None before there was a connection.
        tunnel: it is to become a tunnel, and has no slot.
        sent_at: when its request was whole at the dependency; infinity before.
        status: of its final response head; 0 before.
    """

    __slots__ = ("_dependency", "_observed", "_permit", "began", "endpoint", "sent_at", "status", "tunnel")

    def __init__(self, dependency: Dependency, permit: Permit, now: float) -> None:
        self._dependency = dependency
        self._permit: Permit | None = permit
        self._observed: list[Permit | None] | None = None
        if dependency.admission.candidates:
            self._observed = dependency.admission.observe(now)
        self.began = now
        self.endpoint: Endpoint | None = None
        self.tunnel = False
        self.sent_at = NEVER
        self.status = 0

    def __repr__(self) -> str:
        return f"<Attempt {'settled' if self._permit is None else 'under way'} status={self.status}>"

    def sent(self, now: float) -> None:
        """The request is whole at the dependency: now it owes an answer."""
        self.sent_at = now
        permit = self._permit
        if permit is not None and (permit.timed or self._observed is not None):
            self._dependency.admission.sent(permit, self._observed, now)

    def answered(self, status: int, now: float) -> None:
        """The final response head has come."""
        self.status = status
        if self.sent_at != NEVER:  # else the dependency answers before the request is whole
            self._dependency.counters.upstream_duration.observe(now - self.sent_at)
        permit = self._permit
        if permit is not None and (permit.trial or permit.timed or self._observed is not None):
            failing = self._dependency.classifier.failing[status]
            self._dependency.admission.answered(permit, self._observed, status, failing, now)

    def settle(self, end: End, request_block: bytes, now: float) -> None:
        """Its one end: the outcome is recorded; permit and slot go back, to whoever waits for them.

        Args:
            end: how it ended.
            request_block: field lines of the request, for the trace that a failure belongs to.
            now: present process time in seconds.
        """
        permit = self._permit
        if permit is None:
            return
        self._permit = None
        dependency = self._dependency
        status = self.status
        waited_s = now - self.sent_at if self.sent_at != NEVER else 0.0
        classifier = dependency.classifier
        outcome = classifier.of_status(status) if end is _RESPONSE else classifier.outcome(end, status, waited_s)
        dependency.counters.count_attempt(outcome)
        endpoint = self.endpoint
        if endpoint is not None and (outcome is _FAILURE or endpoint.failures or endpoint.times):
            endpoint.judge(outcome, now)
        if outcome is _FAILURE:
            what: int | str = status if end is _RESPONSE else end.value
            dependency.trips.note_failure(what, waited_s, trace_id(request_block))
        admission = dependency.admission
        observed = self._observed
        if observed is not None:
            self._observed = None
            admission.end_observed(observed, end, status, waited_s, now)
        if self.tunnel:
            admission.leave_tunnel(permit, outcome, now)
        else:
            admission.leave(permit, outcome, now)
