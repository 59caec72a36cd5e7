"""The text of a log line: one object of JSON in ASCII, ended by its only newline, never longer than `MAX_LINE`.

Whatever goes in, no control character comes out, so a line can neither be forged nor confuse a terminal.
"""

from __future__ import annotations

import json
import time
from typing import Final

MAX_LINE: Final = 16 * 1024
"""Octets of one line at most, its newline included; container runtimes cut longer ones in pieces."""

HEAD: Final = ("ts", "level", "logger", "msg")
"""What every record has, in this order."""

RESERVED: Final = frozenset({*HEAD, "exception", "truncated"})
"""What a line says of itself, so that nothing else may be called so."""

_LEAST_ROOM: Final = 64
_GAP: Final = " [...] "

# Infinity and NaN are no JSON.
_dumps: Final = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode

_second = (-1, "")


def timestamp(now: float) -> str:
    """RFC 3339 in UTC with milliseconds; all but those is made once a second."""
    global _second
    whole, milliseconds = divmod(round(now * 1000), 1000)
    second, text = _second  # one tuple, since several threads come here
    if second != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _second = (whole, text)
    return f"{text}.{milliseconds:03d}Z"


def line_of(document: dict[str, object]) -> bytes:
    """One line of ASCII, at most `MAX_LINE` octets: what is too long for that loses its middle."""
    line = _encode(document)
    room = MAX_LINE
    while len(line) > MAX_LINE and room > _LEAST_ROOM:
        room //= 2
        line = _encode({key: _cut(value, room) for key, value in document.items()} | {"truncated": True})
    if len(line) > MAX_LINE:  # too many items, or too long names
        line = _encode({key: _cut(document[key], room) for key in HEAD if key in document} | {"truncated": True})
    return line


def _encode(document: dict[str, object]) -> bytes:
    text = _dumps(document)
    if "\\ud" in text:  # perhaps half of a surrogate pair, which JSON allows and strict readers refuse
        unescaped = json.dumps(document, ensure_ascii=False, allow_nan=False)
        text = _dumps(json.loads(unescaped.encode("utf-8", "replace")))
    return text.encode("ascii") + b"\n"


def _cut(value: object, room: int) -> object:
    """`value` where its JSON has at most `room` octets, else the beginning and the end of its text."""
    if len(_dumps(value)) <= room:
        return value
    text = value if isinstance(value, str) else _dumps(value)
    keep, cut = len(text), text
    while (size := len(_dumps(cut))) > room:
        keep = keep * room // size
        cut = text[: keep // 2] + _GAP + text[len(text) - keep // 2 :]
    return cut


def plain(value: object) -> object:
    """`value` where JSON can carry it, else its text."""
    if value is None or isinstance(value, bool | str):
        return value
    try:
        _dumps(value)
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return value
