"""A response that is kept back: how long it may be, and when it asks to be asked again."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime, formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.proxy.framing import ResponseHead
from sidecar.proxy.held import HELD_LIMIT, HeldResponse

NOW = 1_700_000_000.0


def held(*fields: str | bytes, body: bytes = b"", content_length: int | None = None) -> HeldResponse:
    head = ResponseHead()
    head.status = 503
    lines = (field.encode("latin-1") if isinstance(field, str) else field for field in fields)
    head.block = b"".join(b"\r\n" + line for line in lines)
    head.content_length = content_length
    return HeldResponse(head, body, False)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ([], None),
        (["Server: x"], None),
        (["Retry-After: 7"], 7.0),
        (["Server: x", "retry-after:0", "Date: y"], 0.0),
        (["RETRY-AFTER:  \t 12 \t"], 12.0),
        (["Retry-After: 99999999999999999999"], 999_999_999.0),
        (["X-Retry-After: 7"], None),
        (["Retry-After: 7", "Retry-After: 9"], 7.0),
    ],
)
def test_retry_after_in_seconds(fields: list[str], seconds: float | None) -> None:
    assert held(*fields).retry_after_s == seconds


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW - 30, usegmt=True), 0.0),
        (format_datetime(datetime.fromtimestamp(NOW + 60, timezone(timedelta(hours=2)))), 60.0),
        (datetime.fromtimestamp(NOW + 90, UTC).strftime("%A, %d-%b-%y %H:%M:%S GMT"), 90.0),
        (datetime.fromtimestamp(NOW + 120, UTC).strftime("%a %b %e %H:%M:%S %Y"), 120.0),
    ],
    ids=["http date", "past", "with a zone", "rfc 850", "asctime"],
)
def test_retry_after_as_a_date(wall: None, date: str, seconds: float) -> None:
    assert held(f"Retry-After: {date}").retry_after_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "soon", "-1", "1.5", "7, 9", "Fri, 99 Foo 2023", "٣", "Tue, 14 Nov 99999 22:13:20 GMT", ","]
)
def test_retry_after_that_cannot_be_read_is_none(value: str) -> None:
    assert held(b"Retry-After: " + value.encode()).retry_after_s is None


DATE_PARTS = st.sampled_from(
    [
        "Tue,",
        "14",
        "Nov",
        "2023",
        "22:13:20",
        "GMT",
        "-0000",
        "+9999",
        "-2359",
        "0001",
        "99:99:99",
        "31",
        "Feb",
        ",",
        "1-1-1",
    ]
)


@given(st.one_of(st.binary(max_size=60), st.lists(DATE_PARTS, max_size=8).map(lambda parts: " ".join(parts).encode())))
@example(b"Mon, 01 Jan 0001 00:00:00 -0000")
@example(b"Mon, 01 Jan 0001 00:00:00 +2359")
@example(b"Fri, 31 Dec 9999 23:59:59 -2359")
def test_no_retry_after_raises_or_is_negative(value: bytes) -> None:
    seconds = held(b"Retry-After: " + value.replace(b"\r", b"").replace(b"\n", b"")).retry_after_s
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("body", "content_length", "too_large"),
    [
        (0, None, False),
        (HELD_LIMIT, None, False),
        (HELD_LIMIT + 1, None, True),
        (0, HELD_LIMIT, False),
        (0, HELD_LIMIT + 1, True),
    ],
)
def test_what_is_longer_or_will_be_is_not_kept(body: int, content_length: int | None, too_large: bool) -> None:
    assert held(body=b"x" * body, content_length=content_length).too_large == too_large


def test_response_without_a_body_is_kept_whatever_length_it_announces() -> None:
    response = held(content_length=HELD_LIMIT + 1)
    response.bodiless = True
    assert not response.too_large


def test_it_becomes_too_large_as_it_grows() -> None:
    response = held(body=b"x" * HELD_LIMIT)
    response.body += b"x"
    assert response.too_large
