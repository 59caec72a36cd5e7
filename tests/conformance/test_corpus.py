"""The corpus itself: cases follow the schema, can be attributed, and say why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from .conftest import ALL_CASES
from .model import Case, CaseError, expand, load, octets, selected

BY_ID = {case.id: case for case in ALL_CASES}


def sent(case: Case) -> bytes:
    """Everything that the client of a case writes."""
    return b"".join(octets(step) for step in case.steps if isinstance(step, str))


def faults(case: Case) -> list[str]:
    """What is wrong with the writing of a case."""
    is_response = case.answer is not None
    found = []
    if not re.fullmatch(r"RFC \d{4} section \d+(\.\d+)*", case.rfc):
        found.append("cites no section")
    if not re.fullmatch(r"\S.{10,}[.?]", case.why):
        found.append("does not say why in a sentence")
    if case.verdict in (("forward", "refuse") if is_response else ("relay", "bad-gateway", "cut")):
        found.append("has the verdict of the other kind")
    mark = rf"[A-Za-z-]+ \S*?/t/{case.id}[^a-z0-9-]|\r\nX-Case: {case.id}\r\n"
    if (is_response or case.verdict == "forward") and not re.search(mark.encode(), sent(case)):
        found.append("could not be attributed by the upstream")
    return found


def test_cases_are_well_formed() -> None:
    """Each cites a section, says why, and names itself where it must reach the upstream."""
    assert {case.id: faults(case) for case in ALL_CASES if faults(case)} == {}


def test_ids_are_used_once_across_both_kinds() -> None:
    """Requests reach the same upstream, whatever kind of case they belong to."""
    assert len(BY_ID) == len(ALL_CASES)


def test_lengths_that_cover_a_hidden_request_cover_it_exactly() -> None:
    """A mistake in such a length would make another case of it, and a weaker one."""
    names = [
        "ds-cl0-get",
        "ds-cl0-post",
        "ds-cl0-head",
        "ds-expect-get",
        "hop-conn-cl-smuggle",
        "cl-dup-zero",
    ]
    for name in names:
        head, _, body = sent(BY_ID[name]).partition(b"\r\n\r\n")
        lengths = [int(length) for length in re.findall(rb"Content-Length: (\d+)", head)]
        assert max(lengths) == len(body), name


def test_repetition_is_expanded() -> None:
    """`{{count*text}}` repeats its text, and other braces stay."""
    assert expand("a{{3*bc}}d{}{{x}}") == "abcbcbcd{}{{x}}"
    assert octets("{{2*\u00e9\r\n}}") == b"\xe9\r\n\xe9\r\n"


def test_promises_replace_what_the_rfc_leaves_open() -> None:
    """The same case is judged by the RFC alone, or by what this sidecar promises beyond it."""
    lenient = {case.id: case for case in load("requests", promises=False)}["te-leading-comma"]
    strict = {case.id: case for case in load("requests", promises=True)}["te-leading-comma"]
    assert (lenient.verdict, lenient.statuses) == ("either", ())
    assert (strict.verdict, strict.statuses) == ("refuse", (400,))
    assert strict.arrival == lenient.arrival


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdikt": "forward"}, "a.json: x: unknown key verdikt"),
        ({"arrival": {"bodi": ""}}, "a.json: x: unknown key bodi"),
        ({"why": None}, "a.json: x: missing why"),
    ],
)
def test_case_that_breaks_the_schema_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    """A misspelt expectation would otherwise be one that is never checked."""
    case = {"id": "x", "category": "c", "rfc": "r", "why": "w", "verdict": "forward", "send": ""} | change
    folder = tmp_path / "requests"
    folder.mkdir()
    text = json.dumps([{key: value for key, value in case.items() if value is not None}])
    (folder / "a.json").write_text(text, "utf-8")
    with pytest.raises(CaseError, match=message):
        load("requests", promises=False, folder=tmp_path)


def test_selection_looks_at_ids_and_categories() -> None:
    """A regular expression selects by either, and none selects all."""
    assert {case.category for case in selected(ALL_CASES, "^expect$")} == {"expect"}
    assert [case.id for case in selected(ALL_CASES, "^ok-get$")] == ["ok-get"]
    assert list(selected(ALL_CASES, None)) == ALL_CASES
