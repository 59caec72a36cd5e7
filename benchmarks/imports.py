"""What each import costs in memory and start time: `python -m benchmarks.imports`.

Every line is a fresh process that makes all the imports up to and including its own; what an import costs is
the difference to the line before. So the order matters: an import pays only for what none before it loaded.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers import ROOT
from benchmarks.report import markdown_table

DEFAULT_JSON = ROOT / "benchmarks" / "results" / "imports.json"

# Name and statement, in the order of the lines. pydantic and aiohttp load lazily: what a user of them needs
# is named, not the bare package.
STAGES: tuple[tuple[str, str], ...] = (
    ("bare python", "pass"),
    ("asyncio", "import asyncio"),
    ("uvloop", "import uvloop"),
    ("httptools", "import httptools"),
    ("yaml", "import yaml; yaml.CSafeLoader"),
    ("pydantic", "from pydantic import BaseModel; BaseModel"),
    ("aiohttp", "from aiohttp import web; web.Application"),
    ("sidecar.app", "import sidecar.app"),
)

# Run in the fresh process; reads its memory without importing anything for it.
_EPILOGUE = """
for line in open("/proc/self/smaps_rollup"):
    if line.startswith(("Rss:", "Pss:", "Private_Dirty:")):
        print(*line.split()[:2])
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One line, medians over its processes.

    Attributes:
        name: What was imported last.
        rss_mib: Resident memory of the process, MiB.
        rss_delta_mib: Of that, what this import added.
        private_mib: Of that, written to and this process's alone: what a second one costs again.
        start_ms: Time from the command to the end of the process, ms.
        start_delta_ms: Of that, what this import added.
        missing: Why there is no number; empty when there is.
    """

    name: str
    rss_mib: float = 0.0
    rss_delta_mib: float = 0.0
    private_mib: float = 0.0
    start_ms: float = 0.0
    start_delta_ms: float = 0.0
    missing: str = ""


class ImportFailedError(Exception):
    """A statement of a stage does not run here."""


def measure(statements: Sequence[str]) -> tuple[float, float, float]:
    """Runs the statements in a fresh interpreter: resident MiB, private MiB, milliseconds.

    Raises:
        ImportFailedError: With the last line of the traceback.
    """
    code = "\n".join([*statements, _EPILOGUE])
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    elapsed_ms = (time.perf_counter() - began) * 1e3
    if done.returncode != 0:
        raise ImportFailedError((done.stderr.strip().splitlines() or ["ended without a word"])[-1])
    kib = dict(line.split(": ") for line in done.stdout.splitlines())
    return int(kib["Rss"]) / 1024, int(kib["Private_Dirty"]) / 1024, elapsed_ms


def measure_all(repeats: int) -> list[Stage]:
    """All lines; each process is started `repeats` times, in turn, after one that fills the caches."""
    names = dict(STAGES)
    missing: dict[str, str] = {}
    samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        statements: list[str] = []
        for name, statement in STAGES:
            if name in missing:
                continue
            try:
                sample = measure([*statements, statement])
            except ImportFailedError as error:
                missing[name] = str(error)
                continue
            statements.append(statement)
            if turn > 0:
                samples[name].append(sample)
    stages: list[Stage] = []
    rss_before = start_before = 0.0
    for name in names:
        if name in missing:
            stages.append(Stage(name, missing=missing[name]))
            continue
        rss, private, start = (statistics.median(column) for column in zip(*samples[name], strict=True))
        stages.append(Stage(name, rss, rss - rss_before, private, start, start - start_before))
        rss_before, start_before = rss, start
    return stages


def render(stages: Sequence[Stage]) -> str:
    """The lines as a Markdown table."""
    header = ("import", "+ MiB", "MiB so far", "of it private", "+ ms", "ms so far")
    rows = [
        [f"{stage.name}: missing: {stage.missing}", *("" for _ in header[1:])]
        if stage.missing
        else [
            stage.name,
            f"{stage.rss_delta_mib:.1f}",
            f"{stage.rss_mib:.1f}",
            f"{stage.private_mib:.1f}",
            f"{stage.start_delta_ms:.0f}",
            f"{stage.start_ms:.0f}",
        ]
        for stage in stages
    ]
    return markdown_table(header, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="processes per line (9)")
    parser.add_argument("--json", type=Path, default=DEFAULT_JSON, help=f"result file ({DEFAULT_JSON})")
    given = parser.parse_args(arguments)
    if given.repeats < 1:
        parser.error("--repeats must be at least 1")
    stages = measure_all(given.repeats)
    print(render(stages))
    document = {
        "schema": 1,
        "python": platform.python_version(),
        "repeats": given.repeats,
        "stages": [asdict(stage) for stage in stages],
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
