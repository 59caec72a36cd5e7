"""The real sidecar as a child process, in front of one upstream."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .client import Address

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 4.0
"""How long the impatient port waits for the rest of a head or a body."""
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 5.0

# The corpus is about HTTP: hundreds of deliberately broken upstream answers would open any breaker and leave any
# address out.
_POLICIES_OFF = """\
    circuit_breaker: {mode: off}
    rate_limit: {mode: off}
    concurrency: {mode: off}
    ejection: {consecutive_failures: null}
"""


class SidecarFailed(RuntimeError):
    """The process did not get ready; the text carries what it wrote."""


class Ports(NamedTuple):
    """Where the dependency is reached: the shared port, and one of its own that waits for nobody."""

    patient: Address
    impatient: Address


def free_address() -> Address:
    """A port that stays free for us: on an address of loopback that nobody else uses, to connect from neither."""
    host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    with socket.create_server((host, 0)) as server:
        return (host, int(server.getsockname()[1]))


def configuration(ports: Ports, metrics: Address, upstream: Address) -> str:
    """The YAML of a sidecar with one dependency.

    The shared port has timeouts that a slow machine does not reach, octet by octet or with a stalled test.
    """
    return (
        f'listen: "{ports.patient[0]}:{ports.patient[1]}"\n'
        f'metrics: {{listen: "{metrics[0]}:{metrics[1]}"}}\n'
        "listener: {head_timeout: 60s, body_timeout: 60s}\n"
        "dependencies:\n"
        "  conformance:\n"
        f'    upstream: "http://{upstream[0]}:{upstream[1]}"\n'
        f'    listen: "{ports.impatient[0]}:{ports.impatient[1]}"\n'
        f"    listener: {{head_timeout: {TIMEOUT_S:g}s, body_timeout: {TIMEOUT_S:g}s}}\n"
        "    timeout: {connect: 20s, first_byte: 60s, total: 60s}\n"
        "    prefix: /\n"
        "    hosts: [sidecar.test]\n"
        f"{_POLICIES_OFF}"
    )


@contextlib.contextmanager
def running_sidecar(folder: Path, upstream: Address) -> Iterator[Ports]:
    """Start a sidecar in front of `upstream`; yields its ports, stops it at the end.

    Args:
        folder: for its configuration and log.
        upstream: address of its only upstream.

    Raises:
        SidecarFailed: it ended, or was not ready in time.
    """
    ports, metrics = Ports(free_address(), free_address()), free_address()
    config, log = folder / "sidecar.yaml", folder / "sidecar.log"
    config.write_text(configuration(ports, metrics, upstream), "utf-8")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "run", "--config", str(config)],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _await_ready(process, metrics, log)
            yield ports
        finally:
            process.terminate()
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_ready(process: subprocess.Popen[bytes], metrics: Address, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SidecarFailed(f"ended with status {process.returncode}:\n{log.read_text('utf-8')[-4000:]}")
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://{metrics[0]}:{metrics[1]}/readyz", timeout=1) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.05)
    raise SidecarFailed(f"not ready after {READY_WITHIN_S:g} s:\n{log.read_text('utf-8')[-4000:]}")
