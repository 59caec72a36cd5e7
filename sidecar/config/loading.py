"""From a file to a `Config`, or to every mistake in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from sidecar.config import document, rules
from sidecar.config.explain import explain
from sidecar.config.report import Path, Report, shown
from sidecar.config.schema import MOST_DEPENDENCIES, Config
from sidecar.config.source import Source
from sidecar.errors import Problem

# A ConfigMap holds no more either.
LARGEST_FILE = 1 << 20
# Values merged under every dependency, counted as often: a thousand dependencies with every key there is have a fifth.
MAX_MERGED = 400_000


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A configuration that can be used, and what is odd about it."""

    config: Config
    warnings: list[Problem]


def load(path: str | FilePath, environ: Mapping[str, str] | None = None) -> LoadResult:
    """Read the configuration file at `path`, with `environ` (default: the process's) for its `${NAME}`
    references.

    Raises `ConfigError` with every mistake found, also when the file cannot be read."""
    report = Report(str(path))
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        report.fail(None, "there is no such file")
    except IsADirectoryError:
        report.fail(None, "is a folder; name the file in it")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        report.fail(None, f"cannot be read: {reason}")
    if len(data) > LARGEST_FILE:
        report.fail(None, "is larger than 1MiB")
    try:
        # Some editors put a byte order mark first.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        report.fail(None, f"must be UTF-8 text, but line {line} holds the byte 0x{data[error.start]:02X}")
    return _load(text, report, environ)


def load_text(text: str, name: str = "config", environ: Mapping[str, str] | None = None) -> LoadResult:
    """Like `load`, from the text of a file; `name` stands for the file in the report."""
    report = Report(name)
    if len(text.encode(errors="surrogatepass")) > LARGEST_FILE:
        report.fail(None, "is larger than 1MiB")
    return _load(text, report, environ)


def _load(text: str, report: Report, environ: Mapping[str, str] | None) -> LoadResult:
    root = document.read(text, os.environ if environ is None else environ, report)
    if root is None or (isinstance(root, document.Scalar) and root.value is None):
        report.fail(None, "is empty; it needs at least one dependency with its upstream")
    if not isinstance(root, document.Mapping):
        report.fail(root.place, f"must be a mapping of keys, found {shown(document.plain(root))}")
    _check_count(root, report)
    source = Source(root)
    values = source.values()
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        explain(error.errors(include_url=False), source, report)
    if report.paths:
        config = _salvage(values, report)
    rules.check(config, source, report)
    return LoadResult(config, report.close())


def _check_count(root: document.Mapping, report: Report) -> None:
    """Bound the work that follows, before the defaults are merged under each dependency."""
    named = root.entries["dependencies"][1] if "dependencies" in root.entries else None
    if not isinstance(named, document.Mapping):
        return
    if len(named.entries) > MOST_DEPENDENCIES:
        report.fail(named.place, f"has {len(named.entries)} dependencies, and {MOST_DEPENDENCIES} is the most")
    for key in ("defaults", "listener"):
        place, values = root.entries.get(key, (named.place, named))
        if values is not named and values.size * len(named.entries) > MAX_MERGED:
            report.fail(place, f"holds {values.size} values, too many to merge into {len(named.entries)} dependencies")


def _salvage(values: Any, report: Report) -> Config:
    """A configuration of what can be read, so that the rules between keys find their mistakes in the same
    run."""
    for path in report.paths:
        _drop(values, rules.discarded(path))
    return Config.model_validate({"dependencies": {}, **values})


def _drop(values: Any, path: Path) -> None:
    *parents, key = path
    for parent in parents:
        values = values.get(parent)
        if not isinstance(values, dict):
            return
    values.pop(key, None)
