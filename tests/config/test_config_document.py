"""YAML as this project reads it: types, places, anchors, and bounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from sidecar.config import document
from sidecar.config.report import Report
from sidecar.errors import ConfigError

Lines = Callable[..., list[str]]


def read(text: str, **environ: str) -> Any:
    report = Report("f")
    node = document.read(text, environ, report)
    report.close()
    return None if node is None else document.plain(node)


def mistakes(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, **environ)
    return [line.removeprefix("f:") for line in str(caught.value).split("\n")]


@pytest.fixture(params=["libyaml", "python"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML with and without libyaml."""
    if request.param == "python":
        monkeypatch.setattr(document, "_LOADER", yaml.SafeLoader)


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("True", "True"),
        ("NULL", "NULL"),
        ("0", 0),
        ("-7", -7),
        ("1.5", 1.5),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("+1", "+1"),
        ("1e3", "1e3"),
        (".inf", ".inf"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("9" * 30, "9" * 30),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("", None),
        ("# nothing", None),
        ("[1, a]", [1, "a"]),
        ("a: {b: c}", {"a": {"b": "c"}}),
        ("80: x\non: y\n~: z", {"80": "x", "on": "y", "~": "z"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        ("a: &x {b: 1}\nd: {c: 3, <<: [*x, {b: 2, e: 4}]}", {"a": {"b": 1}, "d": {"b": 1, "c": 3, "e": 4}}),
        ("{'<<': 1}", {"<<": 1}),
    ],
)
def test_values_have_the_types_of_the_core_schema(text: str, value: object) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: 1\nb: 2\na: 3", ["3:1: a: duplicate key, first given on line 1"]),
        (
            "a: {b: 1, b: 2}\na: 3",
            [
                "1:11: a.b: duplicate key, first given on line 1",
                "2:1: a: duplicate key, first given on line 1",
            ],
        ),
        ("a: !x 1", ["1:4: a: must be written without a tag, found '!x'"]),
        ("a: !!int 1", ["1:4: a: must be written without a tag, found 'tag:yaml.org,2002:int'"]),
        (
            "a: !!set {b}\nc: !l []",
            [
                "1:4: a: must be written without a tag, found 'tag:yaml.org,2002:set'",
                "2:4: c: must be written without a tag, found '!l'",
            ],
        ),
        ("a: *x", ["1:4: has the alias *x, but no finished value before it is &x"]),
        ("a: &x [*x]", ["1:8: has the alias *x, but no finished value before it is &x"]),
        ("[a]: b", ["1:1: must have plain words as keys"]),
        ("a: {<<: 1}", ["1:9: a.'<<': must be a mapping, or a list of mappings, to merge"]),
        ("a: {<<: [{}, 1]}", ["1:9: a.'<<': must be a mapping, or a list of mappings, to merge"]),
        ("a: 1\n---\nb: 1", ["2:1: must be one YAML document; a second one begins here"]),
        ("a: 1\nb: \x07", ["2:4: is not valid YAML: character U+0007 is not allowed"]),
        ("a: \ud800", ["1:4: is not valid YAML: character U+D800 is not allowed"]),
        ("a: b: c", ["1:5: is not valid YAML: mapping values are not allowed here"]),
        ("a: 1\na: 2\nb: [", ["2:1: a: duplicate key, first given on line 1", "4:1: is not valid YAML: "]),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(text: str, lines: list[str]) -> None:
    found = mistakes(text)
    assert len(found) == len(lines)
    for line, expected in zip(found, lines, strict=True):
        # The two parsers have their own words, and places, for a syntax error.
        if "not valid YAML" in expected and "U+" not in expected:
            assert "is not valid YAML: " in line
        else:
            assert line == expected


def test_text_that_the_parser_cannot_decode_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object, **__: object) -> object:
        raise UnicodeDecodeError("utf-8", b"", 0, 1, "invalid")

    monkeypatch.setattr(yaml, "parse", parse)
    assert mistakes("a: 1") == [" is not valid YAML: cannot be decoded"]


def test_syntax_error_without_a_place_is_still_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object, **__: object) -> object:
        raise yaml.MarkedYAMLError(context="while reading")

    monkeypatch.setattr(yaml, "parse", parse)
    assert mistakes("a: 1") == [" is not valid YAML: while reading"]


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("nest", ["[", "{a: ", "- ", "a: [", "? "])
def test_deep_nesting_ends_before_the_stack_does(nest: str) -> None:
    [line] = mistakes(nest * 50_000)
    assert "nested deeper than 32 levels" in line or "plain words as keys" in line or "not valid YAML" in line


def test_aliases_cannot_nest_deeper_than_what_is_written() -> None:
    layers = "\n".join(f"a{n}: &a{n} [[[[[[[[*a{n - 1}]]]]]]]]" for n in range(1, 6))
    [line] = mistakes(f"a0: &a0 x\n{layers}")
    assert line == "5:17: is nested deeper than 32 levels, aliases written out"


def test_aliases_cannot_expand_without_bound() -> None:
    layers = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))
    [line] = mistakes(f"a0: &a0 [x]\n{layers}")
    assert line.endswith("holds more than 50000 values, aliases written out")


def test_merge_keys_count_like_aliases() -> None:
    many = ", ".join(f"k{n}: 1" for n in range(1000))
    merges = "\n".join(f"m{n}: {{<<: *a}}" for n in range(60))
    [line] = mistakes(f"a: &a {{{many}}}\n{merges}")
    assert line.endswith("holds more than 50000 values, aliases written out")


def test_a_file_of_many_values_is_refused_while_it_is_read() -> None:
    began = time.perf_counter()
    [line] = mistakes("[" + "1," * 500_000 + "]")
    assert line.endswith("holds more than 50000 values, aliases written out")
    assert time.perf_counter() - began < 5


def test_a_long_report_is_cut() -> None:
    lines = mistakes("\n".join(["a: 1"] * 151))
    assert len(lines) == 101
    assert lines[-1] == " has 50 more mistakes, not shown"
