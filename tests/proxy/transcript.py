"""A stage for the data plane without sockets: both far ends of a proxied conversation, and a clock moved by hand.

A test reads like a transcript: the client sends, the upstream gets, the upstream sends, the client gets. Everything
between them is the real thing: listener, pool, both connections, exchange and deadlines. Only the event loop and the
transports are stand-ins; they do nothing unless a test makes them, so the outcome never depends on timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple

from sidecar.config import Config, load_text
from sidecar.config import Dependency as Settings
from sidecar.policy.states import Transition
from sidecar.proxy.answers import make_fallback
from sidecar.proxy.downstream import DownstreamConnection
from sidecar.proxy.listener import Listener
from sidecar.proxy.pool import Pool
from sidecar.proxy.routing import Router
from sidecar.proxy.tls import SHUTDOWN_S, TlsContext
from sidecar.runtime.deadlines import TICK_S, Deadlines
from sidecar.runtime.dependency import Dependency

_HIGH = 65_536  # asyncio's own default, until the protocol says otherwise


def message(start: str, *fields: str, body: str | bytes = b"") -> bytes:
    """A message from its start line, its field lines and its body."""
    octets = body.encode("latin-1") if isinstance(body, str) else body
    return "\r\n".join((start, *fields, "", "")).encode("latin-1") + octets


# The shortest request and answer, as each side sees them.
GET = message("GET /a HTTP/1.1", "Host: app")
GET_UPSTREAM = message("GET /a HTTP/1.1", "Host: payments:8080", "Via: 1.1 sidecar")
OK = message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 2", body="hi")
OK_DOWNSTREAM = message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 2", "Via: 1.1 sidecar", body="hi")


class Clock:
    """Monotonic seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class StageLoop(asyncio.AbstractEventLoop):
    """An event loop that runs what is ready when it is told to, and dials through `dial`."""

    def __init__(self, clock: Clock) -> None:
        self.dial: Callable[[Callable[[], Any], object, float | None], Awaitable[Any]]
        self.dialed_with: list[dict[str, Any]] = []  # the options of each attempt to connect, beside its address
        self.faults: list[dict[str, Any]] = []
        self.timers: list[asyncio.TimerHandle] = []
        self._clock = clock
        self._ready: deque[asyncio.Handle] = deque()

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(self._clock() + delay, callback, args, self, context)
        self.timers.append(timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if handle in self.timers:  # not one that has rung
            self.timers.remove(handle)

    def ring(self) -> None:
        """Run the timers that are due."""
        for timer in sorted(self.timers):
            if timer.when() <= self._clock():
                self.timers.remove(timer)
                with self.running():
                    timer._run()
                self.settle()

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **_: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self)

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        self.dialed_with.append(options)
        return await self.dial(factory, (host, port), options.get("ssl_shutdown_timeout"))

    async def create_unix_connection(self, factory: Any, path: Any = None, **_: Any) -> Any:
        return await self.dial(factory, path, None)

    async def start_tls(self, transport: Any, protocol: Any, sslcontext: Any, **options: Any) -> Any:
        """As uvloop does it, in the same steps; the context is the peer's end (`StageTls`)."""
        assert options["server_side"]
        assert not transport._lost, "TLS on what is closed"
        layer = sslcontext.layer(self, protocol, options["ssl_handshake_timeout"], options["ssl_shutdown_timeout"])
        transport.stop_reading()
        transport.set_protocol(layer)
        begins = self.call_soon(layer.connection_made, transport)
        goes_on = self.call_soon(transport.start_reading)
        try:
            await layer.waiter
        except BaseException:
            transport.close()
            begins.cancel()
            goes_on.cancel()
            raise
        return layer.transport

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(context)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)

    def settle(self) -> None:
        """Run what is ready, and what becomes ready by it, until nothing is."""
        with self.running():
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()


class _Socket:
    """What the proxy asks of a socket: its number, and to make its close a reset."""

    def __init__(self, descriptor: int) -> None:
        self.no_linger = False
        self._descriptor = descriptor

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self.no_linger = True

    def fileno(self) -> int:
        return self._descriptor


class StageTransport(asyncio.Transport):
    """The proxy's end of a connection. As strict as uvloop's: no write behind a close or an end of file, no reading
    behind the far end's, no other protocol behind a close; and nothing can be paused before `connection_made` is over.

    Args:
        loop: that it belongs to.
        protocol: of the proxy.
        descriptor: of its socket.
        tls: where it is over TLS, how long its close may take, in seconds. It knows no half-closed connection: the far
            end's FIN closes it, and its close waits for the far end.
    """

    def __init__(self, loop: StageLoop, protocol: Any, descriptor: int, *, tls: float | None = None) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._socket = _Socket(descriptor)
        self._tls = tls is not None
        self._shutdown_s = tls or 0.0
        self._gives_up: asyncio.TimerHandle | None = None
        self._high = _HIGH
        self._buffer = bytearray()
        self._arrived: deque[bytes] = deque()  # at the proxy's kernel, not read yet; b"" is FIN
        self._begun = False
        self._stopped = False  # reading, without the protocol's doing
        self._finished = False  # the far end has sent FIN, and it was read
        self._closing = False
        self._lost = False
        self._full = False
        self.below: StageTransport | None = None  # of TLS that was begun by `start_tls`
        self.reading = True
        self.flowing = True  # the far end reads
        self.agrees = True  # over TLS: the far end answers a close with its own
        self.flushed = bytearray()  # what the far end has
        self.writes = 0
        self.pauses = 0
        self.eof = False
        self.aborted = False
        self.unsent_at_abort = 0

    # what the loop does

    def begin(self) -> None:
        """The connection stands. Only when the protocol knows of it is it read, whatever the protocol has said."""
        self._protocol.connection_made(self)
        self._begun = True
        self._deliver()

    def stop_reading(self) -> None:
        """As `pause_reading`, but for the loop's own purposes."""
        self._stopped = True

    def start_reading(self) -> None:
        self._stopped = False
        self._deliver()

    # what the proxy calls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 50_000), "socket": self._socket}.get(name, default)

    def set_protocol(self, protocol: Any) -> None:
        assert not self._closing, "another protocol behind close"
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _HIGH if high is None else high

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return not self._tls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._closing, "write behind close"
        assert not self.eof, "write behind end of file"
        assert data, "write of nothing"
        self.writes += 1
        self._buffer += data
        self._flush()
        if len(self._buffer) > self._high and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        assert not self._closing, "end of file behind close"
        assert not self._tls, "end of file over TLS"
        self.eof = True

    def pause_reading(self) -> None:
        assert not self._closing, "pause behind close"
        assert self._begun, "pause before it is read"
        assert self.reading, "paused twice"
        self.reading = False
        self.pauses += 1

    def resume_reading(self) -> None:
        assert not self._closing, "resume behind close"
        assert not self._finished, "resume behind the far end's end of file"
        assert not self.reading, "resumed without a pause"
        self.reading = True
        self._loop.call_soon(self._deliver)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if self._tls:
                error = TimeoutError("SSL shutdown timed out")
                self._gives_up = self._loop.call_later(self._shutdown_s, self.fail, error)
            self._flush()

    def abort(self) -> None:
        self.aborted = True
        self.unsent_at_abort = len(self._buffer)
        self._buffer.clear()
        self._closing = True
        self._lose(None)

    # what the far end does

    def arrive(self, data: bytes) -> None:
        self._arrived.append(data)
        self._deliver()

    def fail(self, error: Exception | None) -> None:
        """The connection is gone, whatever was under way."""
        self._closing = True
        self._buffer.clear()
        self._lose(error)

    def drain(self, size: int | None = None) -> None:
        """The far end takes `size` octets of what is buffered, or all."""
        size = len(self._buffer) if size is None else size
        self.flushed += self._buffer[:size]
        del self._buffer[:size]
        if self._full and len(self._buffer) <= self._high // 4:
            self._full = False
            self._protocol.resume_writing()
        if self._closing:
            self._flush()

    def _flush(self) -> None:
        if self.flowing:
            self.flushed += self._buffer
            self._buffer.clear()
        if self._closing and not self._buffer and (self.agrees or not self._tls):
            self._lose(None)

    def _deliver(self) -> None:
        while self._begun and self._arrived and self.reading and not self._stopped and not self._closing:
            data = self._arrived.popleft()
            protocol = self._protocol
            if not data:
                self._finished = True
                goes_on = protocol.eof_received()
                assert not (goes_on and self._tls), "over TLS there is nothing to go on with"
                if not goes_on:
                    self.close()
            elif hasattr(protocol, "get_buffer"):
                protocol.get_buffer(len(data))[: len(data)] = data
                protocol.buffer_updated(len(data))
            else:
                protocol.data_received(data)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            if self._gives_up is not None:
                self._gives_up.cancel()
            if self.below is not None:
                self.below.close()
            if self._tls:  # uvloop tells whose protocol it is at this moment, not at the next
                self._loop.call_soon(self._protocol.connection_lost, error)
            else:
                self._loop.call_soon(self._tell_loss, error)

    def _tell_loss(self, error: Exception | None) -> None:
        self._protocol.connection_lost(error)


HELLO: Final = b"<hello>"
"""What a client that speaks TLS says first, on the stage."""


class StageTls:
    """A context of TLS, with the layers that it was used for; the octets of a client pass as they are, behind `HELLO`.

    Attributes:
        context: itself, as `TlsContext` has one.
        layers: one for each handshake.
    """

    def __init__(self) -> None:
        self.context = self
        self.layers: list[StageTlsLayer] = []

    def layer(self, loop: StageLoop, protocol: Any, timeout_s: float, shutdown_s: float) -> StageTlsLayer:
        layer = StageTlsLayer(loop, protocol, timeout_s, shutdown_s)
        self.layers.append(layer)
        return layer


class StageTlsLayer:
    """What stands between a transport and the protocol above it, with the states of uvloop's SSLProtocol."""

    def __init__(self, loop: StageLoop, protocol: Any, timeout_s: float, shutdown_s: float) -> None:
        self.waiter = loop.create_future()
        self.transport = StageTransport(loop, protocol, -1, tls=shutdown_s)
        self.transport._begun = True
        self.timeout_s = timeout_s
        self.state = "new"
        self._loop = loop
        self._below: Any = None
        self._came = bytearray()
        self._room = bytearray()

    # what the transport below calls

    def connection_made(self, transport: Any) -> None:
        self._below = self.transport.below = transport
        self.state = "handshake"
        self._go_on()

    def get_buffer(self, size: int) -> memoryview:
        self._room = bytearray(size)
        return memoryview(self._room)

    def buffer_updated(self, size: int) -> None:
        self._came += self._room[:size]
        self._go_on()

    def eof_received(self) -> None:
        if self.state == "handshake":
            self.fail(ConnectionResetError())
        elif self.state == "open":
            self.transport.fail(None)  # without a close_notify nobody is told of an end of file

    def connection_lost(self, error: Exception | None) -> None:
        if self.state == "handshake" or self.state == "new":
            self.transport._closing = True
            if self.state == "new":
                self.transport._lose(error)
        elif self.state == "open":
            self.transport.fail(error)
        self.state = "over"
        self._wake(error)

    # what happens to it

    def fail(self, error: Exception) -> None:
        """The handshake fails."""
        self.state = "over"
        self.transport._closing = True
        self._below.fail(error)
        self._wake(error)

    def _go_on(self) -> None:
        if self.state == "handshake":
            if self._came.startswith(HELLO):
                self.state = "open"
                del self._came[: len(HELLO)]
                self._wake(None)
                self._loop.call_soon(self._go_on)
            elif not HELLO.startswith(self._came):
                self.fail(ssl.SSLError(1, "[SSL: HTTP_REQUEST] http request (_ssl.c:992)"))
        elif self.state == "open" and self._came:
            came = bytes(self._came)
            self._came.clear()
            self.transport.arrive(came)

    def _wake(self, error: Exception | None) -> None:
        if not self.waiter.done():
            if error is None:
                self.waiter.set_result(None)
            else:
                self.waiter.set_exception(error)


class Answer(NamedTuple):
    """A response that the client got, taken apart."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of an answer of the sidecar's own."""
        return str(json.loads(self.body)["error"])

    @property
    def detail(self) -> str:
        return str(json.loads(self.body)["detail"])

    @property
    def proxy_error(self) -> str:
        return self.fields["proxy-status"].partition("error=")[2].partition(";")[0]


class Peer:
    """A far end: the application's client, or the upstream's server."""

    def __init__(
        self, stage: Conversation, transport: StageTransport, address: object = None, protocol: object = None
    ) -> None:
        self._stage = stage
        self.transport = transport
        self.address = address
        self.protocol = protocol

    def __repr__(self) -> str:
        return f"<Peer {self.ended}>"

    def sends(self, *octets: bytes) -> None:
        """Send, each argument in a read of its own."""
        for part in octets:
            self._stage.do(self.transport.arrive, part)

    def sends_at_once(self, octets: bytes) -> None:
        """Send, and leave the loop as it is in the middle of things."""
        with self._stage.loop.running():
            self.transport.arrive(octets)

    def half_closes(self) -> None:
        """Send FIN."""
        self._stage.do(self.transport.arrive, b"")

    def resets(self) -> None:
        """Send RST."""
        self._stage.do(self.transport.fail, ConnectionResetError(104, "Connection reset by peer"))

    def closes(self) -> None:
        """Be gone at once, without an error."""
        self._stage.do(self.transport.fail, None)

    def stops_reading(self) -> None:
        self.transport.flowing = False

    def reads(self, size: int) -> None:
        """Read `size` octets and stop again."""
        self._stage.do(self.transport.drain, size)

    def reads_on(self) -> None:
        self.transport.flowing = True
        self._stage.do(self.transport.drain)

    def takes(self) -> bytes:
        """Everything that has come since."""
        octets = bytes(self.transport.flushed)
        self.transport.flushed.clear()
        return octets

    def gets(self, expected: bytes) -> None:
        """Exactly these octets have come since."""
        assert self.takes() == expected

    def gets_nothing(self) -> None:
        self.gets(b"")

    def gets_answer(self) -> Answer:
        """One whole response has come since, delimited by its Content-Length."""
        head, _, body = self.takes().partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert len(body) == int(fields["content-length"])
        return Answer(int(status.split(" ")[1]), fields, body)

    def gets_refusal(self, status: int, code: str) -> Answer:
        """One whole answer of the sidecar's own has come."""
        answer = self.gets_answer()
        assert (answer.status, answer.code) == (status, code)
        assert answer.fields["content-type"] == "application/problem+json"
        return answer

    @property
    def ended(self) -> str:
        """How the proxy has ended the connection: open, fin (it still reads), closed or reset."""
        transport = self.transport
        if transport.aborted:
            return "reset" if transport._socket.no_linger else "closed"
        return "closed" if transport.is_closing() else "fin" if transport.eof else "open"


@functools.cache
def _load(text: str) -> Config:
    return load_text(text, "stage", {}).config


class Line(NamedTuple):
    """What the log says of one request."""

    dependency: str
    method: bytes
    target: bytes
    status: int
    code: str | None
    attempts: int
    duration_s: float
    waited_s: float
    trace_id: str | None
    octets: list[int] | None = None


class StageLog:
    """Every request that has ended."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def wants(self, status: int, rejected: bool, duration_s: float) -> bool:
        return True

    def write(self, *values: Any) -> None:
        self.lines.append(Line(*values))


class Conversation:
    """The stage: one listener, its dependencies, and who connects to whom.

    Args:
        listener: keys of the listener; `forwarded` is off unless given, for shorter transcripts.
        secured: clients speak TLS to the listener.
        shared: the listener is the shared one; else it belongs to the dependency `payments`.
        others: further dependencies, by name.
        addresses: what the first lookup of a name finds; see the attribute.
        tls_context: of `payments`, where its upstream is https; the stage itself speaks none, and takes any.
        keys: of the dependency `payments`.
    """

    def __init__(
        self,
        *,
        listener: dict[str, Any] | None = None,
        secured: bool = False,
        shared: bool = False,
        others: dict[str, dict[str, Any]] | None = None,
        addresses: dict[str, list[str] | BaseException | str] | None = None,
        tls_context: TlsContext | None = None,
        **keys: Any,
    ) -> None:
        document = {
            "listener": {"forwarded": "off", **(listener or {})},
            "dependencies": {"payments": {"upstream": "http://payments:8080", **keys}, **(others or {})},
        }
        config = _load(json.dumps(document))
        self.clock = Clock()
        self.loop = StageLoop(self.clock)
        self.loop.dial = self._dial
        self.deadlines = Deadlines(self.clock)
        self.deadlines.start(self.loop)
        self.loop.timers.clear()  # of the clock itself, whose ticks `passes` makes
        self.diary: list[tuple[str | None, Transition]] = []
        self.log = StageLog()
        self.rng: Callable[[], float] = lambda: 0.5  # no jitter, and half of every backoff
        # What a lookup of a name finds: by default the name itself, which `_dial` takes as it is. Or what fails it, or
        # "hang" (until `finds`).
        self.addresses: dict[str, list[str] | BaseException | str] = addresses or {}
        self.looked_up: list[str] = []
        self._lookups: dict[asyncio.Future[list[str]], str] = {}
        self.pools = {
            name: Pool(self._dependency(settings), self.deadlines, self._look_up, tls_context or StageTls())
            for name, settings in config.dependencies.items()
        }
        self.pool = self.pools["payments"]
        self.dependency = self.pool.dependency
        self.gate = self.dependency.admission.gate
        router: Router[Pool] = Router(
            (
                self.pools[name],
                settings.hosts,
                settings.prefix,
                [each.port for each in settings.upstream if each.unix_path is None],
            )
            for name, settings in config.dependencies.items()
        )
        self.tls = StageTls() if secured else None
        self.listener = Listener(
            config.listener,
            router,
            None if shared else self.pool,
            self.deadlines,
            tls=self.tls,  # type: ignore[arg-type]
        )
        self.descriptor = -1  # of the next connection
        # Of an attempt to connect: accept, hang (until `accepts` or `refuses`), reset (behind the handshake), late
        # (the transport comes even when it is not wanted any more), or what fails it; or one of these for each address
        # that is not accepted.
        self.dialing: str | BaseException | dict[str, str | BaseException] = "accept"
        self.greeting: list[bytes] = []  # reads that are there as soon as an upstream has accepted
        self.dialed: list[object] = []
        self.dialed_with = self.loop.dialed_with
        self._hanging: deque[asyncio.Future[None]] = deque()
        self._arriving: deque[Peer] = deque()
        self._peers: list[Peer] = []
        for pool in self.pools.values():
            self.do(pool.start)
            self.do(pool.resolver.stop)  # lookups to come are for `looks_up_again` to make

    async def _look_up(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        found = self.addresses.get(host, [host])
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, str):
            lookup: asyncio.Future[list[str]] = self.loop.create_future()
            self._lookups[lookup] = host
            try:
                return await lookup
            finally:
                del self._lookups[lookup]
        return list(found)

    @property
    def lookups_under_way(self) -> int:
        """Lookups that hang."""
        return len(self._lookups)

    def finds(self, host: str, found: list[str] | BaseException) -> None:
        """The lookups of a name that hang come to their end, and so do those to come."""
        self.addresses[host] = found
        for lookup in [lookup for lookup, name in self._lookups.items() if name == host]:
            if isinstance(found, BaseException):
                lookup.set_exception(found)
            else:
                lookup.set_result(found)
        self.loop.settle()

    def looks_up_again(self) -> None:
        """Every name is looked up once more."""
        for pool in self.pools.values():
            with self.loop.running():
                self.loop.create_task(pool.resolver.look())
            self.loop.settle()

    def _dependency(self, settings: Settings) -> Dependency:
        keys = settings.fallback
        return Dependency(
            settings,
            self.deadlines,
            rng=lambda: self.rng(),
            on_transition=lambda _, candidate, transition, __: self.diary.append((candidate, transition)),
            log=self.log,
            fallback=make_fallback(keys.status, keys.headers, keys.body) if keys.on else None,
        )

    @property
    def state(self) -> str:
        """Where the circuit of `payments` is, as a scrape would see it."""
        self.dependency.admission.advance(self.deadlines.read())
        return self.gate.breaker.state.value

    def do(self, step: Callable[..., object], *args: Any) -> None:
        """Let something happen, and everything that follows from it."""
        with self.loop.running():
            step(*args)
        self.loop.settle()

    def client(self, *early: bytes, tls: bool = False, told: bool = True) -> Peer:
        """The application opens a connection.

        Args:
            early: reads that are there as soon as the connection is.
            tls: the connection is over TLS, whose handshake has been already.
            told: the proxy knows; else it hears of it by `transport.begin`.
        """
        protocol = DownstreamConnection(self.listener) if tls else self.listener()
        transport = StageTransport(self.loop, protocol, self.descriptor, tls=SHUTDOWN_S if tls else None)
        transport._arrived.extend(early)
        peer = Peer(self, transport, protocol=protocol)
        self._peers.append(peer)
        if told:
            self.do(transport.begin)
        return peer

    def upstream(self) -> Peer:
        """The upstream's end of the next connection that the proxy has made."""
        assert self._arriving, "the proxy has made no further connection"
        return self._arriving.popleft()

    @property
    def no_upstream(self) -> bool:
        """Whether the proxy has made no connection beside those already seen."""
        return not self._arriving

    def accepts(self) -> None:
        """The upstream accepts the connection attempt that has hung longest."""
        self._hanging.popleft().set_result(None)
        self.loop.settle()

    def refuses(self, error: OSError) -> None:
        """The connection attempt that has hung longest fails."""
        self._hanging.popleft().set_exception(error)
        self.loop.settle()

    @property
    def hanging(self) -> int:
        """Connection attempts that nobody has answered nor given up."""
        return sum(not attempt.done() for attempt in self._hanging)

    async def _dial(self, factory: Callable[[], Any], address: object, tls: float | None) -> Any:
        self.dialed.append(address)
        dialing = self.dialing
        if isinstance(dialing, dict):
            dialing = dialing.get(address[0] if isinstance(address, tuple) else str(address), "accept")
        if isinstance(dialing, BaseException):
            try:
                raise dialing
            finally:
                dialing = ""  # else it would refer to this frame, and the frame to it
        if dialing == "hang":
            await self._hang()
        protocol = factory()
        transport = StageTransport(self.loop, protocol, self.descriptor, tls=tls)
        transport._arrived.extend(self.greeting)
        peer = Peer(self, transport, address)
        self._peers.append(peer)
        try:
            if dialing == "late":
                await self._hang()
        finally:
            transport.begin()
        if dialing == "reset":
            transport.fail(ConnectionResetError(104, "Connection reset by peer"))
            await asyncio.sleep(0)
        else:
            self._arriving.append(peer)
        return transport, protocol

    async def _hang(self) -> None:
        attempt = self.loop.create_future()
        self._hanging.append(attempt)
        try:
            await attempt
        finally:
            if attempt in self._hanging:
                self._hanging.remove(attempt)

    def passes(self, seconds: float) -> None:
        """Let time pass, tick by tick."""
        end = self.clock.seconds + seconds
        while self.clock.seconds < end:
            timer = min((timer.when() for timer in self.loop.timers), default=end)
            self.clock.seconds = min(end, self.clock.seconds + TICK_S, max(timer, self.clock.seconds))
            self.loop.ring()
            self.do(self.deadlines.advance)

    def stands_still(self, seconds: float) -> None:
        """The process does not run for a while."""
        self.clock.seconds += seconds
        self.do(self.deadlines.advance)

    def is_at_rest(self) -> bool:
        """Whether no request is under way anywhere."""
        return self.listener.in_flight == 0 and all(
            "active=0" in repr(pool) and "connecting=0 waiting=0" in repr(pool) for pool in self.pools.values()
        )

    def leaves_nothing(self) -> None:
        """Everybody goes home: nothing is left behind in the listener, the pools or the wheel."""
        self.loop.settle()
        for peer in self._peers:
            if isinstance(peer.protocol, DownstreamConnection):
                self.do(peer.protocol.close)
        self.do(self.listener.abort)
        for pool in self.pools.values():
            gate = pool.dependency.admission.gate
            assert len(gate.queue) == 0
            assert gate.slots is None or gate.slots.in_use == 0
            assert pool.dependency.tunnels.in_use == 0
            assert gate.breaker.view(self.deadlines.read()).trials == 0
            assert pool.dependency.counters.in_flight == 0
            self.do(pool.close)
            self.do(pool.dependency.admission.close)
        self.loop.settle()
        assert self.loop.faults == []
        assert self.listener.in_flight == 0
        assert self.listener.connections == 0
        for name, pool in self.pools.items():
            assert repr(pool) == f"<Pool {name} active=0 idle=0 connecting=0 waiting=0>"
        assert self.deadlines.watched == 0
        assert self.loop.timers == []
        for peer in self._peers:
            assert peer.ended in ("closed", "reset")
