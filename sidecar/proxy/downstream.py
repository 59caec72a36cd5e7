"""The downstream side of the wire: one connection of the application, its requests one after another.

Requests are taken from the octets one at a time. What a client sends ahead (pipelining) waits as octets until the
present answer is out, so a read that holds a thousand requests costs no more memory than its size; past
`max_read_ahead` the connection is not read at all.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from sidecar.errors import (
    BadRequest,
    Fallback,
    NoRoute,
    Refusal,
    RequestTimeout,
)
from sidecar.proxy.answers import render, render_options
from sidecar.proxy.chunked import ChunkedDecoder, ChunkedError
from sidecar.proxy.connect import ConnectExchange
from sidecar.proxy.dispatch import Dispatcher
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.framing import RequestHead
from sidecar.proxy.headers import max_forwards
from sidecar.proxy.heads import RequestReader
from sidecar.proxy.responder import Responder
from sidecar.proxy.transports import WRITE_BUFFER_HIGH, make_close_a_reset, unsent
from sidecar.proxy.tunnel import Tunnel, TunnelEnd
from sidecar.runtime.deadlines import NEVER

if TYPE_CHECKING:
    from sidecar.proxy.listener import Listener

# What is expected next from the application.
_HEAD: Final = 0
_LENGTH: Final = 1
_CHUNKED: Final = 2
_BUSY: Final = 3  # nothing: its request is whole and not answered yet
_LINGER: Final = 4  # nothing that matters: the last answer is out
_CLOSED: Final = 5

_STATES: Final = ("head", "length", "chunked", "busy", "linger", "closed")

_LINGER_S: Final = 2.0
"""How long a client may take to notice that its connection ends; RFC 9112 section 9.6 says why not at once."""

_LINGER_LIMIT: Final = 1 << 20
"""Octets that a client may go on sending meanwhile."""


class DownstreamConnection:
    """One connection of the application.

    An asyncio protocol by its methods, not by inheritance, which a compiled class could not have.

    Args:
        listener: that accepted it.

    Attributes:
        keep_alive: whether the connection persists behind the present response.
        responder: writes the responses.
        deadline, watched: see `Watched`; what the application itself is waited for.
    """

    __slots__ = (
        # per connection
        "_deadlines",
        "_dispatcher",
        "_half_closed",
        "_held",
        "_listener",
        "_reader",
        "_reading",
        "_settings",
        "_transport",
        "_unsent_before",
        "_write_blocked",
        "deadline",
        "responder",
        "watched",
        # per request
        "_decoder",
        "_exchange",
        "_lingered",
        "_remaining",
        "_state",
        "awaits_continue",
        "keep_alive",
    )

    _dispatcher: Dispatcher
    _transport: asyncio.Transport  # from connection_made on, before which nothing happens

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._settings = listener.settings
        self._deadlines = listener.deadlines
        self._reader = RequestReader(listener.settings, listener.careless_head)
        self._held = b""
        self._reading = True
        self._half_closed = False
        self._write_blocked = False
        self._unsent_before = 0
        self._lingered = 0
        self.responder = Responder(self)
        self.deadline = NEVER
        self.watched = NEVER
        self._state = _HEAD
        self._exchange: Exchange | None = None
        self._decoder: ChunkedDecoder | None = None
        self._remaining = 0
        self.awaits_continue = False
        self.keep_alive = True

    def __repr__(self) -> str:
        return f"<DownstreamConnection {_STATES[self._state]} exchange={self._exchange!r} held={len(self._held)}>"

    @property
    def idle(self) -> bool:
        """Whether no request is under way or arriving, and no answer leaving."""
        return self._state == _HEAD and not self._reader.begun and not self._held and not self.flushing

    @property
    def gone(self) -> bool:
        """Whether the connection has ended, though that may not have been told yet."""
        return self._transport.is_closing()

    @property
    def flushing(self) -> bool:
        """Whether a part of an answer has yet to leave."""
        transport = self._transport
        # Below TLS is a transport with a buffer of its own, and nothing is seen of it but what the kernel has.
        return transport.get_write_buffer_size() > 0 or (not transport.can_write_eof() and unsent(transport) > 0)

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_HIGH)
        refusal = self._listener.admit(self, transport)
        if refusal is None:
            self._dispatcher = self._listener.dispatcher(self._transport)
            self._wait_until(self._deadlines.now + self._listener.keepalive_s)
            return
        self._listener.count_unrouted(refusal, None)
        # No lingering here: turning away must not cost what it protects. But over TLS the client must agree.
        self._state = _CLOSED
        if not self._transport.can_write_eof():
            self._state = _LINGER
            self._wait_until(self._deadlines.now + _LINGER_S)
        self._transport.write(render(refusal, None, None, close=True, head_only=False))
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def eof_received(self) -> bool:
        """FIN. It cancels requests that are not answered yet, unless half-closed connections are allowed."""
        waiting = self._state == _BUSY or (self._state == _HEAD and self._held != b"")
        if self._settings.allow_half_close and waiting and self._transport.can_write_eof():  # which TLS cannot
            self._half_closed = True
            return True
        if self._exchange is not None:
            self.close()
        elif self._state != _LINGER and self.flushing:
            self._linger()  # the last answer is not flushed yet
        self._held = b""  # what stands behind an answer that is out is cancelled too
        return False  # which closes the transport once it is flushed; `_linger` bounds how long that may take

    def pause_writing(self) -> None:
        self._write_blocked = True
        self._wait_while_it_reads()
        if self._exchange is not None:
            self._exchange.on_downstream_blocked()

    def resume_writing(self) -> None:
        self._write_blocked = False
        self.deadline = NEVER
        if self._exchange is not None:
            self._set_body_deadline()
            self._exchange.on_downstream_writable()
        elif self._state == _HEAD:
            self._wait_until(self._deadlines.now + self._listener.keepalive_s)
            if self._held:
                self._take_held_soon()
        elif self._state == _LINGER:
            self._wait_until(self._deadlines.now + _LINGER_S)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HEAD:
            if self._write_blocked or self._held:
                self._hold(data)
            else:
                self._read_head(data)
        elif state == _LENGTH:
            self._read_length(data)
        elif state == _CHUNKED:
            self._read_chunked(data)
        elif state == _BUSY:
            self._hold(data)
        elif state == _LINGER:
            self._lingered += len(data)
            if self._lingered > _LINGER_LIMIT:
                self.close()

    def on_deadline(self) -> None:
        state = self._state
        if self._write_blocked or (state == _LINGER and self.flushing):
            if unsent(self._transport) != self._unsent_before:  # slow, but it reads
                self._wait_while_it_reads()
            else:
                self.close()
        elif state == _HEAD:
            if self._reader.begun:
                limit = self._settings.head_timeout
                self._refuse(RequestTimeout(f"the head was not whole after {limit:g} s (listener.head_timeout)"))
            else:
                self.close()
        elif state in (_LENGTH, _CHUNKED):
            limit = self._settings.body_timeout
            self._fault(RequestTimeout(f"nothing of the body came for {limit:g} s (listener.body_timeout)"))
        elif state == _LINGER:
            self.close()

    # -- heads

    def _read_head(self, data: bytes) -> None:
        reader = self._reader
        waiting = reader.begun
        try:
            head = reader.read(data)
            if head is not None:
                self._begin(head, reader.raw, reader.rest)
            elif self._half_closed:
                self._linger()  # no more can come, so what has come is no request
            elif reader.begun and not waiting:
                self._wait_until(self._deadlines.now + self._settings.head_timeout)
        except Refusal as refusal:
            self._refuse(refusal)

    # -- a request begins

    def _begin(self, head: RequestHead, raw: bytes, rest: bytes) -> None:
        """The head is whole and sound: find its dependency and hand it on, then what follows it."""
        listener = self._listener
        self.keep_alive = head.keep_alive
        if head.upgrade is not None:
            self.keep_alive = False  # what follows may be of the protocol that was not agreed to, and is no request
        listener.last_request = self._deadlines.now
        try:
            pool = self._dispatcher.route(head)
        except NoRoute as refusal:
            # What follows a CONNECT was meant for its tunnel, and is nobody's request (RFC 9110 section 9.3.6).
            bare = not head.chunked and not head.content_length and head.method != b"CONNECT"
            self.keep_alive = self.keep_alive and bare
            self._hold(rest)  # first: whether more requests have come decides whether this answer is the last one
            self._listener.count_unrouted(refusal, head)
            self._answer(refusal, None, head.method == b"HEAD", http11=head.http11)
            return
        if head.method == b"OPTIONS" and max_forwards(head) == 0:
            self._answer_options(head, rest)
            return
        listener.in_flight += 1
        if head.method == b"CONNECT":
            self.keep_alive = False  # as above
            exchange: Exchange = ConnectExchange(self, pool, head, self._deadlines)
        else:
            exchange = Exchange(self, pool, head, self._deadlines)
        self._exchange = exchange
        if head.chunked:
            self._state = _CHUNKED
            self._decoder = ChunkedDecoder(self._settings.max_headers)
        elif head.content_length:
            self._state = _LENGTH
            self._remaining = head.content_length
        else:
            self._state = _BUSY
            self.deadline = NEVER
            if rest:
                self._hold(rest)  # first, as above: the exchange may be refused on the spot
            exchange.start(self._dispatcher, raw)
            return
        self.awaits_continue = head.expects_continue
        self._set_body_deadline()
        exchange.start(self._dispatcher, raw)
        if rest:
            self.data_received(rest)

    # -- bodies

    def _read_length(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        left = self._remaining - len(data)
        self.awaits_continue = False
        if left > 0:
            self._remaining = left
            self._set_body_deadline()
            exchange.on_request_body(data)
            return
        self._state = _BUSY
        self._owe_nothing()
        rest = b""
        if left < 0:
            rest = data[left:]
            data = data[:left]
        exchange.on_request_body(data)
        if self._exchange is exchange:
            exchange.on_request_end([])
        self._go_on(rest)

    def _read_chunked(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        decoder = cast("ChunkedDecoder", self._decoder)
        self.awaits_continue = False
        try:
            body, used = decoder.feed_exact(data)
        except ChunkedError as error:
            self._fault(BadRequest(f"the chunked body is malformed: {error}"))
            return
        if not decoder.done:
            self._set_body_deadline()
            if body:
                exchange.on_request_body(body)
            return
        self._state = _BUSY
        self._owe_nothing()
        self._decoder = None
        decoder.release()
        if body:
            exchange.on_request_body(body)
        if self._exchange is exchange:
            exchange.on_request_end(decoder.trailers)
        self._go_on(data[used:])

    def _set_body_deadline(self) -> None:
        if self._state in (_LENGTH, _CHUNKED):
            if self._reading and not self.awaits_continue and not self._write_blocked:
                self._wait_until(self._deadlines.now + self._settings.body_timeout)
            else:
                self._owe_nothing()

    def _owe_nothing(self) -> None:
        """The application owes no octets at present. That it reads its response is another matter."""
        if not self._write_blocked:
            self.deadline = NEVER

    def expect_body(self) -> None:
        """The upstream has said 100: now the application owes its body."""
        self.awaits_continue = False
        self._set_body_deadline()

    # -- what an exchange does with it

    def write(self, octets: bytes) -> None:
        """Send octets of a response."""
        if not self._transport.is_closing():
            self._transport.write(octets)

    def pause_reading(self) -> None:
        """What the application sends is not wanted at present."""
        transport = self._transport
        if self._reading and not transport.is_closing():
            self._reading = False
            transport.pause_reading()
            self._set_body_deadline()

    def resume_reading(self) -> None:
        """It is wanted again."""
        transport = self._transport
        if not self._reading and not transport.is_closing() and len(self._held) <= self._settings.max_read_ahead:
            self._reading = True
            transport.resume_reading()
            self._set_body_deadline()

    def on_tunnel_over(self, tunnel: Tunnel) -> None:
        """The tunnel that the connection went on as has ended."""
        self._listener.on_tunnel_over(tunnel)

    def on_exchange_over(
        self, exchange: Exchange, answer: Refusal | None, fallback: Fallback | None, *, cut: bool, request_over: bool
    ) -> None:
        """The present exchange has ended.

        Args:
            exchange: which.
            answer: the sidecar's own answer, where the upstream gave none.
            fallback: what is configured to be answered in its place.
            cut: the response must end visibly incomplete.
            request_over: the request had been read to its end.
        """
        self._exchange = None
        self._listener.in_flight -= 1
        if self._state == _CLOSED:
            return
        if cut:
            # What has come is delivered, then FIN: the framing shows that more was due. A response that is
            # delimited by the close itself would look whole, so that is a reset.
            self.keep_alive = False
            if self.responder.until_close:
                self._reset()
            else:
                self._linger()
            return
        if answer is not None:
            head = exchange.head
            self.keep_alive = self.keep_alive and request_over
            head_only = head.method == b"HEAD"
            self._answer(answer, exchange.dependency.name, head_only, http11=head.http11, fallback=fallback)
        else:
            self._after_response()

    def become_tunnel(self, tunnel: Tunnel) -> tuple[TunnelEnd, bytes]:
        """Behind the answer that is out, speak HTTP no more.

        Args:
            tunnel: goes on with the connection.

        Returns:
            The connection as an end of a tunnel, and octets that it has brought already.
        """
        self._exchange = None
        self._listener.in_flight -= 1
        self._listener.on_tunnel(tunnel)  # first: it counts as a connection all the time
        held = self._held
        self._end()
        end = TunnelEnd()
        end.take_over(self._transport, blocked=self._write_blocked, paused=not self._reading, eof=self._half_closed)
        return end, held

    @property
    def write_blocked(self) -> bool:
        """Whether the application reads more slowly than is sent to it."""
        return self._write_blocked

    @property
    def persists(self) -> bool:
        """Whether the connection may serve another request behind the present response."""
        return self.keep_alive and not self._listener.draining and not self._sent_last

    @property
    def _sent_last(self) -> bool:
        """Whether the application has closed its side, and the present request is the last that it sent."""
        return self._half_closed and not self._held

    def _after_response(self) -> None:
        if not self.keep_alive or self._sent_last:
            self._linger()
            return
        self._state = _HEAD
        if not self._write_blocked:
            deadline = self.deadline = self._deadlines.now + self._listener.keepalive_s
            if deadline < self.watched:
                self._deadlines.watch(self)
        if self._held:
            self._take_held_soon()
        elif not self._reading:
            self.resume_reading()

    # -- reading ahead

    def _go_on(self, rest: bytes) -> None:
        """What follows a request in the same read is the next one's, and waits its turn."""
        self._hold(rest)
        if self._held and self._state == _HEAD:
            self._take_held_soon()

    def _hold(self, data: bytes) -> None:
        if self._state in (_LINGER, _CLOSED):
            return
        self._held += data
        if len(self._held) > self._settings.max_read_ahead:
            self.pause_reading()

    def _take_held_soon(self) -> None:
        # Not at once: a read full of requests that are refused on the spot must not keep the loop, nor recurse.
        asyncio.get_running_loop().call_soon(self._take_held)

    def _take_held(self) -> None:
        if self._held and self._state == _HEAD and not self._write_blocked:
            data = self._held
            self._held = b""
            self.resume_reading()
            self._read_head(data)

    # -- own answers and ends

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a request that became no exchange."""
        self._reader.release()
        self._listener.count_unrouted(refusal, None)
        self._answer(refusal, dependency=None, head_only=False)

    def _fault(self, refusal: Refusal) -> None:
        """The application broke a request that is an exchange already."""
        self.keep_alive = False
        self._drop_decoder()
        cast("Exchange", self._exchange).on_client_fault(refusal)

    def _answer(
        self,
        refusal: Refusal,
        dependency: str | None,
        head_only: bool,
        *,
        http11: bool = True,
        fallback: Fallback | None = None,
    ) -> None:
        self.keep_alive = self.persists and http11 and not refusal.close
        self.write(render(refusal, dependency, fallback, close=not self.keep_alive, head_only=head_only))
        self._after_response()

    def _answer_options(self, head: RequestHead, rest: bytes) -> None:
        self._hold(rest)
        self.keep_alive = self.persists and not head.chunked and not head.content_length
        self.write(render_options(close=not self.keep_alive))
        self._after_response()

    def _linger(self) -> None:
        """Send FIN behind the last answer, and read on for a while: closing at once could reset it away."""
        transport = self._transport
        self._state = _LINGER
        self._held = b""
        self._drop_decoder()
        if transport.is_closing():
            return
        if transport.get_write_buffer_size():  # a slow client has not got it all: leave it as long as it takes any
            self._wait_while_it_reads()
        else:  # under TLS it may not have either, which shows when it still has not by then
            self._unsent_before = -1
            self._wait_until(self._deadlines.now + _LINGER_S)
        if transport.can_write_eof() and not self._half_closed:
            transport.write_eof()
            self.resume_reading()
        else:
            transport.close()

    def close(self) -> None:
        """End the connection at once; what is not flushed is lost."""
        self._end()
        self._transport.abort()

    def _reset(self) -> None:
        """End the connection with RST: behind FIN, what has come would pass for the whole response."""
        make_close_a_reset(self._transport)
        self.close()

    def _end(self) -> None:
        """The connection is over: let go of everything, once."""
        if self._state == _CLOSED:
            return
        self._state = _CLOSED
        self._held = b""
        self._reader.release()
        self._drop_decoder()
        self._deadlines.forget(self)
        self._listener.on_connection_lost(self)
        exchange = self._exchange
        if exchange is not None:
            exchange.on_client_gone()

    def _drop_decoder(self) -> None:
        if self._decoder is not None:
            self._decoder.release()
            self._decoder = None

    def end(self) -> None:
        """The sidecar stops: a request without an answer gets one, the rest of an answer is cut, the client told."""
        if self._exchange is not None:
            self._exchange.on_drain_over()
        elif self._state == _HEAD:
            self._linger()

    def _wait_while_it_reads(self) -> None:
        """Look again when a client that takes no octet for that long has stopped reading."""
        exchange = self._exchange
        self._unsent_before = unsent(self._transport)
        idle_s = exchange.idle_s if exchange is not None else self._listener.keepalive_s
        self._wait_until(self._deadlines.now + idle_s)

    def _wait_until(self, deadline: float) -> None:
        self.deadline = deadline
        if deadline < self.watched:
            self._deadlines.watch(self)
