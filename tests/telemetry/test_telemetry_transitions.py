"""Transitions in the log: always, each once, and with the record that they leave."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.policy.classify import End
from sidecar.policy.states import Outcome, State
from sidecar.telemetry import transitions
from sidecar.telemetry.logs import JsonHandler
from sidecar.telemetry.transitions import log_transition
from tests.runtime.door import Door

BRITTLE = {"consecutive_failures": 1, "half_open": {"trials": 1, "successes": 1}}


class Lines:
    """A sink that keeps the documents."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        self.documents.append(json.loads(line))

    def take(self) -> dict[str, Any]:
        """The one line since."""
        (document,) = self.documents
        self.documents.clear()
        return document


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """What is logged of circuits, apart from whatever else listens to `logging`."""
    sink = Lines()
    logger = logging.Logger("sidecar.circuit")  # noqa: LOG001
    logger.addHandler(JsonHandler(sink))  # type: ignore[arg-type]
    monkeypatch.setattr(transitions, "log", logger)
    return sink


def door(**keys: Any) -> Door:
    """A dependency whose transitions are logged as those of a real one."""
    made = Door(**keys)
    made.dependency._on_transition = log_transition
    return made


def test_each_transition_is_one_line_that_says_from_where_to_where_and_why(lines: Lines) -> None:
    talk = door(circuit_breaker=BRITTLE)
    talk.calls(Outcome.FAILURE)
    opened = lines.take()
    assert (opened["level"], opened["logger"]) == ("warning", "sidecar.circuit")
    assert opened["msg"] == "circuit of payments: closed to open: 1 failures in a row (consecutive_failures: 1)"
    assert {key: opened[key] for key in ("dependency", "from", "to", "reason")} == {
        "dependency": "payments",
        "from": "closed",
        "to": "open",
        "reason": "consecutive_failures",
    }
    talk.passes(31)
    assert (lines.documents[0]["level"], lines.take()["msg"]) == (
        "info",
        "circuit of payments: open to half_open: waited",
    )
    talk.calls(Outcome.SUCCESS)
    assert (lines.documents[0]["level"], lines.take()["msg"]) == (
        "info",
        "circuit of payments: half_open to closed: trials succeeded",
    )


def test_line_of_an_opening_carries_its_trip_record(lines: Lines) -> None:
    talk = door(circuit_breaker=BRITTLE)
    talk.dependency.trips.note_failure(503, 0.5, "4bf92f3577b34da6a3ce929d0e0e4736")
    talk.calls(Outcome.FAILURE)
    opened = lines.take()
    assert opened["trip"] == talk.dependency.trips.records[-1].as_dict()
    assert opened["trip"]["last_failures"][0]["status"] == 503
    talk.passes(31)
    assert "trip" not in lines.take()


@pytest.mark.parametrize(
    ("state", "level"), [(State.FORCED_OPEN, "warning"), (State.FORCED_CLOSED, "warning"), (None, "info")]
)
def test_what_somebody_has_done_by_hand_stands_out(lines: Lines, state: State | None, level: str) -> None:
    talk = door()
    breaker = talk.gate.breaker
    if state is None:
        talk.do(breaker.force, State.FORCED_OPEN, talk.now)
        lines.documents.clear()
        talk.do(breaker.release, talk.now)
    else:
        talk.do(breaker.force, state, talk.now)
    line = lines.take()
    assert line["level"] == level
    assert line["reason"] == ("released" if state is None else "forced")
    assert line["msg"].endswith(f": {line['reason']}")


def test_candidate_is_named_and_alarms_nobody(lines: Lines) -> None:
    talk = door(circuit_breaker=BRITTLE | {"mode": "shadow"})
    permit = talk.gets_in()
    observed = talk.do(talk.admission.observe, talk.now)
    talk.do(talk.admission.end_observed, observed, End.RESET, 0, 0.0, talk.now)
    talk.leaves(permit, Outcome.FAILURE)
    line = lines.take()
    assert (line["level"], line["candidate"], line["dependency"]) == ("info", "shadow", "payments")
    assert line["msg"] == "candidate shadow of payments: closed to open: consecutive failures"
    assert "trip" not in line


def test_transition_is_logged_before_those_who_wait_are_told(lines: Lines) -> None:
    """So that the log reads in the order in which things happened."""
    talk = door(concurrency={"limit": 1}, queue={"limit": 5, "max_wait": "10s"}, circuit_breaker=BRITTLE)
    held = talk.gets_in()
    talk.waits("a")
    told: list[int] = []

    def note(*arguments: Any) -> None:
        told.append(len(talk.told))
        log_transition(*arguments)

    talk.dependency._on_transition = note
    talk.leaves(held, Outcome.FAILURE)
    assert (told, talk.told) == ([0], [("a", "circuit")])


def test_every_transition_of_every_state_can_be_written(lines: Lines) -> None:
    talk = door(circuit_breaker={"slow_calls": {"slower_than": "1s", "min_calls": 1}, "half_open": {"successes": 1}})
    breaker = talk.gate.breaker
    slow = talk.gets_in()
    talk.do(talk.admission.sent, slow, None, talk.now)
    talk.passes(1.1)
    talk.leaves(slow)
    talk.passes(31)
    trial = talk.gets_in()
    talk.do(talk.admission.sent, trial, None, talk.now)
    talk.passes(2)
    talk.leaves(trial)
    talk.passes(61)
    talk.calls(Outcome.FAILURE)
    for state in (State.FORCED_OPEN, State.FORCED_CLOSED):
        talk.do(breaker.force, state, talk.now)
    talk.do(breaker.release, talk.now)
    assert [line["reason"] for line in lines.documents] == [
        "slow_calls",
        "waited",
        "trials_slow",
        "waited",
        "trial_failed",
        "forced",
        "forced",
        "released",
    ]
