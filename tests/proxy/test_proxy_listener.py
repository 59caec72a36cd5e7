"""Which dependency a listener's requests reach, and how it ends its connections."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.heads import request_head
from tests.proxy.transcript import GET, OK, OK_DOWNSTREAM, message

_SHARED = {
    "shared": True,
    "prefix": "/pay",
    "hosts": ["payments:8080", "pay.test"],
    "others": {
        "orders": {"upstream": "http://orders:9000", "prefix": "/pay/orders"},
        "web": {"upstream": "http://web", "prefix": "/web", "strip_prefix": False, "preserve_host": True},
    },
}


@pytest.mark.parametrize(
    ("start", "host", "address", "line", "sent_host"),
    [
        ("GET /x HTTP/1.1", "pay.test", "payments", "GET /x HTTP/1.1", "payments:8080"),
        ("GET /x HTTP/1.1", "PAY.TEST:1", "payments", "GET /x HTTP/1.1", "payments:8080"),
        ("GET /x HTTP/1.1", "orders:9000", "orders", "GET /x HTTP/1.1", "orders:9000"),
        ("GET /pay/x?y HTTP/1.1", "app", "payments", "GET /x?y HTTP/1.1", "payments:8080"),
        ("GET /pay HTTP/1.1", "app", "payments", "GET / HTTP/1.1", "payments:8080"),
        ("GET /pay?y HTTP/1.1", "app", "payments", "GET /?y HTTP/1.1", "payments:8080"),
        ("GET /pay/orders/1 HTTP/1.1", "app", "orders", "GET /1 HTTP/1.1", "orders:9000"),
        ("GET /pay/x HTTP/1.1", "pay.test", "payments", "GET /x HTTP/1.1", "payments:8080"),
        ("GET /payx HTTP/1.1", "pay.test", "payments", "GET /payx HTTP/1.1", "payments:8080"),
        ("GET /web/x HTTP/1.1", "app", "web", "GET /web/x HTTP/1.1", "app"),
        ("GET http://pay.test/x HTTP/1.1", "orders:9000", "payments", "GET /x HTTP/1.1", "payments:8080"),
        ("GET http://web/x HTTP/1.1", "app", "web", "GET /x HTTP/1.1", "web"),
        ("OPTIONS * HTTP/1.1", "pay.test", "payments", "OPTIONS * HTTP/1.1", "payments:8080"),
    ],
)
def test_shared_listener_goes_by_target_then_host_then_prefix(
    converse, start: str, host: str, address: str, line: str, sent_host: str
) -> None:
    talk = converse(**_SHARED)
    client = talk.client()
    client.sends(message(start, f"Host: {host}"))
    upstream = talk.upstream()
    assert upstream.address[0] == address
    upstream.gets(message(line, f"Host: {sent_host}", "Via: 1.1 sidecar"))
    upstream.sends(OK)
    client.gets(OK_DOWNSTREAM)


@pytest.mark.parametrize(
    ("start", "host", "status"),
    [
        ("GET /x HTTP/1.1", "app", 404),
        ("GET /payx HTTP/1.1", "app", 404),
        ("GET /x HTTP/1.1", "", 404),
        ("GET http://evil/ HTTP/1.1", "pay.test", 403),
        ("GET http://payments:1/ HTTP/1.1", "pay.test", 403),
        ("CONNECT evil:443 HTTP/1.1", "pay.test", 403),
    ],
)
def test_nothing_is_connected_to_that_the_configuration_does_not_name(
    converse, start: str, host: str, status: int
) -> None:
    talk = converse(**_SHARED)
    client = talk.client()
    client.sends(message(start, f"Host: {host}"))
    client.gets_refusal(status, "NO_ROUTE")
    # What follows a CONNECT was meant for its tunnel.
    assert (client.ended, talk.dialed) == ("fin" if start.startswith("CONNECT") else "open", [])


def test_refused_request_with_a_body_closes(converse) -> None:
    talk = converse(**_SHARED)
    client = talk.client()
    client.sends(message("POST /x HTTP/1.1", "Host: app", "Content-Length: 1", body="x"))
    client.gets_refusal(404, "NO_ROUTE")
    assert client.ended == "fin"


def test_listener_of_one_dependency_asks_neither_host_nor_prefix(converse) -> None:
    talk = converse(prefix="/pay", others=_SHARED["others"])
    client = talk.client()
    client.sends(message("GET /pay/orders HTTP/1.1", "Host: orders:9000"))
    upstream = talk.upstream()
    assert upstream.address[0] == "payments"
    assert upstream.takes().startswith(b"GET /pay/orders ")


def test_listener_of_one_dependency_serves_no_other_by_absolute_target(converse) -> None:
    talk = converse(others=_SHARED["others"])
    client = talk.client()
    client.sends(message("GET http://orders:9000/ HTTP/1.1", "Host: a"))
    client.gets_refusal(403, "NO_ROUTE")
    client.sends(message("GET http://payments:8080/x HTTP/1.1", "Host: a"))
    assert talk.upstream().takes().startswith(b"GET /x ")


def test_requests_of_one_connection_may_go_to_several_dependencies(converse) -> None:
    talk = converse(**_SHARED)
    client = talk.client()
    for host, address in (("pay.test", "payments"), ("orders:9000", "orders"), ("pay.test", "payments")):
        client.sends(message("GET /x HTTP/1.1", f"Host: {host}"))
        if not talk.no_upstream:
            upstream = talk.upstream()
            assert upstream.address[0] == address
            known = {**locals().get("known", {}), address: upstream}
        known[address].sends(OK)
        client.gets(OK_DOWNSTREAM)


def test_answers_of_a_draining_listener_end_their_connections(converse) -> None:
    talk = converse()
    idle, busy, refused = talk.client(), talk.client(), talk.client()
    busy.sends(GET)
    talk.listener.draining = True
    idle.sends(GET)
    for client, upstream in ((busy, talk.upstream()), (idle, talk.upstream())):
        upstream.sends(OK)
        assert b"\r\nConnection: close\r\n" in client.takes()
        assert client.ended == "fin"
    talk.dialing = ConnectionRefusedError(111, "Connection refused")
    talk.pool.close()
    refused.sends(GET)
    assert refused.gets_answer().fields["connection"] == "close"


def test_time_of_the_last_request_is_kept_for_the_drain(converse) -> None:
    talk = converse()
    client = talk.client()
    talk.passes(3)
    client.sends(GET)
    assert talk.listener.last_request == talk.deadlines.now
    talk.passes(3)
    assert talk.listener.last_request < talk.deadlines.now


def test_before_shutdown_only_connections_without_a_request_are_closed(converse) -> None:
    talk = converse()
    idle, partial, busy = talk.client(), talk.client(), talk.client()
    partial.sends(GET[:5])
    busy.sends(GET)
    talk.do(talk.listener.pre_shutdown)
    assert [client.ended for client in (idle, partial, busy)] == ["closed", "open", "open"]
    talk.upstream().sends(OK)
    busy.gets(OK_DOWNSTREAM)


def test_shutdown_answers_what_has_no_answer_and_cuts_the_rest(converse) -> None:
    talk = converse()
    idle, partial, waiting, answered = (talk.client() for _ in range(4))
    partial.sends(GET[:5])
    waiting.sends(GET)
    answered.sends(GET)
    first, second = talk.upstream(), talk.upstream()
    second.sends(message("HTTP/1.1 200 OK", "Content-Length: 9", body="x"))
    with talk.loop.running():
        shutdown = talk.loop.create_task(talk.listener.shutdown())
    talk.loop.settle()
    waiting.gets_refusal(503, "DRAINING")
    assert answered.takes().endswith(b"\r\n\r\nx")
    assert (first.ended, second.ended) == ("closed", "closed")
    for client in (idle, partial, waiting, answered):
        assert client.ended == "fin"
        assert not shutdown.done()
        client.half_closes()
    assert shutdown.done()
    assert talk.listener.connections == 0


def test_answer_that_has_yet_to_leave_is_no_idleness(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    client.stops_reading()
    assert not talk.listener.flushing
    talk.upstream().sends(OK)
    assert talk.listener.flushing
    talk.do(talk.listener.pre_shutdown)
    assert client.ended == "open"
    client.reads_on()
    client.gets(OK_DOWNSTREAM)
    assert not talk.listener.flushing
    talk.do(talk.listener.pre_shutdown)
    assert client.ended == "closed"


def test_abort_closes_every_connection_at_once(converse) -> None:
    talk = converse()
    clients = [talk.client() for _ in range(3)]
    clients[0].sends(GET)
    upstream = talk.upstream()
    talk.do(talk.listener.abort)
    assert [client.ended for client in clients] == ["closed"] * 3
    assert upstream.ended == "closed"


@pytest.mark.parametrize(
    ("peer", "shown"),
    [(("10.1.2.3", 5), b"10.1.2.3"), (("::1", 5, 0, 0), b"::1"), ("", b"127.0.0.1"), (None, b"0.0.0.0")],
)
def test_peer_is_the_transports_or_this_host_for_a_unix_socket(converse, peer: object, shown: bytes) -> None:
    talk = converse(listener={"forwarded": "append"})

    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            assert name == "peername"
            return peer

    dispatcher = talk.listener.dispatcher(Transport())
    head = request_head(message("GET / HTTP/1.0"))
    octets = dispatcher.octets(head, b"", talk.pool)
    assert b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: http\r\n" % shown in octets


def test_forwarding_fields_go_upstream(converse) -> None:
    talk = converse(listener={"forwarded": "append"})
    client = talk.client()
    client.sends(message("GET /a HTTP/1.1", "Host: app", "X-Forwarded-For: 1.1.1.1"))
    talk.upstream().gets(
        message(
            "GET /a HTTP/1.1",
            "Host: payments:8080",
            "Via: 1.1 sidecar",
            "X-Forwarded-For: 1.1.1.1, 127.0.0.1",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: app",
        )
    )


def test_unix_upstream_is_dialled_by_its_path(converse) -> None:
    talk = converse(others={"local": {"upstream": "unix:/run/a.sock", "prefix": "/l"}}, shared=True)
    client = talk.client()
    client.sends(message("GET /l/x HTTP/1.1", "Host: app"))
    upstream = talk.upstream()
    assert upstream.address == "/run/a.sock"
    upstream.gets(message("GET /x HTTP/1.1", "Host: localhost", "Via: 1.1 sidecar"))
