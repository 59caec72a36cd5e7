"""The composition root: builds everything from a configuration, starts it, drains it and stops it.

The one file that knows all the parts. Nothing below it knows which listeners or dependencies exist beside its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import random
import resource
import signal
import socket
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp.http_parser
import uvloop
from aiohttp import web

from sidecar import __version__
from sidecar.config import Address, Config, TcpAddress, Tls, UnixAddress
from sidecar.config import Listener as ListenerKeys
from sidecar.control.readonly import readonly_application
from sidecar.errors import StartError
from sidecar.proxy.answers import make_fallback
from sidecar.proxy.listener import Listener
from sidecar.proxy.pool import Pool
from sidecar.proxy.resolver import Lookup, system_lookup
from sidecar.proxy.routing import Router
from sidecar.proxy.tls import TlsContext, listener_context, upstream_context
from sidecar.runtime.deadlines import Deadlines
from sidecar.runtime.dependency import Dependency
from sidecar.runtime.vitals import Vitals
from sidecar.runtime.watchdog import Watchdog
from sidecar.telemetry.access import AccessLog
from sidecar.telemetry.metrics import Exposition, Sources
from sidecar.telemetry.sink import LogSink
from sidecar.telemetry.transitions import log_transition

if TYPE_CHECKING:
    import pybreaker

log = logging.getLogger("sidecar")

_DRAIN_LOOK_S: Final = 0.05
_STOP_S: Final = 1.0
"""How long the last answers may take to leave when the drain's time is over."""


class App:
    """One sidecar: its listeners, its dependencies, its control plane.

    Args:
        config: a valid configuration.
        sink: where lines about requests go; None writes none.
        watchdog: is fed as long as the loop turns.
        lookup: finds the addresses behind the names of upstreams.

    Raises:
        StartError: a file of a certificate, key or authority cannot be used.
    """

    def __init__(
        self,
        config: Config,
        sink: LogSink | None = None,
        watchdog: Watchdog | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._config = config
        self._sink = sink
        self._watchdog = watchdog
        self._deadlines = Deadlines()
        self._vitals = Vitals(self._deadlines)
        self._access_log: AccessLog | None = None
        self._housekeeping: asyncio.TimerHandle | None = None
        self._lookup = lookup
        self._tls: list[TlsContext] = []
        self._upstream_contexts: dict[Tls, TlsContext] = {}
        self._pools: dict[str, Pool] = {}
        self._listeners: list[tuple[Listener, Address]] = []
        self._runners: list[web.BaseRunner] = []
        self._not_ready: str | None = "starting"
        self._bound: list[str] = []
        self._build()

    def _build(self) -> None:
        config = self._config
        access = config.access_log
        if self._sink is not None:
            self._access_log = AccessLog(
                self._sink, access.sample, frozenset(access.always), access.slow, random.random, access.max_per_second
            )
        for name, settings in config.dependencies.items():
            fallback = settings.fallback
            dependency = Dependency(
                settings,
                self._deadlines,
                self._vitals,
                config.metrics.buckets,
                on_transition=log_transition,
                log=self._access_log,
                fallback=make_fallback(fallback.status, fallback.headers, fallback.body) if fallback.on else None,
            )
            tls = None
            if settings.is_https:
                tls = self._upstream_tls(name, settings.tls)
            self._pools[name] = Pool(dependency, self._deadlines, self._lookup, tls)
        router: Router[Pool] = Router(
            (
                self._pools[name],
                settings.hosts,
                settings.prefix,
                [upstream.port for upstream in settings.upstream if upstream.unix_path is None],
            )
            for name, settings in config.dependencies.items()
        )
        if config.listen is not None:
            self._listeners.append((self._listener("listener.tls", config.listener, router, None), config.listen))
        for name, settings in config.dependencies.items():
            if settings.listen is not None:
                key = f"dependencies.{name}.listener.tls"
                listener = self._listener(key, settings.listener, router, self._pools[name])
                self._listeners.append((listener, settings.listen))

    def _listener(self, key: str, keys: ListenerKeys, router: Router[Pool], pool: Pool | None) -> Listener:
        tls = listener_context(key, keys.tls)
        if tls is not None:
            self._tls.append(tls)
        return Listener(keys, router, pool, self._deadlines, tls=tls, log=self._access_log)

    def _upstream_tls(self, name: str, keys: Tls) -> TlsContext:
        """The context of a dependency; those with the same files share one, for each holds every CA of the system."""
        if keys.insecure_skip_verify:
            log.warning("the certificate of %s is not verified (dependencies.%s.tls.insecure_skip_verify)", name, name)
        terms = keys.model_copy(update={"server_name": None})
        if terms not in self._upstream_contexts:
            self._upstream_contexts[terms] = upstream_context(f"dependencies.{name}.tls", terms)
            self._tls.append(self._upstream_contexts[terms])
        return self._upstream_contexts[terms]

    def circuit(self, name: str) -> pybreaker.CircuitBreaker:
        """The pybreaker of a dependency, to hang a `pybreaker.CircuitBreakerListener` on.

        Raises:
            KeyError: there is no such dependency.
        """
        return self._pools[name].dependency.mirror.breaker

    @property
    def bound(self) -> list[str]:
        """The addresses of the data listeners as they are bound, ports chosen by the kernel included."""
        return list(self._bound)

    async def start(self) -> None:
        """Bind everything; ready when it returns.

        Raises:
            StartError: an address cannot be bound, or a part is missing.
        """
        _check_parts()
        _raise_descriptor_limit()
        self._deadlines.start(asyncio.get_running_loop())
        self._keep_house()
        for pool in self._pools.values():
            pool.start()
        sources = Sources(
            pools=self._pools,
            listeners=[listener for listener, _ in self._listeners],
            deadlines=self._deadlines,
            vitals=self._vitals,
            version=__version__,
            config_hash=hashlib.sha256(repr(self._config).encode()).hexdigest()[:12],
            config_loaded_at=time.time(),
            access_log=self._access_log,
            log_lines_dropped=lambda: 0 if self._sink is None else self._sink.dropped,
        )
        application = readonly_application(lambda: self._not_ready, Exposition(sources).render)
        try:
            readonly = web.AppRunner(application, handle_signals=False, access_log=None, shutdown_timeout=1)
            await self._bind(readonly, self._config.metrics.listen, "metrics.listen", 128)
            for listener, address in self._listeners:
                # A protocol factory of our own stands where aiohttp's types expect web.Server; what ServerRunner
                # asks of it is what Listener has.
                runner = web.ServerRunner(listener, shutdown_timeout=_STOP_S)  # type: ignore[arg-type]
                key = "listen" if listener.pool is None else f"dependencies.{listener.pool.dependency.name}.listen"
                self._bound += await self._bind(runner, address, key, listener.settings.backlog)
        except BaseException:
            await self.stop()
            raise
        self._not_ready = None

    def _keep_house(self) -> None:
        """What is to be done once a second."""
        self._vitals.sample()
        for tls in self._tls:
            tls.refresh()
        if self._watchdog is not None:
            self._watchdog.feed()
        self._housekeeping = asyncio.get_running_loop().call_later(1.0, self._keep_house)

    async def _bind(self, runner: web.BaseRunner, address: Address, key: str, backlog: int) -> list[str]:
        self._runners.append(runner)
        await runner.setup()
        try:
            if isinstance(address, UnixAddress):
                _check_stale_socket(Path(address.path))
                await web.UnixSite(runner, address.path, backlog=backlog).start()
            else:
                await web.TCPSite(runner, address.host, address.port, backlog=backlog, reuse_address=True).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)  # its own text names the address once more
            raise StartError(f"{key}: cannot listen on {address}: {reason}") from error
        return [name if isinstance(name, str) else str(TcpAddress(name[0], name[1])) for name in runner.addresses]

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Stop being ready, and serve on until the application has stopped asking.

        The application beside us gets its own SIGTERM at the same time and may still have calls to make, so requests
        are accepted and answered, each with `Connection: close`, until none has come for `drain_idle` and none is
        under way, or `drain_timeout` is over. A tunnel in which nothing has moved for `drain_idle` is closed.

        Args:
            hurry: when set, the drain ends at once.
        """
        self._not_ready = "draining"
        hurry = hurry or asyncio.Event()
        deadlines = self._deadlines
        began = deadlines.now
        loop = asyncio.get_running_loop()
        over = loop.time() + self._config.drain_timeout  # not process time: whoever stops us counts real seconds
        for listener, _ in self._listeners:
            listener.draining = True
        while loop.time() < over and not hurry.is_set():
            last = max((listener.last_request for listener, _ in self._listeners), default=began)
            busy = sum(listener.in_flight for listener, _ in self._listeners)
            for listener, _ in self._listeners:
                listener.close_silent_tunnels(self._config.drain_idle)
            busy += sum(listener.tunnels for listener, _ in self._listeners)
            quiet = not busy and deadlines.now - max(last, began) >= self._config.drain_idle
            if quiet and not any(listener.flushing for listener, _ in self._listeners):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), _DRAIN_LOOK_S)

    async def stop(self, *, at_once: bool = False) -> None:
        """Close every listener and connection.

        Args:
            at_once: without a last answer to what is under way.
        """
        self._not_ready = "stopped"
        if at_once:
            for listener, _ in self._listeners:
                listener.abort()
        # The data ports together, since each may wait for its clients; the read-only port outlives them.
        await asyncio.gather(*(runner.cleanup() for runner in self._runners[1:]))
        for runner in self._runners[:1]:
            await runner.cleanup()
        self._runners.clear()
        for pool in self._pools.values():
            pool.close()
            pool.dependency.admission.close()
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        if self._watchdog is not None:
            self._watchdog.stop()
        self._deadlines.stop()


def run(config: Config, sink: LogSink | None = None) -> int:
    """Run a sidecar until it is told to stop.

    SIGTERM and SIGINT drain; a second one ends it at once.

    Args:
        config: a valid configuration.
        sink: where lines about requests go.

    Returns:
        0 after a drain, 128 plus the signal's number after a second signal.

    Raises:
        StartError: it could not start.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(App(config, sink, Watchdog())))


async def serve(app: App) -> int:
    """Start `app` and keep it until a signal; see `run`."""
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()
    signals: list[int] = []

    def on_signal(number: int) -> None:
        signals.append(number)
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await app.start()
    gc.freeze()  # what lives as long as the process need not be looked at by every collection, which holds the loop
    log.info("ready: listening on %s", ", ".join(app.bound) or "no data port")
    await stop.wait()
    log.info("draining: requests are served on, and their connections closed")
    await app.drain(hurry)
    await app.stop(at_once=hurry.is_set())
    log.info("stopped")
    return 128 + signals[-1] if hurry.is_set() else 0


def _check_parts() -> None:
    """aiohttp falls back to parsers in Python without a word; the control plane must not run on them unnoticed."""
    parser = aiohttp.http_parser
    if parser.HttpRequestParser is parser.HttpRequestParserPy:
        raise StartError("aiohttp's C parser is not loaded; install a wheel of aiohttp for this platform")


def _raise_descriptor_limit() -> None:
    """Each request takes two descriptors; the usual soft limit of 1024 is for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # not permitted: then the soft limit holds
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _check_stale_socket(path: Path) -> None:
    """A socket file that nobody listens on is a leftover and is replaced; one in use is not taken over."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise StartError(f"{path} exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise StartError(f"{path} is in use by another process")
