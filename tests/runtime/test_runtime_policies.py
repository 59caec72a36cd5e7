"""From what the configuration says to the policies that it means."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.policy.candidate import Candidate
from sidecar.policy.gate import Gate
from sidecar.policy.retry import RetryBudget
from sidecar.policy.states import BreakerSettings, Outcome, RateRule, State
from sidecar.runtime import policies
from tests.runtime.door import settings_of

NOW = 1000.0


def gate(**keys: Any) -> Gate[Any]:
    return policies.enforced_gate(settings_of(**keys), NOW, lambda: 0.5, lambda _: None)


def candidates(**keys: Any) -> dict[str, Candidate]:
    found = policies.candidates(settings_of(**keys), NOW, lambda: 0.5, lambda _: lambda _: None)
    return {candidate.name: candidate for candidate in found}


# -- the circuit breaker


@pytest.mark.parametrize(
    ("keys", "settings"),
    [
        ({}, {}),
        ({"consecutive_failures": 7}, {"consecutive_failures": 7}),
        ({"consecutive_failures": None}, {"consecutive_failures": None}),
        ({"failure_rate": {"threshold": "25%", "min_calls": 8}}, {"failure_rate": RateRule(0.25, 8)}),
        ({"failure_rate": {"threshold": None}}, {"failure_rate": None}),
        (
            {"slow_calls": {"slower_than": "250ms"}},
            {"slow_calls": RateRule(0.8, 20), "slower_than_s": 0.25},
        ),
        ({"slow_calls": {"threshold": "10%", "min_calls": 3}}, {"slow_calls": None, "slower_than_s": None}),
        ({"window": "1m"}, {"window_s": 60.0}),
        ({"window": "100 calls"}, {"window_s": None, "window_calls": 100}),
        ({"open_for": "2s", "max_open_for": "1h"}, {"open_for_s": 2.0, "max_open_for_s": 3600.0}),
        (
            {"half_open": {"trials": 1, "successes": 2, "max_wait": "4s", "ramp": "5s"}},
            {"trials": 1, "successes": 2, "max_wait_s": 4.0, "ramp_s": 5.0},
        ),
    ],
)
def test_keys_of_the_breaker_become_its_settings(keys: dict[str, Any], settings: dict[str, Any]) -> None:
    assert policies.breaker_settings(settings_of(circuit_breaker=keys).circuit_breaker) == BreakerSettings(**settings)


@pytest.mark.parametrize(
    ("statuses", "failing"),
    [(None, {500, 503, 599}), (["5xx", 429], {429, 500, 503, 599}), ([], set()), ([404], {404})],
)
def test_statuses_that_are_failures_are_those_named(statuses: list[Any] | None, failing: set[int]) -> None:
    keys = {} if statuses is None else {"failure_statuses": statuses}
    classifier = policies.classifier(settings_of(circuit_breaker=keys).circuit_breaker)
    looked_at = (200, 404, 429, 500, 503, 599)
    assert {status for status in looked_at if classifier.of_status(status) is Outcome.FAILURE} == failing


def test_patience_of_a_client_is_taken_over() -> None:
    classifier = policies.classifier(settings_of(circuit_breaker={"abandoned_after": "300ms"}).circuit_breaker)
    assert classifier.abandoned_after_s == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("mode", "state"), [("enforce", State.CLOSED), ("shadow", State.DISABLED), ("off", State.DISABLED)]
)
def test_breaker_that_is_not_enforced_is_disabled(mode: str, state: State) -> None:
    assert gate(circuit_breaker={"mode": mode}).breaker.state is state


# -- bucket, slots, queue


@pytest.mark.parametrize(
    ("keys", "rate", "burst"),
    [
        ({"rate": "100/second"}, 100, 100),
        ({"rate": "30/minute"}, 0.5, 1),
        ({"rate": "30/minute", "burst": 5}, 0.5, 5),
        ({"rate": "120/second", "burst": 60, "share": 12}, 10, 5),
        ({"rate": "120/second", "share": 12}, 10, 10),
        ({"rate": "6/second", "burst": 6, "share": 12}, 0.5, 1),
    ],
)
def test_bucket_has_this_replicas_share(keys: dict[str, Any], rate: float, burst: float) -> None:
    bucket = gate(rate_limit=keys).bucket
    assert bucket is not None
    assert (bucket.rate, bucket.burst) == (pytest.approx(rate), pytest.approx(burst))
    assert bucket.tokens(NOW) == pytest.approx(burst), "it begins full"


@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_limit_that_is_not_enforced_limits_nothing(mode: str) -> None:
    made = gate(rate_limit={"mode": mode, "rate": "1/hour"}, concurrency={"mode": mode, "limit": 1})
    assert (made.bucket, made.slots) == (None, None)


def test_nothing_is_limited_unless_named() -> None:
    made = gate()
    assert (made.bucket, made.slots, made.queue.limit, made.queue.max_wait_s) == (None, None, 0, 0)


def test_slots_and_queue_are_as_long_as_said() -> None:
    made = gate(concurrency={"limit": 3}, queue={"limit": 4, "max_wait": "250ms"})
    assert made.slots is not None
    assert (made.slots.limit, made.queue.limit, made.queue.max_wait_s) == (3, 4, pytest.approx(0.25))


# -- retries


def test_one_attempt_is_no_retry() -> None:
    assert policies.retry_settings(settings_of().retry) is None


def test_keys_of_retries_become_their_settings() -> None:
    keys = {
        "attempts": 4,
        "on": ["reset", 429],
        "methods": ["POST"],
        "backoff": {"base": "10ms", "max": "20ms"},
    }
    made = policies.retry_settings(settings_of(retry=keys).retry)
    assert made is not None
    assert (made.attempts, made.methods, made.base_s, made.max_s) == (4, {b"POST"}, 0.01, 0.02)
    assert [status for status, listed in enumerate(made.statuses) if listed] == [429]
    assert {end.value for end in made.ends} == {"reset", "dead_connection"}


def test_methods_that_are_not_named_are_the_idempotent_ones() -> None:
    made = policies.retry_settings(settings_of(retry={"attempts": 2}).retry)
    assert made is not None
    assert made.methods is None
    assert [status for status, listed in enumerate(made.statuses) if listed] == [502, 503, 504]


def test_budget_is_deposits_and_a_reserve() -> None:
    def spend(budget: RetryBudget, requests: int) -> int:
        for _ in range(requests):
            budget.deposit()
        return sum(budget.withdraw(NOW) for _ in range(100))

    ratio = settings_of(retry={"budget": {"ratio": "50%", "min_per_second": 0}}).retry
    assert spend(policies.retry_budget(ratio, NOW), 8) == 4
    reserve = settings_of(retry={"budget": {"ratio": "0%", "min_per_second": 7}}).retry
    assert spend(policies.retry_budget(reserve, NOW), 8) == 7


# -- candidates


def test_without_any_there_are_none() -> None:
    assert candidates() == {}
    assert candidates(circuit_breaker={"mode": "off"}, rate_limit={"mode": "off", "rate": "1/second"}) == {}


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"circuit_breaker": {"mode": "shadow"}}, {"breaker"}),
        ({"rate_limit": {"mode": "shadow", "rate": "1/second"}}, {"bucket"}),
        ({"concurrency": {"mode": "shadow", "limit": 1}}, {"slots"}),
        (
            {"circuit_breaker": {"mode": "shadow"}, "concurrency": {"mode": "shadow", "limit": 1}},
            {"breaker", "slots"},
        ),
    ],
)
def test_shadow_holds_what_is_in_that_mode_and_nothing_else(keys: dict[str, Any], parts: set[str]) -> None:
    (shadow,) = candidates(**({"rate_limit": {"rate": "5/second"}, "concurrency": {"limit": 5}} | keys)).values()
    present = {
        "breaker": shadow.gate.breaker.state is State.CLOSED,
        "bucket": shadow.gate.bucket is not None,
        "slots": shadow.gate.slots is not None,
    }
    assert shadow.name == "shadow"
    assert {part for part, is_there in present.items() if is_there} == parts


def test_limit_in_shadow_without_a_value_is_a_candidate_that_refuses_nothing() -> None:
    (shadow,) = candidates(rate_limit={"mode": "shadow"}).values()
    assert (shadow.gate.bucket, shadow.gate.breaker.state) == (None, State.DISABLED)


def test_candidate_inherits_what_it_does_not_say() -> None:
    made = candidates(
        circuit_breaker={"consecutive_failures": 9, "open_for": "7s", "failure_statuses": [418]},
        rate_limit={"rate": "10/second", "burst": 3},
        concurrency={"limit": 5},
        candidates={
            "breaker": {"circuit_breaker": {"consecutive_failures": 2}},
            "rate": {"rate_limit": {"burst": 30}},
            "both": {"rate_limit": {"rate": "1/second"}, "concurrency": {}},
        },
    )
    assert list(made) == ["breaker", "rate", "both"]
    breaker = made["breaker"].gate.breaker
    assert (breaker.settings.consecutive_failures, breaker.settings.open_for_s) == (2, 7)
    assert made["breaker"].classifier.of_status(418) is Outcome.FAILURE
    assert (made["breaker"].gate.bucket, made["breaker"].gate.slots) == (None, None)
    for name, size in {"rate": (10, 30), "both": (1, 3)}.items():
        bucket = made[name].gate.bucket
        assert bucket is not None
        assert (bucket.rate, bucket.burst) == size
        assert made[name].gate.breaker.state is State.DISABLED
    slots = made["both"].gate.slots
    assert slots is not None
    assert slots.limit == 5


def test_candidate_beside_a_policy_that_is_off_still_simulates() -> None:
    made = candidates(circuit_breaker={"mode": "off"}, candidates={"on": {"circuit_breaker": {}}})
    assert made["on"].gate.breaker.state is State.CLOSED


def test_no_candidate_has_a_queue() -> None:
    made = candidates(
        concurrency={"limit": 1}, queue={"limit": 9, "max_wait": "1s"}, candidates={"c": {"concurrency": {"limit": 2}}}
    )
    assert made["c"].gate.queue.limit == 0
