"""What a circuit leaves behind when it opens."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sidecar.policy.states import BreakerSettings, Outcome, RateRule, Reason, State, Transition
from sidecar.policy.window import Counts
from sidecar.runtime.trips import KEPT, SAMPLES, Trips, rfc3339
from sidecar.runtime.vitals import Reading
from tests.runtime.door import Door

SECOND = 784111777.25
"""Sun, 06 Nov 1994 08:49:37 GMT, and a quarter."""

READING = Reading(loop_lag_s=0.0123456, throttled_s=1.5, standstill_s=0.25)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def transition(reason: Reason = Reason.CONSECUTIVE_FAILURES, until: float | None = 1030.0) -> Transition:
    forced = reason is Reason.FORCED
    state = State.FORCED_OPEN if forced else State.OPEN
    return Transition(1000.0, State.CLOSED, state, reason, Counts(7, 5, 2, 6), 5, until, Counts(3, 2, 1, 3))


class Wall:
    """A clock on the wall, which may jump."""

    def __init__(self) -> None:
        self.seconds = SECOND

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def trips(wall: Wall) -> Trips:
    return Trips("payments", lambda: READING, wall)


def test_record_says_everything_there_is_to_know(trips: Trips, wall: Wall) -> None:
    trips.note_failure(503, 0.0417, TRACE)
    wall.seconds += 1
    trips.note_failure("reset", 0.0, None)
    wall.seconds += 1
    record = trips.note_trip(transition(), BreakerSettings())
    assert record.as_dict() == {
        "at": "1994-11-06T08:49:39.250Z",
        "dependency": "payments",
        "from": "closed",
        "reason": "consecutive_failures",
        "window": {"calls": 7, "failures": 5, "slow": 2, "timed": 6, "consecutive_failures": 5},
        "newest_part": {"calls": 3, "failures": 2, "slow": 1},
        "thresholds": {
            "consecutive_failures": 5,
            "failure_rate": 0.5,
            "failure_rate_min_calls": 20,
            "slower_than_ms": None,
            "slow_calls": None,
            "slow_calls_min_calls": None,
            "window": "10s",
        },
        "last_failures": [
            {"at": "1994-11-06T08:49:37.250Z", "status": 503, "latency_ms": 41.7, "trace_id": TRACE},
            {"at": "1994-11-06T08:49:38.250Z", "error": "reset", "latency_ms": 0.0},
        ],
        "process": {"loop_lag_ms": 12.346, "cpu_throttled_ms": 1500.0, "standstill_ms": 250.0},
        "probes_at": "1994-11-06T08:50:09.250Z",
    }


@pytest.mark.parametrize(
    ("settings", "thresholds"),
    [
        ({"consecutive_failures": None}, {"consecutive_failures": None}),
        ({"failure_rate": None}, {"failure_rate": None, "failure_rate_min_calls": None}),
        (
            {"slow_calls": RateRule(0.8, 30), "slower_than_s": 0.25},
            {"slower_than_ms": 250.0, "slow_calls": 0.8, "slow_calls_min_calls": 30},
        ),
        ({"window_s": None, "window_calls": 100}, {"window": "100 calls"}),
        ({"window_s": 0.5}, {"window": "0.5s"}),
    ],
)
def test_thresholds_are_those_in_force(trips: Trips, settings: dict[str, Any], thresholds: dict[str, Any]) -> None:
    told = trips.note_trip(transition(), BreakerSettings(**settings)).as_dict()["thresholds"]
    assert told == told | thresholds


def test_throttling_that_is_not_known_is_not_said_to_be_none(wall: Wall) -> None:
    trips = Trips("payments", lambda: Reading(0.0, None, 0.0), wall)
    assert trips.note_trip(transition(), BreakerSettings()).as_dict()["process"]["cpu_throttled_ms"] is None


def test_circuit_that_probes_at_no_time_says_so(trips: Trips) -> None:
    assert trips.note_trip(transition(Reason.FORCED, None), BreakerSettings()).as_dict()["probes_at"] is None


def test_last_failures_before_the_trip_are_shown_and_no_more(trips: Trips) -> None:
    for status in range(500, 500 + 2 * SAMPLES):
        trips.note_failure(status, 0.0, None)
    record = trips.note_trip(transition(), BreakerSettings())
    assert [sample.what for sample in record.samples] == [505, 506, 507, 508, 509]
    trips.note_failure(599, 0.0, None)
    assert record.samples[-1].what == 509, "what happens later does not change it"


def test_circuit_opened_by_hand_blames_no_call(trips: Trips) -> None:
    trips.note_failure(503, 0.0, None)
    assert trips.note_trip(transition(Reason.FORCED), BreakerSettings()).samples == ()


def test_newest_records_are_kept(trips: Trips, wall: Wall) -> None:
    for _ in range(KEPT + 10):
        wall.seconds += 1
        trips.note_trip(transition(), BreakerSettings())
    assert len(trips.records) == KEPT == 50
    assert [record.at for record in trips.records] == [SECOND + number for number in range(11, 61)]


def test_jump_of_the_wall_clock_moves_no_probe(trips: Trips, wall: Wall) -> None:
    records = []
    for jump in (0, 3600, -7200):
        wall.seconds += jump
        records.append(trips.note_trip(transition(), BreakerSettings()))
    assert [record.open_for_s for record in records] == [30.0] * 3


def test_record_is_json(trips: Trips) -> None:
    trips.note_failure("idle_timeout", 0.1, TRACE)
    record = trips.note_trip(transition(), BreakerSettings()).as_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record


@pytest.mark.parametrize(
    ("unix_s", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (SECOND, "1994-11-06T08:49:37.250Z"),
        (1_700_000_000.9996, "2023-11-14T22:13:20.999Z"),
    ],
)
def test_moment_is_shown_in_utc_to_the_millisecond(unix_s: float, text: str) -> None:
    assert rfc3339(unix_s) == text


# -- in a dependency


def test_dependency_leaves_a_record_for_each_way_into_open_and_none_for_others() -> None:
    door = Door(circuit_breaker={"consecutive_failures": 1, "half_open": {"trials": 1, "successes": 1}})
    breaker = door.gate.breaker
    door.calls(Outcome.FAILURE)
    door.passes(30.1)
    door.calls(Outcome.FAILURE)
    door.passes(60.1)
    door.calls(Outcome.SUCCESS)
    door.do(breaker.force, State.FORCED_OPEN, door.now)
    door.do(breaker.force, State.FORCED_CLOSED, door.now)
    assert [record.transition.reason for record in door.dependency.trips.records] == [
        Reason.CONSECUTIVE_FAILURES,
        Reason.TRIAL_FAILED,
        Reason.FORCED,
    ]
    assert [record.open_for_s for record in door.dependency.trips.records] == [30.0, 60.0, None]


def test_time_for_which_the_circuit_was_open_adds_up_over_its_states() -> None:
    door = Door(circuit_breaker={"consecutive_failures": 1, "half_open": {"trials": 1, "successes": 1}})

    def open_s() -> float:
        return door.dependency.open_s(door.now)

    door.passes(5)
    assert open_s() == 0
    door.calls(Outcome.FAILURE)
    door.passes(10)
    assert open_s() == pytest.approx(10)
    door.do(door.gate.breaker.force, State.FORCED_OPEN, door.now)
    door.passes(7)
    assert open_s() == pytest.approx(17)
    door.do(door.gate.breaker.release, door.now)
    door.passes(100)
    assert open_s() == pytest.approx(17)
