"""The policies together, beside a naive account of who asked what: whatever happens in whatever order, it adds up.

Many clients ask, pipeline, send bodies in pieces, stop reading, half-close and leave; the upstream answers well, badly,
early, in pieces, or not at all, and refuses or hangs; time passes. Bucket, slots, queue, breaker, retries and a
candidate are all on, and small.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.policy.states import State
from sidecar.proxy.exchange import Exchange
from tests.proxy.transcript import Conversation, Peer, message

_SIZES = (30, 30, 70_000)
"""Octets of a request's body: one that is kept for another attempt, and one that is too large for that."""

_NONCE = re.compile(rb"n[0-9]{5}")
_HEAD = re.compile(rb"(?:GET|PUT|POST|HEAD) /(n[0-9]{5}) HTTP/1\.1\r\n")
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")


class Client:
    """One connection of the application, and what it has asked on it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.asked: list[tuple[bytes, bytes]] = []  # method and nonce, in order
        self.owes = b""  # of the body of the last
        self.gone = False
        self.got = b""


class Server:
    """One connection of the upstream, and the request that it has to answer."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.came = b""
        self.asking: tuple[bytes, bytes] | None = None  # method and nonce
        self.owes = b""  # of its response
        self.until_close = False
        self.silent = False


def whole(octets: bytes) -> tuple[int, bytes]:
    """How many octets the first request in `octets` has, head and body, and its body; 0 while it is not whole."""
    head, end, rest = octets.partition(b"\r\n\r\n")
    if not end:
        return 0, b""
    used, body = len(head) + 4, b""
    if b"Transfer-Encoding: chunked" in head:
        while rest:
            line, end, rest = rest.partition(b"\r\n")
            size = int(line, 16) if end else 0
            if not end or len(rest) < size + 2:
                return 0, b""
            used, body, rest = used + len(line) + size + 4, body + rest[:size], rest[size + 2 :]
            if size == 0:
                return used, body
        return 0, b""
    length = int(match[1]) if (match := re.search(rb"Content-Length: ([0-9]+)", head)) else 0
    return (used + length, rest[:length]) if len(rest) >= length else (0, b"")


def body_of(nonce: bytes, size: int) -> bytes:
    """The body of the request with a nonce."""
    return nonce.ljust(size - 3, b".") + b"end"


class PoliciesMachine(RuleBasedStateMachine):
    """Everything that a request can meet, and what must hold of it at any moment."""

    @initialize(
        slots=st.sampled_from([1, 2, 3]),
        queue=st.sampled_from([0, 2, 4]),
        rate=st.sampled_from([None, "2/second", "100/second"]),
        attempts=st.sampled_from([1, 2, 3]),
        failures=st.sampled_from([None, 2, 4]),
        slow=st.booleans(),
        connections=st.sampled_from([2, 100]),
        half_close=st.booleans(),
        methods=st.sampled_from([None, ["GET", "POST"]]),
    )
    def begin(
        self,
        slots: int,
        queue: int,
        rate: str | None,
        attempts: int,
        failures: int | None,
        slow: bool,
        connections: int,
        half_close: bool,
        methods: list[str] | None,
    ) -> None:
        keys: dict[str, Any] = {
            "concurrency": {"limit": slots},
            "queue": {"limit": queue, "max_wait": "2s"},
            "circuit_breaker": {
                "consecutive_failures": failures,
                "failure_rate": {"threshold": None},
                "open_for": "1s",
                "max_open_for": "2s",
                "half_open": {"trials": 2, "successes": 2, "max_wait": "1s"},
            },
            "retry": {
                "attempts": attempts,
                "on": ["connect_error", "reset", "timeout", 413, 502, 503],
                "methods": methods,
                "backoff": {"base": "100ms", "max": "400ms"},
                "budget": {"ratio": "100%", "min_per_second": 5},
            },
            "pool": {"max_connections": connections, "idle_timeout": "5s"},
            "timeout": {"connect": "500ms", "first_byte": "1500ms", "idle": "2s", "total": "4s"},
            "candidates": {"other": {"concurrency": {"limit": 1}, "circuit_breaker": {"consecutive_failures": 1}}},
        }
        if rate is not None:
            keys["rate_limit"] = {"rate": rate, "burst": 2}
        if slow:
            keys["circuit_breaker"]["slow_calls"] = {"slower_than": "500ms", "threshold": "50%", "min_calls": 4}
        self.talk = Conversation(listener={"allow_half_close": half_close, "body_timeout": "3s"}, **keys)
        self.may_repeat_a_post = methods is not None
        self.numbers = itertools.count()
        self.clients: list[Client] = []
        self.servers: list[Server] = []
        self.reached: dict[bytes, int] = {}  # heads that came to the upstream, by nonce
        self.alive: set[Exchange] = set()

    # -- the application

    def _look_around(self) -> None:
        """Everybody reads what has come."""
        while not self.talk.no_upstream:
            self.servers.append(Server(self.talk.upstream()))
        for server in self.servers:
            server.came += server.peer.takes()
            if server.asking is None and (match := _HEAD.match(server.came)):
                server.asking = server.came[: match.start(1) - 2], match[1]
                self.reached[match[1]] = self.reached.get(match[1], 0) + 1
                assert server.peer.protocol is None
        self.servers = [server for server in self.servers if server.peer.ended == "open"]
        for client in self.clients:
            client.got += client.peer.takes()

    def _picks(self, data: st.DataObject, among: list[Any]) -> Any:
        return data.draw(st.sampled_from(among))

    def _nonce(self) -> bytes:
        return b"n%05d" % next(self.numbers)

    def _request(self, method: bytes, chunked: bool, size: int) -> tuple[bytes, bytes]:
        """A nonce, and a request that carries it in its target and, where it has one, its body."""
        nonce = self._nonce()
        start = f"{method.decode()} /{nonce.decode()} HTTP/1.1"
        if method in (b"GET", b"HEAD"):
            return nonce, message(start, "Host: app")
        body = body_of(nonce, size)
        if chunked:
            framed = b"a\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:10], size - 10, body[10:])
            return nonce, message(start, "Host: app", "Transfer-Encoding: chunked", body=framed)
        return nonce, message(start, "Host: app", f"Content-Length: {size}", body=body)

    @rule(
        method=st.sampled_from([b"GET", b"GET", b"PUT", b"POST", b"HEAD"]),
        more=st.sampled_from([0, 0, 0, 1, 2]),
        chunked=st.booleans(),
        size=st.sampled_from(_SIZES),
        keep=st.sampled_from([0, 0, 5, 25, 40, 69_000]),
    )
    def a_client_asks(self, method: bytes, more: int, chunked: bool, size: int, keep: int) -> None:
        self._ask(Client(self.talk.client()), method, more, chunked, size, keep)

    @precondition(lambda self: self._idle())
    @rule(
        data=st.data(),
        method=st.sampled_from([b"GET", b"PUT", b"POST"]),
        more=st.sampled_from([0, 1, 2]),
        chunked=st.booleans(),
        size=st.sampled_from(_SIZES),
        keep=st.sampled_from([0, 0, 5, 25]),
    )
    def a_client_asks_again(
        self, data: st.DataObject, method: bytes, more: int, chunked: bool, size: int, keep: int
    ) -> None:
        client = self._picks(data, self._idle())
        self.clients.remove(client)
        self._ask(client, method, more, chunked, size, keep)

    def _ask(self, client: Client, method: bytes, more: int, chunked: bool, size: int, keep: int) -> None:
        octets = b""
        for _ in range(more):
            nonce, request = self._request(b"GET", False, 0)
            client.asked.append((b"GET", nonce))
            octets += request
        nonce, request = self._request(method, chunked, size)
        client.asked.append((method, nonce))
        if method in (b"PUT", b"POST") and 0 < keep < len(request):
            client.owes = request[-keep:]
            request = request[:-keep]
        self.clients.append(client)
        client.peer.sends(octets + request)

    def _here(self) -> list[Client]:
        return [client for client in self.clients if client.peer.ended == "open" and not client.gone]

    def _idle(self) -> list[Client]:
        return [client for client in self._here() if not client.owes]

    @precondition(lambda self: any(client.owes for client in self._here()))
    @rule(data=st.data(), size=st.sampled_from([1, 10, 66_000, 100_000]))
    def a_client_goes_on(self, data: st.DataObject, size: int) -> None:
        client = self._picks(data, [client for client in self._here() if client.owes])
        part, client.owes = client.owes[:size], client.owes[size:]
        client.peer.sends(part)

    @precondition(lambda self: self._here())
    @rule(data=st.data(), how=st.sampled_from(["resets", "closes", "half_closes", "stops_reading"]))
    def a_client_leaves(self, data: st.DataObject, how: str) -> None:
        client = self._picks(data, self._here())
        client.gone = how != "stops_reading"
        getattr(client.peer, how)()

    @precondition(lambda self: any(not client.peer.transport.flowing for client in self._here()))
    @rule(data=st.data())
    def a_client_reads_on(self, data: st.DataObject) -> None:
        self._picks(data, [client for client in self._here() if not client.peer.transport.flowing]).peer.reads_on()

    # -- the upstream

    def _asked(self) -> list[Server]:
        return [server for server in self.servers if server.asking and not server.owes and not server.until_close]

    @precondition(lambda self: self._asked())
    @rule(
        data=st.data(),
        status=st.sampled_from(["200 OK", "200 OK", "503 Busy", "413 Large", "204 None", "500 Oh"]),
        framing=st.sampled_from(["length", "chunked", "close"]),
        interim=st.booleans(),
        keep=st.sampled_from([0, 0, 1, 3]),
        closes=st.booleans(),
    )
    def an_upstream_answers(
        self, data: st.DataObject, status: str, framing: str, interim: bool, keep: int, closes: bool
    ) -> None:
        self._answer(self._picks(data, self._asked()), status, framing, interim, keep, closes)

    def _answer(self, server: Server, status: str, framing: str, interim: bool, keep: int, closes: bool) -> None:
        assert server.asking is not None
        method, nonce = server.asking
        server.until_close = False
        empty = method == b"HEAD" or status.startswith("204")
        fields = [f"X-Nonce: {nonce.decode()}"]
        body = b"" if empty else b"answer to " + nonce
        if status.startswith("204"):
            pass
        elif framing == "length" or empty:
            fields.append(f"Content-Length: {len(body)}")
        elif framing == "chunked":
            fields.append("Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            server.until_close = True
        octets = message(f"HTTP/1.1 {status}", *fields, body=body)
        if interim:
            octets = b"HTTP/1.1 100 Continue\r\n\r\n" + octets
        if keep and len(octets) > keep and not empty:
            octets, server.owes = octets[:-keep], octets[-keep:]
        self._sends(server, octets, closes)

    def _sends(self, server: Server, octets: bytes, closes: bool = False) -> None:
        if not server.owes and not server.until_close:
            size, _ = whole(server.came)
            server.came = server.came[size:] if size else b""
            server.asking = None
        server.peer.sends(octets)
        if not server.owes and (server.until_close or closes):
            server.peer.half_closes()
            server.silent = True

    @precondition(lambda self: self._asked())
    @rule(status=st.sampled_from(["200 OK", "200 OK", "503 Busy"]))
    def all_upstreams_answer(self, status: str) -> None:
        for server in self._asked():
            self._answer(server, status, "length", False, 0, False)

    @precondition(lambda self: any(server.owes for server in self.servers))
    @rule(data=st.data())
    def an_upstream_goes_on(self, data: st.DataObject) -> None:
        server = self._picks(data, [server for server in self.servers if server.owes])
        octets, server.owes = server.owes, b""
        self._sends(server, octets)

    @precondition(lambda self: self.servers)
    @rule(data=st.data(), how=st.sampled_from(["resets", "closes", "half_closes", "garbage"]))
    def an_upstream_breaks(self, data: st.DataObject, how: str) -> None:
        server = self._picks(data, self.servers)
        if how == "garbage":
            server.peer.sends(b"garbage\r\n\r\n")
        else:
            getattr(server.peer, how)()

    @rule(dialing=st.sampled_from(["accept", "accept", "accept", "hang", "reset", "refuse"]))
    def dialing_changes(self, dialing: str) -> None:
        self.talk.dialing = ConnectionRefusedError(111, "Connection refused") if dialing == "refuse" else dialing

    @precondition(lambda self: self.talk.hanging)
    @rule(accepts=st.booleans())
    def a_hanging_dial_ends(self, accepts: bool) -> None:
        while self.talk._hanging and self.talk._hanging[0].done():
            self.talk._hanging.popleft()
        if accepts:
            self.talk.accepts()
        else:
            self.talk.refuses(ConnectionRefusedError(111, "Connection refused"))

    # -- time, and somebody at the admin API

    @rule(seconds=st.sampled_from([0.03, 0.06, 0.2, 0.5, 1.1, 2.1, 4.5]))
    def time_passes(self, seconds: float) -> None:
        self.talk.passes(seconds)

    @precondition(lambda self: self.talk.gate.queue.waiting)
    @rule(state=st.sampled_from([State.FORCED_OPEN, State.FORCED_CLOSED]))
    def somebody_forces(self, state: State) -> None:
        self.talk.do(lambda: self.talk.gate.breaker.force(state, self.talk.deadlines.read(), 0.02))

    @precondition(lambda self: self.talk.listener.in_flight > 2 and self._here())
    @rule(data=st.data())
    def the_drain_is_over_for_a_client(self, data: st.DataObject) -> None:
        self.talk.do(self._picks(data, self._here()).peer.protocol.end)

    # -- what must hold

    @invariant()
    def it_adds_up(self) -> None:
        self._look_around()
        talk, dependency = self.talk, self.talk.dependency
        assert talk.loop.faults == []
        connections = list(talk.listener._connections)
        alive = [connection._exchange for connection in connections if connection._exchange is not None]
        under_way = [
            exchange for exchange in alive if exchange._attempt is not None and exchange._attempt._permit is not None
        ]
        queued = [exchange for exchange in alive if exchange in talk.gate.queue]
        backing_off = [exchange for exchange in alive if exchange._retrier and exchange._retrier._timer]
        assert dependency.counters.in_flight == talk.listener.in_flight == len(alive)
        assert len(under_way) + len(queued) + len(backing_off) == len(alive)
        assert talk.gate.slots.in_use == len(under_way)
        assert len(talk.gate.queue) == len(queued)
        trials = sum(exchange._attempt._permit.trial for exchange in under_way)  # type: ignore[union-attr]
        assert talk.gate.breaker.view(talk.deadlines.read()).trials <= min(trials, 2)
        with_connection = [exchange for exchange in under_way if exchange._upstream is not None]
        assert talk.pool.active == len(with_connection)
        assert len(talk.pool._waiting) == len(under_way) - len(with_connection)
        for candidate in dependency.admission.candidates:
            seen = [exchange._attempt._observed or [] for exchange in under_way]  # type: ignore[union-attr]
            assert candidate.gate.slots.in_use == sum(permit is not None for observed in seen for permit in observed)
        assert dependency.budget._deposits <= 10

    @invariant()
    def nothing_is_sent_twice_that_must_not_be(self) -> None:
        if self.may_repeat_a_post:
            return
        for client in self.clients:
            for method, nonce in client.asked:
                assert method != b"POST" or self.reached.get(nonce, 0) <= 1

    @invariant()
    def every_answer_is_to_the_request_of_its_turn(self) -> None:
        for client in self.clients:
            answers = self._answers(client)
            assert len(answers) <= len(client.asked)
            for (_, nonce), answer in zip(client.asked, answers, strict=False):
                assert set(_NONCE.findall(answer)) <= {nonce}

    def _answers(self, client: Client) -> list[bytes]:
        """What has come, cut before each final head."""
        heads = [match.start() for match in _STATUS.finditer(client.got) if match[1] >= b"200"]
        return [client.got[begin:end] for begin, end in itertools.pairwise([*heads, len(client.got)])]

    @invariant()
    def every_request_comes_as_it_was_sent(self) -> None:
        for server in self.servers:
            assert len(set(_NONCE.findall(server.came))) <= 1
            size, body = whole(server.came)
            if size and server.asking is not None and server.asking[0] in (b"PUT", b"POST"):
                assert body == body_of(server.asking[1], len(body))
                assert len(body) in _SIZES

    def teardown(self) -> None:
        if not hasattr(self, "talk"):
            return
        talk = self.talk
        for client in self.clients:
            client.peer.reads_on()
        for _ in range(100):  # in which every request comes to its end, though nobody answers any more
            self._look_around()
            if talk.is_at_rest() and not any(client.peer.protocol._reader.begun for client in self._here()):
                break
            talk.passes(1)
        self.it_adds_up()
        for client in self._here():
            assert len(self._answers(client)) == len(client.asked)
        assert talk.is_at_rest()
        talk.leaves_nothing()
        counters = talk.dependency.counters
        assert sum(counters.requests) == len(talk.log.lines) <= sum(len(client.asked) for client in self.clients)
        for candidate in talk.dependency.admission.candidates:
            assert candidate.gate.breaker.view(talk.deadlines.read()).trials == 0


TestPolicies = PoliciesMachine.TestCase
TestPolicies.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
