"""The upstream side of the wire: one connection to a dependency, its requests one after another."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final, cast

from sidecar.errors import Refusal, UpstreamFailure, UpstreamTimeout
from sidecar.proxy.chunked import ChunkedDecoder, ChunkedError
from sidecar.proxy.framing import ResponseHead
from sidecar.proxy.heads import ResponseReader
from sidecar.proxy.tls import tls_failure
from sidecar.proxy.transports import WRITE_BUFFER_HIGH, unsent
from sidecar.runtime.deadlines import NEVER, Deadlines

if TYPE_CHECKING:
    from sidecar.proxy.endpoint import Endpoint
    from sidecar.proxy.exchange import Exchange
    from sidecar.proxy.pool import Pool

# What is expected next from the upstream.
_IDLE: Final = 0  # nothing: no request is out
_HEAD: Final = 1
_LENGTH: Final = 2
_CHUNKED: Final = 3
_UNTIL_CLOSE: Final = 4
_OVER: Final = 5  # nothing: the response has ended, the request not yet
_CLOSED: Final = 6

_STATES: Final = ("idle", "head", "length", "chunked", "until-close", "over", "closed")


class UpstreamConnection:
    """One connection to a dependency.

    An asyncio protocol by its methods, not by inheritance, which a compiled class could not have.

    Args:
        pool: to which it belongs.
        endpoint: the address that it goes to.
        deadlines: the process's clock and wheel.

    Attributes:
        endpoint: as given.
        reused: it has served a request before, so the upstream may be closing it this very moment.
        deadline, watched: see `Watched`. While idle, when to close it; while serving, what it waits for.
    """

    __slots__ = (
        # per connection
        "_born",
        "_deadlines",
        "_paused",
        "_pool",
        "_transport",
        "_write_blocked",
        "deadline",
        "endpoint",
        "reused",
        "watched",
        # per request
        "_decoder",
        "_exchange",
        "_head_only",
        "_keep_alive",
        "_reader",
        "_remaining",
        "_state",
        "_unsent_before",
        "touched",
    )

    _transport: asyncio.Transport  # from connection_made on, before which nobody has this object

    def __init__(self, pool: Pool, endpoint: Endpoint, deadlines: Deadlines) -> None:
        self._pool = pool
        self.endpoint = endpoint
        self._deadlines = deadlines
        self._born = deadlines.now
        self._write_blocked = False
        self._paused = False
        self._unsent_before = 0
        self.reused = False
        self.deadline = NEVER
        self.watched = NEVER
        self._state = _IDLE
        self._exchange: Exchange | None = None
        self._reader = ResponseReader(pool.dependency.max_response_head)
        self._decoder: ChunkedDecoder | None = None
        self._remaining = 0
        self._head_only = False
        self._keep_alive = False
        self.touched = False

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self._pool.dependency.name} {_STATES[self._state]} reused={self.reused}>"

    # -- what an exchange does with it, in the order of a request's life

    @property
    def usable(self) -> bool:
        """Whether it is idle and, as far as is known, open."""
        return self._state == _IDLE and not self._transport.is_closing()

    @property
    def _open(self) -> bool:
        return not self._transport.is_closing()

    def begin(self, exchange: Exchange, octets: bytes, head_only: bool, deadline: float) -> None:
        """Send a request's head, with as much of its body as is there.

        Args:
            exchange: to report to.
            octets: what to write.
            head_only: the request is HEAD, so its response has no body whatever its head says.
            deadline: process time at which the final response head is due.
        """
        self._exchange = exchange
        self._state = _HEAD
        self._head_only = head_only
        self.touched = False
        self._reader.expect()
        self.deadline = deadline
        if deadline < self.watched:
            self._deadlines.watch(self)
        self._transport.write(octets)

    def write(self, octets: bytes) -> None:
        """Send more of the request's body, framed already."""
        if not self._transport.is_closing():
            self._transport.write(octets)

    def wait_until(self, deadline: float) -> None:
        """Expect the next event by `deadline`, process time in seconds."""
        self.deadline = deadline
        if deadline < self.watched:
            self._deadlines.watch(self)

    def pause_reading(self) -> None:
        """The application reads more slowly than the upstream sends its response. Our pause is not its silence."""
        if self._open:
            self._paused = True
            self._transport.pause_reading()
            self.deadline = NEVER

    def resume_reading(self) -> None:
        """The application has caught up; nothing where it had not fallen behind."""
        if self._open and self._paused:
            self._paused = False
            self._transport.resume_reading()
            self.wait_until(self._deadlines.now + self._pool.dependency.idle_s)

    @property
    def write_blocked(self) -> bool:
        """Whether the upstream reads more slowly than the application sends."""
        return self._write_blocked

    def park(self) -> None:
        """Become idle: set when to be closed for idleness or age."""
        self._exchange = None
        self._state = _IDLE
        pool = self._pool
        idle_until = self._deadlines.now + pool.idle_timeout_s
        end_of_life = self._born + pool.max_age_s
        self.wait_until(min(end_of_life, idle_until))

    def release(self) -> None:
        """The exchange is over. Back to the pool if another request can follow, else closed."""
        young = self._deadlines.now < self._born + self._pool.max_age_s
        if self._state == _OVER and self._keep_alive and young and not self._write_blocked:
            if self._paused:  # for the application that is still reading this response, not the next one's
                self._paused = False
                self._transport.resume_reading()
            self.park()
            self.reused = True
            self._pool.give_back(self)
        else:
            self.close()

    def close(self) -> None:
        """End the connection at once, without telling the exchange."""
        if self._state == _CLOSED:
            return
        self._exchange = None
        self._finish()
        transport: asyncio.Transport | None = getattr(self, "_transport", None)
        if transport is not None:
            transport.abort()

    def detach(self) -> tuple[asyncio.Transport, bool]:
        """It goes on as a part of a tunnel, and is none of the pool's any more.

        Returns:
            Its transport, and whether the upstream reads more slowly than is sent to it.
        """
        self._exchange = None
        self._finish()
        return self._transport, self._write_blocked

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._state == _CLOSED:  # given up while it was being made
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_HIGH)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state == _CLOSED:
            return
        if exc is None:
            self._fail(self._ended("closed the connection"))
        elif isinstance(exc, ssl.SSLError):
            self._fail(tls_failure(self._pool.dependency.name, exc))
        else:
            self._fail(self._ended(f"broke the connection ({exc})"))

    def eof_received(self) -> None:
        if self._state == _UNTIL_CLOSE:
            exchange = self._exchange
            self._state = _OVER
            self._keep_alive = False
            if exchange is not None:
                exchange.on_response_end([])
            self.close()
        elif self._write_blocked:  # the transport would close behind a flush that may never come
            self._fail(self._ended("closed the connection"))

    def pause_writing(self) -> None:
        self._write_blocked = True
        if self._exchange is not None:
            self._unsent_before = unsent(self._transport)
            self._wait_while_blocked(self._exchange)
            self._exchange.on_upstream_blocked()

    def resume_writing(self) -> None:
        self._write_blocked = False
        if self._exchange is not None:
            self._exchange.on_upstream_writable()

    def on_deadline(self) -> None:
        exchange = self._exchange
        if exchange is None:  # idle for too long, or too old
            self.close()
            return
        if self._write_blocked and (self._state != _HEAD or exchange.total_deadline > self._deadlines.now):
            left = unsent(self._transport)
            if left != self._unsent_before:  # slow, but it reads
                self._unsent_before = left
                self._wait_while_blocked(exchange)
                return
        if self._state == _HEAD:
            exchange.on_head_overdue()
            return
        name, idle_s = self._pool.dependency.name, self._pool.dependency.idle_s
        self._fail(UpstreamTimeout(f"{name} sent nothing for {idle_s:g} s (timeout.idle) amid its response"))

    def _wait_while_blocked(self, exchange: Exchange) -> None:
        due = self._deadlines.now + self._pool.dependency.idle_s
        self.wait_until(min(due, exchange.total_deadline) if self._state == _HEAD else due)

    def data_received(self, data: bytes) -> None:
        state = self._state
        try:
            if state == _HEAD:
                self._read_head(data)
            elif state == _LENGTH:
                self._read_length(data)
            elif state == _CHUNKED:
                self._read_chunked(data)
            elif state == _UNTIL_CLOSE:
                self.wait_until(self._deadlines.now + self._pool.dependency.idle_s)
                assert self._exchange is not None
                self._exchange.on_response_body(data)
            elif state == _OVER:
                self._keep_alive = False  # octets behind the answer: whatever they are, they are not for us
            elif state == _IDLE:
                self._fail(self._ended("sent octets that nobody asked for"))
        except UpstreamFailure as failure:
            self._fail(failure)

    # -- heads

    def _read_head(self, data: bytes) -> None:
        """Read interim heads and the final one, and what follows it in the same read."""
        self.touched = True
        reader = self._reader
        at = 0
        while at < len(data):
            head = reader.read(data, at)
            exchange = self._exchange
            if head is None or exchange is None:
                return
            at = reader.end
            if head.status >= 200:
                self._begin_body(exchange, head, data[at:])
                return
            if head.status == 101:
                exchange.on_switch(self, head, data[at:])
                return
            exchange.on_interim(head)

    # -- bodies

    def _begin_body(self, exchange: Exchange, head: ResponseHead, rest: bytes) -> None:
        """The final head is there: find out how the body is framed, and hand over what came with it."""
        self._keep_alive = head.keep_alive
        status = head.status
        if self._head_only or status == 204 or status == 304:
            if self._head_only or head.content_length or head.chunked:
                self._reader.skip(None)  # its parser waits for the body that the head announces
            self._end_or_go_on(exchange, head, rest, 0)
        elif head.chunked:
            self._reader.skip(None)
            self._decoder = ChunkedDecoder(self._pool.dependency.max_response_head)
            body = self._decode(rest) if rest else b""
            done = self._decoder.done
            self._state = _OVER if done else _CHUNKED
            trailers = self._take_decoder() if done else []
            if not done:
                self.wait_until(self._deadlines.now + self._pool.dependency.idle_s)
            exchange.on_response(head, body, done, bodiless=False, trailers=trailers)
        elif head.content_length is not None:
            self._end_or_go_on(exchange, head, rest, head.content_length)
        else:
            self._reader.skip(None)
            self._keep_alive = False
            self._state = _UNTIL_CLOSE
            self.wait_until(self._deadlines.now + self._pool.dependency.idle_s)
            exchange.on_response(head, rest, False, bodiless=False)

    def _end_or_go_on(self, exchange: Exchange, head: ResponseHead, rest: bytes, length: int) -> None:
        have = len(rest)
        bodiless = self._head_only or head.status == 204 or head.status == 304
        if have < length:
            self._reader.skip(None)
            self._remaining = length - have
            self._state = _LENGTH
            self.wait_until(self._deadlines.now + self._pool.dependency.idle_s)
            exchange.on_response(head, rest, False, bodiless=bodiless)
            return
        if have > length:
            self._keep_alive = False
            rest = rest[:length]
        if rest:
            self._reader.skip(rest)
        self._state = _OVER
        exchange.on_response(head, rest, True, bodiless=bodiless)

    def _read_length(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        left = self._remaining - len(data)
        if left > 0:
            self._remaining = left
            self.wait_until(self._deadlines.now + self._pool.dependency.idle_s)
            exchange.on_response_body(data)
            return
        if left < 0:
            self._keep_alive = False
            data = data[:left]
        self._state = _OVER
        exchange.on_response_body(data)
        exchange.on_response_end([])

    def _read_chunked(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        body = self._decode(data)
        done = self._decoder is not None and self._decoder.done
        if done:
            self._state = _OVER
        else:
            self.wait_until(self._deadlines.now + self._pool.dependency.idle_s)
        if body:
            exchange.on_response_body(body)
        if done:
            exchange.on_response_end(self._take_decoder())

    def _decode(self, data: bytes) -> bytes:
        try:
            return cast("ChunkedDecoder", self._decoder).feed(data)
        except ChunkedError as error:
            raise UpstreamFailure(f"the upstream's chunked body is malformed: {error}", "http_protocol_error") from None

    def _take_decoder(self) -> list[tuple[bytes, bytes]]:
        decoder = cast("ChunkedDecoder", self._decoder)
        if decoder.surplus:
            self._keep_alive = False
        self._decoder = None
        decoder.release()
        return decoder.trailers

    # -- ends

    def _ended(self, what: str) -> UpstreamFailure:
        name = self._pool.dependency.name
        if self._state == _HEAD and not self.touched:
            return UpstreamFailure(f"{name} {what} before it answered", "connection_terminated")
        if self._state == _HEAD:
            return UpstreamFailure(f"{name} {what} within the head of its response", "connection_terminated")
        return UpstreamFailure(f"{name} {what} within the body of its response", "http_response_incomplete")

    def _fail(self, refusal: Refusal) -> None:
        exchange = self._exchange
        self.close()
        if exchange is not None:
            exchange.on_upstream_failed(self, refusal)

    def _finish(self) -> None:
        self._state = _CLOSED
        self._reader.release()
        if self._decoder is not None:
            self._decoder.release()
            self._decoder = None
        self._deadlines.forget(self)
        self._pool.forget(self)
