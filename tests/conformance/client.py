"""One client connection: writes a case's octets, collects what comes back, waits on conditions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from typing import Self

from .answers import Received, parse_answers
from .model import octets

Address = tuple[str, int]
Steps = Sequence[str | dict[str, str]]

# A step that waits for an answer gives up after this: the judge then sees which one is missing.
_STEP_PATIENCE_S = 10.0
_MAX_PIECES = 400


class Conversation:
    """A connection to the proxy under test. `async with` closes it whatever happened.

    Args:
        address: of the proxy.
        methods: of the requests that will be sent, to know which answers have no body.
    """

    def __init__(self, address: Address, methods: Sequence[str] = ()) -> None:
        self.buffer = b""
        self.ended = False
        self.reset = False
        self.refused_connection = ""
        self.cut_off = False
        """The peer closed while we still wrote: its RST may have destroyed an answer that was on its way."""
        self._address = address
        self._methods = methods
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._writer: asyncio.StreamWriter | None = None
        self._started = time.monotonic()

    async def __aenter__(self) -> Self:
        try:
            reader, self._writer = await asyncio.open_connection(*self._address, limit=1 << 22)
        except OSError as error:
            self.refused_connection, self.ended = str(error), True
            return self
        self._writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tasks.append(asyncio.create_task(self._collect(reader)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._writer is not None:
            # RST: nothing of this connection can be mistaken for the next one's, no TIME_WAIT piles up.
            self._writer.transport.abort()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the connection was asked for."""
        return time.monotonic() - self._started

    @property
    def received(self) -> Received:
        """What came so far, as answers."""
        return parse_answers(self.buffer, self._methods, ended=self.ended, clean_end=not self.reset)

    def start_sending(self, steps: Steps, *, split: int = 0, half_close: bool = False) -> None:
        """Write `steps` in the background, `split` octets at a time, then FIN if `half_close`."""
        if self._writer is not None:
            self._tasks.append(asyncio.create_task(self._send(self._writer, steps, split, half_close)))

    async def until(self, condition: Callable[[Conversation], bool], timeout_s: float) -> bool:
        """Wait for `condition`, at most `timeout_s`; false when it did not come true in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not condition(self):
                    if self.ended:
                        return False
                    self._news.clear()
                    await self._news.wait()
        return condition(self)

    async def _collect(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(1 << 16):
                self.buffer += data
                self._news.set()
        except OSError:
            self.reset = True
        self.ended = True
        self._news.set()

    async def _send(self, writer: asyncio.StreamWriter, steps: Steps, split: int, half_close: bool) -> None:
        try:
            for step in steps:
                if isinstance(step, str):
                    await _write(writer, octets(step), split)
                elif not await self.until(_AWAITED[step["await"]], _STEP_PATIENCE_S):
                    return
            if half_close:
                writer.write_eof()
        except OSError:
            self.cut_off = True


async def _write(writer: asyncio.StreamWriter, data: bytes, split: int) -> None:
    # Octet by octet is for heads and chunk lines; 100 KB that way would be 100 s of waiting.
    size = max(split, len(data) // _MAX_PIECES + 1) if split else 1 << 16
    for start in range(0, len(data), size):
        writer.write(data[start : start + size])
        await writer.drain()
        if split:
            # Long enough for the proxy to read this piece before the next one joins it in its buffer.
            await asyncio.sleep(0.0005)


_AWAITED: dict[str, Callable[[Conversation], bool]] = {
    "interim": lambda talk: bool(talk.received.interims) and not talk.received.finals,
    "answer": lambda talk: talk.received.complete >= 1,
    "two answers": lambda talk: talk.received.complete >= 2,
}
