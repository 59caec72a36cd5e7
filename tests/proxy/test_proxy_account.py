"""The books: each request is counted once, at its end, under the right names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import errors
from sidecar.counters import METHODS, REJECTIONS, SOURCES, STATUS_CLASSES
from sidecar.errors import CircuitOpen, Refusal, UpstreamFailure
from sidecar.proxy.account import account_client_gone, account_refusal, account_response
from sidecar.proxy.answers import make_fallback
from sidecar.proxy.framing import RequestHead
from sidecar.runtime.dependency import Dependency
from tests.proxy.test_proxy_policies import FAIL, Asking, ask, trip
from tests.proxy.transcript import GET, OK, Line, StageLog, message
from tests.runtime.door import Door

FALLBACK = {"on": ["CIRCUIT_OPEN"], "methods": ["GET", "HEAD"], "status": 203, "body": "old"}


class Books:
    """The books of a dependency, in which one request is open."""

    def __init__(self, **keys: Any) -> None:
        self.dependency: Dependency = Door(**keys).dependency
        self.dependency.fallback = make_fallback(203, {}, "old")
        self.log = self.dependency.log = StageLog()
        self.dependency.counters.in_flight = 1

    @property
    def counted(self) -> dict[tuple[str, str, str], int]:
        """Requests by method, class of status and source, as far as there are any."""
        counts = iter(self.dependency.counters.requests)
        kinds = [(method, status, source) for method in METHODS for status in STATUS_CLASSES for source in SOURCES]
        return {kind: count for kind, count in zip(kinds, counts, strict=True) if count}

    @property
    def line(self) -> Line:
        (line,) = self.log.lines
        return line


def head(method: bytes = b"GET", block: bytes = b"") -> RequestHead:
    made = RequestHead()
    made.method, made.target, made.block = method, b"/a?secret", block
    return made


def whole(books: Books, status: int, *, method: bytes = b"GET", cut: Refusal | None = None) -> None:
    account_response(books.dependency, head(method), status, cut, 2, 0.25, 0.1)


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (200, "2xx", None),
        (304, "3xx", None),
        (404, "4xx", None),
        (429, "4xx", None),
        (500, "5xx", "DOWNSTREAM_ERROR"),
        (503, "5xx", "DOWNSTREAM_ERROR"),
        (999, "5xx", "DOWNSTREAM_ERROR"),
    ],
)
def test_answer_of_the_dependency_is_counted_as_its_own(status: int, kind: str, code: str | None) -> None:
    books = Books()
    whole(books, status)
    assert books.counted == {("GET", kind, "upstream"): 1}
    assert books.line == ("payments", b"GET", b"/a?secret", status, code, 2, 0.25, 0.1, None, None)
    assert books.dependency.counters.in_flight == 0
    assert sum(books.dependency.counters.rejections.values()) == 0


def test_answer_that_broke_off_keeps_its_status_and_says_why() -> None:
    books = Books()
    whole(books, 200, cut=UpstreamFailure("gone", "http_response_incomplete"))
    assert books.counted == {("GET", "2xx", "upstream"): 1}
    assert (books.line.status, books.line.code) == (200, "DOWNSTREAM_FAILURE")


@pytest.mark.parametrize(
    ("method", "label"), [(b"GET", "GET"), (b"PATCH", "PATCH"), (b"PURGE", "other"), (b"get", "other")]
)
def test_methods_fold_into_those_that_are_known(method: bytes, label: str) -> None:
    books = Books()
    whole(books, 200, method=method)
    assert books.counted == {(label, "2xx", "upstream"): 1}


@given(st.binary(min_size=1, max_size=20), st.integers(100, 999), st.sampled_from([0, 1]))
def test_no_request_makes_a_series_up(method: bytes, status: int, source: int) -> None:
    books = Books()
    before = len(books.dependency.counters.requests)
    books.dependency.counters.count_request(method, status, source, 0.1)
    assert (len(books.dependency.counters.requests), sum(books.dependency.counters.requests)) == (before, 1)
    ((label, kind, by),) = books.counted
    assert label == (method.decode("latin-1") if method.decode("latin-1") in METHODS[:-1] else "other")
    assert by == SOURCES[source]
    assert kind == f"{min(max(status // 100, 2), 5)}xx"


@pytest.mark.parametrize("code", REJECTIONS)
def test_refusal_is_counted_by_its_code_and_as_the_sidecars(code: str) -> None:
    kind = next(kind for kind in vars(errors).values() if getattr(kind, "code", None) == code)
    books = Books()
    account_refusal(books.dependency, head(), kind("x"), 0, 0.25, 0.0)
    assert books.counted == {("GET", f"{kind.status // 100}xx", "sidecar"): 1}
    assert (books.line.status, books.line.code) == (kind.status, code)
    assert {name for name, count in books.dependency.counters.rejections.items() if count} == {code}


def test_client_that_left_is_counted_apart_and_is_no_rejection() -> None:
    books = Books()
    account_client_gone(books.dependency, head(b"PUT"), 1, 0.25, 0.0)
    assert books.counted == {("PUT", "4xx", "sidecar"): 1}
    assert (books.line.status, books.line.code) == (499, "CLIENT_GONE")
    assert books.dependency.counters.client_gone == 1
    assert sum(books.dependency.counters.rejections.values()) == 0


def test_line_names_the_trace() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    books = Books()
    request = head(block=b"\r\nHost: x\r\ntraceparent: 00-%b-00f067aa0ba902b7-01" % trace.encode())
    account_client_gone(books.dependency, request, 1, 0.25, 0.0)
    assert books.line.trace_id == trace


def test_log_is_asked_with_what_it_decides_by_and_may_say_no() -> None:
    asked: list[tuple[int, bool, float]] = []

    class Reticent(StageLog):
        def wants(self, status: int, rejected: bool, duration_s: float) -> bool:
            asked.append((status, rejected, duration_s))
            return False

    books = Books(fallback=FALLBACK)
    log = books.dependency.log = Reticent()
    whole(books, 200)
    account_refusal(books.dependency, head(b"POST"), CircuitOpen("x"), 0, 0.25, 0.0)
    account_refusal(books.dependency, head(), CircuitOpen("x"), 0, 0.25, 0.0)
    account_client_gone(books.dependency, head(), 1, 0.25, 0.0)
    assert asked == [(200, False, 0.25), (503, True, 0.25), (203, True, 0.25), (499, False, 0.25)]
    assert log.lines == []


def test_without_a_log_everything_is_counted_all_the_same() -> None:
    books = Books()
    books.dependency.log = None
    whole(books, 200)
    assert len(books.counted) == 1


# -- fallback


@pytest.mark.parametrize(
    ("method", "kind", "stands_in"),
    [
        (b"GET", errors.CircuitOpen, True),
        (b"HEAD", errors.CircuitOpen, True),
        (b"POST", errors.CircuitOpen, False),
        (b"GET", errors.RateLimited, False),
        (b"GET", errors.Draining, False),
    ],
)
def test_fallback_stands_in_for_its_codes_and_methods_only(method: bytes, kind: type[Refusal], stands_in: bool) -> None:
    books = Books(fallback=FALLBACK)
    refusal = kind("x")
    fallback = account_refusal(books.dependency, head(method), refusal, 0, 0.25, 0.0)
    assert fallback is (books.dependency.fallback if stands_in else None)
    assert books.line.status == (203 if stands_in else kind.status)
    assert books.line.code == kind.code, "the log says what it stands in for"
    assert books.dependency.counters.rejections[kind.code] == 1


# -- what candidates could not judge


@pytest.mark.parametrize(
    ("kind", "attempts", "unobserved"),
    [
        (errors.CircuitOpen, 0, 1),
        (errors.RateLimited, 0, 1),
        (errors.ConcurrencyLimited, 0, 1),
        (errors.ConcurrencyLimited, 1, 0),
        (errors.UpstreamFailure, 1, 0),
        (errors.BodyTooLarge, 0, 0),
        (errors.BadRequest, 0, 0),
        (errors.Draining, 0, 0),
    ],
)
def test_only_what_a_policy_refused_is_unobserved(kind: type[Refusal], attempts: int, unobserved: int) -> None:
    """A body that is too large, or a client that breaks its request off, would be no call under any settings."""
    books = Books(candidates={"c": {"rate_limit": {"rate": "1/second"}}})
    account_refusal(books.dependency, head(), kind("x"), attempts, 0.25, 0.0)
    assert books.dependency.admission.candidates[0].unobserved == unobserved


# -- in conversation


def test_wait_of_a_client_that_leaves_at_once_is_not_less_than_nothing(converse) -> None:
    """The coarse clock is up to a tick behind the moment at which the wait began."""
    talk = converse(concurrency={"limit": 1}, queue={"limit": 5, "max_wait": "10s"})
    held = Asking(talk)
    talk.clock.seconds += 0.02
    waiting = Asking(talk)
    talk.clock.seconds += 0.001
    waiting.client.resets()
    (line,) = talk.log.lines
    assert line.waited_s == pytest.approx(0.001)
    assert line.duration_s == pytest.approx(0.001)
    assert talk.dependency.counters.queue_wait.sum_s == pytest.approx(0.001)
    held.gets(OK)


def test_every_way_to_end_is_counted_once(converse) -> None:
    talk = converse(
        circuit_breaker={"consecutive_failures": 3}, max_body="1B", fallback=FALLBACK | {"on": ["CIRCUIT_OPEN"]}
    )
    ask(talk)
    Asking(talk).client.resets()
    ask(talk, octets=message("POST /a HTTP/1.1", "Host: app", "Content-Length: 2", body="hi"))
    trip(talk)
    ask(talk)
    ask(talk, octets=message("POST /a HTTP/1.1", "Host: app", "Content-Length: 0"))
    assert [(line.status, line.code) for line in talk.log.lines] == [
        (200, None),
        (499, "CLIENT_GONE"),
        (413, "BODY_TOO_LARGE"),
        *[(503, "DOWNSTREAM_ERROR")] * 3,
        (203, "CIRCUIT_OPEN"),
        (503, "CIRCUIT_OPEN"),
    ]
    counters = talk.dependency.counters
    assert sum(counters.requests) == sum(counters.request_duration.counts) == len(talk.log.lines)
    assert counters.in_flight == 0
    assert counters.rejections["CIRCUIT_OPEN"] == 2


def test_requests_under_way_are_those_that_wait_as_well(converse) -> None:
    talk = converse(concurrency={"limit": 1}, queue={"limit": 5, "max_wait": "10s"}, retry={"attempts": 2})
    held, waiting = Asking(talk), Asking(talk, GET)
    assert talk.dependency.counters.in_flight == 2
    held.gets(FAIL)
    assert talk.dependency.counters.in_flight == 2, "one backs off, the other has its slot"
    held.client.resets()
    assert talk.dependency.counters.in_flight == 1
    waiting.client.resets()
    assert talk.dependency.counters.in_flight == 0
