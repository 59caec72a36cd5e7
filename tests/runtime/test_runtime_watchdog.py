"""The watchdog ends a process whose loop hangs, and no other."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.harness import PATIENCE_S, ROOT

BLOCKED = """
import asyncio, time
from sidecar.runtime.watchdog import Watchdog

def hang_in_here():
    time.sleep(600)

async def main():
    Watchdog(1.0).feed()
    asyncio.get_running_loop().call_soon(hang_in_here)
    await asyncio.sleep(600)

asyncio.run(main())
"""

FED = """
import asyncio
from sidecar.runtime.watchdog import Watchdog

async def main():
    watchdog = Watchdog(1.0)
    for _ in range(25):
        watchdog.feed()
        await asyncio.sleep(0.1)
    print("fed for longer than its patience", flush=True)
    watchdog.stop()
    await asyncio.sleep(1.5)
    print("and without it for as long", flush=True)

asyncio.run(main())
"""

APP = r'''
import asyncio, sys, time
from sidecar.app import App
from sidecar.config import load_text
from sidecar.runtime.watchdog import Watchdog
from tests.e2e.harness import free_port, fresh_host

host = fresh_host()
text = f"""
metrics: {{listen: '{host}:{free_port(host)}'}}
listen: '{host}:0'
dependencies: {{a: {{upstream: 'http://127.0.0.1:1', prefix: /a}}}}
"""

async def main():
    app = App(load_text(text, environ={}).config, watchdog=Watchdog(2.0))
    await app.start()
    await asyncio.sleep(3.5)
    print("still there", flush=True)
    if "hang" in sys.argv:
        time.sleep(600)
    await app.stop()
    time.sleep(2.5)
    print("nobody watches any more", flush=True)

asyncio.run(main())
'''


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)


def test_loop_that_hangs_ends_the_process_with_all_stacks() -> None:
    done = run(BLOCKED)
    assert done.returncode == 1
    assert done.stderr.startswith("Timeout (0:00:01)!\n")
    assert "in hang_in_here" in done.stderr


def test_process_that_is_fed_lives_on_and_one_that_is_let_go_is_not_watched() -> None:
    done = run(FED)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["fed for longer than its patience", "and without it for as long"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [([], 0, ["still there", "nobody watches any more"]), (["hang"], 1, ["still there"])],
    ids=["turning", "hanging"],
)
def test_app_feeds_it_as_long_as_its_loop_turns_and_stops_it_at_the_end(
    arguments: list[str], status: int, said: list[str]
) -> None:
    done = run(APP, *arguments)
    assert (done.returncode, done.stdout.splitlines()) == (status, said), done.stderr
    assert ("Timeout" in done.stderr) == (status == 1)
