"""What holds between the keys of policies, and the warnings about them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.config import load_text

Lines = Callable[..., list[str]]


def warnings(text: str, **environ: str) -> list[str]:
    """The warnings about a text, without the name of the file and the word."""
    found = [str(warning) for warning in load_text(text, "f", environ).warnings]
    return [line.removeprefix("f:").replace(" warning:", "", 1) for line in found]


def one(*keys: str) -> str:
    """A file with one dependency, whose keys begin on line 4."""
    return "dependencies:\n  a:\n    upstream: http://a\n" + "".join(f"    {key}\n" for key in keys)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "circuit_breaker: {open_for: 10m}",
            (
                "4:33: dependencies.a.circuit_breaker.open_for: must be at most max_open_for ('5m', by default), found "
                "'10m'"
            ),
        ),
        (
            "circuit_breaker: {max_open_for: 29s}",
            (
                "4:37: dependencies.a.circuit_breaker.max_open_for: must be at least open_for ('30s', by default), "
                "found '29s'"
            ),
        ),
        (
            "circuit_breaker: {open_for: 2s, max_open_for: 1s}",
            "4:51: dependencies.a.circuit_breaker.max_open_for: must be at least open_for ('2s', line 4), found '1s'",
        ),
        (
            "retry: {backoff: {base: 1s}}",
            "4:29: dependencies.a.retry.backoff.base: must be at most max ('250ms', by default), found '1s'",
        ),
        (
            "retry: {backoff: {base: 1s, max: 999ms}}",
            "4:38: dependencies.a.retry.backoff.max: must be at least base ('1s', line 4), found '999ms'",
        ),
        (
            "candidates: {b: {circuit_breaker: {open_for: 6m}}}",
            (
                "4:50: dependencies.a.candidates.b.circuit_breaker.open_for: must be at most max_open_for ('5m', by "
                "default), found '6m'"
            ),
        ),
        (
            "fallback: {on: [CIRCUIT_OPEN], status: 204, body: x}",
            "4:55: dependencies.a.fallback.body: must be empty, since a response of status 204, 205 or 304 has none",
        ),
    ],
)
def test_what_cannot_be_is_one_line(text: str, line: str, report: Lines) -> None:
    assert report(one(text)) == [line]


@pytest.mark.parametrize(
    "text",
    [
        "circuit_breaker: {open_for: 5m}",
        "circuit_breaker: {open_for: 10m, max_open_for: 10m}",
        "retry: {backoff: {base: 250ms}}",
        "fallback: {on: [CIRCUIT_OPEN], status: 304}",
    ],
)
def test_bounds_may_meet(text: str) -> None:
    assert warnings(one(text)) == []


def test_bound_in_the_defaults_is_judged_with_that_of_each_dependency(report: Lines) -> None:
    text = (
        "defaults: {circuit_breaker: {open_for: 10m}}\n"
        "dependencies:\n"
        "  a: {upstream: http://a, circuit_breaker: {max_open_for: 20m}}\n"
    )
    assert warnings(text) == []
    assert report(text + "  b: {upstream: http://b}\n  c: {upstream: http://c}\n") == [
        "1:40: dependencies.b.circuit_breaker.open_for: must be at most max_open_for ('5m', by default), found '10m'"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "circuit_breaker: {open_for: 10m, max_open_for: x}",
        "circuit_breaker: {open_for: 10, max_open_for: 1s}",
        "circuit_breaker: [10m]",
        "retry: {backoff: {base: 1s, max: x}}",
        "fallback: {status: 204, body: [x]}",
    ],
)
def test_rules_are_silent_about_policies_that_are_wrong_themselves(text: str, report: Lines) -> None:
    assert len(report(one(text))) == 1


def test_bound_from_a_variable_is_not_shown(report: Lines) -> None:
    [line] = report(one('circuit_breaker: {open_for: "${OPEN}", max_open_for: 1s}'), OPEN="4711s")
    assert line.endswith("must be at least open_for (the value of ${OPEN}, line 4), found '1s'")


@pytest.mark.parametrize(
    ("buckets", "lines"),
    [
        ("[1s, 1s]", ["1:25: metrics.buckets[1]: must be above the one before it, '1s', found '1s'"]),
        ("[2s, 1s, 3s]", ["1:25: metrics.buckets[1]: must be above the one before it, '2s', found '1s'"]),
        ("[1s, x, 1s]", None),
    ],
)
def test_buckets_increase(buckets: str, lines: list[str] | None, report: Lines) -> None:
    found = report(f"metrics: {{buckets: {buckets}}}\n{one()}")
    assert found == lines if lines else [line.split(": ")[1] for line in found] == ["metrics.buckets[1]"]


RETRIES = "is more than timeout.total has time for when each takes first_byte, so the last is never made"
LIMIT = "is below rate × expected_latency, so it refuses what rate_limit lets through"
NEVER = "is more calls than rate_limit lets into a window, so the rule is never applied"
WINDOW = "is more calls than the window holds, so a full window is enough"
FALLBACK = "is never used, since it has no code in on"
QUEUE = "has nothing to wait for: neither rate_limit.rate nor concurrency.limit is in force"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["retry: {attempts: 4}"], f"4:23: dependencies.a.retry.attempts: {RETRIES}"),
        (
            ["retry: {attempts: 2, backoff: {base: 10s, max: 10s}}"],
            f"4:23: dependencies.a.retry.attempts: {RETRIES}",
        ),
        (
            ["concurrency: {limit: 1}", "queue: {limit: 1}"],
            "5:20: dependencies.a.queue.limit: is of no use while max_wait is 0s: nobody waits",
        ),
        (
            ["queue: {max_wait: 1s}"],
            "4:23: dependencies.a.queue.max_wait: is of no use while limit is 0: nobody waits",
        ),
        (["queue: {limit: 1, max_wait: 1s}"], f"4:5: dependencies.a.queue: {QUEUE}"),
        (
            ["queue: {limit: 1, max_wait: 1s}", "concurrency: {mode: shadow, limit: 1}", "rate_limit: {burst: 1}"],
            f"4:5: dependencies.a.queue: {QUEUE}",
        ),
        (
            ["circuit_breaker: {consecutive_failures: null, failure_rate: {threshold: null}}"],
            "4:5: dependencies.a.circuit_breaker: never opens, since all its rules are off; say mode: off",
        ),
        (
            [
                "circuit_breaker: {consecutive_failures: null}",
                "candidates: {b: {circuit_breaker: {failure_rate: {threshold: null}}}}",
            ],
            "5:22: dependencies.a.candidates.b.circuit_breaker: never opens, since all its rules are off",
        ),
        (
            ["rate_limit: {rate: 1/second, burst: 9}", "circuit_breaker: {failure_rate: {min_calls: 20}}"],
            f"5:49: dependencies.a.circuit_breaker.failure_rate.min_calls: {NEVER}",
        ),
        (
            ["rate_limit: {rate: 1/second}", "circuit_breaker: {consecutive_failures: null}"],
            f"5:5: dependencies.a.circuit_breaker.failure_rate.min_calls: {NEVER}",
        ),
        (
            ["rate_limit: {rate: 10/second, share: 10}", "circuit_breaker: {slow_calls: {slower_than: 1s}}"],
            f"5:23: dependencies.a.circuit_breaker.slow_calls.min_calls: {NEVER}",
        ),
        (
            [
                "rate_limit: {rate: 10/second}",
                "candidates: {b: {circuit_breaker: {window: 1s, failure_rate: {min_calls: 21}}}}",
            ],
            f"5:78: dependencies.a.candidates.b.circuit_breaker.failure_rate.min_calls: {NEVER}",
        ),
        (
            ["circuit_breaker: {window: 10 calls, failure_rate: {min_calls: 11}}"],
            f"4:67: dependencies.a.circuit_breaker.failure_rate.min_calls: {WINDOW}",
        ),
        (
            ["rate_limit: {rate: 100/second, share: 2}", "concurrency: {limit: 4}", "expected_latency: 100ms"],
            f"5:26: dependencies.a.concurrency.limit: {LIMIT}",
        ),
        (["fallback: {status: 503}"], f"4:5: dependencies.a.fallback: {FALLBACK}"),
        (["fallback: {body: x}"], f"4:5: dependencies.a.fallback: {FALLBACK}"),
        (["fallback: {headers: {X-A: 1}}"], f"4:5: dependencies.a.fallback: {FALLBACK}"),
    ],
)
def test_what_can_hardly_be_meant_is_a_warning(keys: list[str], line: str) -> None:
    assert warnings(one(*keys)) == [line]


@pytest.mark.parametrize(
    "keys",
    [
        ["retry: {attempts: 2}"],
        ["retry: {attempts: 3}", "timeout: {first_byte: 2s}"],
        ["queue: {limit: 1, max_wait: 1s}", "rate_limit: {rate: 100/second}"],
        ["queue: {limit: 1, max_wait: 1s}", "concurrency: {limit: 1}"],
        ["queue: {limit: 0, max_wait: 0s}"],
        ["circuit_breaker: {consecutive_failures: null}"],
        ["circuit_breaker: {failure_rate: {threshold: null}}"],
        ["circuit_breaker: {mode: off, consecutive_failures: null, failure_rate: {threshold: null}}"],
        [
            "circuit_breaker:",
            "  {consecutive_failures: null, failure_rate: {threshold: null}, slow_calls: {slower_than: 1s}}",
        ],
        # With few calls the consecutive rule decides, which is what it is for.
        ["rate_limit: {rate: 1/second}"],
        ["rate_limit: {rate: 1/second, burst: 10}", "circuit_breaker: {failure_rate: {min_calls: 20}}"],
        # Retries are calls as well.
        [
            "rate_limit: {rate: 1/second}",
            "retry: {attempts: 2}",
            "circuit_breaker: {failure_rate: {min_calls: 22}}",
        ],
        ["rate_limit: {mode: shadow, rate: 1/second}", "circuit_breaker: {failure_rate: {min_calls: 99}}"],
        ["rate_limit: {rate: 1/second}", "circuit_breaker: {mode: off, failure_rate: {min_calls: 99}}"],
        ["rate_limit: {rate: 1/second}", "circuit_breaker: {failure_rate: {threshold: null, min_calls: 99}}"],
        # The default of min_calls gives way to a small window.
        ["circuit_breaker: {window: 10 calls}"],
        ["circuit_breaker: {window: 10 calls, failure_rate: {min_calls: 10}}"],
        ["rate_limit: {rate: 100/second, share: 2}", "concurrency: {limit: 5}", "expected_latency: 100ms"],
        ["rate_limit: {rate: 100/second}", "concurrency: {mode: off, limit: 1}", "expected_latency: 1s"],
        ["rate_limit: {mode: off, rate: 100/second}", "concurrency: {limit: 1}", "expected_latency: 1s"],
        ["concurrency: {limit: 1}", "expected_latency: 1s"],
        ["fallback: {on: [], methods: [GET, HEAD], status: 200, headers: {}, body: ''}"],
        ["fallback: {on: [CIRCUIT_OPEN], status: 503}"],
    ],
)
def test_what_may_well_be_meant_is_none(keys: list[str]) -> None:
    assert warnings(one(*keys)) == []


def test_defaults_may_hold_what_only_some_dependencies_have_a_use_for() -> None:
    text = (
        "defaults: {queue: {limit: 9, max_wait: 1s}, fallback: {status: 503, body: later}}\n"
        "dependencies:\n"
        "  a: {upstream: http://a, concurrency: {limit: 1}, fallback: {on: [CONCURRENCY_LIMITED]}}\n"
        "  b: {upstream: http://b}\n"
    )
    assert warnings(text) == []
    assert warnings(text + "  c: {upstream: http://c, queue: {limit: 8}, fallback: {body: never}}\n") == [
        f"5:27: dependencies.c.queue: {QUEUE}",
        f"5:46: dependencies.c.fallback: {FALLBACK}",
    ]


def test_defaults_that_no_dependency_has_a_use_for_are_warned_of_once() -> None:
    text = (
        "defaults: {queue: {limit: 9, max_wait: 1s}, fallback: {status: 503}}\n"
        "dependencies:\n  a: {upstream: http://a}\n  b: {upstream: http://b}\n"
    )
    assert warnings(text) == [f"1:12: dependencies.a.queue: {QUEUE}", f"1:45: dependencies.a.fallback: {FALLBACK}"]


def test_warning_does_not_tell_what_a_variable_holds() -> None:
    keys = ['rate_limit: {rate: "${RATE}"}', "circuit_breaker: {failure_rate: {min_calls: 20}}"]
    [line] = warnings(one(*keys), RATE="1/hour")
    assert "hour" not in line
