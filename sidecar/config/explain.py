"""Pydantic's errors in the words of the file: each a line of the report, at the place of the key or value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sidecar.config.mistake import Mistake
from sidecar.config.report import Path, Report
from sidecar.config.schema import FILLED_IN, Config
from sidecar.config.section import has_free_keys, known_keys, section_at
from sidecar.config.source import Source

# A file with more mistakes than this was never written by hand, and guessing what each meant takes seconds.
_MOST_GUESSES = 1000

_KINDS = {"model_type": "must be a mapping", "dict_type": "must be a mapping", "tuple_type": "must be a list"}


def explain(errors: Iterable[Any], source: Source, report: Report) -> None:
    """Put pydantic's `errors` (its `ErrorDetails`) into `report`."""
    missing, guessed = [], set()
    for error in errors:
        path: Path = tuple(error["loc"])
        if error["type"] == "value_error" and path[-1] == "[key]" and has_free_keys(Config, path[:-2]):
            # Pydantic's name for the key itself.
            report.error(source.key_place(path[:-1]), path[:-1], str(error["ctx"]["error"]))
        elif error["type"] == "missing":
            missing.append(path)
        elif error["type"] == "too_short" and error["input"]:
            # None of what is there was right, which is said of each.
            report.paths.add(path)
        elif error["type"] == "extra_forbidden":
            nearest, message = _unknown(path, guess=len(report.paths) < _MOST_GUESSES)
            guessed.add((*path[:-1], nearest))
            report.error(source.key_place(path), path, message)
        else:
            report.error(source.place(path), path, _message(error, source, path))
    for path in missing:
        # A required key that is merely misspelt has its line already.
        if path in guessed:
            report.paths.add(path)
        else:
            report.error(source.key_place(path[:-1]), path, "is required, but missing")


def _message(error: Any, source: Source, path: Path) -> str:
    if error["type"] == "too_long":
        return f"must have at most {error['ctx']['max_length']} entries, found {len(error['input'])}"
    if error["type"] == "too_short":
        return "must not be empty"
    mistake = error.get("ctx", {}).get("error")
    message = _KINDS.get(error["type"]) or str(mistake)
    if isinstance(mistake, Mistake) and not mistake.show:
        return message
    return f"{message}, found {source.shown(path, error['input'])}"


def _unknown(path: Path, *, guess: bool) -> tuple[str, str]:
    """The known key that the last of `path` resembles, or nothing, and what to say."""
    # Only on the way to an error: 5 ms that a start need not pay.
    from difflib import get_close_matches

    known = [name for name in known_keys(section_at(Config, path[:-1])) if name not in FILLED_IN]
    nearest = get_close_matches(str(path[-1])[:64], known, n=1) if guess else []
    if nearest:
        return nearest[0], f"unknown key, did you mean {nearest[0]}?"
    return "", f"unknown key; known here are {', '.join(known)}"
