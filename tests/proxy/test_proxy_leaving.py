"""The client leaves, at every stage and in every way: the upstream's part ends at once and nothing stays."""

from __future__ import annotations

import pytest

from tests.proxy.transcript import GET, OK, OK_DOWNSTREAM, message

_WAYS = ["resets", "half_closes", "closes"]


@pytest.fixture(params=_WAYS)
def leaves(request: pytest.FixtureRequest):
    return lambda client: getattr(client, request.param)()


def _everything_is_over(talk, client, upstream=None) -> None:
    assert talk.is_at_rest()
    assert client.ended == "closed"
    assert talk.listener.connections == 0
    if upstream is not None:
        assert upstream.ended == "closed"
        assert repr(talk.pool) == "<Pool payments active=0 idle=0 connecting=0 waiting=0>"
        assert talk.deadlines.watched == 0


def test_before_anything(converse, leaves) -> None:
    talk = converse()
    client = talk.client()
    leaves(client)
    _everything_is_over(talk, client)
    client.gets_nothing()


@pytest.mark.parametrize("part", [b"\r", b"GET / HT", GET[:-1]])
def test_within_the_head(converse, leaves, part: bytes) -> None:
    talk = converse()
    client = talk.client()
    client.sends(part)
    leaves(client)
    _everything_is_over(talk, client)
    client.gets_nothing()


def test_while_the_connection_is_being_made(converse, leaves) -> None:
    talk = converse()
    talk.dialing = "hang"
    client = talk.client()
    client.sends(GET)
    assert talk.hanging == 1
    leaves(client)
    _everything_is_over(talk, client)
    assert talk.hanging == 0


def test_before_the_connection_attempt_has_begun(converse) -> None:
    talk = converse()
    for _ in range(2):
        client = talk.client()
        client.sends_at_once(GET)
        client.half_closes()
        _everything_is_over(talk, client)
    assert talk.dialed == []
    client = talk.client()
    client.sends(GET)
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)


def test_attempt_given_up_is_not_counted_on_by_the_next_request(converse) -> None:
    talk = converse()
    talk.dialing = "hang"
    one, other = talk.client(), talk.client()
    one.sends(GET)
    with talk.loop.running():
        one.transport.arrive(b"")
        other.transport.arrive(GET)
    talk.loop.settle()
    assert talk.hanging == 1
    talk.accepts()
    talk.upstream().sends(OK)
    other.gets(OK_DOWNSTREAM)


def test_as_many_attempts_are_given_up_as_clients_leave_at_once(converse) -> None:
    talk = converse()
    talk.dialing = "hang"
    clients = [talk.client() for _ in range(5)]
    for client in clients:
        client.sends(GET)
    with talk.loop.running():
        for client in clients[:3]:
            client.transport.arrive(b"")
    talk.loop.settle()
    assert talk.hanging == 2
    assert "connecting=2 waiting=2" in repr(talk.pool)


def test_while_standing_in_the_queue(converse, leaves) -> None:
    talk = converse(pool={"max_connections": 1})
    one, other, third = talk.client(), talk.client(), talk.client()
    one.sends(GET)
    other.sends(message("GET /other HTTP/1.1", "Host: app"))
    third.sends(message("GET /third HTTP/1.1", "Host: app"))
    leaves(other)
    assert other.ended == "closed"
    upstream = talk.upstream()
    upstream.takes()
    upstream.sends(OK)
    assert upstream.takes().startswith(b"GET /third ")
    upstream.sends(OK)
    third.gets(OK_DOWNSTREAM)
    other.gets_nothing()


def test_while_the_upstream_thinks(converse, leaves) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    leaves(client)
    _everything_is_over(talk, client, upstream)
    client.gets_nothing()


@pytest.mark.parametrize("field", ["Content-Length: 9", "Transfer-Encoding: chunked"])
def test_within_the_body(converse, leaves, field: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("POST /a HTTP/1.1", "Host: app", field, body="4\r\nab"))
    upstream = talk.upstream()
    leaves(client)
    _everything_is_over(talk, client, upstream)


@pytest.mark.parametrize("fields", [["Content-Length: 9"], ["Transfer-Encoding: chunked"], []])
def test_within_the_response(converse, leaves, fields: list[str]) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", *fields, body="4\r\nab"))
    leaves(client)
    _everything_is_over(talk, client, upstream)


def test_with_requests_ahead(converse, leaves) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET + GET + GET[:9])
    upstream = talk.upstream()
    leaves(client)
    _everything_is_over(talk, client, upstream)
    assert talk.no_upstream


@pytest.mark.parametrize("way", ["resets", "closes"])  # while we do not read, FIN is not seen
def test_while_it_is_paused(converse, way: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 200000"))
    upstream = talk.upstream()
    upstream.stops_reading()
    client.sends(b"x" * 100_000)
    assert not client.transport.reading
    getattr(client, way)()
    _everything_is_over(talk, client, upstream)


@pytest.mark.parametrize("way", ["resets", "closes"])
def test_while_it_does_not_read(converse, way: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    client.stops_reading()
    upstream.sends(message("HTTP/1.1 200 OK", "Content-Length: 200000", body=b"x" * 100_000))
    getattr(client, way)()
    _everything_is_over(talk, client, upstream)


def test_between_two_requests(converse, leaves) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)
    leaves(client)
    _everything_is_over(talk, client)
    assert upstream.ended == "open"
    assert "idle=1" in repr(talk.pool)


def test_fin_behind_an_answer_that_is_not_flushed_waits_for_it(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    client.stops_reading()
    talk.upstream().sends(OK)
    client.half_closes()
    assert talk.listener.connections == 1
    client.reads_on()
    client.gets(OK_DOWNSTREAM)
    _everything_is_over(talk, client)


def test_fin_behind_an_answer_that_is_never_read_is_left_at_last(converse) -> None:
    talk = converse(listener={"keepalive_timeout": "20s"})
    client = talk.client()
    client.sends(GET)
    client.stops_reading()
    talk.upstream().sends(OK)
    client.half_closes()
    talk.passes(60)
    assert talk.listener.connections == 0


def test_half_closed_client_gets_its_answer_where_that_is_allowed(converse) -> None:
    talk = converse(listener={"allow_half_close": True})
    client = talk.client()
    client.sends(GET)
    client.half_closes()
    upstream = talk.upstream()
    upstream.sends(OK)
    assert client.takes().endswith(b"\r\nConnection: close\r\n\r\nhi")
    assert upstream.ended == "open"
    assert client.ended == "closed"  # both ways now
    assert talk.listener.connections == 0


def test_half_closed_client_with_half_a_body_is_gone_even_so(converse) -> None:
    talk = converse(listener={"allow_half_close": True})
    client = talk.client()
    client.sends(message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 9", body="x"))
    upstream = talk.upstream()
    client.half_closes()
    _everything_is_over(talk, client, upstream)


def test_those_who_stay_notice_nothing(converse, leaves) -> None:
    talk = converse()
    one, other = talk.client(), talk.client()
    one.sends(GET)
    other.sends(GET)
    first, second = talk.upstream(), talk.upstream()
    leaves(one)
    assert (first.ended, second.ended) == ("closed", "open")
    second.sends(OK)
    other.gets(OK_DOWNSTREAM)
