"""A dependency at several addresses: which is asked, what happens when one fails, vanishes or comes back."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from sidecar.errors import Refusal
from sidecar.policy.states import Outcome
from sidecar.proxy.endpoint import Endpoint
from sidecar.proxy.tls import TlsContext
from sidecar.proxy.upstream import UpstreamConnection
from tests.proxy.transcript import GET, GET_UPSTREAM, OK, OK_DOWNSTREAM, Conversation, Peer, message

A, B, C, D, E = (f"192.0.2.{number}" for number in range(1, 6))
SIX = "2001:db8::1"
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
BROKEN = message("HTTP/1.1 500 Broken", "Date: x", "Content-Length: 0")
TIMEOUT = {"connect": "2s", "first_byte": "50s", "idle": "50s", "total": "60s"}
EJECTION = {"consecutive_failures": 2, "for": "10s", "max": "50%"}
POST = message("POST /a HTTP/1.1", "Host: app", "Content-Length: 2", body="hi")


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture
def at(converse: Callable[..., Conversation]) -> Callable[..., Conversation]:
    """A conversation with a dependency at these addresses; of two that are equally busy the first is asked first."""

    def make(*addresses: str, **keys: Any) -> Conversation:
        talk = converse(addresses={"payments": list(addresses)}, **({"timeout": TIMEOUT} | keys))
        talk.rng = lambda: 0.0
        return talk

    return make


def asks(talk: Conversation, octets: bytes = GET) -> Peer:
    client = talk.client()
    client.sends(octets)
    return client


def answered(talk: Conversation, octets: bytes = GET, answer: bytes = OK) -> str:
    """A request comes and is answered, on a fresh connection; the address that it went to."""
    client = asks(talk, octets)
    upstream = talk.upstream()
    upstream.sends(answer)
    client.takes()
    return place(upstream)


def place(upstream: Peer) -> str:
    assert isinstance(upstream.address, tuple)
    return str(upstream.address[0])


def dialed(talk: Conversation) -> list[str]:
    """The addresses that were dialed since this was asked last."""
    ips = [address[0] for address in talk.dialed if isinstance(address, tuple)]
    talk.dialed.clear()
    return ips


def endpoint(talk: Conversation, ip: str) -> Endpoint:
    (found,) = (each for each in talk.pool.ejection.members if each.place.ip == ip)
    return found


def attempts(talk: Conversation) -> dict[Outcome, int]:
    """Attempts that have ended, by outcome, as far as there are any."""
    outcomes = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED)
    return {outcome: count for outcome, count in zip(outcomes, talk.dependency.counters.attempts, strict=True) if count}


def fails(talk: Conversation, ip: str) -> None:
    """An address fails as often as `EJECTION` allows."""
    for _ in range(2):
        talk.pool.ejection.failed(endpoint(talk, ip), talk.deadlines.now)
    assert endpoint(talk, ip).ejected


def changes(talk: Conversation, *addresses: str) -> None:
    """The name has these addresses from now on."""
    talk.addresses["payments"] = list(addresses)
    talk.looks_up_again()


# -- which is asked


def test_name_is_dialed_by_its_addresses(at) -> None:
    talk = at(A)
    client = asks(talk)
    assert talk.dialed == [(A, 8080)]
    upstream = talk.upstream()
    upstream.gets(GET_UPSTREAM)
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert talk.looked_up == ["payments"]


def test_less_busy_of_two_is_asked(at) -> None:
    talk = at(A, B)
    one, other = asks(talk), asks(talk)
    assert dialed(talk) == [A, B]
    first, second = talk.upstream(), talk.upstream()
    asks(talk)
    assert dialed(talk) == [A]  # both are as busy, and A was drawn first
    asks(talk)
    assert dialed(talk) == [B]
    second.sends(OK)
    other.gets(OK_DOWNSTREAM)
    asks(talk)
    second.gets(2 * GET_UPSTREAM)  # one at B has ended, and left a connection
    first.sends(OK)
    one.gets(OK_DOWNSTREAM)
    assert dialed(talk) == []


def test_connection_that_is_being_made_counts_as_busy(at) -> None:
    talk = at(A, B)
    talk.dialing = "hang"
    for _ in range(4):
        asks(talk)
    assert dialed(talk) == [A, B, A, B]
    assert [each.busy for each in talk.pool.ejection.members] == [2, 2]
    for _ in range(4):
        talk.accepts()
    assert [each.busy for each in talk.pool.ejection.members] == [2, 2]


def test_idle_connection_is_used_to_the_address_whose_turn_it_is(at) -> None:
    talk = at(A, B)
    clients = [asks(talk), asks(talk)]
    upstreams = [talk.upstream(), talk.upstream()]
    for upstream in upstreams:
        upstream.sends(OK)
        upstream.takes()
    for draw, upstream in ((0.0, upstreams[0]), (0.9, upstreams[1]), (0.0, upstreams[0])):
        talk.rng = lambda draw=draw: draw
        clients[0].sends(GET)
        upstream.gets(GET_UPSTREAM)
        upstream.sends(OK)
    assert dialed(talk) == [A, B]


def test_address_whose_turn_it_is_is_dialed_though_another_has_an_idle_connection(at) -> None:
    talk = at(A, B)
    assert answered(talk) == A
    talk.rng = lambda: 0.9
    assert answered(talk) == B
    assert dialed(talk) == [A, B]


def test_address_that_has_an_idle_connection_is_not_dialed_where_it_is_the_turn_of_another(at) -> None:
    """One draw for each request: a second one for its dial would find what the first has passed over."""
    talk = at(A, B)
    assert answered(talk) == A
    draws = iter([0.9, 0.0, 0.0, 0.0])
    talk.rng = lambda: next(draws)
    assert answered(talk) == B
    assert dialed(talk) == [A, B]


def test_saturated_pool_uses_idle_connections_to_any_address(at) -> None:
    talk = at(A, B, pool={"max_connections": 1})
    one, other = talk.client(), talk.client()
    one.sends(GET)
    upstream = talk.upstream()
    upstream.sends(OK)
    one.gets(OK_DOWNSTREAM)
    talk.rng = lambda: 0.9  # the turn of B, to which no connection may be made
    other.sends(GET)
    upstream.gets(2 * GET_UPSTREAM)
    upstream.sends(OK)
    other.gets(OK_DOWNSTREAM)
    assert dialed(talk) == [A]


def test_saturated_pool_uses_one_that_is_out_only_where_no_other_has_an_idle_connection(at) -> None:
    talk = at(A, B, C, pool={"max_connections": 2}, ejection=EJECTION)
    one, other = asks(talk), asks(talk)
    assert dialed(talk) == [A, B]
    first, second = talk.upstream(), talk.upstream()
    first.sends(OK)
    second.sends(OK)
    fails(talk, A)
    first.takes()
    second.takes()
    talk.rng = lambda: 0.9  # the turn of C, to which no connection may be made
    one.takes()
    other.takes()
    one.sends(GET)
    first.gets_nothing()
    second.gets(GET_UPSTREAM)
    other.sends(GET)
    first.gets(GET_UPSTREAM)
    assert dialed(talk) == []


class Waiter:
    """Wants a fresh connection, whatever idle ones there are."""

    def on_connection(self, connection: UpstreamConnection) -> None:
        self.connection = connection

    def on_no_connection(self, refusal: Refusal) -> None:
        raise AssertionError(refusal)


def test_room_for_a_replacement_is_made_at_the_address_with_most_idle_connections(at) -> None:
    talk = at(A, B, pool={"max_connections": 3})
    clients = [asks(talk) for _ in range(3)]
    assert dialed(talk) == [A, B, A]
    upstreams = [talk.upstream() for _ in range(3)]
    for number in (2, 1, 0):
        upstreams[number].sends(OK)
        clients[number].gets(OK_DOWNSTREAM)
    waiter = Waiter()
    talk.do(talk.pool.wait, waiter)
    assert [upstream.ended for upstream in upstreams] == ["open", "open", "closed"]
    talk.do(waiter.connection.close)


# -- an address to which no connection can be made


def test_idle_connection_elsewhere_stands_in_for_one_that_cannot_be_made(at) -> None:
    talk = at(A, B)
    assert answered(talk) == A
    talk.rng = lambda: 0.9
    talk.dialing = {B: "hang"}
    client = asks(talk)
    idle = talk._peers[1]
    idle.takes()
    talk.passes(2.1)
    idle.gets(GET_UPSTREAM)
    idle.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert dialed(talk) == [A, B]
    assert attempts(talk) == {Outcome.SUCCESS: 2}
    assert [each.failures for each in talk.pool.ejection.members] == [0, 1]


def test_idle_connection_to_the_address_that_failed_does_not(at) -> None:
    """Whoever does not let us in any more will hardly answer on what is left from before."""
    talk = at(A, B, timeout=TIMEOUT, pool={"idle_timeout": "50s"})
    clients = [asks(talk), asks(talk), asks(talk)]
    assert dialed(talk) == [A, B, A]
    first, second, third = (talk.upstream() for _ in range(3))
    for upstream, client in ((first, clients[0]), (third, clients[2])):
        upstream.sends(OK)
        client.gets(OK_DOWNSTREAM)
        upstream.takes()
    talk.dialing = {A: "hang"}
    clients[0].sends(GET)
    third.gets(GET_UPSTREAM)
    talk.rng = lambda: 0.0
    third.resets()  # and the request is to be sent again, on a fresh connection
    assert dialed(talk) == [A]
    talk.passes(2.1)
    first.gets_nothing()
    assert dialed(talk) == [B]
    talk.upstream().sends(OK)
    clients[0].gets(OK_DOWNSTREAM)
    second.sends(OK)


@pytest.mark.parametrize(
    "failure",
    [
        REFUSED,
        error(errno.EHOSTUNREACH),
        error(errno.ENETUNREACH),
        error(errno.EACCES),
        error(errno.ETIMEDOUT),
        ConnectionResetError(),
        RuntimeError("a defect"),
        "reset",
    ],
    ids=str,
)
def test_connect_failure_passes_to_another_address_within_the_attempt(at, failure: Any) -> None:
    talk = at(A, B)
    talk.dialing = {A: failure}
    client = asks(talk)
    assert dialed(talk) == [A, B]
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert attempts(talk) == {Outcome.SUCCESS: 1}
    assert [line.attempts for line in talk.log.lines] == [1]
    assert endpoint(talk, A).failures == 1
    assert [each.busy for each in talk.pool.ejection.members] == [0, 0]
    talk.loop.faults.clear()


def test_at_most_three_addresses_are_tried(at) -> None:
    talk = at(A, B, C, D, E)
    talk.dialing = REFUSED
    client = asks(talk)
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    tried = dialed(talk)
    assert len(tried) == len(set(tried)) == 3
    assert answer.proxy_error == "connection_refused"
    assert answer.detail == (f"no connection to payments: Connection refused at {tried[-1]} port 8080, nor at 2 before")
    assert attempts(talk) == {Outcome.FAILURE: 1}
    assert sum(each.failures for each in talk.pool.ejection.members) == 3
    assert talk.is_at_rest()


def test_answer_names_the_address_where_there_are_others(at) -> None:
    talk = at(A, SIX)
    talk.dialing = {A: error(errno.ENETUNREACH), SIX: error(errno.EHOSTUNREACH)}
    answer = asks(talk).gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert answer.proxy_error == "destination_ip_unroutable"
    assert answer.detail == f"payments cannot be reached: No route to host at {SIX} port 8080, nor at 1 before"


@pytest.mark.parametrize(
    ("dialing", "detail"),
    [
        (REFUSED, "no connection to payments: Connection refused"),
        (error(errno.ENETUNREACH), "payments cannot be reached: Network is unreachable"),
        (ConnectionResetError(), "payments broke the connection before it answered"),
        ("reset", "payments closed the connection before it answered"),
    ],
    ids=str,
)
def test_answer_does_not_name_an_only_address(at, dialing: Any, detail: str) -> None:
    talk = at(A)
    talk.dialing = dialing
    assert asks(talk).gets_refusal(502, "DOWNSTREAM_FAILURE").detail == detail


def test_other_address_is_the_least_busy_one(at) -> None:
    talk = at(A, B, C)
    for ip, busy in ((B, 5), (C, 4)):
        endpoint(talk, ip).busy += busy
    talk.dialing = {A: REFUSED}
    asks(talk)
    assert dialed(talk) == [A, C]
    for ip, busy in ((B, 5), (C, 4)):
        endpoint(talk, ip).busy -= busy


def test_connect_timeout_passes_on_and_each_address_has_its_own(at) -> None:
    talk = at(A, B, C)
    talk.dialing = {A: "hang", B: "hang"}
    client = asks(talk)
    assert dialed(talk) == [A]
    talk.passes(1.9)
    assert dialed(talk) == []
    talk.passes(0.2)
    assert dialed(talk) == [B]
    talk.passes(1.8)
    assert talk.hanging == 1
    talk.passes(0.3)
    assert dialed(talk) == [C]
    assert talk.hanging == 0
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert attempts(talk) == {Outcome.SUCCESS: 1}
    assert [each.failures for each in talk.pool.ejection.members] == [1, 1, 0]


def test_timeout_at_every_address_is_504(at) -> None:
    talk = at(A, B, C, D)
    talk.dialing = "hang"
    client = asks(talk)
    talk.passes(6.3)
    answer = client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert answer.proxy_error == "connection_timeout"
    assert answer.detail == (
        f"payments did not accept a connection within 2 s (timeout.connect) at {C} port 8080, nor at 2 before"
    )
    assert dialed(talk) == [A, B, C]
    assert talk.is_at_rest()


def test_total_timeout_ends_the_passing_on(at) -> None:
    talk = at(A, B, C, timeout={"connect": "2s", "first_byte": "2s", "idle": "2s", "total": "3s"})
    talk.dialing = "hang"
    client = asks(talk)
    talk.passes(3.1)
    assert "timeout.total" in client.gets_refusal(504, "DOWNSTREAM_TIMEOUT").detail
    assert dialed(talk) == [A, B]
    assert talk.is_at_rest()


@pytest.mark.parametrize("at_second", [False, True])
def test_client_that_leaves_ends_the_passing_on(at, at_second: bool) -> None:
    talk = at(A, B)
    talk.dialing = "hang"
    client = asks(talk)
    if at_second:
        talk.passes(2.1)
    client.resets()
    assert (talk.hanging, talk.is_at_rest()) == (0, True)
    assert [each.busy for each in talk.pool.ejection.members] == [0, 0]
    talk.passes(5)
    assert dialed(talk) == [A, B][: 1 + at_second]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_local_error_does_not_pass_on_and_is_not_the_addresss(at, number: int) -> None:
    talk = at(A, B)
    talk.dialing = {A: error(number)}
    client = asks(talk)
    assert "on this side" in client.gets_refusal(503, "OVERLOADED").detail
    assert dialed(talk) == [A]
    assert attempts(talk) == {Outcome.IGNORED: 1}
    assert [(each.failures, each.busy) for each in talk.pool.ejection.members] == [(0, 0), (0, 0)]


# -- IPv4 and IPv6


@pytest.mark.parametrize(
    "number", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT], ids=os.strerror
)
def test_host_without_ipv6_gets_through_to_the_one_address_of_ipv4(at, number: int) -> None:
    """Addresses that cannot be reached are never busy, so all of them stand in front of one that can."""
    sixes = [f"2001:db8::{each}" for each in range(1, 9)]
    talk = at(A, *sixes)
    talk.dialing = dict.fromkeys(sixes, error(number))
    endpoint(talk, A).busy += 7
    for _ in range(40):
        client = asks(talk)
        talk.upstream().sends(OK)
        client.gets(OK_DOWNSTREAM)
        client.closes()
        talk.passes(4.1)
    endpoint(talk, A).busy -= 7
    assert attempts(talk) == {Outcome.SUCCESS: 40}


def test_host_without_ipv4_gets_through_to_the_one_address_of_ipv6(at) -> None:
    talk = at(A, B, C, D, SIX)
    talk.dialing = dict.fromkeys((A, B, C, D), error(errno.ENETUNREACH))
    client = asks(talk)
    assert dialed(talk) == [A, SIX]
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_address_of_the_same_kind_is_tried_where_there_is_no_other(at) -> None:
    talk = at(A, B, C)
    talk.dialing = dict.fromkeys((A, B), error(errno.ENETUNREACH))
    client = asks(talk)
    assert dialed(talk) == [A, B, C]
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_want_of_local_ports_at_one_address_passes_on_and_at_all_is_nobodys_failure(at) -> None:
    talk = at(A, B)
    talk.dialing = {A: error(errno.EADDRNOTAVAIL)}
    client = asks(talk)
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert dialed(talk) == [A, B]
    talk.dialing = error(errno.EADDRNOTAVAIL)
    talk.passes(5)
    assert "on this side" in asks(talk).gets_refusal(503, "OVERLOADED").detail
    assert len(dialed(talk)) == 2
    assert attempts(talk) == {Outcome.SUCCESS: 1, Outcome.IGNORED: 1}


@pytest.mark.parametrize("order", [(A, SIX), (SIX, A)])
def test_dependency_that_is_down_is_so_though_there_is_no_ipv6(at, order: tuple[str, str]) -> None:
    talk = at(A, SIX)
    talk.dialing = {A: REFUSED, SIX: error(errno.EADDRNOTAVAIL)}
    talk.rng = lambda: 0.9 * (order[0] == SIX)
    answer = asks(talk).gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert dialed(talk) == list(order)
    assert answer.proxy_error == "connection_refused"
    assert attempts(talk) == {Outcome.FAILURE: 1}


def test_addresses_without_a_way_to_them_do_not_hide_why_the_others_fail(at) -> None:
    talk = at(A, SIX, "2001:db8::2")
    talk.dialing = {A: "hang", SIX: error(errno.ENETUNREACH), "2001:db8::2": error(errno.ENETUNREACH)}
    client = asks(talk)
    talk.passes(2.1)
    assert dialed(talk) == [A, SIX, "2001:db8::2"]
    assert client.gets_refusal(504, "DOWNSTREAM_TIMEOUT").proxy_error == "connection_timeout"


# -- addresses that come and go


def test_new_address_is_used_at_once(at) -> None:
    talk = at(A)
    held = asks(talk)
    talk.upstream()
    changes(talk, A, B)
    assert answered(talk) == B
    assert dialed(talk) == [A, B]
    held.closes()


def test_vanished_address_is_drained(at) -> None:
    talk = at(A)
    one, other, third = asks(talk), asks(talk), asks(talk)
    first, second, last = (talk.upstream() for _ in range(3))
    last.sends(OK)  # is idle
    second.sends(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 2", body="h"))  # amid its answer
    changes(talk, B)
    assert [each.ended for each in (first, second, last)] == ["open", "open", "closed"]
    assert answered(talk) == B
    second.sends(b"i")
    first.sends(OK)
    for client in (one, other, third):
        client.gets(OK_DOWNSTREAM)
    assert [first.ended, second.ended] == ["closed", "closed"]
    for client in (one, other, third):
        client.sends(GET)
    assert set(dialed(talk)) == {A, B}
    assert talk.pool.idle == 0
    assert all(not each.failures for each in talk.pool.ejection.members)


def test_request_that_waits_does_not_get_a_connection_to_an_address_that_has_vanished(at) -> None:
    talk = at(A, pool={"max_connections": 1})
    one, other = asks(talk), asks(talk)
    upstream = talk.upstream()
    changes(talk, B)
    upstream.sends(OK)
    one.gets(OK_DOWNSTREAM)
    assert upstream.ended == "closed"
    assert dialed(talk) == [A, B]
    fresh = talk.upstream()
    fresh.gets(GET_UPSTREAM)
    fresh.sends(OK)
    other.gets(OK_DOWNSTREAM)


@pytest.mark.parametrize("accepts", [True, False])
def test_address_that_vanishes_while_it_is_dialed_is_not_used(at, accepts: bool) -> None:
    talk = at(A)
    talk.dialing = {A: "hang"}
    client = asks(talk)
    changes(talk, B)
    if accepts:
        talk.accepts()
        given_up = talk.upstream()
        assert (place(given_up), given_up.ended) == (A, "closed")
        given_up.gets_nothing()
    else:
        talk.refuses(REFUSED)
    assert dialed(talk) == [A, B]
    upstream = talk.upstream()
    upstream.gets(GET_UPSTREAM)
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert [each.busy for each in talk.pool.ejection.members] == [0]


def test_connection_for_nobody_to_an_address_that_has_vanished_is_closed(at) -> None:
    talk = at(A)
    one = asks(talk)
    upstream = talk.upstream()
    talk.dialing = {A: "hang"}
    other = asks(talk)
    for client in (one, other):
        upstream.sends(OK)
        client.gets(OK_DOWNSTREAM)
    assert repr(talk.pool) == "<Pool payments active=0 idle=1 connecting=1 waiting=0>"
    changes(talk, B)
    talk.accepts()
    assert [upstream.ended, talk.upstream().ended] == ["closed", "closed"]
    assert repr(talk.pool) == "<Pool payments active=0 idle=1 connecting=0 waiting=0>"
    assert answered(talk) == B
    assert dialed(talk) == [A, A, B]


def test_address_that_comes_back_is_a_new_one(at) -> None:
    talk = at(A, B, ejection=EJECTION)
    held = asks(talk)
    old = endpoint(talk, A)
    upstream = talk.upstream()
    fails(talk, A)
    changes(talk, B)
    changes(talk, A, B)
    assert endpoint(talk, A) is not old
    assert (endpoint(talk, A).busy, old.busy) == (0, 1)
    upstream.sends(OK)
    held.gets(OK_DOWNSTREAM)
    assert (endpoint(talk, A).busy, old.busy, upstream.ended) == (0, 0, "closed")


def test_failure_of_an_address_that_has_vanished_is_not_that_of_its_successor(at) -> None:
    talk = at(A, B, ejection=EJECTION | {"consecutive_failures": 1})
    client = asks(talk)
    upstream = talk.upstream()
    changes(talk, B, C)
    upstream.sends(BROKEN)
    assert client.gets_answer().status == 500
    assert [each.failures for each in talk.pool.ejection.members] == [0, 0]
    assert talk.pool.ejection.counts(talk.deadlines.now) == (2, 0)


def test_last_good_addresses_serve_on_while_the_name_does_not_resolve(at) -> None:
    talk = at(A)
    client = asks(talk)
    upstream = talk.upstream()
    upstream.sends(OK)
    for found in (UNKNOWN, [], "hang"):
        talk.addresses["payments"] = found
        talk.looks_up_again()
        client.sends(GET)
        upstream.sends(OK)
    assert client.takes() == 4 * OK_DOWNSTREAM
    assert talk.dependency.counters.dns_failures == 2
    talk.do(talk.pool.resolver.stop)


def test_hundred_changes_under_requests_leave_nothing(at) -> None:
    talk = at(A)
    clients = [talk.client() for _ in range(3)]
    upstreams: list[Peer] = []
    for step in range(100):
        changes(talk, *[(A, B), (B, C), (C,), (C, D, A)][step % 4])
        for client in clients:
            client.sends(GET)
        while not talk.no_upstream:
            upstreams.append(talk.upstream())
        for upstream in [upstream for upstream in upstreams if upstream.ended == "open"]:
            if upstream.takes():
                upstream.sends(OK)
        for client in clients:
            client.gets(OK_DOWNSTREAM)
    assert attempts(talk) == {Outcome.SUCCESS: 300}
    assert talk.pool.size == talk.pool.idle == sum(upstream.ended == "open" for upstream in upstreams)


# -- addresses that fail


def test_address_that_answers_5xx_is_ejected_and_passed_over(at) -> None:
    talk = at(A, B, ejection=EJECTION, pool={"max_idle": 0})
    assert [answered(talk, answer=BROKEN) for _ in range(2)] == [A, A]
    assert repr(talk.pool.ejection) == "<Ejection 1 in, 1 out>"
    assert [answered(talk) for _ in range(5)] == [B] * 5


def test_ejected_address_comes_back_and_its_first_failure_ejects_it_for_longer(at) -> None:
    talk = at(A, B, ejection=EJECTION, pool={"max_idle": 0})
    for _ in range(2):
        answered(talk, answer=BROKEN)
    talk.passes(9.9)
    assert answered(talk) == B
    talk.passes(0.1)
    assert answered(talk, answer=BROKEN) == A
    assert answered(talk) == B
    talk.passes(19.9)
    assert answered(talk) == B
    talk.passes(0.1)
    assert answered(talk) == A
    assert endpoint(talk, A).times == 2
    talk.passes(20)
    assert answered(talk) == A
    assert endpoint(talk, A).times == 0


def test_idle_connections_to_an_ejected_address_are_passed_over(at) -> None:
    talk = at(A, B, ejection=EJECTION)
    one, other = asks(talk), asks(talk)
    first, second = talk.upstream(), talk.upstream()
    first.sends(BROKEN)
    second.sends(OK)
    one.sends(GET)
    first.sends(BROKEN)
    assert endpoint(talk, A).ejected
    assert (first.ended, len(endpoint(talk, A).idle)) == ("open", 1)
    first.takes()
    second.takes()
    other.takes()
    other.sends(GET)
    second.gets(GET_UPSTREAM)
    first.gets_nothing()


@pytest.mark.parametrize(
    ("how", "failed"),
    [
        (lambda talk, client, upstream: upstream.resets(), True),
        (lambda talk, client, upstream: upstream.sends(b"nonsense\r\n\r\n"), True),
        (lambda talk, client, upstream: talk.passes(50.1), True),
        (lambda talk, client, upstream: upstream.sends(message("HTTP/1.1 404 No", "Content-Length: 0")), False),
        (lambda talk, client, upstream: client.resets(), False),
        (lambda talk, client, upstream: (talk.passes(1.1), client.resets()), True),
    ],
    ids=["reset", "malformed", "first byte", "404", "client gone", "abandoned"],
)
def test_what_is_the_dependencys_failure_is_the_addresss(at, how: Any, failed: bool) -> None:
    talk = at(A, B, ejection=EJECTION)
    client = asks(talk)
    how(talk, client, talk.upstream())
    assert [each.failures for each in talk.pool.ejection.members] == [int(failed), 0]


def test_success_forgives_the_failures_before(at) -> None:
    talk = at(A, B, ejection=EJECTION, pool={"max_idle": 0})
    for _ in range(4):
        assert answered(talk, answer=BROKEN) == A
        assert answered(talk) == A
    assert talk.pool.ejection.counts(talk.deadlines.now) == (2, 0)


def test_address_is_not_blamed_for_the_replacement_of_its_dead_connection(at) -> None:
    talk = at(A, B)
    client = asks(talk)
    dead = talk.upstream()
    dead.sends(OK)
    client.takes()
    changes(talk, A, B)
    client.sends(GET)
    talk.dialing = "hang"
    dead.resets()
    assert talk.hanging == 1
    assert dialed(talk) == [A, A]
    talk.passes(2.1)
    assert dialed(talk) == [B]
    talk.passes(2.1)
    client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert [each.failures for each in talk.pool.ejection.members] == [1, 1]


def test_all_addresses_fail_and_half_of_them_stay(at) -> None:
    talk = at(A, B, C, D, ejection=EJECTION | {"consecutive_failures": 1}, circuit_breaker={"mode": "off"})
    talk.dialing = REFUSED
    for _ in range(10):
        asks(talk).gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert talk.pool.ejection.counts(talk.deadlines.now) == (2, 2)
    talk.dialing = "accept"
    client = asks(talk)
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_only_address_is_never_ejected(at) -> None:
    talk = at(A, ejection=EJECTION, circuit_breaker={"mode": "off"})
    talk.dialing = REFUSED
    for _ in range(10):
        asks(talk).gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert len(dialed(talk)) == 10
    assert talk.pool.ejection.counts(talk.deadlines.now) == (1, 0)


# -- a list of upstreams


def _get(host: str) -> bytes:
    return message("GET /a HTTP/1.1", f"Host: {host}", "Via: 1.1 sidecar")


LIST = ["http://a:81", "http://b", "http://[2001:db8::7]:82"]
OWN = {"a": "a:81", "b": "b", "2001:db8::7": "[2001:db8::7]:82"}


@pytest.mark.parametrize("name", sorted(OWN))
def test_each_upstream_gets_its_own_host(converse, name: str) -> None:
    talk = converse(upstream=LIST, hosts=["app"])
    talk.dialing = dict.fromkeys(OWN.keys() - {name}, REFUSED)
    client = asks(talk)
    upstream = talk.upstream()
    assert upstream.address == (name, {"a": 81, "b": 80}.get(name, 82))
    upstream.gets(_get(OWN[name]))
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)


@pytest.mark.parametrize("name", sorted(OWN))
def test_host_is_replaced_where_it_stood_and_nowhere_else(converse, name: str) -> None:
    talk = converse(upstream=LIST, hosts=["app"])
    body = "\r\nHost: a:81\r\n\r\nHost: a:81\r\n"
    talk.dialing = dict.fromkeys(OWN.keys() - {name}, REFUSED)
    fields = ["X-Host: a:81", "Host: a:81", "Y: Host: a:81", f"Content-Length: {len(body)}"]
    client = asks(talk, message("POST /Host:%20a:81 HTTP/1.1", *fields, body=body))
    fields[1] = f"Host: {OWN[name]}"
    talk.upstream().gets(message("POST /Host:%20a:81 HTTP/1.1", *fields, "Via: 1.1 sidecar", body=body))
    client.closes()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_host_that_the_application_chose_is_kept(converse, version: str) -> None:
    talk = converse(upstream=LIST, hosts=["app"], preserve_host=True)
    for _ in LIST:
        asks(talk, message(f"GET /a HTTP/{version}", "Host: app"))
    for _ in LIST:
        assert b"\r\nHost: app\r\n" in talk.upstream().takes()


def test_request_without_host_gets_that_of_its_upstream(converse) -> None:
    talk = converse(upstream=LIST, hosts=["app"])
    talk.dialing = {"a": REFUSED, "2001:db8::7": REFUSED}
    client = asks(talk, message("GET /a HTTP/1.0"))
    assert b"\r\nHost: b\r\n" in talk.upstream().takes()
    client.closes()


@pytest.mark.parametrize("octets", [GET, POST.replace(b"POST", b"PUT")])
def test_retry_at_another_upstream_has_its_host(converse, octets: bytes) -> None:
    retry = {"attempts": 3, "budget": {"ratio": "100%", "min_per_second": 10}, "backoff": {"base": "1ms", "max": "1ms"}}
    talk = converse(upstream=LIST, hosts=["app"], retry=retry, pool={"max_idle": 0})
    client = asks(talk, octets)
    seen = {}
    for number, draw in enumerate((0.0, 0.4, 0.9)):
        upstream = talk.upstream()
        seen[place(upstream)] = upstream.takes()
        talk.rng = lambda draw=draw: draw
        upstream.sends(message("HTTP/1.1 503 Busy", "Date: x", "Content-Length: 0") if number < 2 else OK)
        talk.passes(0.1)
    client.gets(OK_DOWNSTREAM)
    assert len(seen) > 1
    (bare,) = {sent.replace(b"Host: " + OWN[name].encode(), b"Host: ") for name, sent in seen.items()}
    assert bare.endswith(octets.partition(b"\r\n\r\n")[2])


def test_replacement_of_a_dead_connection_has_the_host_of_its_own_upstream(converse) -> None:
    talk = converse(upstream=["http://a:81", "http://b"], hosts=["app"])
    talk.rng = lambda: 0.0
    client = asks(talk)
    dead = talk.upstream()
    dead.gets(_get("a:81"))
    dead.sends(OK)
    client.takes()
    client.sends(GET)
    dead.gets(_get("a:81"))
    talk.rng = lambda: 0.9
    dead.resets()
    fresh = talk.upstream()
    fresh.gets(_get("b"))
    fresh.sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_upstreams_of_one_host_need_no_other(converse) -> None:
    talk = converse(upstream=["http://192.0.2.1:80", "unix:/run/x", "unix:/run/y"], hosts=["app"])
    assert [each.own_host for each in talk.pool.ejection.members] == [
        None,
        (b"\r\nHost: 192.0.2.1\r\n", b"\r\nHost: localhost\r\n"),
        (b"\r\nHost: 192.0.2.1\r\n", b"\r\nHost: localhost\r\n"),
    ]
    assert talk.looked_up == []
    assert [str(each) for each in talk.pool.ejection.members] == [
        "192.0.2.1 port 80",
        "unix:/run/x",
        "unix:/run/y",
    ]


def test_unix_sockets_stand_in_for_each_other(converse) -> None:
    talk = converse(upstream=["unix:/run/x", "unix:/run/y"], hosts=["app"])
    talk.rng = lambda: 0.0
    talk.dialing = {"/run/x": error(errno.ENOENT)}
    client = asks(talk)
    assert talk.dialed == ["/run/x", "/run/y"]
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)


# -- TLS


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({"upstream": ["https://a:8443", "https://192.0.2.9"]}, {"a": "a", "192.0.2.9": "192.0.2.9"}),
        ({"upstream": ["https://a", "https://[::1]"], "tls": {"server_name": "b"}}, {"a": "b", "::1": "b"}),
        ({"upstream": ["http://a", "http://192.0.2.9"]}, {"a": None, "192.0.2.9": None}),
    ],
)
def test_certificate_must_be_for_the_upstream_or_for_the_name_that_is_configured(
    converse, keys: dict[str, Any], names: dict[str, str | None]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    talk = converse(**keys, hosts=["app"], tls_context=TlsContext("tls", lambda: context, ()))
    talk.dialing = REFUSED
    asks(talk).gets_refusal(502, "DOWNSTREAM_FAILURE")
    found = {}
    for (ip, _), options in zip(talk.dialed, talk.dialed_with, strict=True):
        found[ip] = options.get("server_hostname")
        assert options.get("ssl") is (None if found[ip] is None else context)
    assert found == names


def test_new_connection_uses_the_context_that_is_in_force(converse) -> None:
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return made[-1]

    tls = TlsContext("tls", make, ())
    talk = converse(upstream="https://192.0.2.1", hosts=["app"], tls_context=tls, pool={"max_idle": 0})
    answered(talk)
    tls.context = make()
    answered(talk)
    assert [options["ssl"] for options in talk.dialed_with] == made


@pytest.mark.parametrize(
    ("failure", "proxy_error"),
    [
        (ssl.SSLCertVerificationError(1, "x"), "tls_certificate_error"),
        (ssl.SSLError(1, "x"), "tls_protocol_error"),
        (ConnectionResetError(), "connection_terminated"),
    ],
)
def test_tls_error_is_a_connect_failure_and_passes_on(converse, failure: OSError, proxy_error: str) -> None:
    if isinstance(failure, ssl.SSLCertVerificationError):
        failure.verify_message = "certificate has expired"
    tls = TlsContext("tls", lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ())
    talk = converse(upstream=["https://192.0.2.1", "https://192.0.2.2"], hosts=["app"], tls_context=tls)
    talk.rng = lambda: 0.0
    talk.dialing = {A: failure}
    client = asks(talk)
    assert dialed(talk) == [A, B]
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert endpoint(talk, A).failures == 1
    talk.dialing = failure
    talk.passes(5)
    assert asks(talk).gets_refusal(502, "DOWNSTREAM_FAILURE").proxy_error == proxy_error
    assert attempts(talk) == {Outcome.SUCCESS: 1, Outcome.FAILURE: 1}


def test_stalled_handshake_is_a_connect_timeout_that_says_so(converse) -> None:
    tls = TlsContext("tls", lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ())
    talk = converse(upstream="https://192.0.2.1", hosts=["app"], tls_context=tls, timeout=TIMEOUT)
    talk.dialing = "hang"
    client = asks(talk)
    talk.passes(2.1)
    answer = client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert answer.proxy_error == "connection_timeout"
    assert answer.detail == (
        "payments did not accept a connection and complete its TLS handshake within 2 s (timeout.connect)"
    )
    assert talk.dialed_with[0]["ssl_handshake_timeout"] > 2


# -- tunnels


def _connects(talk: Conversation, host: str) -> list[str]:
    asks(talk, message(f"CONNECT {host} HTTP/1.1", f"Host: {host}"))
    return dialed(talk)


def test_tunnels_to_one_of_several_upstreams_are_spread_over_its_addresses(converse) -> None:
    talk = converse(
        upstream=["http://a:81", "http://b:82"],
        hosts=["a:81", "b:82"],
        addresses={"a": [A, B], "b": [C, D]},
    )
    talk.dialing = REFUSED
    for draw, asked in ((0.0, [C, D]), (0.9, [D, C]), (0.0, [C, D])):
        talk.rng = lambda draw=draw: draw
        assert _connects(talk, "b:82") == asked
    assert talk.dialed_with == [{}] * 6


def test_tunnel_to_an_upstream_that_is_down_does_not_end_at_another(converse) -> None:
    talk = converse(
        upstream=["http://a:81", "http://b:82"],
        hosts=["a:81", "b:82"],
        addresses={"a": [A, B], "b": [C, D]},
    )
    talk.dialing = REFUSED
    assert sorted(_connects(talk, "b:82")) == [C, D]


def test_tunnel_waits_for_the_name_of_its_own_upstream(converse) -> None:
    talk = converse(
        upstream=["http://a:81", "http://b:82"],
        hosts=["a:81", "b:82"],
        addresses={"a": [A], "b": "hang"},
    )
    talk.dialing = REFUSED
    assert _connects(talk, "b:82") == []
    talk.finds("b", [C])
    assert dialed(talk) == [C]


# -- no address known yet


def test_request_waits_for_the_lookup(at) -> None:
    talk = at(A)
    talk.addresses["payments"] = "hang"
    fresh = Conversation(addresses=talk.addresses, timeout=TIMEOUT)
    client = asks(fresh)
    assert (fresh.dialed, fresh.looked_up) == ([], ["payments", "payments"])
    assert repr(fresh.pool) == "<Pool payments active=0 idle=0 connecting=1 waiting=1>"
    fresh.passes(1)
    fresh.finds("payments", [A])
    assert fresh.dialed == [(A, 8080)]
    fresh.passes(1.5)  # each step has its own time
    fresh.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)
    fresh.leaves_nothing()


def test_name_that_does_not_resolve_is_dns_error_at_once(converse) -> None:
    talk = converse(addresses={"payments": "hang"}, timeout=TIMEOUT)
    client = asks(talk)
    talk.finds("payments", UNKNOWN)
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert answer.proxy_error == "dns_error"
    assert answer.detail == "the name payments of payments does not resolve: Name or service not known"
    assert attempts(talk) == {Outcome.FAILURE: 1}
    assert talk.dependency.counters.dns_failures == 1
    assert talk.is_at_rest()
    talk.addresses["payments"] = [A]
    client.sends(GET)  # and is looked up again for the next one
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_lookup_that_hangs_is_dns_timeout(converse) -> None:
    talk = converse(addresses={"payments": "hang"}, timeout=TIMEOUT)
    client = asks(talk)
    talk.passes(1.9)
    client.gets_nothing()
    talk.passes(0.2)
    answer = client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert answer.proxy_error == "dns_timeout"
    assert answer.detail == "the names of payments were not resolved within 2 s (timeout.connect)"
    assert attempts(talk) == {Outcome.FAILURE: 1}
    assert talk.is_at_rest()
    talk.finds("payments", [A])  # the lookup has gone on by itself
    client.sends(GET)
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert talk.looked_up == ["payments", "payments"]


@pytest.mark.parametrize("waiting", [1, 5])
def test_requests_that_wait_for_a_name_share_its_lookup(converse, waiting: int) -> None:
    talk = converse(addresses={"payments": "hang"}, timeout=TIMEOUT, pool={"max_connections": 3})
    clients = [asks(talk) for _ in range(waiting)]
    assert len(talk.looked_up) == 2
    talk.finds("payments", [A, B])
    while not talk.no_upstream:
        talk.upstream().sends(OK)
    for client in clients:
        client.takes()
    assert len(talk.dialed) <= 3


def test_client_that_leaves_while_the_name_is_looked_up_takes_nothing_with_it(converse) -> None:
    talk = converse(addresses={"payments": "hang"}, timeout=TIMEOUT)
    one, other = asks(talk), asks(talk)
    one.resets()
    assert repr(talk.pool) == "<Pool payments active=0 idle=0 connecting=1 waiting=1>"
    talk.finds("payments", [A])
    talk.upstream().sends(OK)
    other.gets(OK_DOWNSTREAM)


def test_name_that_hangs_does_not_keep_another_upstream_from_serving(converse) -> None:
    talk = converse(upstream=["http://a", "http://b"], hosts=["app"], addresses={"b": "hang"}, timeout=TIMEOUT)
    client = asks(talk)
    upstream = talk.upstream()
    upstream.gets(_get("a"))
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_pool_that_closes_while_a_name_is_looked_up_leaves_nothing(converse) -> None:
    talk = converse(addresses={"payments": "hang"}, timeout=TIMEOUT)
    client = asks(talk)
    talk.do(talk.pool.close)
    assert talk.lookups_under_way == 0
    client.resets()


# -- what it looks like


def test_endpoint_shows_its_state(at) -> None:
    talk = at(A, B, ejection=EJECTION | {"consecutive_failures": 1})
    client = asks(talk)
    assert repr(endpoint(talk, A)) == f"<Endpoint {A} port 8080 busy=1 idle=0>"
    talk.upstream().sends(BROKEN)
    client.takes()
    assert repr(endpoint(talk, A)) == f"<Endpoint {A} port 8080 ejected busy=0 idle=1>"
