"""One request's life, from its head to the end of its response.

This is the only file that knows in which order things happen to a request: route, deadline, (policies), attempt,
response head, response body, end. The two connections report to it and it decides; it does no parsing and no I/O of
its own. Whatever way an exchange ends, it ends in `_finish`, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.errors import BodyTooLarge, Draining, Refusal, RequestTimeout, UpstreamTimeout
from sidecar.proxy.chunked import encode_chunk, encode_end
from sidecar.proxy.framing import RequestHead, ResponseHead
from sidecar.proxy.headers import response_for_downstream
from sidecar.proxy.pool import Pool
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.runtime.deadlines import NEVER, Deadlines

if TYPE_CHECKING:
    from sidecar.proxy.downstream import DownstreamConnection

# RFC 9110 section 9.2.2. What is not here is never sent twice.
_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})

_REPLAY_LIMIT: Final = 65_536
"""Octets of a request kept at hand, in case its pooled connection proves dead before a response byte."""

_PENDING_LIMIT: Final = 65_536
"""Octets of body taken from the application while there is no connection to send them on."""


class Exchange:
    """One request and its response.

    Args:
        downstream: the application's connection.
        pool: the connections of the dependency that the request is for.
        head: the request's head.
        octets: that head as it goes upstream.
        deadlines: the process's clock and wheel.

    Attributes:
        total_deadline: process time at which the final response head is due, whatever happened before.
        deadline, watched: see `Watched`; in use only while the exchange waits for a connection.
    """

    __slots__ = (
        "_body_size",
        "_chunked_out",
        "_deadlines",
        "_downstream",
        "_head_sent",
        "_octets",
        "_over",
        "_pool",
        "_replaced",
        "_request_over",
        "_response_over",
        "_until_close",
        "_upstream",
        "deadline",
        "head",
        "total_deadline",
        "watched",
    )

    def __init__(
        self, downstream: DownstreamConnection, pool: Pool, head: RequestHead, octets: bytes, deadlines: Deadlines
    ) -> None:
        self._downstream = downstream
        self._pool = pool
        self.head = head
        self._deadlines = deadlines
        self._octets: bytes | None = octets  # what has been, or is to be, written; None once it cannot be repeated
        self._upstream: UpstreamConnection | None = None
        self._request_over = not head.chunked and not head.content_length
        self._head_sent = False
        self._response_over = False
        self._chunked_out = False
        self._until_close = False
        self._replaced = False
        self._over = False
        self._body_size = 0
        self.total_deadline = deadlines.now + pool.dependency.total_s
        self.deadline = NEVER
        self.watched = NEVER

    def __repr__(self) -> str:
        return f"<Exchange {self.head!r} upstream={self._upstream!r} head_sent={self._head_sent}>"

    @property
    def dependency_name(self) -> str:
        """The dependency that the request is for."""
        return self._pool.dependency.name

    @property
    def idle_s(self) -> float:
        """How long either side may stall amid the response, in seconds."""
        return self._pool.dependency.idle_s

    @property
    def delimited_by_close(self) -> bool:
        """Whether the end of the connection is all that will tell the application where the response ends."""
        return self._until_close

    # -- to the upstream

    def start(self) -> None:
        """Admit the request and send it, or put it in the queue for a connection.

        The policies stand here: an open circuit refuses first; then token, slot and permit are taken together,
        synchronously, or none of them.
        """
        limit = self._pool.dependency.max_body
        if limit is not None and self.head.content_length > limit:
            self._refuse(self._too_large(limit))
            return
        upstream = self._pool.take()
        if upstream is not None:
            self.on_connection(upstream)
        else:
            self._wait_for_connection()

    def on_connection(self, connection: UpstreamConnection) -> None:
        """A connection is there: send what there is of the request."""
        if self.watched != NEVER:
            self._deadlines.forget(self)
        self._upstream = connection
        octets = self._octets
        assert octets is not None
        if not (connection.reused and self.head.method in _IDEMPOTENT):
            self._octets = None
        connection.begin(self, octets, self.head.method == b"HEAD", self._response_due())
        if not connection.write_blocked:  # which what has just been written may have done
            self._downstream.resume_reading()

    def on_no_connection(self, refusal: Refusal) -> None:
        """There will be no connection."""
        self._refuse(refusal)

    def on_request_body(self, data: bytes) -> None:
        """The application has sent some of its body."""
        self._body_size += len(data)
        limit = self._pool.dependency.max_body
        if limit is not None and self._body_size > limit:
            self._refuse(self._too_large(limit))
            return
        self._send(encode_chunk(data) if self.head.chunked else data)

    def on_request_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The application's request is whole. From here on the upstream owes an answer."""
        self._request_over = True
        if self.head.chunked:
            self._send(encode_end(trailers))
        self._downstream.resume_reading()  # nothing more has to be sent on, and a client that leaves must be noticed
        if self._upstream is not None and not self._head_sent:
            self._upstream.wait_until(self._response_due())

    def _send(self, octets: bytes) -> None:
        upstream = self._upstream
        if self._octets is not None:
            kept = self._octets + octets
            if upstream is None:
                self._octets = kept
                if len(kept) > _PENDING_LIMIT:
                    self._downstream.pause_reading()
            else:
                self._octets = kept if len(kept) <= _REPLAY_LIMIT else None
        if upstream is not None:
            upstream.write(octets)

    def _response_due(self) -> float:
        """When the final response head is due. `first_byte` counts from the last octet of the request."""
        if self._request_over:
            due = self._deadlines.now + self._pool.dependency.first_byte_s
            return min(self.total_deadline, due)
        return self.total_deadline

    def _wait_for_connection(self) -> None:
        pool = self._pool
        due = self.total_deadline
        if pool.saturated:
            due = min(due, self._deadlines.now + pool.connect_s)
        self.deadline = due
        self._deadlines.watch(self)
        pool.wait(self)

    def on_deadline(self) -> None:
        """No connection has come in time."""
        self.deadline = NEVER
        self._pool.leave(self)
        if self.total_deadline <= self._deadlines.now:
            self._refuse(self._total_over())
        else:
            self._refuse(self._pool.busy())

    # -- from the upstream

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx head: passed on, but never to HTTP/1.0 (RFC 9110 section 15.2)."""
        if self.head.http11:
            self._downstream.write(response_for_downstream(head, chunked=False, connection=None))
        if head.status == 100 and not self._request_over:
            self._downstream.expect_body()

    def on_response(
        self,
        head: ResponseHead,
        body: bytes,
        done: bool,
        *,
        bodiless: bool,
        trailers: list[tuple[bytes, bytes]] | tuple[()] = (),
    ) -> None:
        """The final head, with the body octets that came with it; `done` when that is all of it."""
        self._octets = None
        self._head_sent = True
        request = self.head
        downstream = self._downstream
        keep_alive = downstream.persists and self._request_over
        framed = bodiless or head.content_length is not None
        chunked = not framed and request.http11
        if not framed and not chunked:
            keep_alive = False  # HTTP/1.0: the end of the body is the end of the connection
            self._until_close = True
        downstream.keep_alive = keep_alive
        self._chunked_out = chunked
        connection = (None if keep_alive else False) if request.http11 else (True if keep_alive else None)
        octets = response_for_downstream(head, chunked, connection)
        if chunked:
            if body:
                octets += encode_chunk(body)
            if done:
                octets += encode_end(list(trailers))
            downstream.write(octets)
        else:
            downstream.write(octets + body if body else octets)
        if done:
            self._response_over = True
            self._finish()

    def on_response_body(self, data: bytes) -> None:
        """More of the body."""
        self._downstream.write(encode_chunk(data) if self._chunked_out else data)

    def on_response_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The body has ended as it should."""
        if self._over:
            return
        self._response_over = True
        if self._chunked_out:
            self._downstream.write(encode_end(trailers))
        self._finish()

    def on_head_overdue(self) -> None:
        """The final head has not come in time. Whose fault that is depends on who was waiting for whom."""
        dependency = self._pool.dependency
        upstream = self._upstream
        if self._request_over and self.total_deadline > self._deadlines.now:
            self._refuse(
                UpstreamTimeout(
                    f"{dependency.name} did not answer within {dependency.first_byte_s:g} s (timeout.first_byte)"
                )
            )
        elif upstream is not None and upstream.write_blocked and self.total_deadline > self._deadlines.now:
            self._refuse(
                UpstreamTimeout(
                    f"{dependency.name} read nothing of the request for {dependency.idle_s:g} s (timeout.idle)"
                )
            )
        elif (
            self._request_over or self._downstream.awaits_continue or (upstream is not None and upstream.write_blocked)
        ):
            self._refuse(self._total_over())
        else:
            self._refuse(RequestTimeout(f"the request was not whole after {dependency.total_s:g} s (timeout.total)"))

    def on_upstream_failed(self, upstream: UpstreamConnection, refusal: Refusal) -> None:
        """The connection is gone. Replaced silently where that is safe, else the failure is the answer."""
        self._upstream = None
        if self._octets is not None and upstream.reused and not upstream.touched and not self._replaced:
            self._replaced = True
            self._pool.replaced += 1
            self._wait_for_connection()
            return
        self._refuse(refusal)

    # -- flow control

    def on_upstream_blocked(self) -> None:
        """The upstream reads more slowly than the application sends."""
        if not self._request_over:
            self._downstream.pause_reading()

    def on_upstream_writable(self) -> None:
        """The upstream has caught up."""
        self._downstream.resume_reading()
        if self._upstream is not None and not self._head_sent:
            self._upstream.wait_until(self._response_due())  # `first_byte` counts from when the request has left

    def on_downstream_blocked(self) -> None:
        """The application reads more slowly than the upstream sends."""
        if self._upstream is not None:
            self._upstream.pause_reading()

    def on_downstream_writable(self) -> None:
        """The application has caught up."""
        if self._upstream is not None:
            self._upstream.resume_reading()

    # -- ends

    def on_client_gone(self) -> None:
        """The application has left: end the upstream's part at once."""
        self._finish()

    def on_drain_over(self) -> None:
        """The sidecar stops, and the time for this exchange to end by itself is over."""
        self._refuse(Draining("the sidecar is shutting down and its drain_timeout is over; ask again elsewhere"))

    def on_client_fault(self, refusal: Refusal) -> None:
        """The application broke its own request. That is not the upstream's failure."""
        self._refuse(refusal)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer in place of the upstream; where its answer is already under way, cut it visibly."""
        if self._over:
            return
        if self._head_sent:
            self._finish(cut=True)
        else:
            self._finish(answer=refusal)

    def _finish(self, *, answer: Refusal | None = None, cut: bool = False) -> None:
        """The one end of every exchange: the upstream is released exactly once, then the application gets its end."""
        if self._over:
            return
        self._over = True
        if self.watched != NEVER:
            self._deadlines.forget(self)
        upstream = self._upstream
        self._upstream = None
        if upstream is not None:
            if self._response_over and self._request_over:
                upstream.release()
            else:
                upstream.close()
        elif not self._response_over:
            self._pool.leave(self)
        self._downstream.on_exchange_over(self, answer=answer, cut=cut, request_over=self._request_over)

    def _too_large(self, limit: int) -> BodyTooLarge:
        return BodyTooLarge(f"the body exceeds {limit} octets, the max_body of {self._pool.dependency.name}")

    def _total_over(self) -> UpstreamTimeout:
        dependency = self._pool.dependency
        return UpstreamTimeout(f"{dependency.name} did not answer within {dependency.total_s:g} s (timeout.total)")
