"""Rates, windows, statuses, methods and header fields."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config import Window
from sidecar.config.mistake import Mistake
from sidecar.config.terms import (
    parse_field_name,
    parse_field_value,
    parse_method,
    parse_rate,
    parse_status,
    parse_text,
    parse_window,
)


@pytest.mark.parametrize(
    ("text", "per_second"),
    [
        ("100/second", 100.0),
        ("1 per second", 1.0),
        ("30/minute", 0.5),
        ("10 per 2 seconds", 5.0),
        ("10/2seconds", 5.0),
        ("3600/hour", 1.0),
        ("86400/day", 1.0),
        ("100/SECOND", 100.0),
        (" 5 / minute ", 5 / 60),
        ("1/month", 1 / (30 * 86400)),
        ("1/year", 1 / (360 * 86400)),
        ("1000000000/second", 1e9),
    ],
)
def test_rate_is_read_as_tokens_a_second(text: str, per_second: float) -> None:
    assert parse_rate(text) == per_second


# limits itself takes several, and reads 0 seconds as 1.
@pytest.mark.parametrize(
    "value",
    [
        *("", "5", "100/s", "0.5/second", "-1/second", "5/fortnight", "\u0665/second"),
        *("1/second;2/minute", "1/second, 2/minute", "5/0 seconds"),
        *("1" * 5000 + "/second", "5/" + "9" * 5000 + " years"),
        *(5, True, None, ["1/second"]),
    ],
)
def test_rate_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(Mistake, match=r"^must be a rate such as 100/second, 30/minute or 10 per 2 seconds$"):
        parse_rate(value)


@pytest.mark.parametrize("value", ["0/second", "1000000001/second"])
def test_rate_that_lets_nothing_through_or_too_much_is_refused(value: str) -> None:
    with pytest.raises(Mistake, match=r"^must let through 1 to 1000000000 in its time$"):
        parse_rate(value)


def test_grammar_of_rates_is_loaded_for_files_with_a_rate_alone() -> None:
    code = (
        "import sys\nfrom sidecar.config import load_text\n"
        "text = 'dependencies: {a: {upstream: http://a, rate_limit: {rate: %s}}}'\n"
        "load_text(text % 'null'), print('limits' in sys.modules)\n"
        "load_text(text % '1/second'), print('limits' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("10s", Window(10.0, None)),
        ("1ms", Window(0.001, None)),
        ("24h", Window(86400.0, None)),
        ("100 calls", Window(None, 100)),
        ("1 call", Window(None, 1)),
        ("100000 calls", Window(None, 100_000)),
    ],
)
def test_window_is_a_time_or_a_number_of_calls(text: str, window: Window) -> None:
    assert parse_window(text) == window


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (10, "must be a time such as 10s or a number of calls such as 100 calls"),
        ("10", "must be a time such as 10s or a number of calls such as 100 calls"),
        ("0 calls", "must be a time such as 10s or a number of calls such as 100 calls"),
        ("100  calls", "must be a time such as 10s or a number of calls such as 100 calls"),
        (None, "must be a time such as 10s or a number of calls such as 100 calls"),
        ("100001 calls", "must be at most 100000 calls"),
        ("0s", "must be from 1ms to 24h"),
        ("25h", "must be from 1ms to 24h"),
    ],
)
def test_window_of_another_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(Mistake) as caught:
        parse_window(value)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["10s", "1500ms", "2m", "100 calls"])
def test_window_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_window(text)) == text


@pytest.mark.parametrize(
    ("value", "status"), [(100, 100), (599, 599), ("503", 503), ("5xx", "5xx"), ("4XX", "4xx"), ("1xx", "1xx")]
)
def test_status_is_a_code_or_a_class(value: object, status: int | str) -> None:
    assert parse_status(value) == status


@pytest.mark.parametrize("value", [99, 600, 0, -500, 5.0, "6xx", "5x", "5xxx", "50x", "", "\u0665xx", True, None, []])
def test_status_of_another_form_is_refused(value: object) -> None:
    message = r"^must be a status code from 100 to 599, such as 503, or a class of them, such as 5xx$"
    with pytest.raises(Mistake, match=message):
        parse_status(value)


@pytest.mark.parametrize("value", ["GET", "M-SEARCH", "PROPFIND"])
def test_method_is_in_capitals(value: str) -> None:
    assert parse_method(value) == value


@pytest.mark.parametrize("value", ["", "get", "Get", "GE T", "-GET", "G" * 33, 5, None, True, ["GET"]])
def test_method_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(Mistake, match=r"^must be a method in capitals, such as GET$"):
        parse_method(value)


@pytest.mark.parametrize("name", ["Content-Type", "x_y", "X-1", "!#$%&'*+.^_`|~"])
def test_field_name_is_a_token(name: str) -> None:
    assert parse_field_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "a:", "ä", "a\n", "[a]", "x" * 65])
def test_field_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(Mistake, match=r"^must be the name of a header field, such as Content-Type$"):
        parse_field_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "Content-Length",
        "transfer-encoding",
        "CONNECTION",
        "Keep-Alive",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "Upgrade",
        "Date",
        "Proxy-Status",
    ],
)
def test_field_that_the_sidecar_writes_is_refused(name: str) -> None:
    with pytest.raises(Mistake, match=r"^is a field that the sidecar writes itself$"):
        parse_field_name(name)


@pytest.mark.parametrize(("value", "text"), [("", ""), ("a", "a"), ("a b; c", "a b; c"), (5, "5"), ("x" * 2048,) * 2])
def test_field_value_is_one_line(value: object, text: str) -> None:
    assert parse_field_value(value) == text


@pytest.mark.parametrize("value", ["a\nb", "a\r\nX: 1", "\0", "a\tb", "\x7f", "é", " a", "a ", " ", "a\n", "x" * 2049])
def test_field_value_that_is_more_than_a_line_is_refused(value: str) -> None:
    message = r"^must be one line of at most 2048 printable ASCII characters, without a space at either end$"
    with pytest.raises(Mistake, match=message):
        parse_field_value(value)


@given(st.text())
def test_field_value_never_ends_its_line(text: str) -> None:
    try:
        assert parse_field_value(text).isprintable()
    except Mistake:
        assert not text.isascii() or not text.isprintable() or text != text.strip()


@pytest.mark.parametrize(("value", "text"), [("", ""), ("a\n", "a\n"), (7, "7"), ("é" * (1 << 15),) * 2])
def test_text_is_kept(value: object, text: str) -> None:
    assert parse_text(value) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "must be text; put it in quotes"),
        (1.5, "must be text; put it in quotes"),
        (None, "must be text; put it in quotes"),
        ({}, "must be text; put it in quotes"),
        ("\udc80", "must be text that UTF-8 can hold"),
        ("é" * (1 << 15) + "x", "must be at most 64KiB of text, found 65537B"),
    ],
)
def test_text_of_another_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(Mistake) as caught:
        parse_text(value)
    assert str(caught.value) == message
