"""Each timeout, its code, and whose fault it is."""

from __future__ import annotations

import pytest

from tests.proxy.transcript import GET, OK, OK_DOWNSTREAM, message

_TIMEOUT = {"connect": "1s", "first_byte": "5s", "idle": "10s", "total": "15s"}
_HALF_A_PUT = message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 4", body="ab")


@pytest.fixture
def talk(converse):
    return converse(timeout=_TIMEOUT, listener={"head_timeout": "3s", "body_timeout": "4s", "keepalive_timeout": "20s"})


def test_connect(talk) -> None:
    talk.dialing = "hang"
    client = talk.client()
    client.sends(GET)
    talk.passes(0.9)
    client.gets_nothing()
    talk.passes(0.2)
    answer = client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert answer.proxy_error == "connection_timeout"
    assert answer.detail == "payments did not accept a connection within 1 s (timeout.connect)"
    assert (client.ended, talk.hanging) == ("open", 0)
    assert talk.is_at_rest()


def test_first_byte(talk) -> None:
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    talk.passes(4.9)
    client.gets_nothing()
    talk.passes(0.2)
    answer = client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")
    assert answer.proxy_error == "http_response_timeout"
    assert answer.detail == "payments did not answer within 5 s (timeout.first_byte)"
    assert (client.ended, upstream.ended) == ("open", "closed")
    assert talk.is_at_rest()


@pytest.mark.parametrize("octets", [b"HTTP/1.1 200 OK\r\n", message("HTTP/1.1 103 Early Hints")])
def test_first_byte_ends_only_with_the_final_head(talk, octets: bytes) -> None:
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    talk.passes(4.5)
    upstream.sends(octets)
    client.takes()
    talk.passes(0.6)
    client.gets_refusal(504, "DOWNSTREAM_TIMEOUT")


def test_first_byte_counts_from_the_last_octet_of_the_request(talk) -> None:
    client = talk.client()
    client.sends(_HALF_A_PUT)
    talk.passes(3.5)
    client.sends(b"c")
    talk.passes(3.5)
    client.sends(b"d")
    talk.passes(4.9)
    client.gets_nothing()
    talk.passes(0.2)
    assert "(timeout.first_byte)" in client.gets_refusal(504, "DOWNSTREAM_TIMEOUT").detail


def test_total_bounds_a_request_that_was_long_in_coming(talk) -> None:
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 5"))
    for _ in range(4):
        talk.passes(3)
        client.sends(b"x")
    client.sends(b"x")
    client.gets_nothing()
    talk.passes(3.1)
    assert client.gets_refusal(504, "DOWNSTREAM_TIMEOUT").detail == (
        "payments did not answer within 15 s (timeout.total)"
    )


def test_total_over_in_the_body_is_the_clients_fault(talk) -> None:
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 9"))
    for _ in range(5):
        talk.passes(3)
        client.sends(b"x")
    talk.passes(0.1)
    answer = client.gets_refusal(408, "REQUEST_TIMEOUT")
    assert "(timeout.total)" in answer.detail
    assert client.ended == "fin"


def test_total_over_in_want_of_100_is_the_upstreams_fault(talk) -> None:
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 9", "Expect: 100-continue"))
    talk.passes(14.9)
    client.gets_nothing()
    talk.passes(0.2)
    assert "(timeout.total)" in client.gets_refusal(504, "DOWNSTREAM_TIMEOUT").detail
    assert client.ended == "fin"


def test_body_is_due_once_the_upstream_has_said_100(talk) -> None:
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 9", "Expect: 100-continue"))
    talk.passes(5)
    talk.upstream().sends(message("HTTP/1.1 100 Continue"))
    client.takes()
    talk.passes(4.1)
    assert "(listener.body_timeout)" in client.gets_refusal(408, "REQUEST_TIMEOUT").detail


@pytest.mark.parametrize("framed", ["length", "chunked", "close"])
def test_idle_amid_the_response_cuts_it(talk, framed: str) -> None:
    fields = {"length": ["Content-Length: 9"], "chunked": ["Transfer-Encoding: chunked"], "close": []}[framed]
    piece = b"1\r\nx\r\n" if framed == "chunked" else b"x"
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", *fields))
    for _ in range(3):
        talk.passes(9.9)
        upstream.sends(piece)
        assert client.ended == "open"
    talk.passes(10.1)
    assert b"0\r\n\r\n" not in client.takes()
    assert (client.ended, upstream.ended) == ("fin", "closed")
    assert talk.is_at_rest()


def test_no_timeout_bounds_a_response_that_flows(talk) -> None:
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"))
    for _ in range(30):
        talk.passes(1)
        upstream.sends(b"1\r\nx\r\n")
    upstream.sends(b"0\r\n\r\n")
    assert client.takes().endswith(b"1\r\nx\r\n0\r\n\r\n")


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\n", b"\r", b"\r\nGET /"])
def test_head_that_is_not_whole_in_time_is_408(talk, part: bytes) -> None:
    client = talk.client()
    talk.passes(15)
    client.sends(part)
    talk.passes(2.9)
    client.gets_nothing()
    talk.passes(0.2)
    answer = client.gets_refusal(408, "REQUEST_TIMEOUT")
    assert answer.detail == "the head was not whole after 3 s (listener.head_timeout)"
    assert (client.ended, talk.dialed) == ("fin", [])


def test_head_time_counts_from_its_first_octet(talk) -> None:
    client = talk.client()
    client.sends(b"G")
    for octet in GET[1:4]:
        talk.passes(0.9)
        client.sends(bytes([octet]))
    talk.passes(0.4)
    client.gets_refusal(408, "REQUEST_TIMEOUT")


@pytest.mark.parametrize(("field", "octets"), [("Content-Length: 4", b"a"), ("Transfer-Encoding: chunked", b"4\r\na")])
def test_body_that_stalls_is_408_and_not_held_against_the_upstream(talk, field: str, octets: bytes) -> None:
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", field))
    upstream = talk.upstream()
    for _ in range(2):
        talk.passes(3.9)
        client.sends(octets)
        octets = b"b"
    talk.passes(4.1)
    answer = client.gets_refusal(408, "REQUEST_TIMEOUT")
    assert answer.detail == "nothing of the body came for 4 s (listener.body_timeout)"
    assert (client.ended, upstream.ended) == ("fin", "closed")
    assert talk.is_at_rest()


def test_body_that_stalls_behind_an_early_response_cuts_that(talk) -> None:
    client = talk.client()
    client.sends(_HALF_A_PUT)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", "Content-Length: 9", body="x"))
    talk.passes(4.1)
    assert client.takes().endswith(b"\r\n\r\nx")
    assert (client.ended, upstream.ended) == ("fin", "closed")


@pytest.mark.parametrize("used", [False, True])
def test_connection_idle_for_too_long_is_closed_without_a_word(talk, used: bool) -> None:
    client = talk.client()
    if used:
        talk.passes(10)
        client.sends(GET)
        talk.upstream().sends(OK)
        client.takes()
    talk.passes(19.9)
    assert client.ended == "open"
    talk.passes(0.2)
    client.gets_nothing()
    assert client.ended == "closed"
    assert talk.listener.connections == 0


def test_client_that_does_not_leave_is_left_at_last(talk) -> None:
    client = talk.client()
    client.sends(message("GET /a HTTP/1.1", "Host: app", "Connection: close"))
    talk.upstream().sends(OK)
    assert client.ended == "fin"
    client.sends(b"x" * 1000)
    talk.passes(1.9)
    assert client.ended == "fin"
    talk.passes(0.2)
    assert client.ended == "closed"


def test_client_that_keeps_sending_behind_the_last_answer_is_left_earlier(talk) -> None:
    client = talk.client()
    client.sends(b"\x00\r\n\r\n")
    client.gets_refusal(400, "BAD_REQUEST")
    client.sends(b"x" * (1 << 20))
    assert client.ended == "fin"
    client.sends(b"x")
    assert client.ended == "closed"


def test_last_answer_is_not_cut_while_a_slow_client_takes_it(talk) -> None:
    client = talk.client()
    client.stops_reading()
    client.sends(message("GET /a HTTP/1.1", "Host: app", "Connection: close"))
    talk.upstream().sends(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 10000", body=b"x" * 10_000))
    for _ in range(4):
        talk.passes(15)
        client.reads(100)
        assert client.ended == "fin"
    talk.passes(41)
    assert client.ended == "closed"


def test_own_standstill_is_nobodys_failure(talk) -> None:
    client, idle = talk.client(), talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    talk.passes(4)
    talk.stands_still(60)
    talk.passes(0.5)
    client.gets_nothing()
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert idle.ended == "open"


def test_wait_for_one_of_too_few_connections_is_bounded(converse) -> None:
    talk = converse(timeout=_TIMEOUT, pool={"max_connections": 1})
    one, other = talk.client(), talk.client()
    one.sends(GET)
    other.sends(GET)
    talk.passes(1.1)
    answer = other.gets_refusal(503, "CONCURRENCY_LIMITED")
    assert answer.detail == (
        "all 1 connections to payments (pool.max_connections) were in use for 1 s (timeout.connect)"
    )
    assert answer.proxy_error == "connection_limit_reached"
    assert other.ended == "open"
    talk.upstream().sends(OK)
    one.gets(OK_DOWNSTREAM)


def test_total_bounds_the_wait_for_a_connection(converse) -> None:
    talk = converse(timeout={**_TIMEOUT, "connect": "9s", "total": "2s"})
    talk.dialing = "hang"
    client = talk.client()
    client.sends(GET)
    talk.passes(2.1)
    assert "(timeout.total)" in client.gets_refusal(504, "DOWNSTREAM_TIMEOUT").detail
    assert talk.hanging == 0
    assert talk.is_at_rest()


def test_time_spent_waiting_counts_towards_total(converse) -> None:
    talk = converse(timeout={**_TIMEOUT, "connect": "9s", "total": "6s"})
    talk.dialing = "hang"
    client = talk.client()
    client.sends(GET)
    talk.passes(4)
    talk.accepts()
    talk.passes(1.9)
    client.gets_nothing()
    talk.passes(0.2)
    assert "(timeout.total)" in client.gets_refusal(504, "DOWNSTREAM_TIMEOUT").detail
