"""The circuit breaker on a clock moved by hand."""

from __future__ import annotations

import random

import pytest

from sidecar.policy.breaker import CircuitBreaker
from sidecar.policy.states import BreakerSettings, Outcome, RateRule, Reason, State
from tests.policy.circuits import BEGIN, FAILURE, IGNORED, SUCCESS, Circuit

CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
FORCED_OPEN, FORCED_CLOSED = State.FORCED_OPEN, State.FORCED_CLOSED


# -- what trips it


def test_five_consecutive_failures_open_a_quiet_circuit() -> None:
    circuit = Circuit().call(FAILURE, 4)
    assert circuit.state is CLOSED
    circuit.call(FAILURE)
    assert circuit.state is OPEN
    assert circuit.reasons == [Reason.CONSECUTIVE_FAILURES]


def test_consecutive_failures_count_however_old_they_are() -> None:
    circuit = Circuit()
    for _ in range(5):
        assert circuit.state is CLOSED
        circuit.call(FAILURE).passes(86_400)
    assert circuit.reasons[0] is Reason.CONSECUTIVE_FAILURES


def test_a_success_begins_the_run_of_failures_anew() -> None:
    circuit = Circuit().call(FAILURE, 4).call(SUCCESS).call(FAILURE, 4)
    assert circuit.state is CLOSED
    assert circuit.breaker.consecutive == 4


def test_at_volume_a_run_of_failures_does_not_open() -> None:
    circuit = Circuit().call(SUCCESS, 20).call(FAILURE, 19)
    assert circuit.state is CLOSED
    circuit.call(FAILURE)
    assert circuit.reasons == [Reason.FAILURE_RATE]


def test_a_run_of_failures_opens_once_the_window_has_run_dry() -> None:
    circuit = Circuit().call(SUCCESS, 20).call(FAILURE, 6).passes(11).call(FAILURE)
    assert circuit.reasons == [Reason.CONSECUTIVE_FAILURES]


def test_failure_rate_opens_from_min_calls_on() -> None:
    circuit = Circuit(consecutive_failures=None).call(FAILURE, 19)
    assert circuit.state is CLOSED
    circuit.call(FAILURE)
    assert circuit.reasons == [Reason.FAILURE_RATE]


def test_a_success_never_opens() -> None:
    circuit = Circuit(consecutive_failures=None).call(FAILURE, 19).call(SUCCESS)
    assert circuit.state is CLOSED
    circuit.call(FAILURE)
    assert circuit.state is OPEN


@pytest.mark.parametrize("percent", range(1, 101))
def test_threshold_is_reached_exactly_where_arithmetic_says(percent: int) -> None:
    """0.55 × 100 is more than 55 in floats."""
    rule = RateRule(percent / 100, 20)
    assert rule.broken_by(100, percent)
    assert rule.reached_by(100, percent)
    assert not rule.broken_by(100, percent - 1)
    assert not rule.reached_by(100, percent - 1)


def test_without_a_failure_rate_the_consecutive_rule_decides_at_any_volume() -> None:
    circuit = Circuit(failure_rate=None).call(SUCCESS, 1000).call(FAILURE, 4)
    assert circuit.state is CLOSED
    circuit.call(FAILURE)
    assert circuit.reasons == [Reason.CONSECUTIVE_FAILURES]


def test_without_a_consecutive_rule_a_quiet_circuit_never_opens() -> None:
    circuit = Circuit(consecutive_failures=None)
    for _ in range(100):
        circuit.call(FAILURE).passes(1)
    assert circuit.state is CLOSED


def test_without_any_rule_nothing_opens() -> None:
    circuit = Circuit(consecutive_failures=None, failure_rate=None).call(FAILURE, 1000)
    assert circuit.state is CLOSED


def test_failures_leave_the_window_with_their_bucket() -> None:
    circuit = Circuit(consecutive_failures=None).call(FAILURE, 19).passes(9.75)
    assert circuit.breaker.view(circuit.now).counts.failures == 19
    circuit.passes(0.25)
    assert circuit.breaker.view(circuit.now).counts.failures == 0
    circuit.call(FAILURE, 19)
    assert circuit.state is CLOSED


def test_window_of_calls_forgets_by_calls_and_not_by_time() -> None:
    circuit = Circuit(consecutive_failures=None, window_s=None, window_calls=30).call(FAILURE, 14).call(SUCCESS, 16)
    circuit.passes(86_400).call(FAILURE)  # the oldest failure goes as it comes: 14 of 30
    assert circuit.state is CLOSED
    circuit.call(SUCCESS, 30).call(FAILURE, 14)
    assert circuit.state is CLOSED
    circuit.call(FAILURE)
    assert circuit.reasons == [Reason.FAILURE_RATE]


def test_window_of_fewer_calls_than_the_minimum_is_judged_when_full() -> None:
    circuit = Circuit(consecutive_failures=None, window_s=None, window_calls=10).call(FAILURE, 9)
    assert circuit.state is CLOSED
    circuit.call(FAILURE)
    assert circuit.reasons == [Reason.FAILURE_RATE]


@pytest.mark.parametrize("phase", [0.0, 0.1, 0.25, 0.49, 0.5, 0.51, 0.75, 0.9, 0.999])
@pytest.mark.parametrize(("window_s", "rate"), [(10.0, 1000), (60.0, 200)])
def test_total_outage_at_volume_opens_within_a_second_and_a_bucket(phase: float, window_s: float, rate: int) -> None:
    circuit = Circuit(window_s=window_s)
    bucket_s = window_s / 10
    breaker, now = circuit.breaker, BEGIN
    outage = BEGIN + (12 + phase) * bucket_s
    while circuit.state is CLOSED and now < outage + 20 * bucket_s:
        permit = breaker.admit(now)
        assert permit is not None
        breaker.record(permit, FAILURE if now >= outage else SUCCESS, now)
        now += 1 / rate
    assert circuit.state is OPEN
    assert 0 < now - outage <= 1 + bucket_s


@pytest.mark.parametrize("seed", [1, 2])
def test_ten_percent_random_errors_at_a_thousand_a_second_for_an_hour_never_open(seed: int) -> None:
    rng = random.Random(seed).random
    circuit = Circuit()
    breaker, permit = circuit.breaker, circuit.admit()
    record = breaker.record
    seconds = 3600 if seed == 1 else 120
    for call in range(seconds * 1000):
        record(permit, FAILURE if rng() < 0.1 else SUCCESS, BEGIN + call * 0.001)
    assert circuit.diary == []
    assert breaker.consecutive < 20
    counts = breaker.view(BEGIN + seconds - 0.001).counts
    assert counts.calls == pytest.approx(10_000, rel=0.01)
    assert counts.failures / counts.calls == pytest.approx(0.1, abs=0.02)


def test_errors_above_the_threshold_at_volume_do_open() -> None:
    rng = random.Random(3).random
    circuit = Circuit()
    while circuit.state is CLOSED and circuit.now < BEGIN + 60:
        circuit.call(FAILURE if rng() < 0.6 else SUCCESS).passes(0.001)
    assert circuit.state is OPEN


def test_ignored_outcomes_neither_fill_the_window_nor_end_a_run() -> None:
    circuit = Circuit().call(FAILURE, 4).call(IGNORED, 1000)
    assert circuit.state is CLOSED
    assert circuit.breaker.view(circuit.now).counts.calls == 4
    circuit.call(FAILURE)
    assert circuit.state is OPEN


# -- generations


def test_late_failures_of_an_older_generation_do_not_open_again() -> None:
    circuit = Circuit()
    late = [circuit.admit() for _ in range(50)]
    circuit.half_open().close_again()
    for permit in late:
        circuit.ends(permit, FAILURE)
    assert circuit.state is CLOSED
    assert circuit.breaker.consecutive == 0
    assert circuit.breaker.view(circuit.now).counts.calls == 0


def test_late_successes_of_an_older_generation_do_not_close() -> None:
    circuit = Circuit()
    late = [circuit.admit() for _ in range(50)]
    circuit.half_open()
    for permit in late:
        circuit.ends(permit, SUCCESS)
    assert circuit.state is HALF_OPEN


def test_late_outcomes_of_trials_change_nothing_after_it_has_opened_again() -> None:
    circuit = Circuit().half_open()
    trials = [circuit.admit() for _ in range(3)]
    circuit.ends(trials[0], FAILURE)
    generation, until = circuit.breaker.generation, circuit.breaker.until
    circuit.ends(trials[1], FAILURE)
    circuit.ends(trials[2], SUCCESS)
    assert (circuit.breaker.generation, circuit.breaker.until) == (generation, until)
    circuit.passes(until - circuit.now)
    assert circuit.breaker.view(circuit.now).succeeded == 0


# -- open


def test_open_refuses_everything_and_says_when_to_come_back() -> None:
    circuit = Circuit().trip().passes(12)
    assert circuit.refused()
    assert circuit.breaker.refuses(circuit.now)
    assert circuit.breaker.retry_after(circuit.now) == 18


def test_open_becomes_half_open_on_time_without_traffic() -> None:
    circuit = Circuit().trip()
    assert circuit.breaker.next_event() == BEGIN + 30
    circuit.passes(29.999)
    assert circuit.state is OPEN
    circuit.passes(0.001)
    assert circuit.state is HALF_OPEN
    assert circuit.diary[-1].at == BEGIN + 30


def test_open_becomes_half_open_with_traffic_even_if_nobody_watches_the_clock() -> None:
    circuit = Circuit().trip()
    circuit.now += 30
    assert not circuit.breaker.refuses(circuit.now)
    assert circuit.admit().trial


@pytest.mark.parametrize(("random_number", "open_for_s"), [(0.0, 27.0), (0.5, 30.0), (1.0, 33.0)])
def test_open_time_is_jittered_by_a_tenth_either_way(random_number: float, open_for_s: float) -> None:
    circuit = Circuit(lambda: random_number).trip()
    assert circuit.breaker.until - circuit.now == pytest.approx(open_for_s)


def test_open_time_doubles_with_each_reopening_up_to_its_maximum() -> None:
    circuit = Circuit().trip()
    times = []
    for _ in range(6):
        times.append(circuit.breaker.until - circuit.now)
        assert circuit.diary[-1].until == circuit.breaker.until
        circuit.passes(times[-1]).call(FAILURE)
    assert times == [30, 60, 120, 240, 300, 300]


def test_open_time_stays_at_its_maximum_after_thousands_of_reopenings() -> None:
    circuit = Circuit().trip()
    for _ in range(3000):
        circuit.passes(circuit.breaker.until - circuit.now).call(FAILURE)
    assert circuit.breaker.until - circuit.now == 300


def test_tripping_soon_after_closing_doubles_as_well() -> None:
    circuit = Circuit().half_open().close_again().passes(9.9).trip()
    assert circuit.breaker.until - circuit.now == pytest.approx(60)


def test_one_window_closed_brings_the_open_time_back_to_its_start() -> None:
    circuit = Circuit().half_open().call(FAILURE).passes(60).close_again().passes(10)
    assert circuit.breaker.view(circuit.now).open_for_s == 30
    circuit.trip()
    assert circuit.breaker.until - circuit.now == 30


def test_one_window_of_calls_closed_brings_the_open_time_back_to_its_start() -> None:
    circuit = Circuit(window_s=None, window_calls=50, failure_rate=None).half_open().close_again()
    circuit.call(SUCCESS, 44).trip()
    assert circuit.breaker.until - circuit.now == 60
    circuit.passes(60).close_again().call(SUCCESS, 45).trip()
    assert circuit.breaker.until - circuit.now == 30


def test_long_closed_with_few_calls_is_recovered_too() -> None:
    circuit = Circuit(window_s=None, window_calls=50).half_open().close_again().passes(299).trip()
    assert circuit.breaker.until - circuit.now == 60
    circuit.passes(60).close_again().passes(300).trip()
    assert circuit.breaker.until - circuit.now == 30


def test_first_trip_right_after_the_start_is_not_doubled() -> None:
    circuit = Circuit().trip()
    assert circuit.breaker.until - circuit.now == 30


def test_transition_carries_the_window_that_caused_it() -> None:
    circuit = Circuit().call(SUCCESS, 20).call(FAILURE, 20)
    (trip,) = circuit.diary
    assert (trip.at, trip.origin, trip.state) == (BEGIN, CLOSED, OPEN)
    assert (trip.counts.calls, trip.counts.failures, trip.consecutive) == (40, 20, 20)
    assert trip.until == BEGIN + 30


def test_listener_sees_the_breaker_in_its_new_state() -> None:
    seen: list[tuple[State, float]] = []
    breaker: CircuitBreaker
    breaker = CircuitBreaker(
        BreakerSettings(consecutive_failures=1),
        BEGIN,
        lambda: 0.5,
        lambda transition: seen.append((breaker.state, breaker.until)),
    )
    permit = breaker.admit(BEGIN)
    assert permit is not None
    breaker.record(permit, FAILURE, BEGIN)
    assert seen == [(OPEN, BEGIN + 30)]


# -- half-open


@pytest.mark.parametrize("trials", [1, 3, 7])
def test_half_open_admits_exactly_its_trials_of_a_thousand(trials: int) -> None:
    circuit = Circuit(trials=trials).half_open()
    permits = [circuit.breaker.admit(circuit.now) for _ in range(1000)]
    assert [permit is not None for permit in permits] == [True] * trials + [False] * (1000 - trials)
    assert circuit.breaker.refuses(circuit.now)


def test_half_open_admits_another_for_each_that_ended() -> None:
    circuit = Circuit(trials=2, successes=5).half_open()
    first, _ = circuit.admit(), circuit.admit()
    assert circuit.refused()
    circuit.ends(first, SUCCESS)
    assert not circuit.breaker.refuses(circuit.now)
    circuit.admit()
    assert circuit.refused()


def test_half_open_closes_after_its_successes() -> None:
    circuit = Circuit(successes=4).half_open().call(SUCCESS, 3)
    assert circuit.state is HALF_OPEN
    circuit.call(SUCCESS)
    assert circuit.state is CLOSED
    assert circuit.reasons[-1] is Reason.TRIALS_SUCCEEDED
    assert circuit.breaker.view(circuit.now).counts.calls == 0


def test_first_failure_in_half_open_opens_again() -> None:
    circuit = Circuit().half_open().call(SUCCESS, 2).call(FAILURE)
    assert circuit.state is OPEN
    assert circuit.reasons[-1] is Reason.TRIAL_FAILED


def test_successes_do_not_carry_over_to_the_next_half_open() -> None:
    circuit = Circuit().half_open().call(SUCCESS, 2).call(FAILURE).passes(60).call(SUCCESS, 2)
    assert circuit.state is HALF_OPEN


def test_trial_whose_client_leaves_gives_its_permit_back_and_decides_nothing() -> None:
    circuit = Circuit(trials=1, successes=2).half_open().call(SUCCESS)
    before = circuit.breaker.view(circuit.now)
    trial = circuit.admit()
    assert circuit.refused()
    circuit.ends(trial, IGNORED)
    assert circuit.breaker.view(circuit.now) == before
    assert not circuit.refused()


def test_ignored_trials_never_close_nor_open() -> None:
    circuit = Circuit().half_open().call(IGNORED, 1000)
    assert circuit.state is HALF_OPEN
    assert circuit.breaker.view(circuit.now).succeeded == 0


def test_lease_of_a_trial_without_a_response_head_goes_back() -> None:
    circuit = Circuit(trials=1).half_open()
    circuit.admit()
    circuit.passes(9.9)
    assert circuit.refused()
    assert circuit.breaker.retry_after(circuit.now) == pytest.approx(0.1)
    circuit.passes(0.1)
    assert circuit.breaker.view(circuit.now).succeeded == 0
    circuit.admit()


def test_lease_of_a_trial_that_still_streams_counts_as_success() -> None:
    circuit = Circuit(trials=1, successes=1).half_open()
    trial = circuit.admit()
    circuit.answered(trial)
    circuit.passes(9.9)
    assert circuit.state is HALF_OPEN
    circuit.passes(0.1)
    assert circuit.state is CLOSED
    circuit.ends(trial, FAILURE)
    assert circuit.state is CLOSED


def test_lease_of_a_trial_that_still_streams_a_failing_answer_opens_again() -> None:
    circuit = Circuit(trials=1, successes=1).half_open()
    trial = circuit.admit()
    circuit.breaker.answered(trial, circuit.now, failing=True)
    circuit.passes(circuit.breaker.settings.max_wait_s)
    assert (circuit.state, circuit.reasons[-1]) == (OPEN, Reason.TRIAL_FAILED)


def test_trials_whose_leases_end_together_close_once() -> None:
    circuit = Circuit(successes=2).half_open()
    for trial in [circuit.admit() for _ in range(3)]:
        circuit.answered(trial)
    circuit.passes(10)
    assert circuit.state is CLOSED
    assert circuit.breaker.generation == 3


def test_streaming_trial_counts_once() -> None:
    circuit = Circuit(trials=1, successes=3).half_open()
    trial = circuit.admit()
    circuit.answered(trial)
    circuit.passes(10)
    circuit.ends(trial, SUCCESS)
    assert circuit.breaker.view(circuit.now).succeeded == 1
    assert circuit.breaker.view(circuit.now).trials == 0


def test_trial_that_outlived_its_lease_still_opens_when_it_fails() -> None:
    """Else a dependency that hangs for longer than a lease would keep the circuit half-open for ever."""
    circuit = Circuit(trials=1).half_open()
    trial = circuit.admit()
    circuit.passes(15)
    circuit.ends(trial, FAILURE)
    assert circuit.reasons[-1] is Reason.TRIAL_FAILED


def test_trial_that_outlived_its_lease_does_not_free_the_permit_of_another() -> None:
    circuit = Circuit(trials=1).half_open()
    late = circuit.admit()
    circuit.passes(10)
    circuit.admit()
    circuit.ends(late, IGNORED)
    assert circuit.refused()


def test_next_event_in_half_open_is_the_end_of_the_oldest_lease() -> None:
    circuit = Circuit().half_open()
    assert circuit.breaker.next_event() == float("inf")
    began = circuit.now
    circuit.admit()
    circuit.passes(4).admit()
    assert circuit.breaker.next_event() == began + 10
    circuit.passes(6)
    assert circuit.breaker.next_event() == began + 14


# -- ramp


def test_ramp_lets_traffic_back_linearly() -> None:
    rng = random.Random(4)
    circuit = Circuit(rng.random, ramp_s=10.0).half_open().close_again()
    admitted = []
    for _ in range(10):
        circuit.passes(0.5)
        admitted.append(sum(not circuit.refused() for _ in range(2000)) / 2000)
        circuit.passes(0.5)
    assert admitted == pytest.approx([0.05 + second / 10 for second in range(10)], abs=0.04)
    assert circuit.breaker.retry_after(circuit.now) == 0
    assert not any(circuit.refused() for _ in range(1000))


def test_ramp_says_its_share_and_when_it_ends() -> None:
    circuit = Circuit(ramp_s=10.0).half_open().close_again()
    circuit.passes(2.5)
    assert circuit.state is CLOSED
    assert circuit.breaker.ramp_share(circuit.now) == 0.25
    assert circuit.breaker.retry_after(circuit.now) == 1.0  # chance decides, so it is worth trying again soon
    circuit.passes(7)
    assert circuit.breaker.retry_after(circuit.now) == 0.5
    assert not circuit.breaker.refuses(circuit.now)


def test_failures_during_a_ramp_open_again() -> None:
    circuit = Circuit(lambda: 0.0, ramp_s=10.0).half_open().close_again().passes(5).trip()
    assert circuit.state is OPEN
    assert circuit.breaker.ramp_share(circuit.now) == 1.0


def test_calls_are_timed_during_and_after_a_ramp() -> None:
    circuit = slow_circuit(ramp_s=10.0).half_open().close_again()
    for waits in (6, 5):
        circuit.passes(waits)
        permits = [circuit.sent() for _ in range(4)]
        assert len({id(permit) for permit in permits}) == 4
    circuit.sent()
    circuit.passes(1)
    assert circuit.reasons[-1] is Reason.SLOW_CALLS


def test_ramp_is_not_repeated_after_a_forced_state() -> None:
    circuit = Circuit(lambda: 1.0, ramp_s=10.0)
    circuit.breaker.force(FORCED_OPEN, circuit.now)
    circuit.breaker.release(circuit.now)
    assert not circuit.refused()


# -- by hand


def test_forced_open_refuses_until_it_ends_by_itself() -> None:
    circuit = Circuit()
    circuit.breaker.force(FORCED_OPEN, circuit.now, 60)
    assert circuit.refused()
    assert circuit.breaker.retry_after(circuit.now) == 60
    circuit.passes(59.9)
    assert circuit.refused()
    circuit.passes(0.1)
    assert circuit.state is CLOSED
    assert circuit.reasons == [Reason.FORCED, Reason.RELEASED]


def test_forced_open_without_an_end_stays() -> None:
    circuit = Circuit()
    circuit.breaker.force(FORCED_OPEN, circuit.now)
    circuit.passes(1e9)
    assert circuit.refused()
    assert circuit.breaker.view(circuit.now).until is None
    assert circuit.breaker.retry_after(circuit.now) == 30


def test_forced_closed_admits_whatever_fails_and_shows_it() -> None:
    circuit = Circuit().trip()
    circuit.breaker.force(FORCED_CLOSED, circuit.now, 60)
    assert circuit.breaker.view(circuit.now).counts.calls == 0
    circuit.call(FAILURE, 1000)
    assert circuit.state is FORCED_CLOSED
    assert circuit.breaker.view(circuit.now).counts.failures == 1000


def test_release_begins_with_nothing_held_against_it() -> None:
    circuit = Circuit().half_open().call(FAILURE)
    circuit.breaker.force(FORCED_CLOSED, circuit.now, 60)
    circuit.call(FAILURE, 100).passes(60)
    assert circuit.state is CLOSED
    circuit.call(FAILURE, 4)
    assert circuit.state is CLOSED
    circuit.call(FAILURE)
    assert circuit.breaker.until - circuit.now == 30


def test_forcing_the_same_state_again_moves_its_end_and_is_no_transition() -> None:
    circuit = Circuit()
    circuit.breaker.force(FORCED_OPEN, circuit.now, 60)
    circuit.passes(30)
    circuit.breaker.force(FORCED_OPEN, circuit.now, 60)
    circuit.passes(59)
    assert circuit.state is FORCED_OPEN
    assert circuit.breaker.generation == 1
    circuit.passes(1)
    assert circuit.state is CLOSED


@pytest.mark.parametrize("state", [CLOSED, OPEN, HALF_OPEN])
def test_releasing_what_is_not_forced_does_nothing(state: State) -> None:
    circuit = Circuit()
    if state is OPEN:
        circuit.trip()
    elif state is HALF_OPEN:
        circuit.half_open()
    generation = circuit.breaker.generation
    circuit.breaker.release(circuit.now)
    assert (circuit.state, circuit.breaker.generation) == (state, generation)


def test_calls_admitted_before_forcing_do_not_count_after_it() -> None:
    circuit = Circuit()
    before = [circuit.admit() for _ in range(10)]
    circuit.breaker.force(FORCED_CLOSED, circuit.now)
    circuit.breaker.release(circuit.now)
    for permit in before:
        circuit.ends(permit, FAILURE)
    assert circuit.state is CLOSED


def test_disabled_breaker_admits_everything_counts_nothing_and_never_moves() -> None:
    circuit = Circuit(enabled=False, slow_calls=RateRule(0.5, 1), slower_than_s=1.0).call(FAILURE, 1000).passes(1e9)
    assert circuit.state is State.DISABLED
    assert not circuit.breaker.refuses(circuit.now)
    assert circuit.breaker.view(circuit.now).counts.calls == 0
    assert circuit.breaker.consecutive == 0
    assert circuit.diary == []


# -- slow calls


def slow_circuit(**settings: object) -> Circuit:
    return Circuit(**{"slow_calls": RateRule(0.8, 5), "slower_than_s": 1.0, **settings})


def test_slow_answers_open() -> None:
    circuit = slow_circuit()
    for _ in range(5):
        assert circuit.state is CLOSED
        permit = circuit.sent()
        circuit.now += 1.0
        circuit.answered(permit)
        circuit.ends(permit, SUCCESS)
    assert circuit.reasons == [Reason.SLOW_CALLS]


def test_answers_just_fast_enough_do_not() -> None:
    circuit = slow_circuit()
    for _ in range(100):
        permit = circuit.sent()
        circuit.passes(0.875)
        circuit.answered(permit)
        circuit.ends(permit, SUCCESS)
    assert circuit.diary == []
    counts = circuit.breaker.view(circuit.now).counts
    assert counts.slow == 0
    assert counts.timed > 5


def test_without_slower_than_no_call_is_timed() -> None:
    circuit = Circuit(slow_calls=RateRule(0.1, 1))
    assert not circuit.breaker.times_calls
    permits = [circuit.sent() for _ in range(100)]
    assert len({id(permit) for permit in permits}) == 1
    circuit.passes(3600)
    assert circuit.diary == []


def test_calls_in_flight_past_slower_than_already_count() -> None:
    circuit = slow_circuit()
    for _ in range(5):
        circuit.sent()
    assert circuit.breaker.next_event() == BEGIN + 1
    circuit.passes(0.9)
    assert circuit.state is CLOSED
    circuit.passes(0.1)
    assert circuit.reasons == [Reason.SLOW_CALLS]
    assert circuit.diary[0].counts.slow == 5


def test_call_that_hangs_longer_than_the_window_still_counts() -> None:
    circuit = slow_circuit()
    for _ in range(4):
        circuit.sent()
    circuit.passes(3600)
    assert circuit.breaker.view(circuit.now).counts.slow == 4
    circuit.sent()
    circuit.passes(1)
    assert circuit.reasons == [Reason.SLOW_CALLS]


def test_overdue_call_counts_once_when_it_is_answered_and_ends() -> None:
    circuit = slow_circuit()
    permit = circuit.sent()
    for step in (lambda: circuit.passes(2), lambda: circuit.answered(permit), lambda: circuit.ends(permit, SUCCESS)):
        step()
        counts = circuit.breaker.view(circuit.now).counts
        assert (counts.slow, counts.timed) == (1, 1)
    assert counts.calls == 1
    assert circuit.breaker.view(circuit.now).overdue == 0


def test_overdue_call_that_fails_counts_once_as_slow_and_once_as_failed() -> None:
    circuit = slow_circuit()
    permit = circuit.sent()
    circuit.passes(2).ends(permit, FAILURE)
    assert circuit.breaker.view(circuit.now).counts == (1, 1, 1, 1)


def test_overdue_call_that_ends_as_ignored_leaves_no_trace() -> None:
    circuit = slow_circuit()
    permit = circuit.sent()
    circuit.passes(2)
    circuit.ends(permit, IGNORED)
    assert circuit.breaker.view(circuit.now).counts == (0, 0, 0, 0)


def test_ignored_call_that_was_not_yet_overdue_never_becomes_so() -> None:
    circuit = slow_circuit()
    circuit.ends(circuit.sent(), IGNORED)
    circuit.passes(3600)
    assert circuit.breaker.view(circuit.now).counts == (0, 0, 0, 0)


def test_overdue_call_that_is_sent_again_counts_once() -> None:
    circuit = slow_circuit()
    permit = circuit.sent()
    circuit.passes(2)
    circuit.breaker.sent(permit, circuit.now)  # on a fresh connection, for the first has proved dead
    for step in (lambda: circuit.passes(2), lambda: circuit.answered(permit), lambda: circuit.passes(2)):
        step()
        counts = circuit.breaker.view(circuit.now).counts
        assert (counts.slow, counts.timed) == (1, 1)
    assert circuit.breaker.view(circuit.now).overdue == 0
    assert circuit.breaker.slow_calls == 1


def test_response_that_streams_for_an_hour_is_not_slow() -> None:
    circuit = slow_circuit()
    permits = [circuit.sent() for _ in range(20)]
    circuit.passes(0.5)
    for permit in permits:
        circuit.answered(permit)
    circuit.passes(3600)
    for permit in permits:
        circuit.ends(permit, SUCCESS)
    assert circuit.diary == []
    assert circuit.breaker.view(circuit.now).counts.slow == 0


def test_slow_head_ages_while_its_response_streams() -> None:
    circuit = slow_circuit()
    permit = circuit.sent()
    circuit.passes(2).answered(permit)
    circuit.passes(11)
    assert circuit.breaker.view(circuit.now).counts.slow == 0


def test_application_that_sends_slowly_makes_no_call_slow() -> None:
    circuit = slow_circuit()
    permits = [circuit.admit() for _ in range(10)]
    circuit.passes(60)
    for permit in permits:
        circuit.breaker.sent(permit, circuit.now)
    circuit.passes(0.5)
    for permit in permits:
        circuit.answered(permit)
        circuit.ends(permit, SUCCESS)
    assert circuit.breaker.view(circuit.now).counts == (10, 0, 0, 10)


def test_answer_before_the_request_was_whole_is_not_slow_whatever_follows() -> None:
    circuit = slow_circuit()
    permit = circuit.admit()
    circuit.answered(permit)
    circuit.breaker.sent(permit, circuit.now)
    circuit.passes(3600)
    assert circuit.breaker.view(circuit.now).counts.slow == 0


def test_fast_calls_keep_a_few_hanging_ones_below_the_threshold() -> None:
    circuit = slow_circuit()
    for _ in range(5):
        circuit.sent()
    circuit.call(SUCCESS, 10).passes(1)
    assert circuit.diary == []
    assert circuit.breaker.view(circuit.now).counts == (10, 0, 5, 15)


def test_calls_that_hang_are_forgotten_with_their_generation() -> None:
    circuit = slow_circuit()
    hanging = [circuit.sent() for _ in range(5)]
    circuit.passes(1)
    assert circuit.state is OPEN
    circuit.passes(30).close_again()
    for permit in hanging:
        circuit.answered(permit)
        circuit.ends(permit, FAILURE)
    assert circuit.breaker.view(circuit.now).counts == (0, 0, 0, 0)


def test_slow_calls_open_in_a_window_of_calls() -> None:
    circuit = slow_circuit(window_s=None, window_calls=4)
    for _ in range(4):
        circuit.sent()
    circuit.passes(1)
    assert circuit.reasons == [Reason.SLOW_CALLS]


@pytest.mark.parametrize("outcome", [SUCCESS, FAILURE])
def test_slow_call_that_opens_as_it_ends_is_not_counted_after_it(outcome: Outcome) -> None:
    circuit = slow_circuit(slow_calls=RateRule(0.8, 1))
    permit = circuit.sent()
    circuit.now += 1  # and nobody has looked at the clock
    circuit.ends(permit, outcome)
    assert circuit.reasons == [Reason.SLOW_CALLS]
    assert circuit.breaker.view(circuit.now).counts.calls == 0
    assert circuit.breaker.consecutive == 0


def slow_trial(circuit: Circuit, waits: float) -> None:
    trial = circuit.sent()
    circuit.passes(waits)
    circuit.answered(trial)
    circuit.ends(trial, SUCCESS)


def test_trials_as_slow_as_the_threshold_open_again() -> None:
    circuit = slow_circuit().half_open()
    for _ in range(3):
        assert circuit.state is HALF_OPEN
        slow_trial(circuit, 1.5)
    assert circuit.reasons[-1] is Reason.TRIALS_SLOW
    assert circuit.breaker.until - circuit.now == 60


def test_one_slow_trial_among_fast_ones_does_not_keep_it_from_closing() -> None:
    circuit = slow_circuit().half_open()
    slow_trial(circuit, 1.5)
    slow_trial(circuit, 0)
    slow_trial(circuit, 0)
    assert circuit.state is CLOSED


# -- to be read


def test_view_and_other_readings_change_nothing() -> None:
    circuit = slow_circuit()
    circuit.sent()
    circuit.call(FAILURE, 3)
    for now in (BEGIN, BEGIN + 1e6, BEGIN):
        circuit.breaker.view(now)
        circuit.breaker.retry_after(now)
        circuit.breaker.ramp_share(now)
        circuit.breaker.next_event()
        repr(circuit.breaker)
    assert circuit.breaker.view(BEGIN).counts == (3, 3, 0, 3)
    assert circuit.breaker.next_event() == BEGIN + 1
    circuit.call(FAILURE, 2)
    assert circuit.state is OPEN


def test_view_shows_an_open_circuit() -> None:
    circuit = Circuit().half_open().call(FAILURE).passes(1)
    view = circuit.breaker.view(circuit.now)
    assert (view.state, view.since, view.until) == (OPEN, BEGIN + 30, BEGIN + 90)
    assert (view.generation, view.open_for_s) == (3, 120)


def test_repr_shows_state_generation_and_window() -> None:
    circuit = Circuit().call(SUCCESS, 3).call(FAILURE)
    assert repr(circuit.breaker) == "<CircuitBreaker closed generation=0 <TimeWindow 10s 1/4 failed 0 slow>>"


def test_permit_repr_shows_a_trial() -> None:
    circuit = Circuit()
    assert repr(circuit.admit()) == "<Permit generation=0>"
    assert repr(circuit.half_open().admit()) == "<Permit generation=2 trial>"
