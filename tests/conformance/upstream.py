"""The recording upstream: the only backend of the proxy under test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import defaultdict
from collections.abc import Iterable
from typing import Self

from .model import Case, octets
from .strict_request import Malformed, Request, announces_body, marks, read_body, read_head

_REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_ECHOED_BYTES = 2000
_LINE_LIMIT_BYTES = 4 << 20


class Recorder:
    """Reads requests strictly, keeps all of them, answers with an echo or with the case's own octets.

    Args:
        listener: bound and listening; it is duplicated, so the caller keeps and closes it.
        cases: those of the run; a case with an `answer` gets that instead of the echo.
        split: octets per write of such an answer; 0 writes it in one piece.
    """

    def __init__(self, listener: socket.socket, cases: Iterable[Case] = (), split: int = 0) -> None:
        self.requests: list[Request] = []
        self.running: set[str] = set()
        """Ids of the cases in flight: the suspects when a request names no case."""
        self.strays: list[tuple[Request, frozenset[str]]] = []
        self._listener = listener
        self._cases = {case.id: case for case in cases}
        self._split = split
        self._connections = 0
        self._last_case: dict[int, str] = {}
        self._by_case: dict[str, list[Request]] = defaultdict(list)
        self._disturbed: dict[str, list[str]] = defaultdict(list)
        self._by_connection: dict[int, list[Request]] = defaultdict(list)
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, sock=self._listener.dup(), limit=_LINE_LIMIT_BYTES)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task, writer in self._tasks.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def of(self, case_id: str) -> list[Request]:
        """Requests that name the case, in order of arrival, canaries apart."""
        return self._by_case[case_id]

    def disturbances(self, case_id: str) -> list[str]:
        """Faults of others' requests on a connection that the case used before them."""
        return self._disturbed[case_id]

    def reused(self, request: Request) -> bool:
        """Whether another request followed on the connection of `request`."""
        return self._by_connection[request.connection][-1] is not request

    async def settled(self, timeout_s: float) -> None:
        """Wait until no request is half read, at most `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(not (request.complete or request.aborted) for request in self.requests):
                    await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = writer
        task.add_done_callback(self._tasks.pop)
        self._connections += 1
        connection = self._connections
        # A cancelled handler would be reported by asyncio's stream callback; cancellation is our own stop.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while await self._one(reader, writer, connection):
                pass
        # A last answer may still be on its way out; close() sends it, abort() would not.
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> bool:
        """Read and answer one request; false when the connection is over."""
        first = await reader.read(1)
        if not first:
            return False
        request = Request(connection=connection, index=len(self._by_connection[connection]))
        self.requests.append(request)
        self._by_connection[connection].append(request)
        attributed = False
        case: Case | None = None
        try:
            await read_head(reader, request, first)
            case, attributed = self._attribute(request), True
            if case and case.answer is not None and case.answer_at == "head":
                return await self._answer_early(case, reader, writer, request)
            expects = any(value.lower() == b"100-continue" for value in request.get("expect"))
            scripted = case is not None and case.answer is not None
            if expects and announces_body(request) and request.version == b"HTTP/1.1" and not scripted:
                writer.write(_CONTINUE)
            await read_body(reader, request)
        except Malformed:
            request.complete = True
            writer.write(_REFUSAL)
            await writer.drain()
            return False
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            request.aborted = True
            raise ConnectionResetError from None
        finally:
            if not attributed:
                self._attribute(request)
        if case and case.answer is not None:
            return await self._play(case, writer)
        writer.write(_echo(request))
        await writer.drain()
        return True

    def _attribute(self, request: Request) -> Case | None:
        found = marks(request)
        if found and found[0] == "canary":
            if request.errors or request.method != b"GET":
                self._charge_predecessor(request)
            return None
        if found and found[1] in self._cases:
            self._by_case[found[1]].append(request)
            if request.method and not self._cases[found[1]].sends_method(request.method):
                self._charge_predecessor(request)
            self._last_case[request.connection] = found[1]
            return self._cases[found[1]]
        if request.connection in self._last_case:
            self._charge_predecessor(request)
        else:
            self.strays.append((request, frozenset(self.running)))
        return None

    def _charge_predecessor(self, request: Request) -> None:
        """A request that begins badly on a used connection was spoilt by whoever used it before."""
        culprit = self._last_case.get(request.connection)
        if culprit and request.index and request not in self._by_case[culprit]:
            fault = "; ".join(request.errors[:2]) or "no beginning"
            self._disturbed[culprit].append(f"{fault} in {request.raw[:60]!r}")

    async def _answer_early(
        self, case: Case, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request
    ) -> bool:
        """Answer after the head, then read the body if the connection is to go on."""
        goes_on = await self._play(case, writer)
        request.complete = True
        if goes_on:
            await read_body(reader, request)
        elif case.then == "close":
            # Closing over unread octets would send a RST that can overtake the answer (RFC 9112 section 9.6).
            writer.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while await reader.read(1 << 16):
                        pass
        return goes_on

    async def _play(self, case: Case, writer: asyncio.StreamWriter) -> bool:
        """Send the octets of the case; true when the connection goes on."""
        assert case.answer is not None
        data = octets(case.answer)
        # As on the client's side: large answers in at most 400 pieces, or a run would take minutes.
        split = 0 if case.at_once else self._split
        step = max(split, len(data) // 400 + 1) if split else max(len(data), 1)
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            if split:
                await asyncio.sleep(0.0005)
        if case.then == "reset":
            sock = writer.get_extra_info("socket")
            # The proxy must have the octets before the RST throws away what it has not read yet.
            await asyncio.sleep(0.05)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        return case.then == "keep"


def _echo(request: Request) -> bytes:
    """A 200 that names the request it belongs to, so that a crossed answer shows at the client."""
    body = request.target[:_ECHOED_BYTES]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n" % len(body)
    if len(body) < 200:
        head += b"X-Oracle-Target: " + body + b"\r\n"
    return head + b"\r\n" + (b"" if request.method == b"HEAD" else body)
