"""A pooled connection that proves dead: the one safe replacement, and everything that is none."""

from __future__ import annotations

import pytest

from tests.proxy.transcript import GET, GET_UPSTREAM, OK, OK_DOWNSTREAM, message


def _warm(talk):
    """A client whose connection to the upstream has served once."""
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(OK)
    client.takes()
    upstream.takes()
    return client, upstream


@pytest.mark.parametrize("end", ["resets", "half_closes", "closes"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "DELETE"])
def test_idempotent_request_is_sent_again_once(converse, method: str, end: str) -> None:
    talk = converse()
    client, dead = _warm(talk)
    client.sends(message(f"{method} /a HTTP/1.1", "Host: app"))
    sent = dead.takes()
    assert sent.startswith(method.encode())
    getattr(dead, end)()
    fresh = talk.upstream()
    fresh.gets(sent)
    fresh.sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert talk.pool.replaced == 1


def test_replacement_that_dies_too_is_not_replaced(converse) -> None:
    talk = converse()
    client, dead = _warm(talk)
    client.sends(GET)
    dead.resets()
    talk.upstream().resets()
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert answer.proxy_error == "connection_terminated"
    assert "before it answered" in answer.detail
    assert talk.no_upstream
    assert client.ended == "open"


def test_fresh_connection_that_dies_is_not_replaced(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    talk.upstream().resets()
    client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert talk.no_upstream
    assert talk.pool.replaced == 0


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_is_not_idempotent_is_never_sent_twice(converse, method: str) -> None:
    talk = converse()
    client, dead = _warm(talk)
    client.sends(message(f"{method} /a HTTP/1.1", "Host: app", "Content-Length: 2", body="hi"))
    assert dead.takes().endswith(b"\r\n\r\nhi")
    dead.resets()
    client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert talk.no_upstream


@pytest.mark.parametrize(
    ("fields", "pieces"),
    [
        (["Content-Length: 4"], [b"ab", b"cd"]),
        (["Transfer-Encoding: chunked"], [b"2\r\nab\r\n", b"2\r\ncd\r\n", b"0\r\n\r\n"]),
    ],
)
def test_put_is_sent_again_with_its_body(converse, fields: list[str], pieces: list[bytes]) -> None:
    talk = converse()
    client, dead = _warm(talk)
    client.sends(message("PUT /a HTTP/1.1", "Host: app", *fields), *pieces)
    sent = dead.takes()
    dead.resets()
    fresh = talk.upstream()
    fresh.gets(sent)
    fresh.sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_put_goes_on_to_the_replacement_in_the_midst_of_its_body(converse) -> None:
    talk = converse()
    client, dead = _warm(talk)
    client.sends(message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 4", body="ab"))
    sent = dead.takes()
    talk.dialing = "hang"
    dead.resets()
    client.sends(b"c")
    talk.accepts()
    fresh = talk.upstream()
    fresh.gets(sent + b"c")
    client.sends(b"d")
    fresh.gets(b"d")
    fresh.sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_put_whose_body_is_no_longer_at_hand_is_not_sent_again(converse) -> None:
    talk = converse()
    client, dead = _warm(talk)
    client.sends(message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 70000"), b"x" * 70_000)
    dead.resets()
    client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert talk.no_upstream


@pytest.mark.parametrize("octets", [b"H", b"HTTP/1.1 200 OK\r\n", message("HTTP/1.1 103 Early Hints")])
def test_nothing_is_replaced_behind_an_octet_of_response(converse, octets: bytes) -> None:
    talk = converse()
    client, upstream = _warm(talk)
    client.sends(GET)
    upstream.sends(octets)
    client.takes()
    upstream.resets()
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert "within the head of its response" in answer.detail
    assert talk.no_upstream


def test_dead_connection_found_before_the_request_costs_nothing(converse) -> None:
    talk = converse()
    client, dead = _warm(talk)
    dead.half_closes()
    client.sends(message("POST /a HTTP/1.1", "Host: app", "Content-Length: 0"))
    dead.gets_nothing()
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)
    assert talk.pool.replaced == 0


def test_replacement_at_the_limit_makes_room_by_closing_the_oldest_idle_one(converse) -> None:
    talk = converse(pool={"max_connections": 2})
    one, other = talk.client(), talk.client()
    one.sends(GET)
    other.sends(GET)
    first, second = talk.upstream(), talk.upstream()
    first.sends(OK)
    second.sends(OK)
    one.takes()
    one.sends(GET)
    assert GET_UPSTREAM in second.takes()
    second.resets()
    fresh = talk.upstream()
    fresh.gets(GET_UPSTREAM)
    fresh.sends(OK)
    one.gets(OK_DOWNSTREAM)
