"""A minimal honest proxy, and proxies that each break one rule: what the oracle is tested with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Self

from .answers import parse_answers
from .client import Address
from .strict_request import Malformed, Request, read_body, read_head

_HOP_BY_HOP = {b"connection", b"keep-alive", b"content-length", b"transfer-encoding", b"te", b"upgrade"}


class HonestProxy:
    """Parses strictly, forwards anew on a connection of its own, relays whole answers, shows cuts.

    Args:
        upstream: where requests go.
    """

    wait_s = 2.0

    def __init__(self, upstream: Address) -> None:
        self.upstream = upstream
        self.address: Address = ("127.0.0.1", 0)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=1 << 22)
        self.address = self._server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection to the upstream, closed with the proxy at the latest."""
        reader, writer = await asyncio.open_connection(*self.upstream)
        self._writers.append(writer)
        return reader, writer

    def keep(self, work: Awaitable[None]) -> None:
        """Run `work` until the proxy stops."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self.serve(reader, writer)
        writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client connection to its end."""
        goes_on = True
        while goes_on:
            request = Request()
            try:
                async with asyncio.timeout(self.wait_s):
                    first = await reader.readexactly(1)
                    await read_head(reader, request, first)
                    await read_body(reader, request)
            except (Malformed, TimeoutError):
                writer.write(self.refusal())
                return
            answer, whole = await self.ask(request)
            writer.write(answer)
            options = b",".join(request.get("connection")).lower()
            goes_on = whole and b"close" not in options and request.version == b"HTTP/1.1"

    def refusal(self) -> bytes:
        """The answer to what cannot be read."""
        return b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    async def ask(self, request: Request) -> tuple[bytes, bool]:
        """Forward a request; the octets for the client and whether they are a whole answer."""
        return await self.exchange(self.encode(request), request)

    def encode(self, request: Request) -> bytes:
        """The request as it goes upstream."""
        named = {name.strip().lower() for name in b",".join(request.get("connection")).split(b",")}
        lines = [request.method + b" " + request.target + b" HTTP/1.1"]
        lines += [b": ".join(line) for line in request.headers if line[0] not in _HOP_BY_HOP | named]
        if request.body:
            lines.append(b"Content-Length: %d" % len(request.body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + request.body

    async def exchange(self, octets: bytes, request: Request) -> tuple[bytes, bool]:
        """Send octets upstream and collect one answer."""
        reader, writer = await self.connect()
        try:
            writer.write(octets)
            buffer, ended = b"", False
            while not ended:
                data = await reader.read(1 << 16)
                buffer, ended = buffer + data, not data
                received = parse_answers(buffer, [request.method.decode()], ended=ended)
                if received.complete and not received.finals[0].faults:
                    return buffer, received.finals[0].framing != "close"
                ended = ended or received.complete > 0
            if not received.finals or received.finals[0].faults:
                return b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", True
            return buffer, False
        finally:
            writer.close()


class Relay(HonestProxy):
    """Copies octets both ways without reading them."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client connection to its end."""
        up_reader, up_writer = await self.connect()
        self.keep(_copy(up_reader, writer))
        await _copy(reader, up_writer)


class LengthOnly(Relay):
    """Believes Content-Length where Transfer-Encoding stands beside it."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client connection to its end."""
        data = (await reader.read(1 << 16)).replace(b"Transfer-Encoding: chunked\r\n", b"")
        up_reader, up_writer = await self.connect()
        up_writer.write(data)
        await _copy(up_reader, writer)


class Leftover(HonestProxy):
    """Keeps one upstream connection for all and leaves an octet on it after each case's request."""

    _shared: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, octets: bytes, request: Request) -> tuple[bytes, bool]:
        """Send octets upstream and collect one answer."""
        self._shared = self._shared or await self.connect()
        reader, writer = self._shared
        writer.write(octets + (b"G" if b"/t/" in request.target else b""))
        buffer = b""
        while not parse_answers(buffer, ["GET"], ended=False).complete:
            data = await reader.read(1 << 16)
            if not data:
                break
            buffer += data
        return buffer, False


class Crossed(HonestProxy):
    """Gives each request the answer to the one before."""

    _late = b""

    async def ask(self, request: Request) -> tuple[bytes, bool]:
        """Forward a request; the octets for the client and whether they are a whole answer."""
        answer, whole = await super().ask(request)
        self._late, answer = answer, self._late or answer
        return answer, whole


class Late(HonestProxy):
    """Answers properly, and a moment later sends upstream what nobody asked for."""

    async def ask(self, request: Request) -> tuple[bytes, bool]:
        """Forward a request; the octets for the client and whether they are a whole answer."""
        if b"/t/" in request.target:
            self.keep(self._haunt(request.target.replace(b"/t/", b"/smuggled/")))
        return await super().ask(request)

    async def _haunt(self, target: bytes) -> None:
        await asyncio.sleep(0.02)
        await self.exchange(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n", Request(method=b"GET"))


class Stray(HonestProxy):
    """Sends upstream a request that belongs to no case."""

    async def ask(self, request: Request) -> tuple[bytes, bool]:
        """Forward a request; the octets for the client and whether they are a whole answer."""
        if b"/t/" in request.target:
            await self.exchange(b"GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n", request)
        return await super().ask(request)


class Silent(HonestProxy):
    """Answers canaries only."""

    async def ask(self, request: Request) -> tuple[bytes, bool]:
        """Forward a request; the octets for the client and whether they are a whole answer."""
        if b"/canary/" not in request.target:
            await asyncio.Event().wait()
        return await super().ask(request)


class Patient(HonestProxy):
    """Waits for ever for what a client has begun."""

    wait_s = 3600.0


class Whole(HonestProxy):
    """Gives every answer the length of what came, cut or not."""

    async def exchange(self, octets: bytes, request: Request) -> tuple[bytes, bool]:
        """Send octets upstream and collect one answer."""
        buffer, _ = await super().exchange(octets, request)
        body = buffer.partition(b"\r\n\r\n")[2]
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body, True


class Insistent(HonestProxy):
    """Asks once more whatever the method when the answer is missing."""

    async def exchange(self, octets: bytes, request: Request) -> tuple[bytes, bool]:
        """Send octets upstream and collect one answer."""
        answer = await super().exchange(octets, request)
        return answer if b" 502 " not in answer[0] else await super().exchange(octets, request)


class TwoFramings(HonestProxy):
    """Adds Transfer-Encoding to answers that have a length."""

    async def exchange(self, octets: bytes, request: Request) -> tuple[bytes, bool]:
        """Send octets upstream and collect one answer."""
        answer, whole = await super().exchange(octets, request)
        if b"/t/" in request.target:
            answer = answer.replace(b"\r\n", b"\r\nTransfer-Encoding: chunked\r\n", 1)
        return answer, whole


class KeepsAll(HonestProxy):
    """Forwards hop-by-hop fields."""

    def encode(self, request: Request) -> bytes:
        """The request as it goes upstream."""
        lines = [b": ".join(line) for line in request.headers]
        return request.method + b" " + request.target + b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"


class Decoding(HonestProxy):
    """Decodes percent triplets in targets."""

    def encode(self, request: Request) -> bytes:
        """The request as it goes upstream."""
        request.target = request.target.replace(b"%41", b"A")
        return super().encode(request)


class Blaming(HonestProxy):
    """Answers a client's fault as if the upstream had failed."""

    def refusal(self) -> bytes:
        """The answer to what cannot be read."""
        return b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Welcoming(HonestProxy):
    """Answers 200 by itself to what it cannot read."""

    def refusal(self) -> bytes:
        """The answer to what cannot be read."""
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Clinging(HonestProxy):
    """Keeps connections open whatever was asked or refused."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client connection to its end."""
        await super().serve(reader, writer)
        await asyncio.Event().wait()


class Babbling(HonestProxy):
    """Relays an answer twice."""

    async def exchange(self, octets: bytes, request: Request) -> tuple[bytes, bool]:
        """Send octets upstream and collect one answer."""
        answer, whole = await super().exchange(octets, request)
        return (answer * 2 if b"/t/" in request.target else answer), whole


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
    writer.close()
