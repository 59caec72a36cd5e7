"""The corpus against the real sidecar: in one piece, and octet by octet on both of its sides."""

from __future__ import annotations

import pytest

from .conftest import ALL_CASES, MODES, Bench
from .judge_request import was_refused
from .model import Case

# With xdist's --dist=loadgroup all of this stays in one worker: a second one would only run it all again.
pytestmark = pytest.mark.xdist_group("conformance")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.id)
def test_case(case: Case, mode: str, bench: Bench) -> None:
    """What the RFC demands of this case holds, and what the sidecar promises beyond it."""
    result = bench.outcomes(mode)[case.id]
    if result.failed:
        pytest.fail(str(result), pytrace=False)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_better_refused_is_refused(mode: str, bench: Bench) -> None:
    """Of what a server may tolerate but had better not, at least nine in ten cases are refused."""
    preferred = [result for result in bench.outcomes(mode).values() if result.case.prefer == "refuse"]
    if not preferred:
        pytest.skip("none of these cases is selected")
    accepted = [result.case.id for result in preferred if not was_refused(result.seen)]
    assert len(accepted) * 10 <= len(preferred), f"accepted: {', '.join(accepted)}"


def test_no_case_leaves_a_traceback_in_the_log(bench: Bench) -> None:
    """Whatever a peer sends is an outcome, not an unexpected exception."""
    for mode in bench.results or MODES:
        bench.outcomes(mode)
    assert "Traceback" not in (bench.folder / "sidecar.log").read_text("utf-8", errors="replace")
