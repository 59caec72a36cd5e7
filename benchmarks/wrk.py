"""Runs wrk and reads what it prints."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# wrk rounds what it prints to two decimals; bytes are counted in powers of 1024.
_TIME_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6, "h": 3600e6}
_SIZE_BYTES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}

_TOTAL = re.compile(r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m|h), ([\d.]+)(B|KB|MB|GB|TB) read$", re.MULTILINE)
_RATE = re.compile(r"^Requests/sec:\s+([\d.]+)$", re.MULTILINE)
_PERCENTILE = re.compile(r"^\s+(50|75|90|99)%\s+([\d.]+)(us|ms|s|m|h)$", re.MULTILINE)
_SOCKET = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_STATUS = re.compile(r"Non-2xx or 3xx responses: (\d+)")


class WrkError(Exception):
    """wrk did not run, or printed something that is not a result."""


@dataclass(frozen=True, slots=True)
class WrkResult:
    """One run of wrk.

    Attributes:
        requests: Answers received.
        duration_s: Wall time in seconds.
        requests_per_s: As wrk computes it.
        read_bytes: Bytes received, heads included, rounded as printed (to 1 % at worst).
        p50_us: Median latency in microseconds.
        p99_us: 99th percentile of the latency in microseconds.
        bad_statuses: Answers with a status of 400 or more.
        socket_errors: Errors by kind: connect, read, write, timeout.
    """

    requests: int
    duration_s: float
    requests_per_s: float
    read_bytes: float
    p50_us: float
    p99_us: float
    bad_statuses: int
    socket_errors: Mapping[str, int]

    def fault(self, answer_bytes: int) -> str | None:
        """Why this run must not be counted, or None.

        Args:
            answer_bytes: Size of the body that each answer should have had.
        """
        if self.requests == 0:
            return "no request was answered"
        if self.bad_statuses:
            return f"{self.bad_statuses} of {self.requests} answers had a status of 400 or more"
        errors = [f"{count} {kind}" for kind, count in self.socket_errors.items() if count]
        if errors:
            return f"socket errors: {', '.join(errors)}"
        # 2 % for the rounding; an answer cut short or without its body is far below.
        if self.read_bytes < 0.98 * self.requests * answer_bytes:
            return f"answers were short: {self.read_bytes / self.requests:.0f} of {answer_bytes} bytes each"
        return None


def parse(output: str) -> WrkResult:
    """Reads the output of `wrk --latency`.

    Raises:
        WrkError: A line that every result has is not there.
    """
    total = _TOTAL.search(output)
    rate = _RATE.search(output)
    percentiles = {int(p): float(value) * _TIME_US[unit] for p, value, unit in _PERCENTILE.findall(output)}
    if total is None or rate is None or not {50, 99} <= percentiles.keys():
        raise WrkError(f"no result in the output of wrk: {output.strip()[-300:] or '(nothing)'}")
    status = _STATUS.search(output)
    socket = _SOCKET.search(output)
    counts = [int(count) for count in socket.groups()] if socket else [0, 0, 0, 0]
    return WrkResult(
        requests=int(total[1]),
        duration_s=float(total[2]) * _TIME_US[total[3]] / 1e6,
        requests_per_s=float(rate[1]),
        read_bytes=float(total[4]) * _SIZE_BYTES[total[5]],
        p50_us=percentiles[50],
        p99_us=percentiles[99],
        bad_statuses=int(status[1]) if status else 0,
        socket_errors=dict(zip(("connect", "read", "write", "timeout"), counts, strict=True)),
    )


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk is to send.

    Attributes:
        url: What to ask for.
        connections: Keep-alive connections, each with one request in flight.
        headers: Sent with each request besides Host and Content-Length.
        script: A Lua file that sets method and body.
    """

    url: str
    connections: int
    headers: Mapping[str, str]
    script: Path | None = None


def run(load: Load, seconds: int) -> WrkResult:
    """Runs wrk with one thread on the caller's cores.

    Args:
        load: What to send.
        seconds: How long; wrk takes whole seconds, at least 1.

    Raises:
        WrkError: wrk is not installed, failed, or did not end in time.
    """
    command = ["wrk", "--latency", "-t1", f"-c{load.connections}", f"-d{seconds}s"]
    for name, value in load.headers.items():
        command += ["-H", f"{name}: {value}"]
    if load.script is not None:
        command += ["-s", str(load.script)]
    try:
        done = subprocess.run([*command, load.url], capture_output=True, text=True, timeout=seconds + 20, check=False)
    except FileNotFoundError:
        raise WrkError("wrk is not installed (apt: wrk)") from None
    except subprocess.TimeoutExpired:
        raise WrkError(f"wrk did not end within {seconds + 20} s") from None
    if done.returncode != 0:
        raise WrkError(f"wrk ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return parse(done.stdout)
