"""The answers that the sidecar gives itself."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import errors
from sidecar.errors import (
    BadRequest,
    CircuitOpen,
    ConcurrencyLimited,
    RateLimited,
    Refusal,
    UpstreamFailure,
    UpstreamTimeout,
)
from sidecar.proxy.answers import date_line, make_fallback, render, render_options, retry_after_seconds

# RFC 8941: an item that is a token, with two parameters, a token and a string.
_PROXY_STATUS = re.compile(r'sidecar; error=([a-z_]+); details="((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')


def _taken_apart(octets: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = octets.partition(b"\r\n\r\n")
    line, *fields = head.decode("ascii").split("\r\n")
    return line, dict(field.split(": ", 1) for field in fields), body


def test_answer_says_what_happened_to_which_dependency() -> None:
    octets = render(UpstreamFailure("it is gone", "connection_refused"), "payments", None, close=False, head_only=False)
    line, fields, body = _taken_apart(octets)
    assert line == "HTTP/1.1 502 Bad Gateway"
    assert list(fields) == ["Content-Type", "Content-Length", "Cache-Control", "Proxy-Status", "Date"]
    assert fields["Content-Type"] == "application/problem+json"
    assert fields["Content-Length"] == str(len(body))
    assert fields["Proxy-Status"] == 'sidecar; error=connection_refused; details="it is gone"'
    assert json.loads(body) == {
        "error": "DOWNSTREAM_FAILURE",
        "title": "The dependency failed",
        "status": 502,
        "detail": "it is gone",
        "dependency": "payments",
    }


def test_answer_without_a_dependency_names_none() -> None:
    assert "dependency" not in json.loads(
        _taken_apart(render(BadRequest("x"), None, None, close=True, head_only=False))[2]
    )


def test_answer_that_closes_says_so() -> None:
    assert _taken_apart(render(BadRequest("x"), None, None, close=True, head_only=False))[1]["Connection"] == "close"
    assert "Connection" not in _taken_apart(render(BadRequest("x"), None, None, close=False, head_only=False))[1]


def test_answer_to_head_is_the_same_head_without_the_body() -> None:
    refusal = UpstreamTimeout("x")
    whole = render(refusal, "payments", None, close=False, head_only=False)
    head = render(refusal, "payments", None, close=False, head_only=True)
    assert head.endswith(b"\r\n\r\n")
    assert _taken_apart(head)[1]["Content-Length"] == str(len(_taken_apart(whole)[2]))


@pytest.mark.parametrize(
    "kind", [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Refusal) and k is not Refusal]
)
def test_every_refusal_can_be_rendered(kind: type[Refusal]) -> None:
    line, fields, body = _taken_apart(render(kind("x"), None, None, close=False, head_only=False))
    assert line.startswith(f"HTTP/1.1 {kind.status} ")
    assert fields["Proxy-Status"] == f'sidecar; error={kind.proxy_error}; details="x"'
    assert json.loads(body)["error"] == kind.code


@given(st.text())
def test_any_detail_makes_a_valid_head_and_arrives_whole_in_the_body(detail: str) -> None:
    line, fields, body = _taken_apart(render(BadRequest(detail), "payments", None, close=False, head_only=False))
    assert line == "HTTP/1.1 400 Bad Request"
    assert len(fields) == 5
    assert _PROXY_STATUS.fullmatch(fields["Proxy-Status"])
    assert json.loads(body)["detail"] == detail
    assert fields["Content-Length"] == str(len(body))


@pytest.mark.parametrize(("close", "ends"), [(False, b"GMT\r\n\r\n"), (True, b"GMT\r\nConnection: close\r\n\r\n")])
def test_options_that_end_here_are_answered_empty(close: bool, ends: bytes) -> None:
    octets = render_options(close=close)
    assert octets.startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: ")
    assert octets.endswith(ends)


def test_date_is_made_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    dates = []
    for second in (784111777.2, 784111777.9, 784111778.0):
        monkeypatch.setattr(time, "time", lambda second=second: second)
        dates.append(date_line())
    monkeypatch.undo()
    assert dates[0] == b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT"
    assert dates[1] is dates[0]
    assert dates[2] == b"\r\nDate: Sun, 06 Nov 1994 08:49:38 GMT"


# -- a refusal that is given to many


def test_refusal_given_again_is_the_same_answer_where_it_can_be() -> None:
    refusal = CircuitOpen("x", 5.0)
    many = [render(refusal, "payments", None, close=False, head_only=False) for _ in range(3)]
    assert many[0] is many[1] is many[2]
    assert _taken_apart(render(refusal, "payments", None, close=True, head_only=False))[1]["Connection"] == "close"
    assert render(refusal, "payments", None, close=False, head_only=True).endswith(b"\r\n\r\n")
    assert render(refusal, "payments", make_fallback(200, {}, "y"), close=False, head_only=False).endswith(b"\r\n\r\ny")
    assert render(refusal, "payments", None, close=False, head_only=False) is many[0]


# -- when to come back


@pytest.mark.parametrize(
    ("wait_s", "seconds"),
    [(0.0, 1), (0.001, 1), (1.0, 1), (1.0001, 2), (29.3, 30), (30.0, 30), (3600.0, 3600)],
)
def test_retry_after_is_whole_seconds_and_none_too_few(wait_s: float, seconds: int) -> None:
    assert retry_after_seconds(wait_s) == seconds
    _, fields, body = _taken_apart(render(RateLimited("x", wait_s), "payments", None, close=False, head_only=False))
    assert fields["Retry-After"] == str(seconds)
    assert json.loads(body)["retry_after"] == round(wait_s, 3)


def test_refusal_without_a_time_names_none() -> None:
    _, fields, body = _taken_apart(render(ConcurrencyLimited("x"), "payments", None, close=False, head_only=False))
    assert "Retry-After" not in fields
    assert "retry_after" not in json.loads(body)


# -- fallback


def _fallback(refusal: Refusal, *arguments: object, close: bool = False, head_only: bool = False) -> bytes:
    fallback = make_fallback(*arguments)  # type: ignore[arg-type]
    return render(refusal, "payments", fallback, close=close, head_only=head_only)


def test_fallback_is_what_was_configured_and_says_what_it_stands_in_for() -> None:
    octets = _fallback(CircuitOpen("it is open", 5.0), 200, {"Content-Type": "text/x-y", "X-Old": "1"}, "grüß")
    line, fields, body = _taken_apart(octets)
    assert line == "HTTP/1.1 200 OK"
    assert list(fields) == ["Content-Type", "X-Old", "Content-Length", "Proxy-Status", "Date"]
    assert fields["Proxy-Status"] == 'sidecar; error=destination_unavailable; details="it is open"; fallback'
    assert body == "grüß".encode()
    assert fields["Content-Length"] == str(len(body))


def test_fallback_to_head_is_its_head() -> None:
    whole = _fallback(CircuitOpen("x"), 200, {}, "body")
    head = _fallback(CircuitOpen("x"), 200, {}, "body", head_only=True)
    assert head == whole.removesuffix(b"body")


def test_fallback_that_closes_says_so() -> None:
    assert _taken_apart(_fallback(UpstreamFailure("x"), 200, {}, "", close=True))[1]["Connection"] == "close"


@pytest.mark.parametrize(
    ("status", "line", "length"),
    [
        (204, "HTTP/1.1 204 No Content", None),
        (304, "HTTP/1.1 304 Not Modified", None),
        (205, "HTTP/1.1 205 Reset Content", "0"),
        (299, "HTTP/1.1 299 ", "0"),
        (503, "HTTP/1.1 503 Service Unavailable", "0"),
    ],
)
def test_fallback_has_a_length_where_it_can_have_a_body(status: int, line: str, length: str | None) -> None:
    started, fields, body = _taken_apart(_fallback(CircuitOpen("x"), status, {}, ""))
    assert (started, fields.get("Content-Length"), body) == (line, length, b"")
    assert "Content-Type" not in fields


@pytest.mark.parametrize("status", [204, 304])
def test_fallback_that_can_have_no_body_drops_it(status: int) -> None:
    assert _fallback(CircuitOpen("x"), status, {}, "body").endswith(b"\r\n\r\n")
