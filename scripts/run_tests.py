"""Run the test suite with coverage, on two workers; with CI=true a skip for a missing part is a failure."""

from __future__ import annotations

import subprocess
import sys

LEAST_COVERAGE = 90
"""Percent of branches and lines together, over all processes that the tests start."""


def main() -> int:
    """Run pytest, then the coverage report."""
    python = [sys.executable, "-m"]
    subprocess.run([*python, "coverage", "erase"], check=True)
    tests = subprocess.run(
        [*python, "coverage", "run", "-m", "pytest", "-m", "not long", "-n", "2", "--dist", "worksteal"], check=False
    )
    subprocess.run([*python, "coverage", "combine", "--quiet"], check=False)
    report = subprocess.run([*python, "coverage", "report", f"--fail-under={LEAST_COVERAGE}"], check=False)
    return tests.returncode or report.returncode


if __name__ == "__main__":
    sys.exit(main())
