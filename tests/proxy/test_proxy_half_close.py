"""A client that sends its requests and then FIN: answered where that is allowed, cancelled where it is not."""

from __future__ import annotations

import pytest

from sidecar.policy.states import State
from tests.proxy.transcript import GET, OK, OK_DOWNSTREAM, message

_LAST = OK_DOWNSTREAM.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
_PUT = message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 2", body="ab")


@pytest.fixture
def talk(converse):
    return converse(listener={"allow_half_close": True})


@pytest.mark.parametrize("request_", [GET, _PUT], ids=["GET", "PUT"])
def test_three_requests_and_fin_get_three_answers_and_then_the_end(talk, request_: bytes) -> None:
    client = talk.client()
    client.sends(request_ * 3)
    client.half_closes()
    upstream = talk.upstream()
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert client.ended == "open"
    upstream.sends(OK)
    client.gets(_LAST)
    assert client.ended == "closed"
    assert upstream.takes().count(b" /a HTTP/1.1\r\n") == 3
    assert upstream.ended == "open"
    assert talk.is_at_rest()
    assert talk.listener.connections == 0


def test_fin_behind_requests_that_are_refused_on_the_spot_loses_none_of_them(talk) -> None:
    talk.do(talk.gate.breaker.force, State.FORCED_OPEN, talk.deadlines.read())
    client = talk.client()
    client.sends_at_once(GET * 3)
    client.sends_at_once(b"")
    talk.loop.settle()
    answers = client.takes()
    assert answers.count(b"HTTP/1.1 503 ") == 3
    assert answers.count(b"Connection: close") == 1
    assert client.ended == "closed"


def test_fin_that_comes_between_two_answers_leaves_the_requests_behind_it(talk) -> None:
    client = talk.client()
    client.sends(GET * 3)
    upstream = talk.upstream()
    upstream.sends_at_once(OK)  # the next request has yet to be taken up
    client.sends_at_once(b"")
    talk.loop.settle()
    client.gets(OK_DOWNSTREAM)
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    upstream.sends(OK)
    client.gets(_LAST)
    assert client.ended == "closed"


def test_fin_while_the_last_of_three_is_answered(talk) -> None:
    client = talk.client()
    client.sends(GET * 3)
    upstream = talk.upstream()
    upstream.sends(OK)
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM * 2)
    client.half_closes()
    upstream.sends(OK)
    client.gets(_LAST)
    assert client.ended == "closed"


def test_answers_of_the_proxys_own_do_not_end_it_early(converse) -> None:
    talk = converse(listener={"allow_half_close": True}, shared=True, hosts=["app"])
    client = talk.client()
    client.sends(GET + message("GET /b HTTP/1.1", "Host: nobody") + GET)
    client.half_closes()
    upstream = talk.upstream()
    upstream.sends(OK)
    octets = client.takes()
    assert octets.startswith(OK_DOWNSTREAM + b"HTTP/1.1 404 ")
    assert b"\r\nConnection: close\r\n" not in octets
    assert client.ended == "open"
    upstream.sends(OK)
    client.gets(_LAST)
    assert client.ended == "closed"


def test_options_answered_here_do_not_end_it_early(talk) -> None:
    client = talk.client()
    client.sends(GET + message("OPTIONS * HTTP/1.1", "Host: app", "Max-Forwards: 0") + GET)
    client.half_closes()
    upstream = talk.upstream()
    upstream.sends(OK)
    octets = client.takes()
    assert octets.startswith(OK_DOWNSTREAM + b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" not in octets
    upstream.sends(OK)
    client.gets(_LAST)
    assert client.ended == "closed"


def test_requests_behind_one_that_closes_are_not_served(talk) -> None:
    client = talk.client()
    client.sends(GET + message("GET /last HTTP/1.1", "Host: app", "Connection: close") + GET)
    client.half_closes()
    upstream = talk.upstream()
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    upstream.takes()
    upstream.sends(OK)
    client.gets(_LAST)
    upstream.gets_nothing()
    assert client.ended == "closed"


def test_half_closed_client_that_breaks_off_altogether_is_noticed(talk) -> None:
    client = talk.client()
    client.sends(GET * 3)
    client.half_closes()
    upstream = talk.upstream()
    upstream.sends(OK)
    client.resets()
    assert upstream.ended == "closed"
    assert talk.is_at_rest()
    assert talk.listener.connections == 0


def test_without_leave_fin_cancels_all_three(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET * 3)
    upstream = talk.upstream()
    assert upstream.takes().count(b"GET ") == 1
    client.half_closes()
    client.gets_nothing()
    assert (client.ended, upstream.ended) == ("closed", "closed")
    assert talk.no_upstream
    assert talk.is_at_rest()
    assert talk.listener.connections == 0


def test_without_leave_fin_between_two_answers_cancels_the_rest(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET * 3)
    upstream = talk.upstream()
    upstream.takes()
    upstream.sends_at_once(OK)
    client.sends_at_once(b"")
    talk.loop.settle()
    client.gets(OK_DOWNSTREAM)
    upstream.gets_nothing()
    assert client.ended == "closed"
    assert talk.is_at_rest()


@pytest.mark.parametrize("tail", [b"\r\n", b"GET /b HT"], ids=["an empty line", "part of a head"])
def test_what_can_become_no_request_any_more_does_not_keep_the_connection(converse, tail: bytes) -> None:
    talk = converse(listener={"allow_half_close": True})
    client = talk.client()
    client.sends(GET + tail)
    client.half_closes()
    talk.upstream().sends(OK)
    talk.passes(3)
    assert client.ended != "open"
