"""Measures the sidecar against itself: `python -m benchmarks.itself`.

Three questions that no other proxy helps to answer: how much cheaper is a refusal by an open circuit than a request
that is forwarded; does a request cost more beside 499 other dependencies; and for how long does a scrape of 200
dependencies keep the loop from its requests. Each pair is taken in turn, so a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import configs, measure, wrk
from benchmarks.configs import Upstream
from benchmarks.measure import Cores, Spawned
from benchmarks.peers import PEERS, ROOT, InterpretedSidecar, Sidecar, UnavailableError, nginx_launch
from benchmarks.profiles import POLICIES
from benchmarks.report import markdown_table
from benchmarks.workloads import SMALL_GET
from sidecar.config import load_text
from sidecar.proxy.listener import Listener
from sidecar.proxy.pool import Pool
from sidecar.proxy.resolver import system_lookup
from sidecar.proxy.routing import Router
from sidecar.runtime.deadlines import Deadlines
from sidecar.runtime.dependency import Dependency
from sidecar.runtime.vitals import Vitals
from sidecar.telemetry.metrics import Exposition, Sources

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
SCRAPED = 200
MANY = 500


def document(port: int, metrics_port: int, upstream_port: int, dependencies: int) -> dict[str, Any]:
    """A configuration with all policies on, and as many dependencies of which the last is asked."""
    config: dict[str, Any] = yaml.safe_load(configs.sidecar(port, metrics_port, Upstream(upstream_port), POLICIES))
    bench = config["dependencies"]["bench"]
    bench["circuit_breaker"] |= {"failure_statuses": [404], "open_for": "1h", "max_open_for": "1h"}
    bench["circuit_breaker"]["consecutive_failures"] = 1
    others = {f"other-{n}": bench | {"prefix": f"/other-{n}"} for n in range(dependencies - 1)}
    config["dependencies"] = others | {"bench": bench}
    return config


class Bench:
    """One upstream, and the builds that are there."""

    def __init__(self, cores: Cores, folder: Path, seconds: int, rounds: int) -> None:
        self._cores = cores
        self._folder = folder
        self._seconds = seconds
        self._rounds = rounds
        self._started = 0
        self.builds: list[Sidecar] = []
        for kind in (Sidecar, InterpretedSidecar):
            assert kind in PEERS
            build = kind()
            try:
                build.prepare()
            except UnavailableError as error:
                print(f"{kind.name}: missing: {error}", file=sys.stderr)
                continue
            self.builds.append(build)

    def run(self) -> list[dict[str, Any]]:
        """The medians of all rounds, a row for each build."""
        (port,) = measure.free_ports(1)
        launch = nginx_launch(self._folder, port, configs.upstream_nginx(self._folder, port))
        rows = []
        with Spawned(launch.command, self._cores.load, self._folder / "nginx.log", {}, ROOT) as upstream:
            upstream.wait_answer(port, SMALL_GET.path)
            for build in self.builds:
                takes: dict[str, list[tuple[float, float]]] = {}
                for _ in range(self._rounds):
                    takes.setdefault("forwarded", []).append(self._take(build, port, 1, refused=False))
                    takes.setdefault("refused", []).append(self._take(build, port, 1, refused=True))
                    takes.setdefault("many", []).append(self._take(build, port, MANY, refused=False))
                rows.append({"build": build.label} | {key: _medians(each) for key, each in takes.items()})
        return rows

    def _take(self, build: Sidecar, upstream_port: int, dependencies: int, *, refused: bool) -> tuple[float, float]:
        """Requests a second, and CPU µs per request."""
        self._started += 1
        folder = self._folder / str(self._started)
        folder.mkdir()
        port, metrics_port = measure.free_ports(2)
        file = folder / "sidecar.yaml"
        file.write_text(json.dumps(document(port, metrics_port, upstream_port, dependencies)))
        command = (sys.executable, "-P", "-m", "sidecar", "run", "--config", str(file))
        environment = {"PYTHONPATH": str(build.folder)}
        with Spawned(command, self._cores.proxy, folder / "output.log", environment, ROOT) as process:
            process.wait_answer(metrics_port, "/readyz")
            if refused:
                _expect(port, "/missing", 404)
                _expect(port, SMALL_GET.path, 503)
            else:
                _expect(port, SMALL_GET.path, 200)
            url = f"http://127.0.0.1:{port}{SMALL_GET.path}"
            load = wrk.Load(url, SMALL_GET.connections, SMALL_GET.headers())
            wrk.run(load, 1)
            before = process.cpu_s()
            result = wrk.run(load, self._seconds)
            cpu_s = process.cpu_s() - before
        expected = result.requests if refused else 0
        if result.bad_statuses != expected or any(result.socket_errors.values()):
            raise wrk.WrkError(f"{result.bad_statuses} bad statuses where {expected} were due, {result.socket_errors}")
        return result.requests_per_s, cpu_s / result.requests * 1e6


def _medians(takes: Sequence[tuple[float, float]]) -> dict[str, float]:
    return {
        "requests_per_s": statistics.median(rate for rate, _ in takes),
        "cpu_us": statistics.median(cpu for _, cpu in takes),
    }


def _expect(port: int, path: str, status: int) -> None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            found = response.status
    except urllib.error.HTTPError as error:
        found = error.code
    if found != status:
        raise RuntimeError(f"{path} gave {found} where {status} was due")


async def longest_hold_ms(accept: str, dependencies: int = SCRAPED) -> tuple[float, float, int]:
    """For how long a scrape keeps the loop at a stretch and in all, in ms, and how many octets it is."""
    keys = {"rate_limit": {"rate": "100/second"}, "concurrency": {"limit": 10}, "retry": {"attempts": 2}}
    names = [f"dependency-{n}" for n in range(dependencies)]
    text = {"dependencies": {name: keys | {"upstream": f"http://{name}:80", "prefix": f"/{name}"} for name in names}}
    config = load_text(json.dumps(text), environ={}).config
    deadlines = Deadlines()
    pools = {
        name: Pool(Dependency(each, deadlines), deadlines, system_lookup) for name, each in config.dependencies.items()
    }
    router: Router[Pool] = Router([])
    listener = Listener(config.listener, router, None, deadlines)
    exposition = Exposition(Sources(pools, [listener], deadlines, Vitals(deadlines), "0", "0", 0.0))
    gc.freeze()  # as the sidecar does when it is ready
    holds: list[float] = []
    for _ in range(3):  # the first warms up
        holds.clear()
        began = time.perf_counter()
        task = asyncio.get_running_loop().create_task(exposition.render(accept))
        while not task.done():
            turn = time.perf_counter()
            await asyncio.sleep(0)
            holds.append(time.perf_counter() - turn)
        total = time.perf_counter() - began
    return max(holds) * 1e3, total * 1e3, len(task.result()[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the report, writes the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.itself", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns (3)")
    parser.add_argument("--seconds", type=int, default=4, help="length of a run (4)")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s: does it work, not how fast")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "itself.json")
    given = parser.parse_args(arguments)
    rounds, seconds = (1, 1) if given.quick else (given.rounds, given.seconds)
    cores = measure.pick_cores()
    with tempfile.TemporaryDirectory(prefix="itself-") as name, measure.pinned(cores.load):
        rows = Bench(cores, Path(name), seconds, rounds).run()
    scrapes = {
        "text": asyncio.run(longest_hold_ms("")),
        "OpenMetrics": asyncio.run(longest_hold_ms(OPENMETRICS)),
    }
    print(_report(rows, scrapes))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({"builds": rows, "scrapes": scrapes}, indent=1) + "\n")
    return 0


def _report(rows: Sequence[dict[str, Any]], scrapes: dict[str, tuple[float, float, int]]) -> str:
    table = markdown_table(
        (
            "build",
            "forwarded req/s (CPU us)",
            "refused req/s (CPU us)",
            "refused / forwarded",
            f"{MANY} / 1 dependencies",
        ),
        (
            (
                row["build"],
                f"{row['forwarded']['requests_per_s']:,.0f} ({row['forwarded']['cpu_us']:.1f})",
                f"{row['refused']['requests_per_s']:,.0f} ({row['refused']['cpu_us']:.1f})",
                f"{row['refused']['requests_per_s'] / row['forwarded']['requests_per_s']:.2f}",
                f"{row['many']['cpu_us'] / row['forwarded']['cpu_us']:.2f}",
            )
            for row in rows
        ),
    )
    held = markdown_table(
        (f"scrape of {SCRAPED} dependencies", "longest hold ms", "in all ms", "MB"),
        ((name, f"{hold:.1f}", f"{total:.0f}", f"{size / 1e6:.1f}") for name, (hold, total, size) in scrapes.items()),
    )
    return f"All policies on, 64 connections\n\n{table}\n\n{held}\n"


if __name__ == "__main__":
    sys.exit(main())
