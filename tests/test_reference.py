"""The pages say what the code says: the reference is fresh, snippets are valid, links lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from scripts import generated, write_config_reference, write_metrics_reference, write_state_diagram
from scripts.write_config_reference import PLACES, tables
from sidecar.config import json_schema, load_text
from sidecar.errors import Refusal, UpstreamFailure, UpstreamTimeout

ROOT = Path(__file__).parents[1]
ERRORS = (ROOT / "docs" / "reference" / "errors.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SCRIPTS = (write_config_reference, write_metrics_reference, write_state_diagram)


def refusals(base: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    for each in base.__subclasses__():
        yield each
        yield from refusals(each)


def causes_in_code() -> set[str]:
    """The Proxy-Status errors that are written beside a failure or a timeout."""
    names = {UpstreamFailure.__name__, UpstreamTimeout.__name__}
    return {
        argument.value
        for file in (ROOT / "sidecar" / "proxy").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
        for argument in node.args[1:]
        if isinstance(argument, ast.Constant)
    }


def snippets(language: str) -> Iterator[object]:
    block = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for page in PAGES:
        for number, text in enumerate(block.findall(page.read_text())):
            yield pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")


def queries() -> Iterator[str]:
    """What stands in the blocks of PromQL of every page."""
    for page in PAGES:
        yield from re.findall(r"^```promql\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def name_of(script: ModuleType) -> str:
    return script.__name__.rpartition(".")[2]


def slugs(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links() -> Iterator[object]:
    for page in PAGES:
        for link in sorted(set(re.findall(r"\]\(([^)\s]+)\)", page.read_text()))):
            if "://" not in link:
                yield pytest.param(page, link, id=f"{page.relative_to(ROOT)}-{link}")


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_generated_part_of_a_page_is_fresh(script: ModuleType) -> None:
    command = [sys.executable, "-m", script.__name__, "--check"]
    assert subprocess.run(command, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_stale_page_is_noticed_and_not_touched(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = script.PAGE.read_text()
    page = tmp_path / "page.md"
    head, marker, rest = fresh.partition(generated.begin(script.SCRIPT))
    stale = head + marker + rest.replace("| `", "| ", 1)
    page.write_text(stale)
    assert script.main(["--check"], page) == 1
    assert f"python -m {script.__name__}" in capsys.readouterr().err
    assert page.read_text() == stale
    assert script.main([], page) == 0
    assert page.read_text() == fresh


def test_page_without_a_marker_is_refused() -> None:
    begin = generated.begin("write_it.py")
    for page in ("# Page\n", f"{begin}\n", f"{generated.END}\n{begin}\n"):
        with pytest.raises(ValueError, match="must hold"):
            generated.rewritten(page, "write_it.py", "it")


def test_queries_on_the_metrics_page_name_metrics_that_exist() -> None:
    rows = write_metrics_reference.table().splitlines()[2:]
    exposed = dict(re.findall(r"[^|` ]+", row)[:2] for row in rows)
    for name, kind in list(exposed.items()):
        if kind == "histogram":
            exposed |= {f"{name}_{part}": kind for part in ("bucket", "count", "sum")}
    named = set(re.findall(r"\b(?:sidecar|circuit_breaker|process)_\w+", "\n".join(queries())))
    assert named
    assert named - set(exposed) == set()


def test_configuration_page_has_a_table_of_every_section() -> None:
    # The terms of a candidate are the keys of the policies.
    terms = {"RateLimitTerms", "ConcurrencyTerms", "CircuitBreakerTerms"}
    assert set(json_schema()["$defs"]) == {*PLACES, *terms} - {""}


def test_configuration_tables_state_type_range_and_default() -> None:
    rows = tables().splitlines()
    assert any(row.startswith("| `max_request_line` | size, 64B to 1MiB | `16KiB` |") for row in rows)
    assert any(row.startswith("| `max_age` | duration | `10m` |") for row in rows)
    assert any(row.startswith("| `upstream` | upstream or list of upstream, 1 to 64 | required |") for row in rows)
    assert any(row.startswith("| `rate` | rate or null | `null` |") for row in rows)
    assert any(row.startswith("| `window` | duration or number of calls | `10s` |") for row in rows)
    assert any(row.startswith("| `min_per_second` | number, 0 to 1000000 | `1` |") for row in rows)
    assert any(row.startswith('| `body` | text | `""` |') for row in rows)


@pytest.mark.parametrize("refusal", list(refusals()), ids=lambda refusal: refusal.__name__)
def test_errors_page_names_every_refusal_with_status_and_cause(refusal: type[Refusal]) -> None:
    rows = [row for row in ERRORS.splitlines() if row.startswith(f"| `{refusal.code}` | {refusal.status} |")]
    assert len(rows) == 1
    assert f"### {refusal.code}\n" in ERRORS
    assert f"`{refusal.proxy_error}`" in (ERRORS if refusal is UpstreamFailure else rows[0])


def test_errors_page_says_which_answers_close_the_connection() -> None:
    for refusal in refusals():
        row = next(row for row in ERRORS.splitlines() if row.startswith(f"| `{refusal.code}` | {refusal.status} |"))
        assert row.endswith("| closed |" if refusal.close else "| stays |"), refusal


def test_errors_page_names_no_code_that_does_not_exist() -> None:
    named = set(re.findall(r"^\| `([A-Z_]+)` \| \d", ERRORS, re.MULTILINE))
    assert named == {refusal.code for refusal in refusals()}


def test_errors_page_names_every_cause_of_a_failure() -> None:
    causes = causes_in_code()
    assert {"connection_refused", "connection_timeout"} <= causes
    assert {cause for cause in causes if f"| `{cause}` |" not in ERRORS} == set()


@pytest.mark.parametrize("text", list(snippets("yaml")))
def test_every_yaml_snippet_is_a_valid_configuration(text: str) -> None:
    assert load_text(text, environ={}).warnings == []


@pytest.mark.parametrize(("page", "link"), list(links()))
def test_every_link_between_pages_leads_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists()
    assert not anchor or anchor in slugs(target)
