"""What a request costs the data plane itself: no socket, no kernel."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.policy.states import State

POLICIES = {
    "rate_limit": {"rate": "1000000/second", "burst": 1_000_000_000},
    "concurrency": {"limit": 1024},
    "queue": {"limit": 100, "max_wait": "1s"},
    "circuit_breaker": {"slow_calls": {"slower_than": "5s"}},
    "retry": {"attempts": 2},
}


def test_request_by_default(benchmark: Any, plane: Any) -> None:
    benchmark(plane().forwards)


def test_request_with_all_policies(benchmark: Any, plane: Any) -> None:
    benchmark(plane(**POLICIES).forwards)


def test_request_with_a_candidate(benchmark: Any, plane: Any) -> None:
    benchmark(plane(**POLICIES, candidates={"stricter": {"circuit_breaker": {}, "rate_limit": {}}}).forwards)


@pytest.mark.parametrize("dependencies", [1, 500])
def test_request_beside_other_dependencies(benchmark: Any, plane: Any, dependencies: int) -> None:
    benchmark(plane(dependencies=dependencies, **POLICIES).forwards)


def test_refusal_by_an_open_circuit(benchmark: Any, plane: Any) -> None:
    here = plane(**POLICIES)
    here.pool.dependency.admission.gate.breaker.force(State.FORCED_OPEN, here.deadlines.read(), 3600)
    benchmark(here.refuses)


def test_refusal_by_the_rate(benchmark: Any, plane: Any) -> None:
    here = plane(rate_limit={"rate": "1/hour", "burst": 1})
    here.forwards()
    benchmark(here.refuses)
