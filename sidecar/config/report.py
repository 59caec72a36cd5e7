"""The mistakes and warnings found in one file, in the order of the file and one at each place."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import NamedTuple, NoReturn

from sidecar.errors import ConfigError, Problem

# Enough to work on; a file with more has one mistake made by a machine many times.
_MOST_SHOWN = 100
_LONGEST_SHOWN = 60

Path = tuple[str | int, ...]


class Place(NamedTuple):
    """Where something stands in the file, counted from 1."""

    line: int
    column: int


class Report:
    """Collects what is wrong with the file called `name`.

    Several mistakes at one place are one mistake and its echoes (a bad default, seen again in every
    dependency that it is merged into), so only the first is kept."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._errors: dict[Place, Problem] = {}
        self._warnings: dict[tuple[Place, str], Problem] = {}
        self.paths: set[Path] = set()

    def error(self, place: Place, path: Path, message: str) -> None:
        """Note that `message` ("must be at least 1") holds for the value at `path`."""
        self.paths.add(path)
        if place not in self._errors:
            self._errors[place] = Problem(self._name, *place, dotted(path), message)

    def warning(self, place: Place, path: Path, message: str) -> None:
        """Note something that works but can hardly be meant."""
        self._warnings.setdefault((place, message), Problem(self._name, *place, dotted(path), message, "warning"))

    def fail(self, place: Place | None, message: str) -> NoReturn:
        """Give up: what follows cannot be read. Raises `ConfigError` with this and all mistakes so far."""
        line, column = place or (None, None)
        raise ConfigError([*self._sorted(), Problem(self._name, line, column, "", message)])

    def close(self) -> list[Problem]:
        """The warnings. Raises `ConfigError` if there was any mistake."""
        if self._errors:
            raise ConfigError(self._sorted())
        return [problem for (_, problem) in sorted(self._warnings.items(), key=lambda item: item[0])]

    def _sorted(self) -> list[Problem]:
        problems = [self._errors[place] for place in sorted(self._errors)]
        if len(problems) <= _MOST_SHOWN:
            return problems
        more = len(problems) - _MOST_SHOWN
        return [
            *problems[:_MOST_SHOWN],
            Problem(self._name, None, None, "", f"has {more} more mistakes, not shown"),
        ]


def dotted(path: Path) -> str:
    """`dependencies.payments.hosts[0]`; a key that is no plain word is quoted, so the path stays on its
    line."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if re.fullmatch(r"[\w-]{1,64}", part) else f".{shown(part)}"
    return text.removeprefix(".")


def within(path: Path, paths: Container[Path]) -> bool:
    """Whether `path`, or what holds it, is one of `paths`."""
    return any(path[:depth] in paths for depth in range(1, len(path) + 1))


def shown(value: object) -> str:
    """A value as a report shows it: as YAML has it, text quoted, on one line and of bounded length."""
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "…")
    return str(value)
