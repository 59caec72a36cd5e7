"""The corpus beside the repository, with its own runner, where the folder is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .sidecar_process import ROOT, free_address, running_sidecar

_BASE = Path(os.environ.get("SHARED_DIR") or ROOT.parent / "shared")
# SHARED_DIR may name the folder itself or the one that holds it.
SHARED = _BASE if (_BASE / "run_cases.py").is_file() else _BASE / "conformance"

RUNS = {
    "requests": [],
    "octets": ["--split", "1", "--timeout", "2", "--only", "^(chunked|transfer-encoding|content-length)$"],
    "responses": ["--responses"],
}
RUN_WITHIN_S = 300

pytestmark = [
    pytest.mark.skipif(not (SHARED / "run_cases.py").is_file(), reason=f"no run_cases.py in {SHARED}"),
    pytest.mark.xdist_group("shared-conformance"),
]


def _run(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    upstream = free_address()
    with running_sidecar(folder, upstream) as ports:
        host, port = ports.patient
        addresses = ["--proxy", f"{host}:{port}", "--upstream", f"{upstream[0]}:{upstream[1]}"]
        return subprocess.run(
            [sys.executable, str(SHARED / "run_cases.py"), *addresses, *RUNS[name]],
            capture_output=True,
            text=True,
            timeout=RUN_WITHIN_S,
            check=False,
        )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """All runs, side by side against a sidecar each: one alone mostly waits."""
    with ThreadPoolExecutor(len(RUNS)) as pool:
        waiting = {name: pool.submit(_run, name, tmp_path_factory.mktemp(name)) for name in RUNS}
        return {name: future.result() for name, future in waiting.items()}


@pytest.mark.parametrize("name", RUNS)
def test_shared_cases_pass(name: str, finished: dict[str, subprocess.CompletedProcess[str]]) -> None:
    """No case fails, hangs or poisons a connection."""
    run = finished[name]
    assert run.returncode == 0, run.stdout + run.stderr


def test_shared_cases_that_are_better_refused_are_refused(
    finished: dict[str, subprocess.CompletedProcess[str]],
) -> None:
    """The strictness line of the request run shows at least nine in ten."""
    found = re.search(r"strictness: (\d+) of (\d+)", finished["requests"].stdout)
    assert found is not None, finished["requests"].stdout
    refused, preferred = int(found[1]), int(found[2])
    assert refused * 10 >= preferred * 9, found[0]
