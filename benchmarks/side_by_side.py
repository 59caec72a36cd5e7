"""Measures the sidecar beside other proxies: `python -m benchmarks.side_by_side`.

Each round starts each proxy anew on its own core, checks that it tells the truth, and loads it with each
workload in turn; wrk and the nginx upstream have the other core. benchmarks/README.md says how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks import configs, measure, wrk
from benchmarks.certificates import CertificateError, Certificates
from benchmarks.check import CheckError, check
from benchmarks.configs import Upstream
from benchmarks.measure import Clock, Cores, Memory, Spawned, StartError
from benchmarks.peers import PEERS, ROOT, Launch, Peer, UnavailableError, nginx_launch
from benchmarks.profiles import BARE, PROFILES, Profile
from benchmarks.report import PeerInfo, Results, Run, Start, number, render, write_json
from benchmarks.workloads import SMALL_GET, WORKLOADS, Workload

RESULTS = ROOT / "benchmarks" / "results"


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for.

    Attributes:
        rounds: How often the whole turn is taken.
        seconds: Length of a measured run, whole seconds.
        warmup_s: Length of the unmeasured run before each; whole seconds, 0 for none.
        retakes: How often a run that others disturbed is taken again.
        patience_s: How long to wait for an idle machine before each run, in seconds.
        profile: What the proxies do besides forwarding.
        peers: Classes of the proxies, in order.
        workloads: What is sent, in order.
        json_path: Where the JSON goes.
    """

    rounds: int
    seconds: int
    warmup_s: int
    retakes: int
    patience_s: float
    profile: Profile
    peers: tuple[type[Peer], ...]
    workloads: tuple[Workload, ...]
    json_path: Path


def parse_arguments(arguments: Sequence[str] | None = None) -> Options:
    """Reads the command line; argparse ends the process where it is wrong."""
    by_name = {peer.name: peer for peer in PEERS}
    workloads = {workload.name: workload for workload in WORKLOADS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.side_by_side", description=__doc__)
    parser.add_argument("--rounds", type=_at_least_1, default=None, help="turns of all proxies (5)")
    parser.add_argument("--seconds", type=_at_least_1, default=None, help="length of a run (5)")
    parser.add_argument("--only", default=",".join(by_name), help=f"of {','.join(by_name)}")
    parser.add_argument("--workloads", default=None, help=f"of {','.join(workloads)} (the profile's)")
    parser.add_argument("--profile", choices=sorted(PROFILES), default=BARE.name)
    parser.add_argument("--json", type=Path, default=None, help=f"result file ({RESULTS}/PROFILE.json)")
    parser.add_argument("--patience", type=float, default=None, help="seconds to wait for an idle machine (60)")
    parser.add_argument("--retakes", type=int, default=None, help="further tries of a disturbed run (2)")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s: does it work, not how fast")
    given = parser.parse_args(arguments)

    def chosen(what: str, names: str, known: Sequence[str]) -> list[str]:
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        for name in wanted:
            if name not in known:
                parser.error(f"{what}: {name!r} is not one of {', '.join(known)}")
        return [name for name in known if name in wanted]

    profile = PROFILES[given.profile]
    sent = ",".join(each.name for each in profile.workloads) if given.workloads is None else given.workloads
    quick: bool = given.quick
    patience_s = (0.0 if quick else 60.0) if given.patience is None else given.patience
    retakes = (0 if quick else 2) if given.retakes is None else given.retakes
    return Options(
        rounds=given.rounds or (1 if quick else 5),
        seconds=given.seconds or (1 if quick else 5),
        warmup_s=0 if quick else 1,
        retakes=retakes,
        patience_s=patience_s,
        profile=profile,
        peers=tuple(by_name[name] for name in chosen("--only", given.only, list(by_name))),
        workloads=tuple(workloads[n] for n in chosen("--workloads", sent, list(workloads))),
        json_path=given.json or RESULTS / f"{'quick-' if quick else ''}{given.profile}.json",
    )


def _at_least_1(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


class SideBySide:
    """One invocation: the upstream, the proxies that can run, and what was measured."""

    def __init__(self, options: Options, cores: Cores, folder: Path) -> None:
        self._options = options
        self._cores = cores
        self._folder = folder
        self._certificates: Certificates | None = None
        self._upstream: Upstream
        self._upstream_process: Spawned
        self._peers: list[tuple[Peer, PeerInfo]] = []
        self.results = Results(
            started_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            profile=options.profile.name,
            rounds=options.rounds,
            seconds=options.seconds,
            machine=describe_machine(cores),
            workloads=[workload.name for workload in options.workloads],
            bases=list(options.profile.bases),
        )

    def run(self) -> None:
        """Takes all rounds. A proxy that fails is noted in the results and does not stop the others.

        Raises:
            UnavailableError: nginx, which is the upstream as well, is not installed.
            CertificateError: The upstream's certificate could not be made.
            StartError: The upstream does not start.
        """
        self._prepare()
        with self._start_upstream() as self._upstream_process:
            for peer, info in self._peers:
                if info.status == "ok":
                    self._check_verification(peer, info)
            for turn in range(1, self._options.rounds + 1):
                for peer, info in self._peers:
                    if info.status == "ok":
                        self._take_turn(peer, info, turn)

    def _prepare(self) -> None:
        profile = self._options.profile
        for kind in self._options.peers:
            peer = kind()
            info = PeerInfo(peer.name, peer.label)
            try:
                if profile.name not in peer.profiles:
                    raise UnavailableError(f"has no configuration for the profile {profile.name!r}")
                info.version = peer.prepare()
            except UnavailableError as error:
                info.status, info.reason = "missing", str(error)
                progress(f"{peer.name}: missing: {error}")
            self._peers.append((peer, info))
            self.results.peers.append(info)

    def _start_upstream(self) -> Spawned:
        folder = self._folder / "upstream"
        folder.mkdir()
        (port,) = measure.free_ports(1)
        if self._options.profile.tls:
            self._certificates = Certificates.make(folder)
        self._upstream = Upstream(port, self._certificates.trust if self._certificates is not None else None)
        launch = nginx_launch(folder, port, configs.upstream_nginx(folder, port, self._certificates))
        process = Spawned(launch.command, self._cores.load, folder / "output.log", {}, ROOT)
        try:
            process.wait_answer(port, SMALL_GET.path, tls=self._upstream.context())
        except BaseException:
            process.stop()
            raise
        return process

    def _check_verification(self, peer: Peer, info: PeerInfo) -> None:
        """Starts a proxy with what must not let the upstream's certificate pass: it has to refuse to forward."""
        distrust = {} if self._certificates is None else self._certificates.distrust
        for wrong, trust in distrust.items():
            folder = self._folder / f"{peer.name}-{wrong.replace(' ', '-')}"
            folder.mkdir()
            launch = peer.launch(folder, Upstream(self._upstream.port, trust), self._options.profile)
            if not launch.command:
                continue
            try:
                with Spawned(launch.command, self._cores.proxy, folder / "output.log", launch.env, ROOT) as process:
                    # 502 is what RFC 9110 has for it; HAProxy and Envoy say 503.
                    process.wait_answer(launch.port, SMALL_GET.path, statuses=(502, 503))
            except StartError as error:
                info.status, info.reason = "failing", f"with a certificate {wrong} upstream, {error}"
                progress(f"{peer.name}: failing: {info.reason}")
                return

    def _take_turn(self, peer: Peer, info: PeerInfo, turn: int) -> None:
        """Starts one proxy, runs all workloads, ends it."""
        folder = self._folder / f"{peer.name}-{turn}"
        folder.mkdir()
        measure.wait_until_quiet(self._options.patience_s)
        launch = peer.launch(folder, self._upstream, self._options.profile)
        with contextlib.ExitStack() as stack:
            process: Spawned | None = None
            startup_s = 0.0
            idle: Memory | None = None
            try:
                if launch.command:
                    process = stack.enter_context(
                        Spawned(launch.command, self._cores.proxy, folder / "output.log", launch.env, ROOT)
                    )
                    startup_s = process.wait_answer(launch.ready_port, launch.ready_path)
                    # What it still does after its first answer belongs to its idle state.
                    time.sleep(0.3)
                    idle = process.memory()
            except StartError as error:
                info.status, info.reason = "failing", str(error)
                progress(f"{peer.name}: failing: {error}")
                return
            loaded: list[Memory] = []
            for workload in self._options.workloads:
                if workload.name in info.failures:
                    continue
                try:
                    self.results.runs.append(self._measure(peer, launch, process, workload, turn))
                except (CheckError, wrk.WrkError) as error:
                    words = process.last_words() if process is not None and not process.alive else ""
                    info.failures[workload.name] = f"{error}{words}"
                    progress(f"{peer.name} {workload.name}: failing: {error}{words}")
                    continue
                if process is not None:
                    loaded.append(process.memory())
            if idle is not None and loaded:
                self.results.starts.append(
                    Start(
                        peer=peer.name,
                        round=turn,
                        startup_ms=startup_s * 1e3,
                        idle_rss_mib=idle.rss_mib,
                        idle_pss_mib=idle.pss_mib,
                        loaded_rss_mib=max(memory.rss_mib for memory in loaded),
                        loaded_pss_mib=max(memory.pss_mib for memory in loaded),
                    )
                )

    def _measure(self, peer: Peer, launch: Launch, process: Spawned | None, workload: Workload, turn: int) -> Run:
        """Checks, warms up, and takes one workload, again while others disturb it.

        The least disturbed take counts, whatever its result is.

        Raises:
            CheckError: The proxy's answers are not the upstream's.
            wrk.WrkError: wrk failed, or saw errors.
        """
        ports = process.local_ports if process is not None else None
        check(workload, launch.port, self._upstream, ports)
        load = wrk.Load(
            url=f"{launch.scheme}://127.0.0.1:{launch.port}{workload.path}",
            connections=workload.connections,
            headers=workload.headers(),
            script=workload.write_script(self._folder),
        )
        if self._options.warmup_s:
            wrk.run(load, self._options.warmup_s)
        takes = 1
        best = self._take(peer, process, workload, turn, load)
        while best.noisy and takes <= self._options.retakes:
            takes += 1
            again = self._take(peer, process, workload, turn, load)
            best = min(best, again, key=lambda run: run.disturbance)
        return dataclasses.replace(best, takes=takes)

    def _take(self, peer: Peer, process: Spawned | None, workload: Workload, turn: int, load: wrk.Load) -> Run:
        """Runs wrk once between two readings of all clocks."""
        quiet = measure.wait_until_quiet(self._options.patience_s)
        load_average = os.getloadavg()[0]
        before, proxy_before, upstream_before = Clock.read(), _cpu_s(process), self._upstream_process.cpu_s()
        result = wrk.run(load, self._options.seconds)
        proxy_s = _cpu_s(process) - proxy_before
        upstream_s = self._upstream_process.cpu_s() - upstream_before
        machine = measure.machine_between(before, Clock.read(), proxy_s + upstream_s, self._cores)
        if process is not None and not process.alive:
            raise CheckError("the proxy ended during the run")
        fault = result.fault(workload.answer_bytes)
        if fault is not None:
            raise wrk.WrkError(fault)
        run = Run(
            peer=peer.name,
            workload=workload.name,
            round=turn,
            requests=result.requests,
            requests_per_s=result.requests_per_s,
            p50_us=result.p50_us,
            p99_us=result.p99_us,
            read_bytes=result.read_bytes,
            cpu_us_per_request=None if process is None else proxy_s / result.requests * 1e6,
            rss_mib=None if process is None else process.memory().rss_mib,
            proxy_core=machine.proxy_core,
            load_core=machine.load_core,
            foreign_cores=machine.foreign_cores,
            steal_cores=machine.steal_cores,
            load_average=load_average,
            quiet=quiet,
        )
        progress(
            f"{turn}/{self._options.rounds} {peer.name:8} {workload.name:10}"
            f" {run.requests_per_s:10,.0f} req/s  p99 {run.p99_us / 1e3:8.3f} ms"
            f"  CPU {number(run.cpu_us_per_request, 1):>7} us/req"
            f"  cores {run.proxy_core:.0%} {run.load_core:.0%}"
            f"  others {run.foreign_cores:.0%} steal {run.steal_cores:.0%}{'' if quiet else '  not quiet'}"
        )
        return run


def _cpu_s(process: Spawned | None) -> float:
    return 0.0 if process is None else process.cpu_s()


def describe_machine(cores: Cores) -> dict[str, object]:
    """What the numbers depend on besides the programs."""
    model = "unknown CPU"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cores_online": os.cpu_count(),
        "proxy_core": cores.proxy,
        "load_core": cores.load,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()),
    }


def progress(line: str) -> None:
    """Tells the person who waits; standard output is for the report."""
    print(line, file=sys.stderr, flush=True)


def _end(number: int, frame: FrameType | None) -> None:
    # As an exception, so that every process is ended and the temporary folder goes.
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the report, writes the JSON; 1 when a proxy failed."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, _end)
    try:
        cores = measure.pick_cores()
        with tempfile.TemporaryDirectory(prefix="side-by-side-") as name, measure.pinned(cores.load):
            bench = SideBySide(options, cores, Path(name))
            bench.run()
    except (RuntimeError, UnavailableError, CertificateError, StartError) as error:
        print(f"side_by_side: {error}", file=sys.stderr)
        return 2
    print(render(bench.results))
    write_json(bench.results, options.json_path)
    progress(f"written: {options.json_path}")
    failed = any(peer.status == "failing" or peer.failures for peer in bench.results.peers)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
