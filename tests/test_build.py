"""Which build the processes run that tests start."""

from __future__ import annotations

import os
import subprocess
import sys


def test_processes_run_the_build_that_this_run_is_about() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "import sidecar.proxy.exchange as module; print(module.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.strip().endswith(".so" if "SIDECAR_EXPECT_COMPILED" in os.environ else ".py"), shown
