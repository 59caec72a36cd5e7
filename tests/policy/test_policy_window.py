"""Windows of time and of calls, against lists of what happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.window import NOTHING, Counts, CountWindow, TimeWindow

EVENTS = st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), max_size=80)


@given(EVENTS, st.sampled_from([0.0, 4096.5, 2.0**30]), st.integers(0, 60))
def test_window_of_time_holds_what_its_last_ten_buckets_saw(
    events: list[tuple[int, bool, bool]], begin: float, later: int
) -> None:
    """Times in quarters of a bucket."""
    window = TimeWindow(10.0)
    now, outcomes, speeds = begin, [], []
    for quarters, flag, is_speed in events:
        now += quarters / 4
        if is_speed:
            window.record_speed(now, flag)
            speeds.append((now, flag))
        else:
            window.record(now, flag)
            outcomes.append((now, flag))
        for at, seen in [(now, window.counts), (now + later / 4, window.counts), (now + later / 4, window.recent)]:
            buckets = 10 if seen == window.counts else 2
            kept = [flag for when, flag in outcomes if when // 1 > at // 1 - buckets]
            timed = [flag for when, flag in speeds if when // 1 > at // 1 - buckets]
            assert seen(at) == Counts(len(kept), sum(kept), sum(timed), len(timed))


@given(EVENTS, st.integers(1, 20))
def test_window_of_calls_holds_its_last_calls(events: list[tuple[int, bool, bool]], size: int) -> None:
    window = CountWindow(size)
    outcomes, speeds = [], []
    for at, flag, is_speed in events:
        (window.record_speed if is_speed else window.record)(float(at), flag)
        (speeds if is_speed else outcomes).append(flag)
        kept, timed = outcomes[-size:], speeds[-size:]
        assert window.counts(0.0) == Counts(len(kept), sum(kept), sum(timed), len(timed))
        assert window.recent(0.0) == NOTHING
        assert window.passed(0.0, 0.0) == (len(outcomes) >= size)


@pytest.mark.parametrize("window", [TimeWindow(10.0), CountWindow(10)], ids=["time", "calls"])
def test_cleared_window_holds_nothing_and_counts_on(window: TimeWindow | CountWindow) -> None:
    for _ in range(20):
        window.record(100.0, True)
        window.record_speed(100.0, True)
    window.clear()
    assert window.counts(100.0) == NOTHING
    window.record(100.0, False)
    assert window.counts(100.0) == Counts(1, 0, 0, 0)


def test_time_that_goes_back_counts_for_the_present_bucket() -> None:
    window = TimeWindow(10.0)
    window.record(100.0, True)
    window.record(95.0, True)
    assert window.counts(109.9).calls == 2
    assert window.counts(90.0).calls == 2
    assert window.counts(110.0).calls == 0


@pytest.mark.parametrize("span_s", [0.1, 0.7, 3.3, 10.0, 3600.0])
def test_span_that_no_float_divides_evenly_forgets_once_and_on_time(span_s: float) -> None:
    window = TimeWindow(span_s)
    step, now = span_s / 40, 12345.678
    for _ in range(1000):
        window.record(now, False)
        assert window.counts(now).calls <= 40
        now += step
    assert 36 <= window.counts(now - step).calls <= 40


def test_window_of_time_has_passed_after_its_span() -> None:
    window = TimeWindow(10.0)
    assert not window.passed(100.0, 109.9)
    assert window.passed(100.0, 110.0)


def test_window_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 0"):
        TimeWindow(0.0)
    with pytest.raises(ValueError, match="at least 1"):
        CountWindow(0)


def test_repr_shows_what_the_window_holds() -> None:
    window, calls = TimeWindow(10.0), CountWindow(3)
    for failed in (True, False, True, True):
        window.record(50.0, failed)
        calls.record(50.0, failed)
    calls.record_speed(50.0, True)
    assert repr(window) == "<TimeWindow 10s 3/4 failed 0 slow>"
    assert repr(calls) == "<CountWindow 3 calls 2/3 failed 1 slow>"
