"""Retries: whether, when, and how many at most."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.classify import FAILURES, End
from sidecar.policy.retry import (
    CONDITIONS,
    IDEMPOTENT,
    LARGEST_BALANCE,
    EndedAttempt,
    No,
    RetryBudget,
    RetrySettings,
    backoff_s,
    may_retry,
    parse_conditions,
)

STATUSES, ENDS = parse_conditions(["connect_error", "reset", 502, 503, 504])
SETTINGS = RetrySettings(attempts=3, statuses=STATUSES, ends=ENDS, methods=None, base_s=0.025, max_s=0.25)
RESET = EndedAttempt(
    number=1,
    end=End.RESET,
    status=0,
    method=b"GET",
    sent=True,
    answer_begun=False,
    replayable=True,
    retry_after_s=None,
)
REFUSED = replace(RESET, end=End.CONNECT_ERROR, sent=False)
UNAVAILABLE = replace(RESET, end=End.RESPONSE, status=503)

NOW, DEADLINE = 100.0, 115.0


def rich() -> RetryBudget:
    budget = RetryBudget(1.0, 0, NOW)
    for _ in range(100):
        budget.deposit()
    return budget


def decide(
    attempt: EndedAttempt,
    settings: RetrySettings = SETTINGS,
    budget: RetryBudget | None = None,
    deadline: float = DEADLINE,
) -> float | No:
    return may_retry(settings, attempt, rich() if budget is None else budget, NOW, deadline, lambda: 0.5)


# -- whether


@pytest.mark.parametrize("attempt", [RESET, REFUSED, UNAVAILABLE], ids=["reset", "refused", "503"])
def test_what_is_on_the_list_is_retried_after_the_backoff(attempt: EndedAttempt) -> None:
    assert decide(attempt) == 0.0125


def test_attempts_count_the_first() -> None:
    assert [decide(replace(RESET, number=number)) for number in (1, 2, 3)] == [0.0125, 0.025, No.ATTEMPTS]
    assert decide(RESET, replace(SETTINGS, attempts=1)) is No.ATTEMPTS


@pytest.mark.parametrize("status", [200, 404, 429, 500, 501, 505])
def test_status_that_is_not_on_the_list_is_not_retried(status: int) -> None:
    assert decide(replace(UNAVAILABLE, status=status)) is No.NOT_LISTED


def test_open_circuit_is_never_retried_whatever_is_on_the_list() -> None:
    _, ends = parse_conditions([*CONDITIONS, "5xx"])
    settings = replace(SETTINGS, ends=ends, methods=frozenset({b"GET"}))
    assert decide(replace(REFUSED, end=End.OWN_REFUSAL), settings) is No.NOT_LISTED


@pytest.mark.parametrize(
    "end", sorted(set(End) - FAILURES - {End.RESPONSE, End.DEAD_CONNECTION}, key=lambda e: e.value)
)
def test_no_list_can_name_what_is_not_the_dependency_s_doing(end: End) -> None:
    assert all(end not in ends for ends in CONDITIONS.values())


def test_status_of_a_response_that_broke_off_does_not_make_it_retriable() -> None:
    settings = replace(SETTINGS, ends=frozenset())
    assert decide(replace(UNAVAILABLE, end=End.RESET), settings) is No.NOT_LISTED


def test_nothing_is_retried_once_a_byte_of_the_answer_has_gone_out() -> None:
    assert decide(replace(RESET, answer_begun=True)) is No.ANSWER_BEGUN


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"CONNECT", b"get"])
def test_post_is_not_retried_after_a_byte_of_it_was_sent(method: bytes) -> None:
    assert decide(replace(RESET, method=method)) is No.METHOD


def test_post_of_which_nothing_was_sent_is_retried() -> None:
    assert decide(replace(REFUSED, method=b"POST")) == 0.0125


def test_post_that_reached_the_dependency_in_an_earlier_attempt_is_not_retried() -> None:
    assert decide(replace(REFUSED, method=b"POST", sent=True, number=2)) is No.METHOD


def test_post_is_retried_when_told() -> None:
    assert decide(replace(RESET, method=b"POST"), replace(SETTINGS, methods=frozenset({b"POST"}))) == 0.0125


def test_method_that_a_list_leaves_out_is_not_retried_even_unsent() -> None:
    assert decide(replace(REFUSED, method=b"PUT"), replace(SETTINGS, methods=frozenset({b"GET"}))) is No.METHOD


@pytest.mark.parametrize("method", sorted(IDEMPOTENT))
def test_idempotent_methods_are_retried_untold(method: bytes) -> None:
    assert decide(replace(RESET, method=method)) == 0.0125


def test_request_whose_body_is_gone_is_not_retried() -> None:
    assert decide(replace(RESET, replayable=False)) is No.BODY


# -- when


def test_backoff_doubles_up_to_its_maximum() -> None:
    assert [backoff_s(SETTINGS, number, lambda: 1.0) for number in range(1, 7)] == [0.025, 0.05, 0.1, 0.2, 0.25, 0.25]
    assert backoff_s(SETTINGS, 5000, lambda: 1.0) == 0.25


def test_backoff_is_spread_over_the_whole_range() -> None:
    rng = random.Random(1).random
    waits = [backoff_s(SETTINGS, 4, rng) for _ in range(10_000)]
    assert 0 <= min(waits) < 0.002
    assert 0.198 < max(waits) <= 0.2
    assert sum(waits) / len(waits) == pytest.approx(0.1, rel=0.03)


def test_retry_after_of_the_upstream_is_honoured_when_it_fits() -> None:
    assert decide(replace(UNAVAILABLE, retry_after_s=2.0)) == 2.0


def test_retry_after_shorter_than_the_backoff_does_not_hurry_it() -> None:
    assert decide(replace(UNAVAILABLE, retry_after_s=0.0)) == 0.0125


@pytest.mark.parametrize("retry_after_s", [15.0, 3600.0])
def test_retry_after_beyond_the_deadline_means_no_retry(retry_after_s: float) -> None:
    assert decide(replace(UNAVAILABLE, retry_after_s=retry_after_s)) is No.DEADLINE


def test_no_retry_when_the_backoff_does_not_fit_in_the_deadline() -> None:
    assert decide(RESET, deadline=NOW + 0.0125) is No.DEADLINE
    assert decide(RESET, deadline=NOW + 0.0126) == 0.0125


# -- how many


def test_each_retry_is_paid_for_once() -> None:
    budget = RetryBudget(0.2, 0, NOW)
    for _ in range(10):
        budget.deposit()
    assert [decide(RESET, budget=budget) for _ in range(3)] == [0.0125, 0.0125, No.BUDGET]


@pytest.mark.parametrize(
    "attempt",
    [
        replace(RESET, number=3),
        replace(RESET, end=End.MALFORMED),
        replace(RESET, answer_begun=True),
        replace(RESET, method=b"POST"),
        replace(RESET, replayable=False),
        replace(RESET, retry_after_s=1000),
    ],
)
def test_what_is_not_retried_is_not_paid_for(attempt: EndedAttempt) -> None:
    budget = rich()
    before = budget.balance(NOW)
    assert isinstance(decide(attempt, budget=budget), No)
    assert budget.balance(NOW) == before


def test_five_deposits_of_a_fifth_pay_for_one_retry() -> None:
    budget = RetryBudget(0.2, 0, NOW)
    for _ in range(1000):
        for _ in range(4):
            budget.deposit()
            assert not budget.withdraw(NOW)
        budget.deposit()
        assert budget.withdraw(NOW)


def test_reserve_pays_for_the_first_retry_of_a_quiet_dependency() -> None:
    budget = RetryBudget(0.2, 1, NOW)
    budget.deposit()
    assert budget.withdraw(NOW)
    assert not budget.withdraw(NOW + 0.9)
    assert budget.withdraw(NOW + 1)


def test_deposits_are_spent_before_the_reserve() -> None:
    budget = RetryBudget(1.0, 1, NOW)
    budget.deposit()
    assert budget.balance(NOW) == 2
    assert budget.withdraw(NOW)
    assert budget.balance(NOW) == 1
    assert budget.withdraw(NOW)
    assert not budget.withdraw(NOW)


def test_savings_of_good_times_are_bounded() -> None:
    budget = RetryBudget(0.2, 0, NOW)
    for _ in range(1_000_000 // 20):
        budget.deposit()
    assert budget.balance(NOW) == LARGEST_BALANCE
    assert sum(budget.withdraw(NOW) for _ in range(100)) == LARGEST_BALANCE


def test_reading_the_balance_changes_nothing() -> None:
    budget = RetryBudget(0.2, 1, NOW)
    assert budget.withdraw(NOW)
    for now in (NOW + 1000, NOW):
        budget.balance(now)
        repr(budget)
    assert not budget.withdraw(NOW)


@pytest.mark.parametrize("healthy", [0, 5000])
@pytest.mark.parametrize("rate", [1, 10, 1000])
def test_in_an_outage_the_attempts_stay_within_a_fifth_more_and_one_a_second(rate: int, healthy: int) -> None:
    budget, settings = RetryBudget(0.2, 1, NOW), replace(SETTINGS, attempts=5)
    for _ in range(healthy):
        budget.deposit()
    saved = budget.balance(NOW)
    attempts, seconds = 0, 20
    for request in range(rate * seconds):
        now = NOW + request / rate
        budget.deposit()
        for number in range(1, 6):
            attempts += 1
            if isinstance(may_retry(settings, replace(RESET, number=number), budget, now, now + 9, lambda: 0.5), No):
                break
    assert attempts <= 1.2 * rate * seconds + seconds + saved
    assert attempts >= 1.2 * rate * seconds + seconds - 2


@given(
    ratio=st.sampled_from([0.0, 0.1, 0.2, 1.0]),
    reserve=st.sampled_from([0, 1, 3]),
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 30), st.integers(0, 30)), max_size=40),
)
def test_budget_allows_no_more_than_its_deposits_reserve_and_savings(
    ratio: float, reserve: float, steps: list[tuple[float, int, int]]
) -> None:
    """Over any span, whatever the order of requests and retries."""
    budget, now = RetryBudget(ratio, reserve, 0.0), 0.0
    log: list[tuple[float, int, int]] = []
    for gap, requests, wanted in steps:
        now += gap
        for _ in range(requests):
            budget.deposit()
        log.append((now, requests, sum(budget.withdraw(now) for _ in range(wanted))))
        for first in range(len(log)):
            span = log[first:]
            allowed = ratio * sum(entry[1] for entry in span) + reserve * (now - span[0][0])
            saved = LARGEST_BALANCE + (max(1, reserve) if reserve else 0)
            assert sum(entry[2] for entry in span) <= allowed + saved + 1e-6
    assert sum(entry[2] for entry in log) <= ratio * sum(entry[1] for entry in log) + reserve * (now + 1) + 1e-6


def test_budget_without_deposits_and_reserve_allows_nothing() -> None:
    budget = RetryBudget(0.0, 0, NOW)
    for _ in range(100):
        budget.deposit()
    assert not budget.withdraw(NOW + 1000)


@pytest.mark.parametrize(("ratio", "reserve"), [(-0.1, 1), (0.2, -1)])
def test_negative_budget_is_refused(ratio: float, reserve: float) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        RetryBudget(ratio, reserve, NOW)


# -- the list


def test_list_of_conditions_and_statuses_is_read() -> None:
    statuses, ends = parse_conditions(["connect_error", "timeout", "5xx", 429])
    assert [status for status, flag in enumerate(statuses) if flag] == [429, *range(500, 600)]
    assert ends == {End.CONNECT_ERROR, End.TLS_ERROR, End.CONNECT_TIMEOUT, End.FIRST_BYTE_TIMEOUT}


@pytest.mark.parametrize("item", ["CIRCUIT_OPEN", "total_timeout", "own_refusal", "", 600])
def test_what_is_no_condition_is_refused(item: str | int) -> None:
    with pytest.raises(ValueError, match=f"found {item!r} .or one of connect_error, reset, timeout"):
        parse_conditions([502, item])


def test_retry_that_was_not_made_is_paid_back() -> None:
    budget = RetryBudget(0.0, 1.0, 0.0)
    assert budget.withdraw(0.0)
    assert not budget.withdraw(0.0)
    budget.give_back()
    assert budget.withdraw(0.0)
    for _ in range(100):
        budget.give_back()
    assert budget.balance(0.0) == LARGEST_BALANCE
