"""The text of a line: whatever goes in, one line of ASCII JSON comes out, and it is not too long."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.telemetry.lines import MAX_LINE, line_of, plain, timestamp

HEAD = {"ts": "2001-09-09T01:46:40.000Z", "level": "info", "logger": "sidecar", "msg": "so"}


def parsed(line: bytes) -> dict[str, Any]:
    """What a line says, if it is one."""
    assert line.endswith(b"\n")
    assert all(32 <= octet < 127 for octet in line[:-1])
    assert len(line) <= MAX_LINE

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    document = json.loads(line, parse_constant=no_constant)
    json.dumps(document, ensure_ascii=False).encode()  # raises at half of a surrogate pair
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.123, "2023-11-14T22:13:20.123Z"),
        (1_700_000_000.9994, "2023-11-14T22:13:20.999Z"),
        (1_700_000_000.9996, "2023-11-14T22:13:21.000Z"),
        (1_709_164_799.0, "2024-02-28T23:59:59.000Z"),
        (1_709_164_800.0, "2024-02-29T00:00:00.000Z"),
        (1_700_000_000.001, "2023-11-14T22:13:20.001Z"),
    ],
)
def test_timestamp_is_rfc_3339_in_utc_with_milliseconds(now: float, text: str) -> None:
    assert timestamp(now) == text


def test_short_document_is_written_as_it_is() -> None:
    assert line_of(HEAD | {"n": 1, "none": None, "list": [1, "ä"]}) == (
        b'{"ts":"2001-09-09T01:46:40.000Z","level":"info","logger":"sidecar","msg":"so",'
        b'"n":1,"none":null,"list":[1,"\\u00e4"]}\n'
    )


@given(st.dictionaries(st.text(), st.text()))
@example({"a\nb": "\x00\x1b[31m\x7f\x85\u2028\r\n"})
@example({"half": "\ud800", "other half\udc00": "x", "both": "\ud83d\ude00", "whole": "😀", "text": "\\ud800"})
def test_any_text_gives_one_line_of_ascii(fields: dict[str, str]) -> None:
    document = parsed(line_of(HEAD | fields))
    if not any("?" in key for key in document):  # no two names have become the same
        assert {key: document[key] for key in fields} == {
            key: value.encode("utf-8", "replace").decode() for key, value in fields.items()
        }


@pytest.mark.parametrize("character", ["x", "\n", "ä", "😀", '"', "\\"])
@pytest.mark.parametrize("key", ["msg", "exception"])
def test_long_text_loses_its_middle(key: str, character: str) -> None:
    document = parsed(line_of(HEAD | {key: "begin" + character * 100_000 + "end"}))

    assert document["truncated"] is True
    assert document[key].startswith("begin")
    assert " [...] " in document[key]
    assert document[key].endswith("end")
    assert len(json.dumps(document)) > MAX_LINE / 8, "no more is taken away than needs to be"


def test_line_of_the_greatest_length_is_whole_and_one_octet_more_is_not() -> None:
    room = MAX_LINE - len(line_of(HEAD | {"x": ""}))

    assert "truncated" not in parsed(line_of(HEAD | {"x": "y" * room}))
    assert len(line_of(HEAD | {"x": "y" * room})) == MAX_LINE
    assert parsed(line_of(HEAD | {"x": "y" * (room + 1)}))["truncated"] is True


def test_short_values_stay_beside_long_ones() -> None:
    document = parsed(line_of(HEAD | {"long": "y" * 50_000, "list": list(range(20_000)), "n": 7}))

    assert document["n"] == 7
    assert document["msg"] == "so"
    assert document["list"].startswith("[0,1,2,")


@pytest.mark.parametrize(
    "fields", [{str(n): n for n in range(5000)}, {"k" * 50_000: 1}, {"k" * 50_000: "y" * 50_000}], ids=repr
)
def test_too_many_or_too_long_names_leave_the_head(fields: dict[str, Any]) -> None:
    assert parsed(line_of(HEAD | fields)) == HEAD | {"truncated": True}


def test_what_is_json_stays_and_what_is_not_becomes_text() -> None:
    loop: list[object] = []
    loop.append(loop)

    assert [plain(value) for value in (None, True, 1, 1.5, "x", [1], {"a": 1})] == [
        None,
        True,
        1,
        1.5,
        "x",
        [1],
        {"a": 1},
    ]
    assert [plain(value) for value in (math.nan, math.inf, Path("/x"), {1}, loop)] == [
        "nan",
        "inf",
        "/x",
        "{1}",
        "[[...]]",
    ]
    assert plain({"a": math.nan}) == "{'a': nan}"
    assert plain({(1, 2): 3}) == "{(1, 2): 3}"
