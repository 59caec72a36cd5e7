"""The keys of the policies: what they hold by default and when written, and every message about a single one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.config import (
    AccessLog,
    Backoff,
    Budget,
    CircuitBreaker,
    Concurrency,
    Config,
    Ejection,
    FailureRate,
    Fallback,
    HalfOpen,
    Queue,
    RateLimit,
    Retry,
    SlowCalls,
    Window,
)

Lines = Callable[..., list[str]]
Loaded = Callable[..., Config]


def test_defaults_are_a_breaker_and_no_limit(config: Loaded) -> None:
    found = config("dependencies: {a: {upstream: http://a}}").dependencies["a"]
    assert dict(found.circuit_breaker) == {
        "mode": "enforce",
        "consecutive_failures": 5,
        "failure_rate": FailureRate.model_construct(threshold=0.5, min_calls=20),
        "slow_calls": SlowCalls.model_construct(slower_than=None, threshold=0.8, min_calls=20),
        "window": Window(10.0, None),
        "open_for": 30.0,
        "max_open_for": 300.0,
        "half_open": HalfOpen.model_construct(trials=3, successes=3, max_wait=10.0, ramp=0.0),
        "failure_statuses": ("5xx",),
        "abandoned_after": 1.0,
    }
    assert dict(found.rate_limit) == {"mode": "enforce", "rate": None, "burst": None, "share": 1}
    assert dict(found.concurrency) == {"mode": "enforce", "limit": None}
    assert dict(found.queue) == {"limit": 0, "max_wait": 0.0}
    assert dict(found.retry) == {
        "attempts": 1,
        "on": ("connect_error", "reset", 502, 503, 504),
        "methods": None,
        "backoff": Backoff.model_construct(base=0.025, max=0.25),
        "budget": Budget.model_construct(ratio=0.2, min_per_second=1.0),
    }
    assert dict(found.fallback) == {"on": (), "methods": ("GET", "HEAD"), "status": 200, "headers": {}, "body": ""}
    assert dict(found.ejection) == {"consecutive_failures": 5, "for_": 30.0, "max": 0.5}
    assert found.candidates == {}
    assert found.expected_latency is None


def test_written_policies_are_read(config: Loaded) -> None:
    found = config(
        "dependencies:\n"
        "  a:\n"
        "    upstream: http://a\n"
        "    rate_limit: {mode: shadow, rate: 600/minute, burst: 20, share: 4}\n"
        "    concurrency: {mode: off, limit: 7}\n"
        "    circuit_breaker:\n"
        "      mode: shadow\n"
        "      consecutive_failures: null\n"
        "      failure_rate: {threshold: null, min_calls: 9}\n"
        "      slow_calls: {slower_than: 2s, threshold: 12.5%, min_calls: 8}\n"
        "      window: 100 calls\n"
        "      half_open: {trials: 1, successes: 5, max_wait: 1s, ramp: 10s}\n"
        "      failure_statuses: [429, '500', 4XX]\n"
        "      abandoned_after: 2s\n"
        "    retry: {attempts: 2, on: [timeout, 5xx], methods: [GET, POST], budget: {ratio: 0%, min_per_second: 0.5}}\n"
        "    fallback: {on: [CIRCUIT_OPEN], status: 503, headers: {Content-Type: text/plain, Age: 5}, body: 7}\n"
        "    ejection: {consecutive_failures: null, for: 2m, max: 0%}\n"
        "    expected_latency: 20ms\n"
    ).dependencies["a"]
    assert found.rate_limit == RateLimit(mode="shadow", rate="600/minute", burst=20, share=4)
    assert found.rate_limit.rate == 10.0
    assert found.concurrency == Concurrency(mode="off", limit=7)
    breaker: CircuitBreaker = found.circuit_breaker
    assert (breaker.mode, breaker.consecutive_failures) == ("shadow", None)
    assert (breaker.failure_rate.threshold, breaker.failure_rate.min_calls) == (None, 9)
    assert (breaker.slow_calls.slower_than, breaker.slow_calls.threshold, breaker.slow_calls.min_calls) == (2, 0.125, 8)
    assert breaker.window == Window(None, 100)
    assert (breaker.half_open.trials, breaker.half_open.successes) == (1, 5)
    assert (breaker.half_open.max_wait, breaker.half_open.ramp) == (1.0, 10.0)
    assert breaker.failure_statuses == (429, 500, "4xx")
    assert breaker.abandoned_after == 2.0
    retry: Retry = found.retry
    assert (retry.attempts, retry.on, retry.methods) == (2, ("timeout", "5xx"), ("GET", "POST"))
    assert (retry.budget.ratio, retry.budget.min_per_second) == (0.0, 0.5)
    fallback: Fallback = found.fallback
    assert (fallback.on, fallback.status, fallback.body) == (("CIRCUIT_OPEN",), 503, "7")
    assert fallback.headers == {"Content-Type": "text/plain", "Age": "5"}
    ejection: Ejection = found.ejection
    assert (ejection.consecutive_failures, ejection.for_, ejection.max) == (None, 120.0, 0.0)
    assert found.expected_latency == 0.02


def test_queue_waits_for_a_limit(config: Loaded) -> None:
    text = "dependencies: {a: {upstream: http://a, concurrency: {limit: 1}, queue: {limit: 9, max_wait: 500ms}}}"
    queue: Queue = config(text).dependencies["a"].queue
    assert (queue.limit, queue.max_wait) == (9, 0.5)


def test_log_and_buckets_are_of_the_whole_sidecar(config: Loaded) -> None:
    found = config(
        "access_log: {sample: 0%, always: [], slow: 250ms}\n"
        "metrics: {buckets: [5ms, 1s]}\n"
        "dependencies: {a: {upstream: http://a}}"
    )
    assert (found.access_log.sample, found.access_log.always, found.access_log.slow) == (0.0, (), 0.25)
    assert found.metrics.buckets == (0.005, 1.0)
    default: AccessLog = config("dependencies: {a: {upstream: http://a}}").access_log
    assert (default.sample, default.always, default.slow) == (0.01, ("rejected", "5xx", "slow"), 1.0)


def test_value_of_a_variable_is_text_where_text_is_meant(config: Loaded) -> None:
    text = 'dependencies: {a: {upstream: http://a, fallback: {on: [RATE_LIMITED], headers: {X: "${N}"}, body: "${N}"}}}'
    fallback = config(text, N="42").dependencies["a"].fallback
    assert (fallback.headers, fallback.body) == ({"X": "42"}, "42")


RATES = "must be a rate such as 100/second, 30/minute or 10 per 2 seconds"
PERCENTAGES = "must be a percentage such as 50% or 12.5%"
MODES = "must be one of enforce, shadow, off"
STATUSES = "must be a status code from 100 to 599, such as 503, or a class of them, such as 5xx"
CODES = "must be one of RATE_LIMITED, CIRCUIT_OPEN, CONCURRENCY_LIMITED, DOWNSTREAM_FAILURE, DOWNSTREAM_TIMEOUT"
LINE = "must be one line of at most 2048 printable ASCII characters, without a space at either end"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("rate_limit: 100/second", "rate_limit: must be a mapping, found '100/second'"),
        ("rate_limit: {mode: on}", f"rate_limit.mode: {MODES}, found 'on'"),
        ("rate_limit: {mode: false}", f"rate_limit.mode: {MODES}, found false"),
        ("rate_limit: {rate: 100}", f"rate_limit.rate: {RATES}, found 100"),
        ("rate_limit: {rate: 100/s}", f"rate_limit.rate: {RATES}, found '100/s'"),
        ("rate_limit: {rate: 0/s}", "rate_limit.rate: must let through 1 to 1000000000 in its time, found '0/s'"),
        ("rate_limit: {burst: 0}", "rate_limit.burst: must be at least 1, found 0"),
        ("rate_limit: {burst: 1.5}", "rate_limit.burst: must be a whole number, found 1.5"),
        ("rate_limit: {share: 100001}", "rate_limit.share: must be at most 100000, found 100001"),
        ("rate_limit: {share: null}", "rate_limit.share: must be a whole number, found null"),
        ("rate_limit: {rat: 1}", "rate_limit.rat: unknown key, did you mean rate?"),
        ("concurrency: {limit: 0}", "concurrency.limit: must be at least 1, found 0"),
        ("concurrency: {limits: 1}", "concurrency.limits: unknown key, did you mean limit?"),
        ("queue: {limit: -1}", "queue.limit: must be at least 0, found -1"),
        ("queue: {limit: null}", "queue.limit: must be a whole number, found null"),
        ("queue: {max_wait: 25h}", "queue.max_wait: must be at most 24h, found '25h'"),
        (
            "queue: {max_wait: 0}",
            "queue.max_wait: must have a unit (ms, s, m or h), as in 250ms or 5s, found 0",
        ),
        ("circuit_breaker: {mode: shadows}", f"circuit_breaker.mode: {MODES}, found 'shadows'"),
        (
            "circuit_breaker: {consecutive_failures: 0}",
            "circuit_breaker.consecutive_failures: must be at least 1, found 0",
        ),
        (
            "circuit_breaker: {failure_rate: 50%}",
            "circuit_breaker.failure_rate: must be a mapping, found '50%'",
        ),
        (
            "circuit_breaker: {failure_rate: {threshold: 0.5}}",
            f"circuit_breaker.failure_rate.threshold: {PERCENTAGES}, found 0.5",
        ),
        (
            "circuit_breaker: {failure_rate: {threshold: 0%}}",
            "circuit_breaker.failure_rate.threshold: must be above 0%, found '0%'",
        ),
        (
            "circuit_breaker: {failure_rate: {threshold: 100.1%}}",
            "circuit_breaker.failure_rate.threshold: must be at most 100%, found '100.1%'",
        ),
        (
            "circuit_breaker: {slow_calls: {threshold: null}}",
            f"circuit_breaker.slow_calls.threshold: {PERCENTAGES}, found null",
        ),
        (
            "circuit_breaker: {slow_calls: {slower_then: 1s}}",
            "circuit_breaker.slow_calls.slower_then: unknown key, did you mean slower_than?",
        ),
        (
            "circuit_breaker: {window: 100}",
            "circuit_breaker.window: must be a time such as 10s or a number of calls such as 100 calls, found 100",
        ),
        ("circuit_breaker: {window: 0s}", "circuit_breaker.window: must be from 1ms to 24h, found '0s'"),
        ("circuit_breaker: {open_for: 0s}", "circuit_breaker.open_for: must be at least 1ms, found '0s'"),
        (
            "circuit_breaker: {half_open: {max_wait: 0s}}",
            "circuit_breaker.half_open.max_wait: must be at least 1ms, found '0s'",
        ),
        (
            "circuit_breaker: {half_open: {trials: 0}}",
            "circuit_breaker.half_open.trials: must be at least 1, found 0",
        ),
        (
            "circuit_breaker: {failure_statuses: 5xx}",
            "circuit_breaker.failure_statuses: must be a list, found '5xx'",
        ),
        (
            "circuit_breaker: {failure_statuses: [5xx, 600]}",
            f"circuit_breaker.failure_statuses[1]: {STATUSES}, found 600",
        ),
        ("retry: {attempts: 0}", "retry.attempts: must be at least 1, found 0"),
        ("retry: {attempts: 11}", "retry.attempts: must be at most 10, found 11"),
        ("retry: {on: reset}", "retry.on: must be a list, found 'reset'"),
        (
            "retry: {on: [reset, resets]}",
            f"retry.on[1]: {STATUSES}, or one of connect_error, reset, timeout, found 'resets'",
        ),
        ("retry: {methods: GET}", "retry.methods: must be a list, found 'GET'"),
        ("retry: {methods: [GET, post]}", "retry.methods[1]: must be a method in capitals, such as GET, found 'post'"),
        (
            f"retry: {{methods: [{'GET, ' * 257}]}}",
            "retry.methods: must have at most 256 entries, found 257",
        ),
        (
            "retry: {backoff: {base: 5}}",
            "retry.backoff.base: must have a unit (ms, s, m or h), as in 250ms or 5s, found 5",
        ),
        ("retry: {budget: {ratio: 120%}}", "retry.budget.ratio: must be at most 100%, found '120%'"),
        ("retry: {budget: {min_per_second: x}}", "retry.budget.min_per_second: must be a number, found 'x'"),
        ("retry: {budget: {min_per_second: -0.5}}", "retry.budget.min_per_second: must be at least 0, found -0.5"),
        ("retry: {budget: {min_per_second: true}}", "retry.budget.min_per_second: must be a number, found true"),
        (
            "retry: {budget: {min_per_second: 1000001}}",
            "retry.budget.min_per_second: must be at most 1000000, found 1000001",
        ),
        ("fallback: {on: [CIRCUIT_OPENED]}", f"fallback.on[0]: {CODES}, found 'CIRCUIT_OPENED'"),
        ("fallback: {methods: null}", "fallback.methods: must be a list, found null"),
        ("fallback: {status: 199}", "fallback.status: must be at least 200, found 199"),
        ("fallback: {headers: []}", "fallback.headers: must be a mapping, found a list"),
        (
            "fallback: {headers: {'a b': 1}}",
            "fallback.headers.'a b': must be the name of a header field, such as Content-Type",
        ),
        (
            "fallback: {headers: {content-length: 1}}",
            "fallback.headers.content-length: is a field that the sidecar writes itself",
        ),
        ("fallback: {headers: {X-A: [1]}}", "fallback.headers.X-A: must be text; put it in quotes, found a list"),
        ('fallback: {headers: {X-A: "1\\r\\nX-B: 2"}}', f"fallback.headers.X-A: {LINE}, found '1\\r\\nX-B: 2'"),
        (
            "fallback: {headers: {X-A: 1, x-a: 2}}",
            "fallback.headers: must name each field once, found X-A and x-a",
        ),
        (
            f"fallback: {{headers: {{{', '.join(f'X-{n}: 1' for n in range(65))}}}}}",
            "fallback.headers: must have at most 64 entries, found 65",
        ),
        ("fallback: {body: null}", "fallback.body: must be text; put it in quotes, found null"),
        (f"fallback: {{body: {'x' * 65537}}}", "fallback.body: must be at most 64KiB of text, found 65537B"),
        ("ejection: 30s", "ejection: must be a mapping, found '30s'"),
        ("ejection: {consecutive_failures: 0}", "ejection.consecutive_failures: must be at least 1, found 0"),
        (
            "ejection: {consecutive_failures: 1000001}",
            "ejection.consecutive_failures: must be at most 1000000, found 1000001",
        ),
        ("ejection: {for: 0s}", "ejection.for: must be at least 1ms, found '0s'"),
        ("ejection: {for: 25h}", "ejection.for: must be at most 24h, found '25h'"),
        ("ejection: {for: null}", "ejection.for: must be a duration such as 250ms, 5s, 2m or 1h, found null"),
        ("ejection: {for_: 30s}", "ejection.for_: unknown key, did you mean for?"),
        ("ejection: {mode: off}", "ejection.mode: unknown key; known here are consecutive_failures, for, max"),
        ("ejection: {max: 0.5}", f"ejection.max: {PERCENTAGES}, found 0.5"),
        ("ejection: {max: 101%}", "ejection.max: must be at most 100%, found '101%'"),
        ("ejection: {max: null}", f"ejection.max: {PERCENTAGES}, found null"),
        ("candidates: []", "candidates: must be a mapping, found a list"),
        ("candidates: {a: 5}", "candidates.a: must be a mapping, found 5"),
        ("candidates: {a: {rate_limit: 5}}", "candidates.a.rate_limit: must be a mapping, found 5"),
        (
            "candidates: {shadow: {}}",
            "candidates.shadow: is the name of the candidate that mode: shadow makes, so take another",
        ),
        (
            "candidates: {A: {}}",
            (
                "candidates.A: must be a name of a to z, 0 to 9, - and _, at most 63 long, with a letter or digit at "
                "both ends"
            ),
        ),
        (
            f"candidates: {{{', '.join(f'c{n}: ' for n in range(9))}}}",
            "candidates: must have at most 8 entries, found 9",
        ),
        (
            "candidates: {a: {queue: {}}}",
            "candidates.a.queue: unknown key; known here are circuit_breaker, rate_limit, concurrency",
        ),
        (
            "candidates: {a: {circuit_braker: {}}}",
            "candidates.a.circuit_braker: unknown key, did you mean circuit_breaker?",
        ),
        (
            "candidates: {a: {concurrency: {mode: off}}}",
            "candidates.a.concurrency.mode: unknown key; known here are limit",
        ),
        (
            "candidates: {a: {circuit_breaker: {half_open: {trails: 1}}}}",
            "candidates.a.circuit_breaker.half_open.trails: unknown key, did you mean trials?",
        ),
        (
            "candidates: {a: {circuit_breaker: {failure_rate: {threshold: 0%}}}}",
            "candidates.a.circuit_breaker.failure_rate.threshold: must be above 0%, found '0%'",
        ),
        (
            "candidates: {a: {'[key]': 1}}",
            "candidates.a.'[key]': unknown key; known here are circuit_breaker, rate_limit, concurrency",
        ),
        ("expected_latency: 0s", "expected_latency: must be at least 1ms, found '0s'"),
    ],
)
def test_mistake_in_a_policy_is_one_line_wherever_it_stands(text: str, line: str, report: Lines) -> None:
    [found] = report(f"dependencies:\n  a:\n    upstream: http://a\n    {text}\n")
    place, _, rest = found.partition(": ")
    assert place.startswith("4:")
    assert rest == f"dependencies.a.{line}"
    [found] = report(f"dependencies: {{a: {{upstream: http://a}}}}\ndefaults:\n  {text}\n")
    place, _, rest = found.partition(": ")
    assert place.startswith("3:")
    assert rest == f"defaults.{line}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("access_log: {sample: 1}", f"access_log.sample: {PERCENTAGES}, found 1"),
        ("access_log: {sample: 101%}", "access_log.sample: must be at most 100%, found '101%'"),
        (
            "access_log: {always: [3xx]}",
            "access_log.always[0]: must be one of rejected, 4xx, 5xx, slow, found '3xx'",
        ),
        ("access_log: {slows: 1s}", "access_log.slows: unknown key, did you mean slow?"),
        ("metrics: {buckets: 1s}", "metrics.buckets: must be a list, found '1s'"),
        ("metrics: {buckets: []}", "metrics.buckets: must not be empty"),
        (
            "metrics: {buckets: [1]}",
            "metrics.buckets[0]: must have a unit (ms, s, m or h), as in 250ms or 5s, found 1",
        ),
        (
            f"metrics: {{buckets: [{', '.join(f'{n}s' for n in range(1, 32))}]}}",
            "metrics.buckets: must have at most 30 entries, found 31",
        ),
    ],
)
def test_mistake_in_what_is_observed_is_one_line(text: str, line: str, report: Lines) -> None:
    [found] = report(f"dependencies: {{a: {{upstream: http://a}}}}\n{text}\n")
    assert found.partition(": ")[2] == line


def test_free_keys_that_look_like_a_mark_of_pydantic_are_keys(report: Lines) -> None:
    lines = report(
        'dependencies:\n  a: {upstream: http://a, fallback: {headers: {"[key]": 1}}, candidates: {"[key]": 1}}\n'
    )
    assert [line.split(": ")[0:2] for line in lines] == [
        ["2:48", "dependencies.a.fallback.headers.'[key]'"],
        ["2:75", "dependencies.a.candidates.'[key]'"],
        ["2:84", "dependencies.a.candidates.'[key]'"],
    ]
