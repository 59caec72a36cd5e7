"""The process's own vitals: what a trip record and a scrape say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.runtime import vitals
from sidecar.runtime.deadlines import TICK_S, Deadlines
from sidecar.runtime.vitals import SPAN_S, Vitals, throttled_s
from tests.proxy.transcript import Clock

V2 = "usage_usec 1\nuser_usec 1\nsystem_usec 0\nnr_periods 9\nnr_throttled 4\nthrottled_usec {}\n"
V1 = "nr_periods 9\nnr_throttled 4\nthrottled_time {}\n"


class Group:
    """The files in which a kernel keeps the account of a container; at first there are none."""

    def __init__(self, folder: Path) -> None:
        self.v2, self.v1 = folder / "cpu.stat", folder / "cpu" / "cpu.stat"
        self.v1.parent.mkdir()


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    group = Group(tmp_path)
    places = [(path, *rest) for path, (_, *rest) in zip((group.v2, group.v1), vitals._THROTTLED, strict=True)]
    monkeypatch.setattr(vitals, "_THROTTLED", places)
    return group


class Process:
    """A process whose clock is moved by hand, and its vitals."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock)
        self.vitals = Vitals(self.deadlines)

    def runs(self, seconds: int, late_s: float = 0.0) -> None:
        """Each second with one tick that comes late."""
        for _ in range(seconds):
            for _ in range(round(1 / TICK_S) - 1):
                self.clock.seconds += TICK_S
                self.deadlines.advance()
            self.clock.seconds += TICK_S + late_s
            self.deadlines.advance()
            self.vitals.sample()


@pytest.mark.parametrize(("version", "text", "value"), [("v2", V2, 2_500_000), ("v1", V1, 2_500_000_000)])
def test_throttling_is_read_from_either_version_of_cgroups(group: Group, version: str, text: str, value: int) -> None:
    getattr(group, version).write_text(text.format(value))
    assert throttled_s() == pytest.approx(2.5)


def test_without_an_account_throttling_is_unknown(group: Group) -> None:
    assert throttled_s() is None


def test_account_without_a_limit_says_nothing_of_throttling(group: Group) -> None:
    group.v2.write_text("usage_usec 1\nuser_usec 1\nsystem_usec 0\n")
    assert throttled_s() is None
    group.v1.write_text(V1.format(10**9))
    assert throttled_s() == pytest.approx(1.0)


def test_throttling_is_that_of_the_last_seconds(group: Group) -> None:
    group.v2.write_text(V2.format(60_000_000))
    process = Process()
    assert process.vitals.read().throttled_s == 0
    group.v2.write_text(V2.format(60_400_000))
    assert process.vitals.read().throttled_s == pytest.approx(0.4)
    process.runs(SPAN_S - 1)
    assert process.vitals.read().throttled_s == pytest.approx(0.4)
    process.runs(1)
    assert process.vitals.read().throttled_s == 0


def test_account_that_appears_or_goes_makes_throttling_unknown(group: Group) -> None:
    process = Process()
    group.v2.write_text(V2.format(1))
    assert process.vitals.read().throttled_s is None
    process.runs(SPAN_S)
    assert process.vitals.read().throttled_s == 0
    group.v2.unlink()
    assert process.vitals.read().throttled_s is None


def test_lag_is_the_worst_of_the_last_seconds(group: Group) -> None:
    process = Process()
    process.runs(1, late_s=0.2)
    process.runs(1, late_s=0.1)
    assert process.vitals.read().loop_lag_s == pytest.approx(0.2)
    process.runs(SPAN_S - 1)
    assert process.vitals.read().loop_lag_s == pytest.approx(0.1)
    process.runs(1)
    assert process.vitals.read().loop_lag_s == pytest.approx(0, abs=1e-6)


def test_lag_shows_before_the_second_is_over_and_reading_it_takes_nothing_away(group: Group) -> None:
    process = Process()
    process.clock.seconds += TICK_S + 0.15
    process.deadlines.advance()
    assert [process.vitals.read().loop_lag_s for _ in range(2)] == [pytest.approx(0.15)] * 2


def test_standstill_is_that_of_the_last_seconds(group: Group) -> None:
    process = Process()
    process.clock.seconds += 5 + TICK_S
    process.deadlines.advance()
    assert process.vitals.read().standstill_s == pytest.approx(5)
    process.runs(SPAN_S)
    assert process.vitals.read().standstill_s == 0


def test_real_account_can_be_read() -> None:
    assert (throttled_s() or 0.0) >= 0.0
