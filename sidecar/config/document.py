"""YAML to a tree of values that know where they stand.

Built from the parser's events rather than by PyYAML's composer and constructor, which take duplicate keys,
read `on` and `off` as booleans, and recurse as deep as a file makes them. Types are those of YAML's core
schema, less what configuration has no use for: null, true and false, decimal numbers, text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from collections.abc import Mapping as Environment
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from sidecar.config import environment
from sidecar.config.mistake import Mistake
from sidecar.config.report import Path, Place, Report, shown

# The deepest key of the schema is at depth 7. The values are counted with every alias written out.
MAX_DEPTH = 32
MAX_VALUES = 50_000

# libyaml's parser, where PyYAML was built with it, is about ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Not compiled before it is needed: its ranges take 15 ms.
_UNPRINTABLE = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,18}")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}
_STRING_TAG = "tag:yaml.org,2002:str"


@dataclass(slots=True)
class Scalar:
    """A single value. `written` is its text in the file where environment variables were filled in: what they
    hold may be secret, so a report shows that instead."""

    place: Place
    value: bool | int | float | str | None
    written: str | None = None
    size: int = 1
    height: int = 0


@dataclass(slots=True)
class Sequence:
    """A list."""

    place: Place
    items: list[Node]
    size: int = 1
    height: int = 1


@dataclass(slots=True)
class Mapping:
    """A mapping, with the place of each key. Never changed once built, since aliases share it."""

    place: Place
    entries: dict[str, tuple[Place, Node]]
    size: int = 1
    height: int = 1


Node: TypeAlias = Scalar | Sequence | Mapping


def read(text: str, environ: Environment[str, str], report: Report) -> Node | None:
    """The one document in `text`, or None if there is nothing in it. Variables are filled in from `environ`.

    Mistakes that leave the rest readable go to `report`; the others raise `ConfigError`.
    """
    try:
        return _Builder(yaml.parse(text, Loader=_LOADER), environ, report).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        report.fail(_place(mark) if mark else None, f"is not valid YAML: {error.problem or error.context}")
    except (yaml.YAMLError, UnicodeError):
        # The parser's reader, which counts in bytes; what it refuses is found again here.
        bad = re.search(_UNPRINTABLE, text)
        if bad is None:
            report.fail(None, "is not valid YAML: cannot be decoded")
        before = text[: bad.start()]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        report.fail(place, f"is not valid YAML: character U+{ord(bad[0]):04X} is not allowed")


def plain(node: Node) -> Any:
    """The values of a tree, without their places."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {key: plain(value) for key, (_, value) in node.entries.items()}


class _Builder:
    def __init__(self, events: Iterator[Any], environ: Environment[str, str], report: Report) -> None:
        self._events = events
        self._environ = environ
        self._report = report
        self._anchors: dict[str, Node] = {}
        self._count = 0

    def document(self) -> Node | None:
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        node = self._node(next(self._events), ())
        next(self._events)  # the end of the document
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._report.fail(_place(after.start_mark), "must be one YAML document; a second one begins here")
        return node

    def _node(self, event: Any, path: Path) -> Node:
        """The node that begins with `event`. Depth and size are checked on the way, before the memory is
        spent."""
        place = _place(event.start_mark)
        if len(path) > MAX_DEPTH:
            self._report.fail(place, f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(event, place, path)
        elif isinstance(event, yaml.ScalarEvent):
            self._check_tag(event, place, path, _STRING_TAG)
            node = self._scalar(event, place, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, place, path)
            node = self._sequence(place, path)
        else:
            self._check_tag(event, place, path)
            node = self._mapping(place, path)
        if event.anchor and not isinstance(event, yaml.AliasEvent):
            self._anchors[event.anchor] = node
        return node

    def _counted(self, place: Place, size: int = 1) -> None:
        self._count += size
        if self._count > MAX_VALUES:
            self._report.fail(place, f"holds more than {MAX_VALUES} values, aliases written out")

    def _check_tag(self, event: Any, place: Place, path: Path, allowed: str | None = None) -> None:
        if event.tag not in (None, allowed):
            self._report.error(place, path, f"must be written without a tag, found {shown(event.tag)}")

    def _alias(self, event: Any, place: Place, path: Path) -> Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            self._report.fail(
                place, f"has the alias *{event.anchor}, but no finished value before it is &{event.anchor}"
            )
        if len(path) + node.height > MAX_DEPTH:
            self._report.fail(place, f"is nested deeper than {MAX_DEPTH} levels, aliases written out")
        self._counted(place, node.size)
        return node

    def _scalar(self, event: Any, place: Place, path: Path) -> Scalar:
        self._counted(place)
        text: str = event.value
        if not environment.refers(text):
            return Scalar(place, _typed(text) if event.implicit[0] else text)
        try:
            # Typed even in quotes, which are habit around a variable and say nothing about what it holds.
            return Scalar(place, _typed(environment.substitute(text, self._environ)), written=text)
        except Mistake as mistake:
            self._report.error(place, path, str(mistake))
            return Scalar(place, None, written=text)

    def _sequence(self, place: Place, path: Path) -> Sequence:
        self._counted(place)
        sequence = Sequence(place, [])
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item = self._node(event, (*path, len(sequence.items)))
            sequence.items.append(item)
            _grow(sequence, item)
        return sequence

    def _mapping(self, place: Place, path: Path) -> Mapping:
        self._counted(place)
        mapping = Mapping(place, {})
        merged: list[Mapping] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key_place = _place(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent):
                self._report.fail(key_place, "must have plain words as keys")
            key, value_path = event.value, (*path, event.value)
            value = self._node(next(self._events), value_path)
            _grow(mapping, value)
            if key == "<<" and event.implicit[0]:
                merged += self._merged(value, value_path)
            elif key in mapping.entries:
                first = mapping.entries[key][0].line
                self._report.error(key_place, value_path, f"duplicate key, first given on line {first}")
            else:
                mapping.entries[key] = (key_place, value)
        for source in merged:
            for key, entry in source.entries.items():
                mapping.entries.setdefault(key, entry)
        return mapping

    def _merged(self, value: Node, path: Path) -> list[Mapping]:
        """The mappings under a merge key, the strongest first."""
        values = value.items if isinstance(value, Sequence) else [value]
        mappings = [each for each in values if isinstance(each, Mapping)]
        if len(mappings) < len(values):
            self._report.error(value.place, path, "must be a mapping, or a list of mappings, to merge")
        return mappings


def _grow(parent: Sequence | Mapping, child: Node) -> None:
    parent.size += child.size
    parent.height = max(parent.height, child.height + 1)


def _typed(text: str) -> bool | int | float | str | None:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)
