"""Processes, cores and what they use: starting, pinning, reading, stopping."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

MIB = 1 << 20

# Above this share of one core, what others do (or the hypervisor withholds) makes a run noisy.
NOISE_CORES = 0.05


class StartError(Exception):
    """A process ended before it answered, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The two cores of a run: the proxy alone on one, everything else on the other."""

    proxy: int
    load: int


def pick_cores() -> Cores:
    """The first two cores that this process may use.

    Raises:
        RuntimeError: There is only one.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise RuntimeError("the benchmark needs two cores: one for the proxy, one for wrk and the upstream")
    return Cores(proxy=allowed[0], load=allowed[1])


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Binds the calling thread, and what it starts meanwhile, to one core.

    Inheriting costs a child nothing, where `taskset` in front of its command would be part of its start-up.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_ports(count: int) -> list[int]:
    """Loopback ports that the kernel has just found free, all different."""
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process and its children, in MiB.

    Attributes:
        rss_mib: Resident set sizes added up: a page that two of the processes share counts twice.
        pss_mib: Proportional set sizes added up: a shared page counts once, divided among all who map it.
    """

    rss_mib: float
    pss_mib: float


class Spawned:
    """A process of the benchmark with its children; leaving the `with` block ends it.

    Args:
        command: Program and arguments.
        core: Where it and its threads and children run.
        log: File for both of its output streams.
        env: Added to the environment.
        cwd: Its working folder.
    """

    def __init__(self, command: Sequence[str], core: int, log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self._log = log
        with pinned(core), log.open("wb") as output:
            self.started_at = time.perf_counter()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                cwd=cwd,
            )

    def __repr__(self) -> str:
        return f"<Spawned pid={self._process.pid} returncode={self._process.returncode}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def tree(self) -> list[psutil.Process]:
        """The process and all its children; empty once it is gone."""
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_s(self) -> float:
        """CPU seconds, user and system, of all threads and children so far (/proc/PID/stat: 10 ms steps)."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self) -> Memory:
        """What it holds now."""
        rss = pss = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                full = process.memory_full_info()
                rss += full.rss
                pss += full.pss
        return Memory(rss / MIB, pss / MIB)

    def local_ports(self) -> set[int]:
        """The local ports of its TCP connections."""
        ports: set[int] = set()
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                ports |= {c.laddr.port for c in process.net_connections(kind="tcp") if c.laddr}
        return ports

    def wait_answer(
        self,
        port: int,
        path: str,
        statuses: Collection[int] = (200,),
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 20.0,
    ) -> float:
        """Asks until the answer has one of the statuses; returns the seconds since the command was given (1 ms steps).

        Raises:
            StartError: It ended, or `timeout_s` passed.
        """
        status = None
        deadline = self.started_at + timeout_s
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
        while time.perf_counter() < deadline:
            if not self.alive:
                raise StartError(f"ended with {self._process.returncode} before it answered{self.last_words()}")
            status = _status(port, request, tls)
            if status in statuses:
                return time.perf_counter() - self.started_at
            time.sleep(0.001)
        wanted = " or ".join(map(str, statuses))
        found = "" if status is None else f", but with {status}"
        raise StartError(f"did not answer {path} with {wanted} within {timeout_s:.0f} s{found}{self.last_words()}")

    def last_words(self) -> str:
        """The end of its output, as the rest of a message."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return f": {' / '.join(lines[-2:])[-300:]}" if lines else ""

    def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after `grace_s` to it and to the children that it had."""
        children = self.tree()[1:]
        if self.alive:
            self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # psutil compares start times as well, so that a reused process id is left alone.
        _, orphans = psutil.wait_procs(children, timeout=1.0)
        for orphan in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()


def _status(port: int, request: bytes, tls: ssl.SSLContext | None) -> int | None:
    """The status of the answer, or None where there was none."""
    try:
        # HAProxy takes three seconds to give an upstream up.
        with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
            if tls is None:
                connection.sendall(request)
                head = connection.recv(64)
            else:
                with tls.wrap_socket(connection, server_hostname="127.0.0.1") as secured:
                    secured.sendall(request)
                    head = secured.recv(64)
    except OSError:
        return None
    return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") and head[9:12].isdigit() else None


@dataclass(frozen=True, slots=True)
class Clock:
    """A reading of the machine's clocks; two of them bracket a run. All in seconds.

    Attributes:
        wall_s: Of the wall.
        work_s: User and system time of all cores. Interrupts are left out: they are the network's, and the
            kernel books them on nobody.
        busy_s: Per core, all that it did.
        idle_s: Per core, what it did not.
        steal_s: What the hypervisor gave to others, over all cores.
        children_s: User and system time of ended children of this process.
    """

    wall_s: float
    work_s: float
    busy_s: tuple[float, ...]
    idle_s: tuple[float, ...]
    steal_s: float
    children_s: float

    @staticmethod
    def read() -> Clock:
        """Reads /proc/stat, and this process's ended children."""
        per_core = psutil.cpu_times(percpu=True)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Clock(
            wall_s=time.perf_counter(),
            work_s=sum(core.user + core.nice + core.system for core in per_core),
            busy_s=tuple(c.user + c.nice + c.system + c.irq + c.softirq for c in per_core),
            idle_s=tuple(core.idle + core.iowait for core in per_core),
            steal_s=sum(core.steal for core in per_core),
            children_s=children.ru_utime + children.ru_stime,
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """What the machine did during a run.

    Attributes:
        proxy_core: Share of the proxy's core that was busy, 0 to 1, of the time that it was given.
        load_core: The same of the other core.
        foreign_cores: Cores' worth of work that no process of the benchmark did.
        steal_cores: Cores' worth of time that the hypervisor gave to others.
    """

    proxy_core: float
    load_core: float
    foreign_cores: float
    steal_cores: float


def machine_between(before: Clock, after: Clock, own_cpu_s: float, cores: Cores) -> Machine:
    """Compares two readings.

    Args:
        before: Read at the start.
        after: Read at the end.
        own_cpu_s: CPU seconds of the processes that the benchmark keeps running; those that it waited for
            (wrk) are in the readings.
        cores: Which core is whose.
    """
    elapsed = max(after.wall_s - before.wall_s, 1e-9)
    own = own_cpu_s + after.children_s - before.children_s

    def share(core: int) -> float:
        busy = after.busy_s[core] - before.busy_s[core]
        idle = max(after.idle_s[core] - before.idle_s[core], 0.0)
        return busy / (busy + idle) if busy > 0 else 0.0

    return Machine(
        proxy_core=share(cores.proxy),
        load_core=share(cores.load),
        foreign_cores=max((after.work_s - before.work_s - own) / elapsed, 0.0),
        steal_cores=max((after.steal_s - before.steal_s) / elapsed, 0.0),
    )


def wait_until_quiet(patience_s: float, sample_s: float = 0.4) -> bool:
    """Waits until the machine does next to nothing; False when `patience_s` passed first.

    The load average cannot tell: after a run it is the benchmark's own. So this looks at what all cores do
    while the benchmark's processes stand idle.
    """
    deadline = time.perf_counter() + patience_s
    while True:
        before = Clock.read()
        time.sleep(sample_s)
        after = Clock.read()
        # /proc/stat counts in ticks of 10 ms: one more is forgiven.
        if after.work_s - before.work_s <= NOISE_CORES * sample_s + 0.01:
            return True
        if time.perf_counter() > deadline:
            return False
