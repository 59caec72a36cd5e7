"""WebSocket frame by frame (RFC 6455): a client that may break every rule, a server that breaks none, a transcript.

Client and server agree on nothing beforehand but the octets, so whatever stands between them and changes one of them,
or their order, or how their connection ends, shows.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import struct
import threading
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from aiohttp import WSMsgType, web

from .harness import PATIENCE_S, Background, Ended, Message, Wire, get

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

KEY = base64.b64encode(b"sixteen octets..").decode()
ACCEPT = base64.b64encode(hashlib.sha1(f"{KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())

MIB = 1 << 20
_MASK = b"\x37\xfa\x21\x3d"


# -- frames


def masked(payload: bytes) -> bytes:
    """`payload` as a client sends it."""
    size = len(payload)
    mask = (_MASK * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A frame as a client sends it.

    Args:
        opcode: of 4 bits.
        payload: of any size, even where the protocol does not allow it.
        fin: whether it is the last of its message.
        rsv: the three reserved bits, the first is 4.
    """
    size = len(payload)
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + _MASK + masked(payload)


def text(payload: str | bytes, **bits: Any) -> bytes:
    return frame(TEXT, payload.encode() if isinstance(payload, str) else payload, **bits)


def closing(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """A close frame."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def fragments(opcode: int, payloads: Iterable[bytes]) -> list[bytes]:
    """One message, a frame for each of `payloads`."""
    pieces = list(payloads)
    last = len(pieces) - 1
    return [frame(CONTINUATION if number else opcode, piece, fin=number == last) for number, piece in enumerate(pieces)]


def chopped(octets: bytes, size: int = 1) -> list[bytes]:
    """`octets` in pieces of `size`."""
    return [octets[start : start + size] for start in range(0, len(octets), size)]


class Frame(NamedTuple):
    """A frame as it came from the server."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    def __repr__(self) -> str:
        size = len(self.payload)
        payload = repr(self.payload) if size < 200 else f"{self.payload[:20]!r}... of {size} octets"
        return f"Frame({self.opcode:#x}, {payload}, fin={self.fin}, rsv={self.rsv})"


def read_frame(wire: Wire) -> Frame:
    """The next frame of a server, which does not mask."""
    first, second = wire.exactly(2)
    size = second
    assert size < 128, "a server does not mask"
    if size == 126:
        (size,) = struct.unpack("!H", wire.exactly(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", wire.exactly(8))
    return Frame(first & 0xF, wire.exactly(size), bool(first & 0x80), first >> 4 & 0x7)


# -- compression (RFC 7692)

_TAIL = b"\x00\x00\xff\xff"


class Deflating:
    """What a client does to its messages once permessage-deflate is agreed.

    Args:
        window_bits: of its compression.
        takeover: whether a message may refer to those before it.
    """

    def __init__(self, *, window_bits: int = 15, takeover: bool = True) -> None:
        self._window_bits, self._takeover = window_bits, takeover
        self._deflate = self._fresh()

    def _fresh(self) -> Any:
        return zlib.compressobj(wbits=-self._window_bits)

    def __call__(self, payload: bytes) -> bytes:
        if not self._takeover:
            self._deflate = self._fresh()
        octets: bytes = self._deflate.compress(payload) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return octets.removesuffix(_TAIL)


def inflated(frames: Iterable[Frame], *, takeover: bool) -> list[bytes]:
    """The messages that a server's compressed frames hold; `takeover` where one may refer to those before it."""
    inflate, messages = zlib.decompressobj(wbits=-15), []
    for each in frames:
        assert each.rsv == 4
        messages.append(inflate.decompress(each.payload + _TAIL))
        if not takeover:
            inflate = zlib.decompressobj(wbits=-15)
    return messages


# -- a conversation


def upgrade(target: str, *lines: str, host: str = "any.test") -> bytes:
    """The request that opens a WebSocket."""
    handshake = ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"]
    return get(target, *handshake, *lines, host=host)


def opened(wire: Wire, target: str, *lines: str) -> Message:
    """Open a WebSocket on `wire`; the head of the answer."""
    wire.send(upgrade(target, *lines))
    head = wire.head()
    assert (head.status, head.get(b"sec-websocket-accept")) == (101, ACCEPT), head
    return head


@dataclass
class Transcript:
    """What a client has seen.

    Attributes:
        agreed: the fields of the answer that opened the WebSocket.
        frames: in their order.
        reset: whether the connection ended with RST, and not with FIN.
        rest: octets that are no whole frame.
    """

    agreed: dict[bytes, bytes | None]
    frames: list[Frame]
    reset: bool
    rest: bytes


_AGREED = (b"upgrade", b"connection", b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-protocol")


def conversation(wire: Wire, target: str, pieces: Iterable[bytes], *lines: str) -> Transcript:
    """Open a WebSocket, send `pieces`, a write for each, and read up to the end of the connection."""

    def speak() -> None:
        with contextlib.suppress(OSError):  # who has broken a rule may be cut off
            for piece in pieces:
                wire.send(piece)

    head = opened(wire, target, *lines)
    frames = []
    with Background(speak):
        try:
            while True:
                frames.append(read_frame(wire))
        except Ended as end:
            agreed = {name: head.get(name) for name in _AGREED}
            for name in (b"upgrade", b"connection"):
                agreed[name] = (agreed[name] or b"").lower()
            return Transcript(agreed, frames, end.reset, end.octets)


# -- the server


class EchoServer:
    """An aiohttp application in a thread of its own; /echo is a WebSocket that sends back each message.

    It compresses where a client offers that, and speaks the subprotocol `chat`.

    Attributes:
        open: WebSockets at present.
    """

    def __init__(self) -> None:
        self.open = 0
        self.port = 0
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server = Background(lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._server.__enter__()
        assert self._ready.wait(PATIENCE_S), "the server has not started"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._server.join()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        application = web.Application()
        application.router.add_get("/echo", self._echo)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
            self.port = runner.addresses[0][1]
            self._ready.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    async def _echo(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(max_msg_size=32 * MIB, protocols=["chat"])
        await websocket.prepare(request)
        self.open += 1
        try:
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    await websocket.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await websocket.send_bytes(message.data)
        finally:
            self.open -= 1
        return websocket
