"""What a policy that refuses says, word for word: which policy, its setting, its present value, when to come back."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import CircuitOpen, ConcurrencyLimited, RateLimited, Refusal
from sidecar.policy.queue import Lack
from sidecar.policy.states import BreakerSettings, Outcome, RateRule, Reason, State, Transition
from sidecar.policy.window import Counts
from sidecar.proxy.refusals import cause, turned_away
from sidecar.runtime.deadlines import TICK_S
from tests.runtime.door import Caller, Door

FAILURE, SUCCESS = Outcome.FAILURE, Outcome.SUCCESS
QUEUE = {"limit": 2, "max_wait": "10s"}
BRITTLE = {"consecutive_failures": 1, "half_open": {"trials": 1, "successes": 1}}


def refused(door: Door, waited_s: float | None = None) -> Refusal:
    """What the next caller is told; it does not get in."""
    assert door.enters() is None
    return turned_away(door.dependency, door.gate.lack, waited_s, door.now)


# -- rate


@pytest.mark.parametrize(
    ("keys", "limit", "retry_after"),
    [
        ({"rate": "1/second"}, "1 requests a second with bursts of 1 (rate_limit.rate)", 1.0),
        ({"rate": "3/second", "burst": 1}, "3 requests a second with bursts of 1 (rate_limit.rate)", 0.333),
        ({"rate": "30/minute"}, "30 requests a minute with bursts of 1 (rate_limit.rate)", 2.0),
        ({"rate": "1/hour"}, "0.0166667 requests a minute with bursts of 1 (rate_limit.rate)", 3600.0),
        (
            {"rate": "120/minute", "burst": 12, "share": 12},
            "10 requests a minute with bursts of 1 (rate_limit.rate, this replica's share of 1/12)",
            6.0,
        ),
    ],
)
def test_rate_refusal_names_rate_burst_share_and_wait(keys: dict[str, Any], limit: str, retry_after: float) -> None:
    door = Door(rate_limit=keys)
    door.calls(SUCCESS)
    refusal = refused(door)
    assert isinstance(refusal, RateLimited)
    assert refusal.detail == f"payments is limited to {limit}; the next token comes in {retry_after:.3f} s"
    assert refusal.retry_after_s == pytest.approx(retry_after, abs=0.001)


def test_rate_refusal_counts_down() -> None:
    door = Door(rate_limit={"rate": "30/minute"})
    door.calls(SUCCESS)
    door.passes(1.5)
    assert refused(door).detail.endswith("; the next token comes in 0.500 s")


# -- concurrency


def test_concurrency_refusal_names_use_and_limit() -> None:
    door = Door(concurrency={"limit": 2})
    door.gets_in()
    door.gets_in()
    refusal = refused(door)
    assert isinstance(refusal, ConcurrencyLimited)
    assert refusal.detail == (
        "2 requests to payments are under way and 2 may be (concurrency.limit); when one ends is not known"
    )
    assert refusal.retry_after_s == 1.0


# -- the queue


@pytest.mark.parametrize(
    ("queue", "waited_s", "words"),
    [
        (None, None, ""),
        (QUEUE, None, "all 2 places in the queue are taken (queue.limit); "),
        (QUEUE, 9.5, "it waited 9.500 s in the queue in vain (queue.max_wait 10 s); "),
        ({"limit": 2, "max_wait": "250ms"}, 0.25, "it waited 0.250 s in the queue in vain (queue.max_wait 0.25 s); "),
    ],
)
@pytest.mark.parametrize(
    ("keys", "end"),
    [
        ({"rate_limit": {"rate": "1/minute"}}, "the next token comes in 60.000 s"),
        ({"concurrency": {"limit": 1}}, "when one ends is not known"),
    ],
    ids=["token", "slot"],
)
def test_refusal_says_how_the_queue_was_of_no_help(
    queue: dict[str, Any] | None, waited_s: float | None, words: str, keys: dict[str, Any], end: str
) -> None:
    door = Door(**keys, **({} if queue is None else {"queue": queue}))
    door.gets_in()
    if queue == QUEUE:
        door.waits("one")
        door.waits("two")
    assert refused(door, waited_s).detail.endswith(f"; {words}{end}")


def test_refusal_of_what_never_waits_blames_no_queue() -> None:
    door = Door(rate_limit={"rate": "1/minute"}, queue=QUEUE)
    door.gets_in()
    assert "(queue.limit)" not in refused(door).detail


# -- the circuit


def opened(**keys: Any) -> Door:
    door = Door(circuit_breaker=BRITTLE | keys)
    door.calls(FAILURE)
    return door


def test_open_circuit_says_since_when_why_and_until_when() -> None:
    door = opened()
    door.passes(4)
    refusal = refused(door)
    assert isinstance(refusal, CircuitOpen)
    assert refusal.detail == (
        "the circuit of payments has been open for 4.000 s, because of 1 failures in a row (consecutive_failures: 1); "
        "it probes in 26.000 s"
    )
    assert refusal.retry_after_s == pytest.approx(26)


def test_circuit_that_a_trial_opened_again_says_so() -> None:
    door = opened()
    door.passes(30.1)
    door.calls(FAILURE)
    assert refused(door).detail == (
        "the circuit of payments has been open for 0.000 s, because of a trial that failed while it was half-open; "
        "it probes in 60.000 s"
    )


def test_open_circuit_without_a_record_names_no_cause() -> None:
    door = opened()
    door.dependency.trips.records.clear()
    assert refused(door).detail == "the circuit of payments has been open for 0.000 s; it probes in 30.000 s"


def test_half_open_circuit_names_its_trials() -> None:
    door = opened(half_open={"trials": 2, "successes": 3, "max_wait": "5s"})
    door.passes(30.1)
    door.gets_in()
    door.gets_in()
    refusal = refused(door)
    assert refusal.detail == (
        "the circuit of payments is half-open: all of its 2 trials (half_open.trials) are under way; "
        "it closes or opens when they have ended"
    )
    assert refusal.retry_after_s == 1.0


def test_ramp_names_its_share() -> None:
    door = opened(half_open={"trials": 1, "successes": 1, "ramp": "10s"})
    door.passes(30.1)
    door.calls(SUCCESS)
    door.passes(2.5)
    refusal = refused(door)
    assert refusal.detail == (
        "the circuit of payments has closed and lets traffic back slowly, 25% of it at present (half_open.ramp); "
        "all of it in 7.500 s"
    )
    assert refusal.retry_after_s == 1.0, "chance decides, so it is worth trying again soon"


@pytest.mark.parametrize(
    ("for_s", "words", "retry_after_s"),
    [(60.0, "for 60.000 s more", 60.0), (float("inf"), "until somebody says otherwise", 30.0)],
)
def test_circuit_held_open_says_by_whom_and_how_long(for_s: float, words: str, retry_after_s: float) -> None:
    door = Door()
    door.do(door.gate.breaker.force, State.FORCED_OPEN, door.now, for_s)
    refusal = refused(door)
    assert refusal.detail == f"the circuit of payments is held open by hand {words}"
    assert refusal.retry_after_s == retry_after_s


def test_circuit_is_what_a_waiter_that_it_flushes_is_told_of() -> None:
    door = Door(concurrency={"limit": 1}, queue=QUEUE, circuit_breaker=BRITTLE)
    held = door.gets_in()
    told: list[Refusal] = []

    class Waiting(Caller):
        def on_turned_away(self, lack: Lack | None, now: float) -> None:
            told.append(turned_away(door.dependency, lack, 3.0, now))

    assert door.enters() is None
    assert door.do(door.admission.wait, Waiting(door, "w"), door.now)
    door.leaves(held, FAILURE)
    (refusal,) = told
    assert refusal.code == "CIRCUIT_OPEN"
    assert "1 failures in a row" in refusal.detail, "the record is there before anybody is told"


def test_refusals_of_the_circuit_in_one_tick_are_one_and_later_ones_say_the_time_anew() -> None:
    door = opened()
    first = refused(door)
    door.clock.seconds += TICK_S / 2
    assert refused(door) is first
    door.clock.seconds += TICK_S
    later = refused(door)
    assert later.retry_after_s == pytest.approx(30 - 1.5 * TICK_S)
    assert later.detail.endswith(f"; it probes in {later.retry_after_s:.3f} s")


def test_refusal_of_the_circuit_does_not_outlive_its_state() -> None:
    door = opened()
    refused(door)
    door.do(door.gate.breaker.force, State.FORCED_OPEN, door.now)
    assert "held open by hand" in refused(door).detail


# -- causes

SLOW = BreakerSettings(slow_calls=RateRule(0.8, 20), slower_than_s=0.25)
SLOW_TERMS = "(slow_calls.threshold: 80%, slower_than: 0.25 s)"
CAUSES = {
    Reason.CONSECUTIVE_FAILURES: (BreakerSettings(), "6 failures in a row (consecutive_failures: 5)"),
    Reason.FAILURE_RATE: (
        BreakerSettings(failure_rate=RateRule(0.123456, 20)),
        "12 failures in 24 calls (failure_rate.threshold: 12.3456%)",
    ),
    Reason.SLOW_CALLS: (SLOW, "17 slow calls in 20 (slow_calls.threshold: 80%, slower_than: 0.25 s)"),
    Reason.TRIALS_SLOW: (
        SLOW,
        "trials that succeeded, but were as slow as what had opened it " + SLOW_TERMS,
    ),
    Reason.TRIAL_FAILED: (BreakerSettings(), "a trial that failed while it was half-open"),
    Reason.WAITED: (BreakerSettings(), "waited"),
    Reason.TRIALS_SUCCEEDED: (BreakerSettings(), "trials succeeded"),
    Reason.FORCED: (BreakerSettings(), "forced"),
    Reason.RELEASED: (BreakerSettings(), "released"),
}


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_its_words(reason: Reason) -> None:
    settings, words = CAUSES[reason]
    counts = Counts(calls=24, failures=12, slow=17, timed=20)
    assert cause(Transition(0.0, State.CLOSED, State.OPEN, reason, counts, 6, 30.0), settings) == words


def test_trip_by_the_newest_part_of_the_window_tells_that_part() -> None:
    whole, newest = Counts(1000, 200, 0, 0), Counts(100, 90, 0, 0)
    transition = Transition(0.0, State.CLOSED, State.OPEN, Reason.FAILURE_RATE, whole, 90, 30.0, newest)
    words = "90 failures in 100 calls lately (failure_rate.threshold: 50%)"
    assert cause(transition, BreakerSettings()) == words
