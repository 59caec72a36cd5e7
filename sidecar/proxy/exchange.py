"""One request's life, from its head to the end of its response.

This is the only file that knows in which order things happen to a request: route, deadline, circuit, rate and slot
(together, at the gate), attempt, response head, perhaps another attempt, response body, end. The two connections, the
pool and the gate report to it and it decides; it does no parsing and no I/O of its own.

An attempt begins in `begin` and ends in `Attempt.settle`, an exchange in `_finish`, each once, whatever way it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.errors import (
    BodyTooLarge,
    Draining,
    Refusal,
    RequestTimeout,
    UpstreamTimeout,
)
from sidecar.policy.classify import End
from sidecar.policy.queue import Lack
from sidecar.policy.retry import IDEMPOTENT, EndedAttempt, RetrySettings
from sidecar.policy.states import Permit
from sidecar.proxy import verdict
from sidecar.proxy.account import account_client_gone, account_refusal, account_response, account_tunnel
from sidecar.proxy.attempt import Attempt
from sidecar.proxy.chunked import encode_chunk, encode_end
from sidecar.proxy.dispatch import Dispatcher
from sidecar.proxy.framing import RequestHead, ResponseHead, check_switch
from sidecar.proxy.headers import switching_for_downstream
from sidecar.proxy.held import HeldResponse
from sidecar.proxy.pool import Pool
from sidecar.proxy.refusals import no_tunnel_left, turned_away
from sidecar.proxy.retrying import Retrier
from sidecar.proxy.tunnel import Tunnel, TunnelEnd
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.runtime.deadlines import NEVER, Deadlines

if TYPE_CHECKING:
    from sidecar.proxy.downstream import DownstreamConnection

_REPLAY_LIMIT: Final = 65_536
"""Octets of a request kept at hand, in case it has to be sent again."""

_PENDING_LIMIT: Final = 65_536
"""Octets of body taken from the application while there is no connection to send them on."""

_RESPONSE: Final = End.RESPONSE  # bound to the module: cheaper to read than an attribute of an enum


class Exchange:
    """One request and its response.

    Args:
        downstream: the application's connection.
        pool: the connections of the dependency that the request is for.
        head: the request's head.
        deadlines: the process's clock and wheel.

    Attributes:
        total_deadline: process time at which the final response head is due, whatever happened before.
        deadline, watched: see `Watched`; in use while the exchange waits: in the queue, for a connection, or for the
            rest of a response that it holds back.
    """

    __slots__ = (
        # the request
        "_began",
        "_body_size",
        "_deadlines",
        "_downstream",
        "_octets",
        "_pool",
        "_request_over",
        "dependency",
        "head",
        "total_deadline",
        # where it waits
        "_queued_at",
        "_waited_s",
        "deadline",
        "watched",
        "_tunnel_reserved",
        # attempts
        "_attempt",
        "_attempts",
        "_replaced",
        "_retrier",
        "_sent",
        "_upstream",
        # the response
        "_over",
        "_responder",
        "_response_over",
    )

    def __init__(self, downstream: DownstreamConnection, pool: Pool, head: RequestHead, deadlines: Deadlines) -> None:
        dependency = pool.dependency
        self._downstream = downstream
        self._pool = pool
        self.dependency = dependency
        self.head = head
        self._deadlines = deadlines
        self._octets: bytes | None = None  # what has been, or is to be, written; none once it cannot be repeated
        self._request_over = not head.chunked and not head.content_length
        self._body_size = 0
        self._began = 0.0
        self.total_deadline = deadlines.now + dependency.total_s

        self._queued_at = NEVER
        self._waited_s = 0.0
        self._tunnel_reserved = False
        self.deadline = NEVER
        self.watched = NEVER

        self._attempt: Attempt | None = None  # the present one, or the last
        self._attempts = 0
        self._upstream: UpstreamConnection | None = None
        self._replaced = False
        self._sent = False  # an octet of the request, in this attempt or one before
        self._retrier: Retrier | None = None  # from the first time on that there is something to try again

        self._responder = downstream.responder
        self._responder.expect()
        self._response_over = False
        self._over = False

    def __repr__(self) -> str:
        return f"<Exchange {self.head!r} upstream={self._upstream!r} {self._attempt!r}>"

    @property
    def idle_s(self) -> float:
        """How long either side may stall amid the response, in seconds."""
        return self.dependency.idle_s

    # -- admission

    def start(self, dispatcher: Dispatcher, raw: bytes) -> None:
        """Let the request in and send it, or let it wait, or refuse it.

        Args:
            dispatcher: makes the head that goes to the upstream.
            raw: the head as it came.
        """
        dependency = self.dependency
        admission = dependency.admission
        now = self._began = self._deadlines.read()
        dependency.counters.in_flight += 1
        if admission.gate.breaker.refuses(now):  # before anything is done for it: it is asked in the thousands
            self._finish(End.OWN_REFUSAL, now, turned_away(dependency, None, None, now))
            return
        limit = dependency.max_body
        if limit is not None and self.head.content_length > limit:
            self._finish(End.CLIENT_FAULT, now, self._too_large(limit))
            return
        if self.head.upgrade is not None and not self._may_switch(now):
            return
        self._octets = dispatcher.octets(self.head, raw, self._pool)
        permit = admission.enter(now)
        if permit is not None:
            self.begin(permit, now)
        elif admission.wait(self, now):
            self._queued_at = now
            self.wait_until(self.total_deadline)
        else:
            self._finish(End.OWN_REFUSAL, now, turned_away(dependency, admission.gate.lack, None, now))

    def enter(self, now: float) -> Permit | None:
        """Let another attempt in, or none."""
        return self.dependency.admission.enter(now)

    def _may_switch(self, now: float) -> bool:
        """Reserve the tunnel that the request may become; where there is none, it is refused."""
        tunnels = self.dependency.tunnels
        if tunnels.limit == 0:
            self.head.upgrade = None
        elif tunnels.take():
            self._tunnel_reserved = True
        else:
            self._finish(End.OWN_REFUSAL, now, no_tunnel_left(self.dependency.name, tunnels.limit))
            return False
        return True

    def on_admitted(self, permit: Permit, now: float) -> None:
        """The request's turn in the queue has come."""
        self._end_wait(now)
        self.begin(permit, now)

    def on_turned_away(self, lack: Lack | None, now: float) -> None:
        """The request has waited in the queue in vain."""
        self._end_wait(now)
        self.refuse(turned_away(self.dependency, lack, self._waited_s, now), End.OWN_REFUSAL)

    def _end_wait(self, now: float) -> None:
        self._waited_s = now - self._queued_at
        self._queued_at = NEVER
        self.dependency.counters.queue_wait.observe(self._waited_s)

    # -- an attempt, to the upstream

    def begin(self, permit: Permit, now: float) -> None:
        """Token, slot and permit are there: send the request, as soon as there is a connection."""
        dependency = self.dependency
        if self._attempts == 0 and dependency.retry is not None:
            dependency.budget.deposit()
        self._attempt = Attempt(dependency, permit, now)
        self._attempts += 1
        self._connect(now)

    def _connect(self, now: float) -> None:
        upstream = self._pool.take()
        if upstream is not None:
            self._send_on(upstream, now)
        else:
            self._wait_for_connection()

    def _wait_for_connection(self) -> None:
        pool = self._pool
        pool.wait(self)
        due = self.total_deadline
        if pool.short:
            due = min(due, self._deadlines.now + pool.connect_s)
        self.wait_until(due)

    def on_connection(self, connection: UpstreamConnection) -> None:
        """A connection is there, after a wait."""
        self._send_on(connection, self._deadlines.read())

    def on_no_connection(self, refusal: Refusal) -> None:
        """There will be no connection."""
        self._fail(refusal, verdict.without_connection(refusal))

    def _send_on(self, connection: UpstreamConnection, now: float) -> None:
        """Send what there is of the request."""
        if self.deadline != NEVER:
            self._deadlines.forget(self)
        self._upstream = connection
        octets = self._octets
        assert octets is not None
        repeatable = self.dependency.retry is not None or (connection.reused and self.head.method in IDEMPOTENT)
        if not repeatable or len(octets) > _REPLAY_LIMIT:
            self._octets = None
        self._sent = True
        attempt = self._attempt
        if attempt is not None:
            attempt.endpoint = connection.endpoint
            if self._request_over:
                attempt.sent(now)
        own_host = connection.endpoint.own_host
        if own_host is not None:  # the head has the Host of the first upstream, once, and in front of any body
            octets = octets.replace(own_host[0], own_host[1], 1)
        connection.begin(self, octets, self.head.method == b"HEAD", self._response_due())
        if not connection.write_blocked:  # which what has just been written may have done
            self._downstream.resume_reading()

    def on_request_body(self, data: bytes) -> None:
        """The application has sent some of its body."""
        self._body_size += len(data)
        limit = self.dependency.max_body
        if limit is not None and self._body_size > limit:
            self.refuse(self._too_large(limit), End.CLIENT_FAULT)
            return
        self._send(encode_chunk(data) if self.head.chunked else data)

    def on_request_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The application's request is whole. From here on the upstream owes an answer."""
        self._request_over = True
        if self.head.chunked:
            self._send(encode_end(trailers))
        self._downstream.resume_reading()  # nothing more has to be sent on, and a client that leaves must be noticed
        attempt = self._attempt
        if self._upstream is not None and attempt is not None and attempt.status == 0:
            attempt.sent(self._deadlines.read())
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
            due = self._deadlines.now + self.dependency.first_byte_s
            return min(self.total_deadline, due)
        return self.total_deadline

    def wait_until(self, deadline: float) -> None:
        """Look again at `deadline`, process time in seconds."""
        self.deadline = deadline
        self._deadlines.watch(self)

    def on_deadline(self) -> None:
        """What was waited for has not come in time."""
        self.deadline = NEVER
        if self._retrier is not None and self._retrier.holds:
            self._retrier.let_go()
        elif self._queued_at != NEVER:
            admission, now = self.dependency.admission, self._deadlines.read()
            admission.quit(self)
            self.on_turned_away(admission.gate.queue.waits_for, now)
        else:
            end = End.OWN_REFUSAL if self._pool.short else self._end_of_total()
            self._pool.leave(self)
            if self.total_deadline <= self._deadlines.now:
                self.refuse(self._total_over(), end)
            else:
                self.refuse(self._pool.busy(), End.OWN_REFUSAL)

    # -- from the upstream

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx head: passed on."""
        self._responder.interim(self.head, head)
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
        now = self._deadlines.read()
        attempt = self._attempt
        assert attempt is not None
        attempt.answered(head.status, now)
        retry = self.dependency.retry
        if retry is not None and retry.statuses[head.status]:
            if self._need_retrier(retry).keep_back(head, body, done, bodiless, list(trailers), now):
                return
        self.forward(head, body, done, bodiless=bodiless, trailers=trailers)
        if done:
            self._response_over = True
            self._finish(_RESPONSE, now)

    def forward(
        self,
        head: ResponseHead,
        body: bytes,
        done: bool,
        *,
        bodiless: bool,
        trailers: list[tuple[bytes, bytes]] | tuple[()] = (),
    ) -> None:
        """This is the answer: from here on there is no other."""
        self._octets = None
        if self.deadline != NEVER:
            self._deadlines.forget(self)
        downstream = self._downstream
        if downstream.write_blocked and self._upstream is not None:  # since an interim head, maybe of an attempt before
            self._upstream.pause_reading()
        persists = self._request_over and downstream.persists
        self._responder.begin(self.head, head, body, done, persists=persists, bodiless=bodiless, trailers=trailers)

    def on_response_body(self, data: bytes) -> None:
        """More of the body."""
        retrier = self._retrier
        if retrier is not None and retrier.holds:
            retrier.on_body(data)
            return
        self._responder.go_on(data)

    def on_response_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The body has ended as it should."""
        if self._over:
            return
        retrier = self._retrier
        if retrier is not None and retrier.holds:
            retrier.on_end(trailers, self._deadlines.read())
            return
        self._response_over = True
        self._responder.end(trailers)
        self._finish(_RESPONSE, self._deadlines.read())

    def on_head_overdue(self) -> None:
        """The final head has not come in time. Whose fault that is depends on who was waiting for whom."""
        dependency = self.dependency
        upstream = self._upstream
        if self._request_over and self.total_deadline > self._deadlines.now:
            refusal: Refusal = UpstreamTimeout(
                f"{dependency.name} did not answer within {dependency.first_byte_s:g} s (timeout.first_byte)"
            )
            self._fail(refusal, End.FIRST_BYTE_TIMEOUT)
        elif upstream is not None and upstream.write_blocked and self.total_deadline > self._deadlines.now:
            refusal = UpstreamTimeout(
                f"{dependency.name} read nothing of the request for {dependency.idle_s:g} s (timeout.idle)"
            )
            self._fail(refusal, End.IDLE_TIMEOUT)
        elif (
            self._request_over or self._downstream.awaits_continue or (upstream is not None and upstream.write_blocked)
        ):
            self.refuse(self._total_over(), self._end_of_total())
        else:
            refusal = RequestTimeout(f"the request was not whole after {dependency.total_s:g} s (timeout.total)")
            self.refuse(refusal, End.CLIENT_FAULT)

    def on_upstream_failed(self, upstream: UpstreamConnection, refusal: Refusal) -> None:
        """The connection is gone. Replaced silently where that is safe, else the attempt has failed."""
        self._upstream = None
        dead = upstream.reused and not upstream.touched
        if dead and self._octets is not None and not self._replaced and self.head.method in IDEMPOTENT:
            self._replaced = True
            self._pool.replaced += 1
            if self._attempt is not None:
                self._attempt.endpoint = None  # which is not to be blamed for what becomes of the replacement
            self._wait_for_connection()
            return
        self._fail(refusal, verdict.broken(refusal, dead=dead))

    def _fail(self, refusal: Refusal, end: End) -> None:
        """The attempt has failed. Unless there is another one, that is the answer."""
        if self._over:
            return
        now = self._deadlines.read()
        retry = self.dependency.retry
        if retry is None or not self._need_retrier(retry).on_failure(refusal, end, now):
            self._finish(end, now, refusal)

    def _need_retrier(self, retry: RetrySettings) -> Retrier:
        if self._retrier is None:
            self._retrier = Retrier(self, retry, self._deadlines)
        return self._retrier

    # -- another attempt: what the retrier does

    def ended(self, end: End, retry_after_s: float | None) -> EndedAttempt:
        """The present attempt, as far as a retry depends on it."""
        attempt = self._attempt
        return EndedAttempt(
            number=self._attempts,
            end=end,
            status=0 if attempt is None else attempt.status,
            method=self.head.method,
            sent=self._sent,
            answer_begun=self._responder.begun,
            replayable=self._octets is not None,
            retry_after_s=retry_after_s,
        )

    def end_attempt(self, end: End, now: float) -> None:
        """Hold nothing while the next attempt is waited for: no connection, no slot, no permit."""
        self._let_upstream_go(whole=end is _RESPONSE)
        if self.deadline != NEVER:
            self._deadlines.forget(self)
        if self._attempt is not None:
            self._attempt.settle(end, self.head.block, now)

    def answer_with(self, held: HeldResponse, now: float) -> None:
        """There is no better response than the one that was kept back."""
        self._response_over = True
        self.forward(held.head, bytes(held.body), True, bodiless=held.bodiless, trailers=held.trailers)
        self._finish(_RESPONSE, now)

    # -- to become a tunnel

    def on_switch(self, upstream: UpstreamConnection, head: ResponseHead, rest: bytes) -> None:
        """The dependency speaks another protocol from now on.

        Args:
            upstream: on which it has said so.
            head: its 101.
            rest: octets of the other protocol that came with it.

        Raises:
            UpstreamFailure: that is not what it was asked for.
        """
        check_switch(self.head, head)
        if self._downstream.gone:
            self._downstream.close()
            return
        now = self._deadlines.read()
        attempt = self._attempt
        assert attempt is not None
        attempt.answered(101, now)
        self._upstream = None
        transport, blocked = upstream.detach()
        end = TunnelEnd()
        end.take_over(transport, blocked=blocked, paused=False, eof=False)
        self._become_tunnel(end, 101, switching_for_downstream(head), rest, now)

    def _become_tunnel(self, upstream: TunnelEnd, status: int, answer: bytes, received: bytes, now: float) -> None:
        """The last answer on both connections: the exchange is over, and they go on without it.

        Args:
            upstream: the connection to the dependency.
            status: of the answer.
            answer: its octets.
            received: octets behind it.
            now: present process time in seconds.
        """
        dependency, downstream = self.dependency, self._downstream
        self._tunnel_reserved = False  # it is the tunnel's now
        self._response_over = True
        self._settle(_RESPONSE, now)
        account_tunnel(dependency, self.head, status, now - self._began)
        tunnel = Tunnel(
            dependency,
            self._deadlines,
            self.head,
            status,
            self._began,
            self._attempts,
            self._waited_s,
            downstream.on_tunnel_over,
        )
        downstream.write(answer)
        end, sent = downstream.become_tunnel(tunnel)
        tunnel.begin(end, upstream, sent, received)

    # -- flow control

    def on_upstream_blocked(self) -> None:
        """The upstream reads more slowly than the application sends."""
        if not self._request_over:
            self._downstream.pause_reading()

    def on_upstream_writable(self) -> None:
        """The upstream has caught up."""
        self._downstream.resume_reading()
        attempt = self._attempt
        if self._upstream is not None and attempt is not None and attempt.status == 0:
            self._upstream.wait_until(self._response_due())  # `first_byte` counts from when the request has left

    def on_downstream_blocked(self) -> None:
        """The application reads more slowly than the upstream sends.

        In front of the final head that pauses nothing: interim heads are bounded, and an upstream that is not read
        must not be blamed for its silence.
        """
        if self._upstream is not None and self._responder.begun:
            self._upstream.pause_reading()

    def on_downstream_writable(self) -> None:
        """The application has caught up."""
        if self._upstream is not None:
            self._upstream.resume_reading()

    # -- ends

    def on_client_gone(self) -> None:
        """The application has left: end the upstream's part at once."""
        self._finish(End.CLIENT_GONE, self._deadlines.read())

    def on_drain_over(self) -> None:
        """The sidecar stops, and the time for this exchange to end by itself is over."""
        refusal = Draining("the sidecar is shutting down and its drain_timeout is over; ask again elsewhere")
        self.refuse(refusal, End.DRAIN)

    def on_client_fault(self, refusal: Refusal) -> None:
        """The application broke its own request. That is not the upstream's failure."""
        self.refuse(refusal, End.CLIENT_FAULT)

    def refuse(self, refusal: Refusal, end: End) -> None:
        """Answer in place of the upstream; where its answer is already under way, cut it visibly."""
        self._finish(end, self._deadlines.read(), refusal)

    def _finish(self, end: End, now: float, refusal: Refusal | None = None) -> None:
        """The one end of every exchange but a tunnel's: everything is given back, then the application gets its end."""
        if self._over:
            return
        self._settle(end, now)
        self._account(end, now, refusal)

    def _settle(self, end: End, now: float) -> None:
        """Give everything back."""
        self._over = True
        if self.deadline != NEVER:
            self._deadlines.forget(self)
        if self._retrier is not None:
            self._retrier.cancel()
            self._retrier = None  # which refers back to this object: no cycle is left for the garbage collector
        if self._queued_at != NEVER:
            self.dependency.admission.quit(self)
            self._end_wait(now)
        self._let_upstream_go(whole=self._response_over)
        attempt = self._attempt
        if attempt is not None:
            attempt.settle(end, self.head.block, now)
        if self._tunnel_reserved:
            self._tunnel_reserved = False
            self.dependency.tunnels.release()

    def _account(self, end: End, now: float, refusal: Refusal | None) -> None:
        """Close the books on the request, and tell its connection what there is left to say."""
        dependency, head, attempts, begun = self.dependency, self.head, self._attempts, self._responder.begun
        duration_s = now - self._began
        answer, fallback = None, None
        if end is End.CLIENT_GONE:
            account_client_gone(dependency, head, attempts, duration_s, self._waited_s)
        elif refusal is not None and not begun:
            answer = refusal
            fallback = account_refusal(dependency, head, refusal, attempts, duration_s, self._waited_s)
        else:
            attempt = self._attempt
            status = 0 if attempt is None else attempt.status
            account_response(dependency, head, status, refusal, attempts, duration_s, self._waited_s)
        self._downstream.on_exchange_over(
            self, answer, fallback, cut=refusal is not None and begun, request_over=self._request_over
        )

    def _let_upstream_go(self, *, whole: bool) -> None:
        """Give the connection to the upstream back, or up, or stop waiting for one."""
        upstream = self._upstream
        if upstream is None:
            self._pool.leave(self)
            return
        self._upstream = None
        if whole and self._request_over:
            upstream.release()
        else:
            upstream.close()

    def _too_large(self, limit: int) -> BodyTooLarge:
        return BodyTooLarge(f"the body exceeds {limit} octets, the max_body of {self.dependency.name}")

    def _end_of_total(self) -> End:
        """Whose doing it is that no time is left: not the dependency's, where our own waits have left it next to none.

        As with a client that leaves, `abandoned_after` says how long it must have been asked in vain.
        """
        attempt = self._attempt
        if attempt is None or (self._waited_s == 0.0 and self._attempts == 1):
            return End.TOTAL_TIMEOUT
        asked_for_s = self._deadlines.read() - attempt.began
        return End.TOTAL_TIMEOUT if asked_for_s >= self.dependency.classifier.abandoned_after_s else End.OWN_REFUSAL

    def _total_over(self) -> UpstreamTimeout:
        dependency = self.dependency
        return UpstreamTimeout(f"{dependency.name} did not answer within {dependency.total_s:g} s (timeout.total)")
