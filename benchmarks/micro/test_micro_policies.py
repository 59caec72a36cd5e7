"""What each call of a policy costs; docs/explanation/performance.md says why where it is over half a microsecond."""

from __future__ import annotations

from typing import Any

from sidecar.counters import Counters
from sidecar.policy.breaker import CircuitBreaker
from sidecar.policy.bucket import TokenBucket
from sidecar.policy.classify import Classifier, End, parse_statuses
from sidecar.policy.gate import Gate
from sidecar.policy.queue import Lack, WaitQueue
from sidecar.policy.retry import EndedAttempt, RetryBudget, RetrySettings, may_retry, parse_conditions
from sidecar.policy.slots import Slots
from sidecar.policy.states import BreakerSettings, Outcome, RateRule, State
from sidecar.policy.window import TimeWindow

NOW = 1000.0
TIMED = BreakerSettings(slow_calls=RateRule(0.8, 20), slower_than_s=5.0)


def breaker(settings: BreakerSettings | None = None) -> CircuitBreaker:
    return CircuitBreaker(settings or BreakerSettings(), NOW, lambda: 0.5, lambda _: None)


def test_breaker_admits(benchmark: Any) -> None:
    benchmark(breaker().admit, NOW)


def test_breaker_records_a_success(benchmark: Any) -> None:
    circuit = breaker()
    permit = circuit.admit(NOW)
    assert permit is not None
    benchmark(circuit.record, permit, Outcome.SUCCESS, NOW)


def test_breaker_records_a_failure_at_volume(benchmark: Any) -> None:
    circuit = breaker()
    circuit.window.record(NOW, False)
    circuit.window._calls = 10**12  # so many successes that no benchmark opens it
    permit = circuit.admit(NOW)
    assert permit is not None
    benchmark(circuit.record, permit, Outcome.FAILURE, NOW)
    assert circuit.state is State.CLOSED


def test_breaker_times_a_call(benchmark: Any) -> None:
    circuit = breaker(TIMED)

    def call() -> None:
        permit = circuit.admit(NOW)
        assert permit is not None
        circuit.sent(permit, NOW)
        circuit.answered(permit, NOW)
        circuit.record(permit, Outcome.SUCCESS, NOW)

    benchmark(call)


def test_breaker_refuses(benchmark: Any) -> None:
    circuit = breaker()
    circuit.force(State.FORCED_OPEN, NOW)
    benchmark(circuit.refuses, NOW)


def test_window_counts(benchmark: Any) -> None:
    window = TimeWindow(10.0)
    window.record(NOW, False)
    benchmark(window.counts, NOW)


def test_bucket_gives_a_token(benchmark: Any) -> None:
    benchmark(TokenBucket(1e12, 1e12, NOW).take, NOW)


def test_bucket_refuses_a_token(benchmark: Any) -> None:
    bucket = TokenBucket(0.001, 1.0, NOW)
    bucket.take(NOW)
    benchmark(bucket.take, NOW)


def test_slot_is_taken_and_released(benchmark: Any) -> None:
    slots = Slots(1)

    def both() -> None:
        slots.take()
        slots.release()

    benchmark(both)


def test_gate_lets_a_call_in_and_out(benchmark: Any) -> None:
    gate: Gate[Any] = Gate(breaker(), TokenBucket(1e12, 1e12, NOW), Slots(1), WaitQueue(10, 1.0))

    def both() -> None:
        permit = gate.enter(NOW)
        assert permit is not None
        gate.leave(permit, Outcome.SUCCESS, NOW)

    benchmark(both)


def test_queue_takes_a_waiter_in_and_serves_it(benchmark: Any) -> None:
    queue: WaitQueue[str] = WaitQueue(10, 1.0)

    def both() -> None:
        queue.join("waiter", Lack.SLOT, NOW)
        queue.serve(None, None, NOW)

    benchmark(both)


def test_classifier_judges_a_response(benchmark: Any) -> None:
    benchmark(Classifier(parse_statuses(["5xx"])).of_status, 200)


def test_budget_takes_a_deposit(benchmark: Any) -> None:
    benchmark(RetryBudget(0.2, 1.0, NOW).deposit)


def test_retry_is_decided_on(benchmark: Any) -> None:
    statuses, ends = parse_conditions(["reset", 503])
    settings = RetrySettings(3, statuses, ends, None, 0.025, 0.25)
    ended = EndedAttempt(1, End.RESPONSE, 503, b"GET", True, False, True, None)
    budget = RetryBudget(1e12, 1.0, NOW)

    def decide() -> None:
        budget.deposit()
        may_retry(settings, ended, budget, NOW, NOW + 10, lambda: 0.5)

    benchmark(decide)


def test_request_is_counted(benchmark: Any) -> None:
    bounds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
    benchmark(Counters(bounds).count_request, b"GET", 200, 0, 0.003)
