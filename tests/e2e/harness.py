"""Real sockets around a real sidecar: the process, scripted upstreams, clients that write octets.

Everything blocks, with a deadline that only a hang reaches; whatever takes turns does so in threads, and an exception
in one of them fails the test that runs. Nothing here measures time.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]

PATIENCE_S = 30.0
"""How long to wait for what should happen at once, on a machine that is busy."""

_COMPLAINTS = ("Traceback", "ERROR", "CRITICAL", "never awaited", "Warning")
"""On standard error."""

T = TypeVar("T")
Address = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""


class Ended(Exception):
    """The peer has ended the connection before what was waited for had come.

    Attributes:
        octets: what had come.
        reset: whether it ended with a reset.
    """

    def __init__(self, octets: bytes, reset: bool) -> None:
        super().__init__(f"{'reset' if reset else 'end'} after {octets[-200:]!r}")
        self.octets = octets
        self.reset = reset


def eventually(condition: Callable[[], T], what: str) -> T:
    """The first true value of `condition`, which should become true by itself."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {PATIENCE_S:g} s: {what}")
        time.sleep(0.01)


def steady(value: Callable[[], T]) -> T:
    """`value` when it has stopped to change: what flows has come to a halt, or to its end."""
    deadline = time.monotonic() + PATIENCE_S
    last, unchanged = value(), 0
    while unchanged < 30:
        assert time.monotonic() < deadline, f"it goes on changing, now {last!r}"
        time.sleep(0.01)
        last, before = value(), last
        unchanged = unchanged + 1 if last == before else 0
    return last


def kernel_holds() -> int:
    """Octets that one TCP connection can hold at most: sent by the one side, and not read by the other."""
    buffers = (Path("/proc/sys/net/ipv4") / name for name in ("tcp_wmem", "tcp_rmem"))
    return sum(int(buffer.read_text().split()[2]) for buffer in buffers)


def need(program: str) -> str:
    """The path of a system program. Without it the test is skipped, and with CI=true it fails."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        missing(f"{program} is not installed")
    return found


def missing(reason: str) -> NoReturn:
    """What a test needs is not there: a skip, and with CI=true a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


# -- messages


@dataclass
class Message:
    """A request or a response as it came."""

    start: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    def get(self, name: bytes) -> bytes | None:
        """The values of a field, joined; None where there is none."""
        values = [value for spelled, value in self.fields if spelled.lower() == name.lower()]
        return b", ".join(values) if values else None

    @property
    def error(self) -> str:
        """The code of an answer that the sidecar gave itself."""
        assert self.get(b"content-type") == b"application/problem+json", self
        problem = json.loads(self.body)
        assert problem["status"] == self.status
        assert self.get(b"proxy-status") is not None, "an answer of its own says so"
        return str(problem["error"])

    @property
    def detail(self) -> str:
        return str(json.loads(self.body)["detail"])

    @property
    def refusal(self) -> tuple[int, str, str]:
        """Status, code and error type of Proxy-Status of an answer that the sidecar gave itself."""
        status = (self.get(b"proxy-status") or b"").decode()
        return self.status, self.error, status.partition("error=")[2].partition(";")[0]

    @property
    def closes(self) -> bool:
        return b"close" in (self.get(b"connection") or b"").lower()


def parse_head(raw: bytes) -> Message:
    """A head without its final empty line."""
    start, *lines = raw.split(b"\r\n")
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        assert colon, f"no field: {line!r}"
        fields.append((name, value.strip(b" \t")))
    return Message(start, fields)


class Wire:
    """One connected socket that speaks octets. Every wait has a deadline.

    Args:
        sock: connected.
        peer: what to call the other side in messages.
    """

    def __init__(self, sock: socket.socket, peer: str = "") -> None:
        self.sock = sock
        self.peer = peer
        self._buffer = bytearray()
        sock.settimeout(PATIENCE_S)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def handshake(self) -> None:
        """What comes before the first octet, as the side that was connected to."""

    # sending and ending

    def send(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def finish(self) -> None:
        """FIN: nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST, which throws away what is under way."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.sock.close()

    # receiving

    def more(self) -> bytes:
        """Whatever comes next."""
        if self._buffer:
            octets = bytes(self._buffer)
            self._buffer.clear()
            return octets
        self._fill(b"")
        return self.more()

    def _fill(self, so_far: bytes) -> None:
        try:
            octets = self._receive()
        except TimeoutError:
            raise AssertionError(f"nothing came in {PATIENCE_S:g} s, behind {so_far[-200:]!r}") from None
        except (ConnectionError, OSError) as error:
            raise Ended(so_far, reset=isinstance(error, ConnectionResetError)) from None
        if not octets:
            raise Ended(so_far, reset=False)
        self._buffer += octets

    def _receive(self) -> bytes:
        """The next octets of the stream; none at its end."""
        return self.sock.recv(1 << 18)

    def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill(bytes(self._buffer))
        octets = bytes(self._buffer[:size])
        del self._buffer[:size]
        return octets

    def until(self, mark: bytes) -> bytes:
        """Octets up to `mark`, which is taken too and not returned."""
        start = 0
        while (at := self._buffer.find(mark, start)) < 0:
            start = max(0, len(self._buffer) - len(mark))
            self._fill(bytes(self._buffer))
        octets = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return octets

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which has to be an orderly one."""
        octets = bytearray()
        while True:
            try:
                octets += self.more()
            except Ended as end:
                if end.reset:
                    raise Ended(bytes(octets), reset=True) from None
                return bytes(octets)

    def await_end(self) -> Ended:
        """Wait until the peer ends the connection; what comes before is thrown away."""
        try:
            while True:
                self.more()
        except Ended as end:
            return end

    @property
    def silent(self) -> bool:
        """Whether nothing has come, not even the end."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not self._buffer and not poll.poll(0)

    # messages

    def head(self) -> Message:
        return parse_head(self.until(b"\r\n\r\n"))

    def request(self) -> Message:
        """The next request with its body."""
        message = self.head()
        self._body(message)
        return message

    def response(self, *, bodiless: bool = False) -> Message:
        """The next response with its body, interim ones included. A body that is cut raises `Ended`."""
        message = self.head()
        assert message.start.startswith(b"HTTP/1.1 "), message.start
        if bodiless or message.status < 200 or message.status in (204, 304):
            return message
        if message.get(b"content-length") is None and message.get(b"transfer-encoding") is None:
            message.body = self.rest()
        else:
            self._body(message)
        return message

    def _body(self, message: Message) -> None:
        length = message.get(b"content-length")
        if length is not None:
            assert message.get(b"transfer-encoding") is None
            message.body = self.exactly(int(length))
        elif message.get(b"transfer-encoding") is not None:
            assert message.get(b"transfer-encoding") == b"chunked"
            for chunk in iter(self.chunk, b""):
                message.chunks.append(chunk)
            message.body = b"".join(message.chunks)
            while line := self.until(b"\r\n"):
                message.trailers.append((line.partition(b":")[0], line.partition(b":")[2].strip()))

    def chunk(self) -> bytes:
        """The next chunk of a chunked body; the empty one is the last, its trailers are left to be read."""
        size = int(self.until(b"\r\n"), 16)
        if size == 0:
            return b""
        octets = self.exactly(size)
        assert self.exactly(2) == b"\r\n"
        return octets


def get(target: str, *lines: str, method: str = "GET", host: str = "any.test") -> bytes:
    """The octets of a request without a body."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


def post(target: str, body: bytes, *lines: str, method: str = "POST") -> bytes:
    """The octets of a request with a body."""
    return get(target, f"Content-Length: {len(body)}", *lines, method=method) + body


def answer(body: bytes = b"", *lines: str, status: str = "200 OK") -> bytes:
    """The octets of a response with a body."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", ""]).encode() + body


def connect(address: Address, *, receive_buffer: int | None = None) -> Wire:
    """A connection to `address`.

    Args:
        address: where to.
        receive_buffer: octets that the kernel may hold for us; the default is the kernel's.
    """
    return Wire(connected(address, receive_buffer=receive_buffer), "sidecar")


def connected(address: Address, *, receive_buffer: int | None = None) -> socket.socket:
    """A socket that is connected; the arguments are those of `connect`."""
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    try:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE_S)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


# -- more than fits


MB = 1_000_000

IN_BETWEEN = 2 * kernel_holds()
"""What the kernel can hold between an application and an upstream, on the two connections together."""


class Flood:
    """Sends octets as fast as they are taken, and counts them: by far more than the kernel can hold."""

    def __init__(self) -> None:
        self.size = IN_BETWEEN // MB * MB + 40 * MB
        self.sent = 0

    def __call__(self, wire: Wire) -> None:
        piece = b"x" * 100_000
        while self.sent < self.size:
            wire.send(piece)
            self.sent += len(piece)


# -- pipes


@contextlib.contextmanager
def full_pipe() -> Iterator[tuple[int, int, int]]:
    """A pipe into which nothing more fits, both ends blocking; yields them and how many octets are in it."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        filled = 0
        for size in (1 << 16, 1):  # the last octets too, where the kernel takes only whole writes
            with contextlib.suppress(BlockingIOError):
                while True:
                    filled += os.write(writing, b"x" * size)
        os.set_blocking(writing, True)
        yield reading, writing, filled
    finally:
        os.close(reading)
        os.close(writing)


def in_pipe(reading: int) -> bytes:
    """What is in a pipe now; takes it out."""
    os.set_blocking(reading, False)
    octets = bytearray()
    with contextlib.suppress(BlockingIOError):
        while more := os.read(reading, 1 << 16):
            octets += more
    return bytes(octets)


# -- the upstream


Script = Callable[[Wire], object]


def echo(wire: Wire, request: Message) -> None:
    """Answer with the request's own target, so that no answer can be taken for another's."""
    wire.send(answer(b"" if request.method == b"HEAD" else request.method + b" " + request.target))


class Upstream:
    """A server of a test: a thread for each connection, which runs the script of the moment.

    Args:
        path: of a Unix socket; None is a port on loopback.
        script: what to do with a connection; by default, answer each request by `echo`.
        host: the address of loopback, IPv6 where it has a colon.
        port: 0 lets the kernel choose.

    Attributes:
        authority: host and port; of no use for a Unix socket.
        wires: connections in the order of their arrival since `play` began.
        requests: what `serve` has read.
    """

    scheme = "http"

    def __init__(
        self, *, path: Path | None = None, script: Script | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.wires: list[Wire] = []
        self.requests: list[Message] = []
        self._script = script or self.serve
        self._threads: list[threading.Thread] = []
        self._taking_in = threading.Lock()  # held while a connection that was accepted gets its wire and its thread
        self._sentinel: Any = None
        self._sentinel_came = threading.Event()
        if path is None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=1024)
            self.port = int(self._listener.getsockname()[1])
            self.authority = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
            self.url = f"{self.scheme}://{self.authority}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen(1024)
            self.url = f"unix:{path}"
        self._acceptor = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
        self._acceptor.join()
        self.close()
        self._hang_up()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, peer = self._listener.accept()
            except OSError:
                return
            if peer == self._sentinel:
                sock.close()
                self._sentinel_came.set()
                continue
            with self._taking_in:
                wire = self._wire(sock)
                self.wires.append(wire)
                thread = threading.Thread(target=self._run, args=(wire, self._script))
                self._threads.append(thread)
                thread.start()

    def _wire(self, sock: socket.socket) -> Wire:
        return Wire(sock, "sidecar")

    def _run(self, wire: Wire, script: Script) -> None:
        try:
            wire.handshake()
            script(wire)
        except (Ended, OSError):
            pass  # the sidecar has left; whether it may is for the test to say
        finally:
            wire.close()

    def serve(self, wire: Wire, reply: Callable[[Wire, Message], None] = echo) -> None:
        """Read requests one after another and reply to each."""
        while True:
            request = wire.request()
            self.requests.append(request)
            reply(wire, request)

    @contextlib.contextmanager
    def play(self, script: Script) -> Iterator[Self]:
        """Follow `script` on every connection meanwhile; none from before is left, none is left behind."""
        self.hang_up()
        before, self._script = self._script, script
        self.wires.clear()
        self.requests.clear()
        try:
            yield self
        finally:
            self._script = before
            self.hang_up()

    @contextlib.contextmanager
    def replying(self, reply: Callable[[Wire, Message], None]) -> Iterator[Self]:
        """Read requests as they come and reply to each by `reply` meanwhile."""
        with self.play(lambda wire: self.serve(wire, reply)):
            yield self

    def hang_up(self) -> None:
        """End every connection, and wait until the sidecar has ended its side: it will use none of them again."""
        self._catch_up()
        self._hang_up()

    def _hang_up(self) -> None:
        with self._taking_in:
            wires, threads = list(self.wires), self._threads
            self._threads = []
        for wire in wires:
            with contextlib.suppress(OSError):
                wire.sock.shutdown(socket.SHUT_WR)
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the sidecar did not end a connection whose upstream has"

    def _catch_up(self) -> None:
        """Wait until every connection that the kernel has completed so far is accepted: one of our own comes last."""
        self._sentinel_came.clear()
        with socket.socket(self._listener.family) as sentinel:
            sentinel.settimeout(PATIENCE_S)
            # The kernel chooses a port, or an abstract name.
            own = self._listener.getsockname()
            sentinel.bind("" if sentinel.family == socket.AF_UNIX else (own[0], 0))
            self._sentinel = sentinel.getsockname()
            sentinel.connect(own)
            assert self._sentinel_came.wait(PATIENCE_S), "the upstream does not accept"
        self._sentinel = None  # whose port may be the sidecar's some day

    def wire(self, number: int = 0) -> Wire:
        """A connection, by its number in the order of arrival."""
        eventually(lambda: len(self.wires) > number, f"connection {number} at the upstream")
        return self.wires[number]


# -- the sidecar


def fresh_host() -> str:
    """An address of this host that nobody else uses: its ports are all free, and stay free for us."""
    return f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"


_given: set[tuple[str, int]] = set()


def free_port(host: str) -> int:
    """A TCP port of `host`, chosen by the kernel, and another one each time."""
    while True:
        with socket.create_server((host, 0)) as server:
            address = (host, int(server.getsockname()[1]))
        if address not in _given:
            _given.add(address)
            return address[1]


def log_lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a log so far, each of which has to be an object of JSON in ASCII."""
    octets = file.read_bytes()
    lines = octets[: octets.rfind(b"\n") + 1].splitlines()
    documents = [json.loads(line.decode("ascii")) for line in lines]
    assert all(isinstance(document, dict) for document in documents)
    return documents


def is_complaint(line: dict[str, Any]) -> bool:
    """Whether a line of the log is one that a healthy sidecar does not write."""
    return line["level"] in ("error", "critical") or "exception" in line or line.get("logger") == "py.warnings"


class Sidecar:
    """A sidecar as a process of its own. `with` starts it and stops it by SIGTERM, and asserts that it went well.

    Args:
        folder: for its configuration and what it writes.
        dependencies: as in the YAML; one that says nothing of its circuit breaker has none, for nearly every test here
            breaks its upstream on purpose, and how fast decides whether that would open a circuit.
        settings: the other keys at the top level of the YAML.

    Attributes:
        exit_status: that a good end has.
        stdout: a descriptor for its log; None for the file `out`.
        environment: variables beside those of the test.
        within: a command that runs the command behind it, in the same process.
        provoked: words in lines of its log that are no complaints, since a test has caused them on purpose.
    """

    def __init__(self, folder: Path, dependencies: dict[str, Any], **settings: Any) -> None:
        self.folder = folder
        self.out, self.err = folder / "stdout", folder / "stderr"
        self.stdout: int | None = None
        self.environment: dict[str, str] = {}
        self.within: list[str] = []
        self.provoked: list[str] = []
        self.host = fresh_host()
        self.address: tuple[str, int] = (self.host, free_port(self.host))
        self.metrics = (self.host, free_port(self.host))
        self.config = folder / "sidecar.yaml"
        config = {
            "listen": f"{self.host}:{self.address[1]}",
            "metrics": {"listen": f"{self.host}:{self.metrics[1]}"},
            "drain_idle": "50ms",
            "dependencies": {name: {"circuit_breaker": {"mode": "off"}} | keys for name, keys in dependencies.items()},
        } | settings
        self.config.write_text(json.dumps(config, indent=2), "utf-8")  # JSON is YAML
        self.process: psutil.Popen | None = None
        self.exit_status = 0
        self._own_sockets = 0  # its listeners, and what its loop needs

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        process = self.running
        try:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.wait(PATIENCE_S)
            if kind is None:
                assert process.returncode == self.exit_status, self.said()
        finally:
            self.kill()
        if kind is None:
            assert not self.complaints(), self.said()

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = psutil.Popen(
                [*self.within, sys.executable, "-m", "sidecar", "run", "--config", str(self.config)],
                cwd=ROOT,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out if self.stdout is None else self.stdout,
                stderr=err,
            )
        try:
            eventually(self._ready, "the sidecar is ready")
            eventually(self._alone, "nobody is connected yet")
            self._own_sockets = self._sockets()
        except BaseException:
            self.kill()
            raise

    def _ready(self) -> bool:
        assert self.running.poll() is None, f"it has ended: {self.said()}"
        try:
            return self.control("/readyz").status == 200
        except (OSError, Ended):
            return False

    def _alone(self) -> bool:
        return all(each.status == psutil.CONN_LISTEN for each in self.running.net_connections("tcp"))

    @property
    def running(self) -> psutil.Popen:
        assert self.process is not None
        return self.process

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

    def said(self) -> str:
        """The end of what it has written, for a person."""
        return "\n".join(file.read_text("utf-8", "replace")[-4000:] for file in (self.out, self.err))

    def logged(self) -> list[dict[str, Any]]:
        """The lines of its log so far. They come a moment behind what they tell of."""
        return log_lines(self.out)

    def complaints(self) -> list[object]:
        """What a healthy sidecar does not write."""
        lines = self.err.read_text("utf-8", "replace").splitlines()
        return [
            *(line for line in lines if any(word in line for word in _COMPLAINTS)),
            *(line for line in self.logged() if is_complaint(line) and not self._is_provoked(line)),
        ]

    def _is_provoked(self, line: dict[str, Any]) -> bool:
        return any(words in line.get("msg", "") for words in self.provoked)

    def control(self, path: str) -> Message:
        """What the read-only port answers."""
        with connect(self.metrics) as wire:
            wire.send(get(path, "Connection: close"))
            return wire.response()

    def metrics_now(self, only: str = "") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """The value of each series, by its name and its labels; where there are many, one name alone is faster."""
        text = self.control("/metrics").body.decode("ascii")
        if only:
            lines = text.splitlines(keepends=True)
            text = "".join(line for line in lines if line.startswith((only + "{", only + " ")))
        families = text_string_to_metric_families(text)
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels, of which there is one at least."""
        found = [value for (_, pairs), value in self.metrics_now(name).items() if labels.items() <= dict(pairs).items()]
        assert found, f"no series {name} {labels}"
        return sum(found)

    def state(self, dependency: str) -> str:
        """Where a circuit is, as a scrape sees it."""
        (state,) = [
            dict(pairs)["state"]
            for (_, pairs), value in self.metrics_now("circuit_breaker_state").items()
            if ("dependency", dependency) in pairs and value == 1
        ]
        return state

    def connect(self, *, receive_buffer: int | None = None) -> Wire:
        """A connection to the shared port."""
        return connect(self.address, receive_buffer=receive_buffer)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """The process is stopped meanwhile: what is sent to it now, it finds when it goes on."""
        self.running.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: self.running.status() == psutil.STATUS_STOPPED, "it stands still")
            yield
        finally:
            self.running.send_signal(signal.SIGCONT)

    def turn(self) -> None:
        """Return when the sidecar has read whatever was sent to it before.

        The second answer proves that its loop has polled every socket once more since the first.
        """
        with self.connect() as wire:
            for _ in range(2):
                wire.send(get("/nowhere"))
                assert wire.response().status == 404

    def ask(self, octets: bytes, *, bodiless: bool = False) -> Message:
        """The answer to one request on a connection of its own."""
        with self.connect() as wire:
            wire.send(octets)
            return wire.response(bodiless=bodiless)

    # what it holds

    def fds(self) -> int:
        return int(self.running.num_fds())

    def rss(self) -> int:
        """Resident memory in octets."""
        return int(self.running.memory_info().rss)

    def established(self, port: int | None = None) -> int:
        """Connections that exist or are being made, all or those over TCP with a remote `port`."""
        if port is None:
            return self._sockets() - self._own_sockets
        return sum(
            1
            for connection in self.running.net_connections("tcp")
            if connection.raddr and connection.raddr.port == port
        )

    def _sockets(self) -> int:
        # By hand, because psutil would look for each of them in the kernel's table of all connections there are.
        count = 0
        for descriptor in Path(f"/proc/{self.running.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += str(descriptor.readlink()).startswith("socket:")
        return count

    def cpu_s(self) -> float:
        times = self.running.cpu_times()
        return float(times.user + times.system)


class Background:
    """A function in a thread; `with` waits for its end and raises what it raised.

    Args:
        call: the function.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self._error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001  (raised again where it is waited for)
            self._error = error

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> Any:
        """The function's result."""
        self._thread.join(2 * PATIENCE_S)
        assert not self._thread.is_alive(), "it did not end"
        if self._error is not None:
            raise self._error
        return self.result
