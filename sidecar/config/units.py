"""Durations, sizes and ratios: from the text in a file to seconds, bytes and parts of 1, and the first two back."""

from __future__ import annotations

import re

from sidecar.config.mistake import Mistake

# Kept to nine digits: no limit here is longer than a day, and arithmetic stays exact.
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_SIZE = re.compile(r"([0-9]{1,12})(B|kB|KB|MB|GB|KiB|MiB|GiB)")
_RATIO = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)%")

DURATION_PATTERN = f"^{_DURATION.pattern}$"
SIZE_PATTERN = f"^{_SIZE.pattern}$"
RATIO_PATTERN = f"^{_RATIO.pattern}$"

_SECONDS = {"h": 3600, "m": 60, "s": 1}
# Largest first: formatting takes the first that divides.
_BYTES = {"GiB": 1 << 30, "GB": 10**9, "MiB": 1 << 20, "MB": 10**6, "KiB": 1 << 10, "kB": 10**3, "B": 1}


def parse_duration(value: object) -> float:
    """Seconds of a text such as `250ms`, `1.5s`, `2m` or `1h`. Raises `Mistake` for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise Mistake("must have a unit (ms, s, m or h), as in 250ms or 5s")
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Mistake("must be a duration such as 250ms, 5s, 2m or 1h")
    number, unit = float(match[1]), match[2]
    # Divided, not multiplied by 0.001, so that 250ms is 0.25 and not its neighbour.
    return number / 1000 if unit == "ms" else number * _SECONDS[unit]


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads as `seconds`, exact to a nanosecond."""
    for unit, length in _SECONDS.items():
        if seconds >= length and seconds % length == 0:
            return f"{int(seconds // length)}{unit}"
    return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"


def parse_size(value: object) -> int:
    """Bytes of a text such as `64KiB`, `10MB` or `512B`, or of a whole number. Raises `Mistake` for anything
    else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Mistake("must be a size such as 512B, 64KiB or 10MB, or a whole number of bytes")
    unit = "kB" if match[2] == "KB" else match[2]
    return int(match[1]) * _BYTES[unit]


def format_size(size: int) -> str:
    """The text with the largest unit that `parse_size` reads as `size` bytes."""
    unit = next((unit for unit, length in _BYTES.items() if size >= length and size % length == 0), "B")
    return f"{size // _BYTES[unit]}{unit}"


def parse_ratio(value: object) -> float:
    """The part of 1 of a text such as `50%` or `12.5%`. Raises `Mistake` for anything else."""
    match = _RATIO.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Mistake("must be a percentage such as 50% or 12.5%")
    return float(match[1]) / 100
