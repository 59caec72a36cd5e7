"""Pages with a part that is written by a program: between two markers, rewritten or compared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
END = "<!-- end of generated part -->"


def begin(script: str) -> str:
    """The marker in front of what `script` writes."""
    return f"<!-- written by scripts/{script} -->"


def rewritten(page: str, script: str, part: str) -> str:
    """`page` with what stands between its markers made anew.

    Raises:
        ValueError: a marker is missing.
    """
    head, first, rest = page.partition(begin(script))
    _, last, tail = rest.partition(END)
    if not first or not last:
        raise ValueError(f"the page must hold {begin(script)!r} and behind it {END!r}")
    return f"{head}{first}\n\n{part}\n\n{last}{tail}"


def run(script: str, path: Path, part: Callable[[], str], argv: Sequence[str] | None = None) -> int:
    """Write the page, or with --check say whether that would change it (exit status 1)."""
    parser = argparse.ArgumentParser(description=f"Write the generated part of {path.name}.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where the page is stale")
    arguments = parser.parse_args(argv)
    before = path.read_text()
    after = rewritten(before, script, part())
    if arguments.check:
        if before == after:
            return 0
        print(f"{path} is stale; run python -m scripts.{Path(script).stem}", file=sys.stderr)
        return 1
    path.write_text(after)
    return 0
