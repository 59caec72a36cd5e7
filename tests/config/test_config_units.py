"""Durations, sizes and ratios."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.mistake import Mistake
from sidecar.config.units import format_duration, format_size, parse_duration, parse_ratio, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("0s", 0.0),
        ("0.5ms", 0.0005),
    ],
)
def test_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value", ["", "s", "5", "-1s", "5 s", "5S", "1e3s", ".5s", "5.s", "\u0665s", "1m30s", True, None, [5]]
)
def test_duration_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(Mistake, match=r"^must be a duration such as 250ms, 5s, 2m or 1h$"):
        parse_duration(value)


@pytest.mark.parametrize("value", [5, 0, 1.5])
def test_duration_without_a_unit_is_told_which_there_are(value: object) -> None:
    with pytest.raises(Mistake, match=r"^must have a unit \(ms, s, m or h\), as in 250ms or 5s$"):
        parse_duration(value)


@given(st.integers(min_value=0, max_value=24 * 3600 * 1000))
def test_duration_survives_being_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (86400.0, "24h"),
        (90.0, "90s"),
        (120.0, "2m"),
        (1.5, "1500ms"),
        (0.001, "1ms"),
        (0.0005, "0.5ms"),
        (0.0, "0ms"),
    ],
)
def test_duration_is_written_with_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("512B", 512),
        ("64KiB", 65536),
        ("10MB", 10**7),
        ("1GiB", 1 << 30),
        ("3kB", 3000),
        ("3KB", 3000),
        (7, 7),
        ("0B", 0),
    ],
)
def test_size_is_read_as_bytes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "64", "64K", "64Ki", "64kib", "1.5MiB", "-1B", "1 MiB", 1.5, True, None, []])
def test_size_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(Mistake, match=r"^must be a size such as 512B, 64KiB or 10MB, or a whole number of bytes$"):
        parse_size(value)


@given(st.integers(min_value=0, max_value=1 << 39) | st.sampled_from([10**n for n in range(12)]))
def test_size_survives_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(("size", "text"), [(65536, "64KiB"), (10**7, "10MB"), (1000, "1kB"), (7, "7B"), (0, "0B")])
def test_size_is_written_with_its_largest_whole_unit(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "ratio"),
    [("0%", 0.0), ("1%", 0.01), ("12.5%", 0.125), ("50%", 0.5), ("100%", 1.0), ("250%", 2.5), ("0.001%", 0.00001)],
)
def test_ratio_is_read_as_a_part_of_one(text: str, ratio: float) -> None:
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize(
    "value", ["", "%", "50", "50 %", "-1%", ".5%", "5.%", "1e1%", "\u0665%", 0.5, 50, True, None, []]
)
def test_ratio_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(Mistake, match=r"^must be a percentage such as 50% or 12\.5%$"):
        parse_ratio(value)
