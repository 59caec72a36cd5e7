"""The pages say what the code says: the reference is fresh, snippets are valid, links lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.write_config_reference import PAGE, PLACES, main, rewritten, tables
from sidecar.config import json_schema, load_text
from sidecar.errors import Refusal, UpstreamFailure, UpstreamTimeout

ROOT = Path(__file__).parents[1]
ERRORS = (ROOT / "docs" / "reference" / "errors.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


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


def slugs(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links() -> Iterator[object]:
    for page in PAGES:
        for link in sorted(set(re.findall(r"\]\(([^)\s]+)\)", page.read_text()))):
            if "://" not in link:
                yield pytest.param(page, link, id=f"{page.relative_to(ROOT)}-{link}")


def test_configuration_page_is_fresh() -> None:
    assert subprocess.run([sys.executable, ROOT / "scripts" / "write_config_reference.py", "--check"]).returncode == 0


def test_stale_configuration_page_is_noticed_and_not_touched(tmp_path: Path) -> None:
    page = tmp_path / "configuration.md"
    stale = PAGE.read_text().replace("`75s`", "`76s`")
    page.write_text(stale)
    assert main(["--check"], page) == 1
    assert page.read_text() == stale
    assert main([], page) == 0
    assert page.read_text() == PAGE.read_text()


def test_configuration_page_without_a_marker_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold"):
        rewritten("# Configuration\n")


def test_configuration_page_has_a_table_of_every_section() -> None:
    # The terms of a candidate are the keys of the policies.
    terms = {"RateLimitTerms", "ConcurrencyTerms", "CircuitBreakerTerms"}
    assert set(json_schema()["$defs"]) == {*PLACES, *terms} - {""}


def test_configuration_tables_state_type_range_and_default() -> None:
    rows = tables().splitlines()
    assert any(row.startswith("| `max_request_line` | size, 64B to 1MiB | `16KiB` |") for row in rows)
    assert any(row.startswith("| `max_age` | duration | `10m` |") for row in rows)
    assert any(row.startswith("| `upstream` | upstream | required |") for row in rows)
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
