"""Run the test suite: all of it interpreted, with coverage, then what speaks over sockets against the compiled build.

With CI=true a skip for a missing part is a failure, and so is a missing compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILED = ROOT / ".venv" / "compiled"

LEAST_COVERAGE = 90
"""Percent of branches and lines together, over all processes that the tests start."""

PYTEST = ["-m", "pytest", "-m", "not long", "-n", "2", "--dist", "worksteal", "-q"]

MICRO_BENCHMARKS = ["benchmarks/micro", "--benchmark-disable"]
"""Each once, so that they stay runnable; `make bench-micro` measures."""

OVER_SOCKETS = ["tests/e2e", "tests/conformance/test_conformance.py", "tests/test_build.py"]
"""What tests a process rather than functions, and so can test the compiled one."""


def interpreted() -> int:
    """Everything, with coverage."""
    python = [sys.executable, "-m"]
    subprocess.run([*python, "coverage", "erase"], check=True)
    tests = subprocess.run([*python, "coverage", "run", *PYTEST, "tests", *MICRO_BENCHMARKS], check=False)
    subprocess.run([*python, "coverage", "combine", "--quiet"], check=False)
    report = subprocess.run([*python, "coverage", "report", f"--fail-under={LEAST_COVERAGE}"], check=False)
    return tests.returncode or report.returncode


def compiled() -> int:
    """What speaks over sockets, against the compiled build, which the processes that tests start find first."""
    if not (COMPILED / "sidecar").is_dir():
        print("the compiled build is not tested: it could not be made, which takes gcc and python3-dev")
        return 1 if os.environ.get("CI") == "true" else 0
    print("the same over sockets, against the compiled build:", flush=True)
    environment = os.environ | {
        "PYTHONPATH": str(COMPILED),
        "PYTHONSAFEPATH": "1",  # else a process prefers the folder that it is started in
        "SIDECAR_EXPECT_COMPILED": "1",
    }
    return subprocess.run([sys.executable, *PYTEST, *OVER_SOCKETS], env=environment, check=False).returncode


def main() -> int:
    """Both, and 0 only when both passed."""
    first = interpreted()
    return first or compiled()


if __name__ == "__main__":
    sys.exit(main())
