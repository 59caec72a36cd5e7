"""Transitions of circuits as lines of the log. Always written: they are few, and they are what an incident turns on."""

from __future__ import annotations

import logging
from typing import Any

from sidecar.policy.states import State, Transition
from sidecar.proxy.refusals import cause
from sidecar.runtime.dependency import Dependency
from sidecar.runtime.trips import TripRecord

log = logging.getLogger("sidecar.circuit")


def log_transition(
    dependency: Dependency, candidate: str | None, transition: Transition, record: TripRecord | None
) -> None:
    """Write one transition down.

    Args:
        dependency: whose.
        candidate: of which candidate; None for the enforced circuit.
        transition: what happened.
        record: what it left behind, where the enforced circuit opened.
    """
    what = f"circuit of {dependency.name}" if candidate is None else f"candidate {candidate} of {dependency.name}"
    fields: dict[str, Any] = {
        "dependency": dependency.name,
        "from": transition.origin.value,
        "to": transition.state.value,
        "reason": transition.reason.value,
    }
    if candidate is not None:
        fields["candidate"] = candidate
    words = transition.reason.value.replace("_", " ")
    if record is not None:
        fields["trip"] = record.as_dict()
        words = cause(transition, record.thresholds)
    bad = candidate is None and transition.state in (State.OPEN, State.FORCED_OPEN, State.FORCED_CLOSED)
    level = logging.WARNING if bad else logging.INFO
    text = f"{what}: {transition.origin.value} to {transition.state.value}: {words}"
    log.log(level, text, extra={"fields": fields})
