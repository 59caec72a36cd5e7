"""`defaults` under every dependency, the shared listener's settings under those of single ports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from sidecar.config import CircuitBreakerTerms, Config, Dependency, RateLimitTerms

Lines = Callable[..., list[str]]
Loaded = Callable[..., Config]

TWO = "dependencies:\n  a: {upstream: http://a}\n  b: {upstream: http://b, timeout: {total: 9s}}\n"


def test_defaults_reach_every_dependency_at_any_depth(config: Loaded) -> None:
    found = config("defaults: {max_body: 1MiB, timeout: {connect: 2s, total: 8s}}\n" + TWO)
    a, b = found.dependencies.values()
    assert (a.max_body, a.timeout.connect, a.timeout.total) == (1 << 20, 2.0, 8.0)
    assert (b.max_body, b.timeout.connect, b.timeout.total) == (1 << 20, 2.0, 9.0)
    assert found.defaults.timeout.total == 8.0


def test_null_section_keeps_the_defaults_and_null_value_replaces_them(config: Loaded) -> None:
    found = config(
        "defaults: {max_body: 1MiB, timeout: {total: 8s}}\n"
        "dependencies:\n  a:\n    upstream: http://a\n    max_body: null\n    timeout:\n"
    )
    assert found.dependencies["a"].max_body is None
    assert found.dependencies["a"].timeout.total == 8.0


@pytest.mark.parametrize("empty", ["defaults:", "defaults: {}", "listener:", "metrics:", "defaults: {pool: }"])
def test_empty_section_is_all_defaults(empty: str, config: Loaded) -> None:
    assert config(f"{empty}\n{TWO}") == config(TWO)


def test_listener_of_a_dependency_is_that_of_the_top_with_its_own_keys(config: Loaded) -> None:
    found = config(
        "listener: {backlog: 7, max_headers: 1KiB, trusted_proxies: [10.0.0.0/8]}\n"
        "dependencies:\n"
        "  a: {upstream: http://a, listen: ':1', listener: {backlog: 8, trusted_proxies: []}}\n"
        "  b: {upstream: http://b, listen: ':2'}\n"
        "  c: {upstream: http://c}\n"
    )
    a, b, c = found.dependencies.values()
    assert (a.listener.backlog, a.listener.max_headers, a.listener.trusted_proxies) == (8, 1024, ())
    assert b.listener == c.listener == found.listener


def test_mistake_in_defaults_is_reported_once_at_its_own_line(report: Lines) -> None:
    assert report("defaults: {max_bdy: 1, pool: 5, timeout: {total: 0s}}\n" + TWO) == [
        "1:12: defaults.max_bdy: unknown key, did you mean max_body?",
        "1:30: defaults.pool: must be a mapping, found 5",
        "1:50: defaults.timeout.total: must be at least 1ms, found '0s'",
    ]


def test_mistake_in_the_shared_listener_is_reported_once(report: Lines) -> None:
    assert report("listener: {backlog: 0}\n" + TWO) == ["1:21: listener.backlog: must be at least 1, found 0"]


def test_mistake_in_the_listener_of_a_dependency_is_reported_there(report: Lines) -> None:
    assert report(
        "listener: {backlog: 1}\ndependencies: {a: {upstream: http://a, listen: ':1', listener: {backlog: 0}}}"
    ) == ["2:74: dependencies.a.listener.backlog: must be at least 1, found 0"]


def test_defaults_do_not_stand_in_for_what_they_may_not_hold(report: Lines) -> None:
    lines = report("defaults: {upstream: http://x}\ndependencies: {a: {}}")
    assert [line.split(": ")[1] for line in lines] == ["defaults.upstream", "dependencies.a.upstream"]


def test_merged_sections_of_the_wrong_kind_are_reported_where_they_stand(report: Lines) -> None:
    lines = report("defaults: {timeout: {total: 1s}}\nlistener: 5\ndependencies: {a: {upstream: http://a, timeout: 5}}")
    assert lines == [
        "2:11: listener: must be a mapping, found 5",
        "3:49: dependencies.a.timeout: must be a mapping, found 5",
    ]


def test_policies_are_merged_at_any_depth_and_lists_replaced(config: Loaded) -> None:
    found = config(
        "defaults:\n"
        "  circuit_breaker: {failure_rate: {threshold: 30%}, failure_statuses: [5xx, 429]}\n"
        "  fallback: {on: [CIRCUIT_OPEN], headers: {X-A: a, X-B: b}}\n"
        "dependencies:\n"
        "  a: {upstream: http://a, circuit_breaker: {failure_rate: {min_calls: 5}}, fallback: {headers: {X-B: c}}}\n"
        "  b: {upstream: http://b, circuit_breaker: {failure_statuses: []}, fallback: {headers: }}\n"
    )
    a, b = found.dependencies.values()
    assert (a.circuit_breaker.failure_rate.threshold, a.circuit_breaker.failure_rate.min_calls) == (0.3, 5)
    assert (a.circuit_breaker.failure_statuses, b.circuit_breaker.failure_statuses) == (("5xx", 429), ())
    assert (a.fallback.headers, b.fallback.headers) == ({"X-A": "a", "X-B": "c"}, {"X-A": "a", "X-B": "b"})


def test_candidate_takes_from_the_dependency_what_its_sections_do_not_say(config: Loaded) -> None:
    found = config(
        "defaults:\n"
        "  circuit_breaker: {mode: off, open_for: 7s, half_open: {trials: 2}}\n"
        "  candidates: {stricter: {circuit_breaker: {half_open: {successes: 9}}}}\n"
        "dependencies:\n"
        "  a:\n"
        "    upstream: http://a\n"
        "    circuit_breaker: {consecutive_failures: 4}\n"
        "    rate_limit: {mode: shadow, rate: 5/second, share: 2}\n"
        "    candidates: {larger: {rate_limit: {burst: 50}}}\n"
        "  b: {upstream: http://b}\n"
    )
    a, b = found.dependencies.values()
    stricter = a.candidates["stricter"].circuit_breaker
    assert isinstance(stricter, CircuitBreakerTerms)
    assert (stricter.consecutive_failures, stricter.open_for) == (4, 7.0)
    assert (stricter.half_open.trials, stricter.half_open.successes) == (2, 9)
    assert a.candidates["larger"].rate_limit == RateLimitTerms(rate="5/second", burst=50, share=2)
    assert [*b.candidates] == ["stricter"]
    assert b.candidates["stricter"].circuit_breaker == stricter.model_copy(update={"consecutive_failures": 5})
    assert found.defaults.candidates["stricter"] == b.candidates["stricter"]


def test_candidate_has_the_sections_that_it_names_and_an_empty_one_is_named(config: Loaded) -> None:
    found = config(
        "defaults: {rate_limit: {rate: 5/second}, candidates: {a: {rate_limit: }, b: , c: {concurrency: {}}}}\n" + TWO
    )
    for each in (*found.dependencies.values(), found.defaults):
        a, b, c = each.candidates.values()
        assert a.rate_limit == RateLimitTerms(rate="5/second")
        assert (a.circuit_breaker, a.concurrency) == (None, None)
        assert (b.circuit_breaker, b.rate_limit, b.concurrency) == (None, None, None)
        assert c.concurrency is not None
        assert c.concurrency.limit is None


def test_mistake_in_a_policy_is_not_repeated_by_its_candidates(report: Lines) -> None:
    assert report(
        "defaults: {candidates: {a: {circuit_breaker: , rate_limit: , concurrency: }}}\n"
        "dependencies:\n"
        "  a: {upstream: http://a, circuit_breaker: {open_for: 1, opn_for: 1, half_open: 5}, rate_limit: 5}\n"
        "  b: {upstream: http://b, circuit_breaker: {open_for: 10m}, concurrency: {limit: 0, mode: on}}\n"
    ) == [
        "3:55: dependencies.a.circuit_breaker.open_for: must have a unit (ms, s, m or h), as in 250ms or 5s, found 1",
        "3:58: dependencies.a.circuit_breaker.opn_for: unknown key, did you mean open_for?",
        "3:81: dependencies.a.circuit_breaker.half_open: must be a mapping, found 5",
        "3:97: dependencies.a.rate_limit: must be a mapping, found 5",
        "4:55: dependencies.b.circuit_breaker.open_for: must be at most max_open_for ('5m', by default), found '10m'",
        "4:82: dependencies.b.concurrency.limit: must be at least 1, found 0",
        "4:91: dependencies.b.concurrency.mode: must be one of enforce, shadow, off, found 'on'",
    ]


def test_candidates_of_the_defaults_and_of_the_dependency_are_counted_together(report: Lines) -> None:
    a, b = ("{" + ", ".join(f"{letter}{number}: " for number in range(5)) + "}" for letter in "ab")
    assert report(f"defaults: {{candidates: {a}}}\ndependencies: {{a: {{upstream: http://a, candidates: {b}}}}}") == [
        "2:52: dependencies.a.candidates: must have at most 8 entries, found 10"
    ]


def test_too_many_candidates_are_reported_once(report: Lines) -> None:
    many = ", ".join(f"c{number}: {{circuit_breaker: }}" for number in range(9))
    assert report(f"defaults: {{candidates: {{{many}}}}}\n{TWO}") == [
        "1:24: defaults.candidates: must have at most 8 entries, found 9"
    ]


def test_dependency_knows_its_name(config: Loaded) -> None:
    assert [each.name for each in config(TWO).dependencies.values()] == ["a", "b"]


def test_configuration_cannot_be_changed(config: Loaded) -> None:
    found = config(TWO)
    with pytest.raises(ValidationError):
        found.drain_idle = 5
    with pytest.raises(ValidationError):
        found.dependencies["a"].name = "b"


def test_equal_texts_are_equal_configurations(config: Loaded) -> None:
    assert config(TWO) == config(TWO)
    assert isinstance(config(TWO).dependencies["a"], Dependency)
