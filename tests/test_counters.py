"""What is counted, and where."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.counters import METHODS, SOURCES, STATUS_CLASSES, Counters, Histogram, request_index
from sidecar.policy.states import TRANSITIONS, Outcome

BOUNDS = [0.1, 1.0, 10.0]


@given(st.lists(st.floats(0.0, 20.0)))
def test_every_value_is_in_the_first_bucket_whose_bound_it_does_not_exceed(values: list[float]) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    naive = [
        sum(low < value <= high for value in values) for low, high in zip([-1, *BOUNDS], [*BOUNDS, 99], strict=True)
    ]
    assert histogram.counts == naive
    assert histogram.sum_s == sum(values)


def test_every_kind_of_request_has_a_place_of_its_own() -> None:
    places = {
        request_index(method, status, source)
        for method in range(len(METHODS))
        for status in (200, 301, 404, 503)
        for source in range(len(SOURCES))
    }
    assert places == set(range(len(METHODS) * len(STATUS_CLASSES) * len(SOURCES)))


def test_unknown_methods_and_statuses_fold_into_what_is_there() -> None:
    counters = Counters(BOUNDS)
    counters.count_request(b"PURGE", 299, 0, 0.5)
    counters.count_request(b"BREW", 101, 0, 0.5)
    counters.count_request(b"GET", 999, 1, 0.5)
    assert counters.requests[request_index(METHODS.index("other"), 200, 0)] == 2
    assert counters.requests[request_index(METHODS.index("GET"), 500, 1)] == 1
    assert sum(counters.requests) == 3
    assert counters.request_duration.counts == [0, 3, 0, 0]


def test_attempts_are_counted_by_outcome() -> None:
    counters = Counters(BOUNDS)
    for outcome, times in ((Outcome.SUCCESS, 3), (Outcome.FAILURE, 2), (Outcome.IGNORED, 1)):
        for _ in range(times):
            counters.count_attempt(outcome)
    assert counters.attempts == [3, 2, 1]


def test_every_legal_transition_is_there_at_0() -> None:
    assert set(Counters(BOUNDS).transitions.values()) == {0}
    assert len(Counters(BOUNDS).transitions) == sum(map(len, TRANSITIONS.values()))
