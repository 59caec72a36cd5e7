"""A line for each request that is worth one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.telemetry.access import ALWAYS, MAX_PATH, AccessLog
from sidecar.telemetry.lines import MAX_LINE
from tests.telemetry.conftest import Lines

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def never() -> float:
    raise AssertionError("no random number is needed")


def written(target: bytes, method: bytes = b"GET", **changes: Any) -> tuple[bytes, dict[str, Any]]:
    lines = Lines()
    log = AccessLog(lines, 1, frozenset(), 1.0, never, clock=lambda: 1_700_000_000.5)
    request = {
        "status": 200,
        "code": None,
        "attempts": 1,
        "duration_s": 0.0123456,
        "waited_s": 0.0,
        "trace_id": None,
    } | changes
    log.write("payments", method, target, **request)
    return lines.written[0], lines.only


def test_line_of_a_request() -> None:
    line, _ = written(b"/v1/charges?token=secret")

    assert line == (
        b'{"ts":"2023-11-14T22:13:20.500Z","level":"info","logger":"sidecar.access","msg":"request",'
        b'"dependency":"payments","method":"GET","path":"/v1/charges","status":200,"attempts":1,'
        b'"duration_ms":12.346,"waited_ms":0.000}\n'
    )


def test_line_of_a_refused_request_has_its_code_and_trace() -> None:
    _, line = written(b"/", status=429, code="RATE_LIMITED", attempts=0, waited_s=1.5, trace_id=TRACE)

    assert line["code"] == "RATE_LIMITED"
    assert line["trace_id"] == TRACE
    assert (line["attempts"], line["waited_ms"]) == (0, 1500)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a/b", "/a/b"),
        (b"/a?b", "/a"),
        (b"/a?b?c#d", "/a"),
        (b"/a#b?c", "/a"),
        (b"/?", "/"),
        (b"?x", ""),
        (b"", ""),
        (b"*", "*"),
        (b"http://user:secret@any.test/a?b", "/a"),
        (b"http://user:secret@any.test", "/"),
        (b"http://any.test?secret", "/"),
        (b"user:secret@any.test:443", "any.test:443"),
        (b"any.test:443", "any.test:443"),
        (b"//user@any.test/a", "//user@any.test/a"),
        (b'/"\\', '/"\\'),
        (b"/%3Fa b", "/%3Fa b"),
        (b"/\xc3\xa4\n\x00\x7f", "/%C3%A4%0A%00%7F"),
        (b"/" + b"a" * 5000, "/" + "a" * (MAX_PATH - 1)),
        (b"/" + b"\xff" * 5000, ("/" + "%FF" * 5000)[:MAX_PATH]),
    ],
)
def test_path_is_the_target_without_what_may_be_secret(target: bytes, path: str) -> None:
    assert written(target)[1]["path"] == path


SECRET = st.text("0123456789", min_size=12, max_size=20).map(lambda digits: f"secret{digits}".encode())


@given(before=st.binary(), secret=SECRET, mark=st.sampled_from([b"?", b"#"]), after=st.binary())
@example(before=b"http://x", secret=b"secret000000000000", mark=b"?", after=b"@y/")
@example(before=b'/"}\n{"level":"error', secret=b"secret000000000000", mark=b"?", after=b"\n")
def test_any_target_gives_one_line_without_its_query(before: bytes, secret: bytes, mark: bytes, after: bytes) -> None:
    line, document = written(before + mark + secret + after)

    assert line.count(b"\n") == 1
    assert line.isascii()
    assert len(line) <= MAX_LINE
    assert secret not in line
    assert secret.decode() not in json.dumps(document)
    assert len(document["path"]) <= MAX_PATH
    assert list(document) == [
        "ts",
        "level",
        "logger",
        "msg",
        "dependency",
        "method",
        "path",
        "status",
        "attempts",
        "duration_ms",
        "waited_ms",
    ]


@given(st.binary())
def test_any_method_and_path_of_the_greatest_length_fit(method: bytes) -> None:
    line, document = written(b"/" + b'"' * 9000, method, code="X" * 40, trace_id=TRACE)

    assert len(line) <= MAX_LINE
    assert len(document["method"]) <= 32


@pytest.mark.parametrize(
    ("always", "status", "rejected", "duration_s", "wanted"),
    [
        (ALWAYS, 200, False, 0.5, False),
        (ALWAYS, 0, False, 0.5, False),
        (ALWAYS, 399, False, 1.0, False),
        (ALWAYS, 200, False, 1.001, True),
        (ALWAYS, 404, False, 0.0, True),
        (ALWAYS, 500, False, 0.0, True),
        (ALWAYS, 599, False, 0.0, True),
        (ALWAYS, 503, True, 0.0, True),
        ({"rejected"}, 503, True, 9.0, True),
        ({"rejected"}, 503, False, 9.0, False),
        ({"4xx"}, 400, False, 0.0, True),
        ({"4xx"}, 499, True, 0.0, True),
        ({"4xx"}, 500, True, 9.0, False),
        ({"5xx"}, 499, True, 9.0, False),
        ({"5xx"}, 500, False, 0.0, True),
        ({"slow"}, 500, True, 1.0, False),
        ({"slow"}, 200, False, 9.0, True),
        (set(), 500, True, 9.0, False),
    ],
)
def test_what_is_always_logged(
    lines: Lines, always: set[str], status: int, rejected: bool, duration_s: float, wanted: bool
) -> None:
    log = AccessLog(lines, 0, frozenset(always), 1.0, never)

    assert log.wants(status, rejected, duration_s) == wanted


def test_whole_sample_logs_everything_and_asks_for_no_random_number(lines: Lines) -> None:
    log = AccessLog(lines, 1, frozenset(), 1.0, never)

    assert log.wants(200, False, 0.0)


def test_sample_is_the_share_that_is_logged(lines: Lines) -> None:
    log = AccessLog(lines, 0.25, ALWAYS, 1.0, iter([0.0, 0.2499, 0.25, 0.9]).__next__)

    assert [log.wants(200, False, 0.0) for _ in range(4)] == [True, True, False, False]
    assert log.wants(500, False, 0.0), "and no random number is left to ask for"

    log = AccessLog(lines, 0.1, ALWAYS, 1.0, random.Random(1).random)
    assert 900 < sum(log.wants(200, False, 0.0) for _ in range(10_000)) < 1100


@pytest.mark.parametrize("sample", [-0.1, 1.1, float("nan")])
def test_sample_that_is_no_share_is_refused(lines: Lines, sample: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        AccessLog(lines, sample, ALWAYS, 1.0, never)


def test_unknown_word_in_always_is_refused(lines: Lines) -> None:
    with pytest.raises(ValueError, match=r"not \['3xx'\]"):
        AccessLog(lines, 0, frozenset({"3xx", "4xx"}), 1.0, never)


def test_lines_beyond_those_of_a_second_are_counted_and_told_of_in_the_next(lines: Lines) -> None:
    now = [1_700_000_000.0]
    log = AccessLog(lines, 0, frozenset({"rejected"}), 1.0, never, 3, clock=lambda: now[0])
    assert [log.wants(503, True, 0.0) for _ in range(10)] == [True] * 3 + [False] * 7
    assert log.suppressed == 7
    assert lines.written == []
    now[0] += 1
    assert log.wants(503, True, 0.0)
    assert (lines.only["level"], lines.only["suppressed"]) == ("warning", 7)
    now[0] += 1
    assert log.wants(503, True, 0.0)
    assert len(lines.written) == 1


def test_what_is_not_wanted_takes_nobodys_room(lines: Lines) -> None:
    log = AccessLog(lines, 0, frozenset({"5xx"}), 1.0, never, 1, clock=lambda: 5.0)
    assert not any(log.wants(200, False, 0.0) for _ in range(10))
    assert log.wants(500, False, 0.0)
    assert log.suppressed == 0
