"""Which end of an attempt is a success, a failure or neither."""

from __future__ import annotations

import pytest

from sidecar.policy.classify import FAILURES, STATUSES, Classifier, End, parse_statuses
from sidecar.policy.states import Outcome

IGNORED_ENDS = {End.OWN_REFUSAL, End.LOCAL_ERROR, End.CLIENT_FAULT, End.DRAIN, End.DEAD_CONNECTION}


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(parse_statuses(["5xx"]), abandoned_after_s=1.0)


@pytest.mark.parametrize(
    ("items", "true"),
    [
        ([], []),
        (["5xx"], range(500, 600)),
        (["5XX"], range(500, 600)),
        ([429], [429]),
        (["429", 503], [429, 503]),
        (["5xx", 429, 500], [429, *range(500, 600)]),
    ],
)
def test_statuses_become_a_table(items: list[int | str], true: list[int]) -> None:
    table = parse_statuses(items)
    assert len(table) == STATUSES
    assert [status for status, flag in enumerate(table) if flag] == list(true)


@pytest.mark.parametrize(
    "item", ["", "xx", "5x", "55xx", "5xxx", "6xx", "0xx", 42, 600, 5, 1000, "4 29", "²xx", "-1xx"]
)
def test_what_is_no_status_is_refused_with_its_name(item: int | str) -> None:
    with pytest.raises(ValueError, match="a status code such as 429 or a class such as 5xx") as caught:
        parse_statuses([item])
    assert repr(item) in str(caught.value)


@pytest.mark.parametrize("status", [100, 200, 204, 304, 404, 429, 499])
def test_response_below_500_is_a_success(classifier: Classifier, status: int) -> None:
    assert classifier.outcome(End.RESPONSE, status) is Outcome.SUCCESS
    assert classifier.of_status(status) is Outcome.SUCCESS


@pytest.mark.parametrize("status", [500, 503, 599])
def test_response_of_the_5xx_is_a_failure(classifier: Classifier, status: int) -> None:
    assert classifier.outcome(End.RESPONSE, status) is Outcome.FAILURE
    assert classifier.of_status(status) is Outcome.FAILURE


def test_failure_statuses_replace_the_default() -> None:
    classifier = Classifier(parse_statuses([429]))
    assert classifier.of_status(429) is Outcome.FAILURE
    assert classifier.of_status(503) is Outcome.SUCCESS


@pytest.mark.parametrize("end", sorted(FAILURES, key=lambda end: end.value))
@pytest.mark.parametrize("status", [0, 200])
def test_what_the_dependency_breaks_is_a_failure_though_the_status_was_200(
    classifier: Classifier, end: End, status: int
) -> None:
    assert classifier.outcome(end, status) is Outcome.FAILURE


@pytest.mark.parametrize("end", sorted(IGNORED_ENDS, key=lambda end: end.value))
@pytest.mark.parametrize("status", [0, 200, 503])
def test_what_is_not_the_dependency_s_doing_never_counts(classifier: Classifier, end: End, status: int) -> None:
    assert classifier.outcome(end, status, waited_s=3600) is Outcome.IGNORED


def test_every_end_is_one_of_response_failure_ignored_or_client_gone() -> None:
    assert {End.RESPONSE, End.CLIENT_GONE} | FAILURES | IGNORED_ENDS == set(End)


@pytest.mark.parametrize(
    ("waited_s", "outcome"), [(0.0, "ignored"), (0.99, "ignored"), (1.0, "failure"), (9, "failure")]
)
def test_client_that_leaves_after_abandoned_after_counts_as_failure_before_it_not(
    classifier: Classifier, waited_s: float, outcome: str
) -> None:
    assert classifier.outcome(End.CLIENT_GONE, waited_s=waited_s) is Outcome(outcome)


def test_client_that_leaves_amid_a_response_is_ignored_however_late(classifier: Classifier) -> None:
    assert classifier.outcome(End.CLIENT_GONE, 200, waited_s=3600) is Outcome.IGNORED


def test_client_that_closes_on_reading_a_503_does_not_hide_it(classifier: Classifier) -> None:
    assert classifier.outcome(End.CLIENT_GONE, 503) is Outcome.FAILURE


def test_table_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1000 entries, found 3"):
        Classifier([True] * 3)
