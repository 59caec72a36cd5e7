"""The commands in the pages can be typed: the CLI parses them, make has the target, the file is there.

What the pages say about YAML, errors and each other is in test_reference.py.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.cli import _parser

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^( *)```(?:sh|bash|shell|console)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def lines(text: str) -> Iterator[str]:
    """What one would type: in a block with prompts what follows them, else every line; continued lines joined."""
    for _, block in BLOCK.findall(text):
        typed = block.replace("\\\n", " ").splitlines()
        prompted = [line.strip().removeprefix("$ ") for line in typed if line.strip().startswith("$ ")]
        yield from prompted or (line.strip() for line in typed if line.strip())


def commands() -> list[tuple[Path, str]]:
    return [(page.relative_to(ROOT), line) for page in PAGES for line in lines(page.read_text())]


def mistake_in(line: str) -> str | None:
    """Why a command cannot be typed; None where it can, or is none of ours."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(itertools.takewhile(lambda word: not set(word) <= set("<>|&;()"), lexer))  # one command of a line
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if not words:
        return None
    if Path(words[0]).name == "sidecar":
        try:
            _parser().parse_args(words[1:])
        except SystemExit as end:
            return None if end.code == 0 else "the command line does not parse"
        for word in words[1:]:
            if word.startswith("config/") and not (ROOT / word).exists():
                return f"there is no {word}"
    if words[0] == "make":
        unknown = {word for word in words[1:] if "=" not in word and not word.startswith("-")} - TARGETS
        return f"make has no target {unknown}" if unknown else None
    if Path(words[0]).name.startswith("python") and len(words) > 1 and words[1].startswith(("scripts/", "benchmarks/")):
        return None if (ROOT / words[1]).exists() else f"there is no {words[1]}"
    if Path(words[0]).name.startswith("python") and words[1:2] == ["-m"] and words[2:]:
        module = words[2].replace(".", "/")
        if module.startswith(("scripts/", "benchmarks/")) and not (ROOT / f"{module}.py").exists():
            return f"there is no module {words[2]}"
    return None


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda value: str(value))
def test_every_command_in_the_pages_can_be_typed(page: Path, line: str) -> None:
    assert mistake_in(line) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```sh\nsidecar check a.yaml\n```\n", ["sidecar check a.yaml"]),
        ("```console\n$ sidecar run \\\n  --config a.yaml\nready\n```\n", ["sidecar run    --config a.yaml"]),
        ("1. so\n\n   ```sh\n   make run\n   ```\n", ["make run"]),
        ("```yaml\nsidecar: run\n```\n", []),
    ],
)
def test_commands_are_found_in_a_page(text: str, found: list[str]) -> None:
    assert list(lines(text)) == found


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("sidecar run --config a.yaml", True),
        ("PORT=1 .venv/bin/sidecar check config/sidecar.yaml  # every key", True),
        ("sidecar --version", True),
        ("sidecar schema > schema.json", True),
        ("make test-long", True),
        ("make bench ARGS=--quick", True),
        ("curl -i http://127.0.0.1/", True),
        ("# only words", True),
        ("sidecar run a.yaml", False),
        ("sidecar reload", False),
        (".venv/bin/sidecar check config/none.yaml", False),
        ("make coffee", False),
        (".venv/bin/python scripts/none.py", False),
        (".venv/bin/python -m scripts.generated", True),
        (".venv/bin/python -m scripts.none", False),
        (".venv/bin/python -m pytest", True),
    ],
)
def test_mistakes_in_commands_are_noticed(line: str, good: bool) -> None:
    assert (mistake_in(line) is None) == good


def test_every_command_of_the_cli_is_in_the_reference() -> None:
    page = ROOT / "docs" / "reference" / "command-line.md"
    if page.exists():
        for name in ("run", "check", "schema", "demo"):
            assert f"`sidecar {name}" in page.read_text()
