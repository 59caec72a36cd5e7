"""What an upstream can do wrong, and what the application sees of it: an answer that says so, or a visible cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .harness import (
    Background,
    Ended,
    Message,
    Sidecar,
    Upstream,
    Wire,
    answer,
    eventually,
    free_port,
    fresh_host,
    get,
    post,
)

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture(scope="module")
def full() -> Iterator[tuple[str, int]]:
    """A port whose kernel takes no further connection and refuses none: the backlog is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        stack.enter_context(socket.create_connection(listener.getsockname()))
        yield listener.getsockname()


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, full: tuple[str, int]) -> Iterator[Sidecar]:
    def dependency(prefix: str, url: str = upstream.url, **timeout: str) -> dict[str, Any]:
        timeout = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s"} | timeout
        return {"upstream": url, "prefix": prefix, "hosts": [], "timeout": timeout, "pool": {"idle_timeout": "1h"}}

    dead_host = fresh_host()
    dependencies = {
        "plain": dependency("/plain"),
        "hasty": dependency("/hasty", first_byte="300ms"),
        "uneasy": dependency("/uneasy", idle="300ms"),
        "whole": dependency("/whole", total="300ms"),
        "dead": dependency("/dead", f"http://{dead_host}:{free_port(dead_host)}"),
        "full": dependency("/full", f"http://{full[0]}:{full[1]}", connect="300ms"),
        "missing": dependency("/missing", "unix:/nonexistent/socket"),
    }
    with Sidecar(tmp_path_factory.mktemp("faults"), dependencies) as sidecar:
        yield sidecar


# -- no connection


def test_refused_connection_is_502(sidecar: Sidecar) -> None:
    response = sidecar.ask(get("/dead/x"))

    assert response.refusal == (502, "DOWNSTREAM_FAILURE", "connection_refused")
    assert "dead" in response.detail


def test_missing_unix_socket_is_502(sidecar: Sidecar) -> None:
    assert sidecar.ask(get("/missing/x")).refusal[:2] == (502, "DOWNSTREAM_FAILURE")


def test_connect_that_hangs_ends_at_the_connect_timeout(sidecar: Sidecar) -> None:
    """timeout.total is 60 s here; a test that waited for that would have given up."""
    response = sidecar.ask(get("/full/x"))

    assert response.refusal == (504, "DOWNSTREAM_TIMEOUT", "connection_timeout")
    assert "timeout.connect" in response.detail


def test_body_that_follows_a_refusal_is_not_taken_for_a_request(sidecar: Sidecar) -> None:
    with sidecar.connect() as wire:
        wire.send(post("/dead/x", b"x" * 100) + get("/nowhere"))
        assert wire.response().status == 502
        assert wire.response().status == 404


# -- no answer


def never_mind(wire: Wire) -> None:
    """Close without a word."""


def reset_at_once(wire: Wire) -> None:
    wire.reset()


def close_after_request(wire: Wire) -> None:
    wire.request()


def reset_after_request(wire: Wire) -> None:
    wire.request()
    wire.reset()


def close_within_head(wire: Wire) -> None:
    wire.request()
    wire.send(b"HTTP/1.1 200 OK\r\nContent-Le")


def reset_behind_interim(wire: Wire) -> None:
    wire.request()
    wire.send(b"HTTP/1.1 102 Processing\r\n\r\n")
    wire.reset()


def saying(octets: bytes) -> Callable[[Wire], None]:
    """Read the request, say `octets`, and leave the connection open."""

    def script(wire: Wire) -> None:
        wire.request()
        wire.send(octets)
        wire.await_end()

    return script


NO_ANSWER = {
    "closed at once": (never_mind, "connection_terminated"),
    "reset at once": (reset_at_once, "connection_terminated"),
    "closed after the request": (close_after_request, "connection_terminated"),
    "reset after the request": (reset_after_request, "connection_terminated"),
    "closed within the head": (close_within_head, "connection_terminated"),
    "garbage": (saying(b"SSH-2.0-OpenSSH_9.2\r\n"), "http_protocol_error"),
    "garbage in the second line": (saying(b"HTTP/1.1 200 OK\r\n\0garbage"), "http_protocol_error"),
    "bad chunk with the head": (
        saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        "http_protocol_error",
    ),
    "head of 200 kB": (
        saying(b"HTTP/1.1 200 OK\r\n" + b"X-Much: %s\r\n" % (b"a" * 1000) * 200 + b"\r\n"),
        "http_response_header_section_size",
    ),
    "endless head": (saying(b"HTTP/1.1 200 OK\r\nX-Much: " + b"a" * 100_000), "http_response_header_section_size"),
    "101 that nobody asked for": (
        saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        "http_protocol_error",
    ),
}


@pytest.mark.parametrize("name", NO_ANSWER)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_upstream_without_a_valid_answer_is_502_and_asked_once(
    sidecar: Sidecar, upstream: Upstream, name: str, method: str
) -> None:
    script, proxy_error = NO_ANSWER[name]
    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/x") if method == "GET" else post("/plain/x", b"order"))
        response = wire.response()

        assert response.refusal == (502, "DOWNSTREAM_FAILURE", proxy_error)
        assert "plain" in response.body.decode()
        assert len(upstream.wires) == 1
        # The application's connection is none the worse for it.
        wire.send(get("/nowhere"))
        assert wire.response().status == 404


def test_interim_answer_before_a_reset_is_passed_on_and_then_502(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(reset_behind_interim), sidecar.connect() as wire:
        wire.send(get("/plain/x"))

        assert wire.response().status == 102
        assert wire.response().refusal == (502, "DOWNSTREAM_FAILURE", "connection_terminated")


@pytest.mark.parametrize("octets", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 102 Processing\r\n\r\n"])
def test_silent_upstream_is_504_and_its_connection_ends(sidecar: Sidecar, upstream: Upstream, octets: bytes) -> None:
    with upstream.play(saying(octets)), sidecar.connect() as wire:
        wire.send(get("/hasty/x"))
        response = wire.response()
        if response.status == 102:
            response = wire.response()

        assert response.refusal == (504, "DOWNSTREAM_TIMEOUT", "http_response_timeout")
        assert "timeout.first_byte" in response.detail
        eventually(lambda: sidecar.established(upstream.port) == 0, "the silent connection is closed")


def test_total_timeout_governs_where_it_is_shorter(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(saying(b"")):
        response = sidecar.ask(get("/whole/x"))

        assert response.refusal == (504, "DOWNSTREAM_TIMEOUT", "http_response_timeout")
        assert "timeout.total" in response.detail


# -- the pooled connection that dies


def dying(then: Callable[[Wire], None]) -> Callable[[Upstream], Callable[[Wire], None]]:
    """The first connection serves one request and ends at the next one, the others serve."""

    def of(upstream: Upstream) -> Callable[[Wire], None]:
        def script(wire: Wire) -> None:
            if wire is not upstream.wires[0]:
                upstream.serve(wire)
            upstream.requests.append(wire.request())
            wire.send(answer(b"warm"))
            upstream.requests.append(wire.request())
            then(wire)

        return script

    return of


ENDS = {"closes": dying(lambda wire: None), "resets": dying(Wire.reset)}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_idempotent_request_on_a_dying_pooled_connection_is_replaced_silently(
    sidecar: Sidecar, upstream: Upstream, method: str, end: str
) -> None:
    with upstream.play(ENDS[end](upstream)):
        assert sidecar.ask(get("/plain/warm")).body == b"warm"
        octets = post("/plain/x", b"body", method=method) if method == "PUT" else get("/plain/x", method=method)
        response = sidecar.ask(octets, bodiless=method == "HEAD")

        assert response.status == 200
        assert [(request.method.decode(), request.body) for request in upstream.requests[1:]] == [
            (method, b"body" if method == "PUT" else b"")
        ] * 2
        assert len(upstream.wires) == 2


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_other_request_on_a_dying_pooled_connection_is_502_and_seen_once(
    sidecar: Sidecar, upstream: Upstream, method: str, end: str
) -> None:
    with upstream.play(ENDS[end](upstream)):
        assert sidecar.ask(get("/plain/warm")).body == b"warm"
        response = sidecar.ask(post("/plain/x", b"order", method=method))

        assert response.refusal == (502, "DOWNSTREAM_FAILURE", "connection_terminated")
        assert [request.body for request in upstream.requests[1:]] == [b"order"]
        assert len(upstream.wires) == 1


def test_connection_that_began_to_answer_is_not_replaced(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(dying(lambda wire: wire.send(b"HTTP/1.1 2"))(upstream)):
        assert sidecar.ask(get("/plain/warm")).body == b"warm"

        assert sidecar.ask(get("/plain/x")).status == 502
        assert len(upstream.wires) == 1


def test_replacement_is_tried_once(sidecar: Sidecar, upstream: Upstream) -> None:
    def script(wire: Wire) -> None:
        upstream.requests.append(wire.request())
        if wire is upstream.wires[0]:
            wire.send(answer(b"warm"))
            upstream.requests.append(wire.request())

    with upstream.play(script):
        assert sidecar.ask(get("/plain/warm")).body == b"warm"

        assert sidecar.ask(get("/plain/x")).status == 502
        assert [request.target for request in upstream.requests] == [b"/warm", b"/x", b"/x"]


def test_connection_that_ended_while_idle_is_not_used(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(upstream.serve):
        for number in range(3):
            assert sidecar.ask(post(f"/plain/{number}", b"order")).body == b"POST /%d" % number
            assert len(upstream.wires) == number + 1
            upstream.wire(number).finish()
            eventually(lambda: sidecar.established(upstream.port) == 0, "the sidecar has noticed")


# -- answers that end too early

WHOLE = b"HTTP/1.1 200 OK\r\n"
PARTS = {
    "length": (WHOLE + b"Content-Length: 10\r\n\r\nhello", b""),
    "chunk": (WHOLE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"ff\r\nabc"),
    "last chunk": (WHOLE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"0\r\nX-Trailer: y"),
    "close": (WHOLE + b"\r\nhello", b""),
}


def cutting(part: tuple[bytes, bytes], seen: threading.Event, end: Callable[[Wire], object]) -> Callable[[Wire], None]:
    def script(wire: Wire) -> None:
        wire.request()
        wire.send(part[0])
        assert seen.wait(60)
        wire.send(part[1])
        end(wire)

    return script


def cut(wire: Wire, seen: threading.Event) -> tuple[Message, bytes, Ended]:
    """Head, body and end of a response that must not look whole."""
    head = wire.head()
    chunked = head.get(b"transfer-encoding") == b"chunked"
    body = wire.chunk() if chunked else wire.exactly(5)
    seen.set()
    while True:
        try:
            if chunked:
                chunk = wire.chunk()
                assert chunk, "the last chunk says that the body is whole"
                body += chunk
            else:
                body += wire.more()
        except Ended as end:
            return head, body, end


@pytest.mark.parametrize(
    ("framing", "how"),
    [
        (framing, how)
        for framing in PARTS
        for how in ("closed", "reset", "silent")
        if (framing, how) != ("close", "closed")
    ],
)
def test_answer_that_ends_too_early_is_cut_visibly(
    sidecar: Sidecar, upstream: Upstream, framing: str, how: str
) -> None:
    end: Callable[[Wire], object] = {"closed": lambda wire: None, "reset": Wire.reset, "silent": Wire.await_end}[how]
    seen = threading.Event()
    with upstream.play(cutting(PARTS[framing], seen, end)), sidecar.connect() as wire:
        wire.send(get("/uneasy/x" if how == "silent" else "/plain/x"))
        head, body, _ = cut(wire, seen)

        assert head.status == 200
        assert body in (b"hello", b"helloabc")
        assert (head.get(b"content-length") == b"10") == (framing == "length")
        assert len(upstream.wires) == 1


@pytest.mark.parametrize("framing", ["chunk", "close"])
def test_answer_to_http10_that_ends_too_early_is_reset(sidecar: Sidecar, upstream: Upstream, framing: str) -> None:
    """FIN would be the end of a whole body to that client."""
    seen = threading.Event()
    with upstream.play(cutting(PARTS[framing], seen, Wire.reset)), sidecar.connect() as wire:
        wire.send(b"GET /plain/x HTTP/1.0\r\n\r\n")
        _, body, end = cut(wire, seen)

        assert body.startswith(b"hello")
        assert end.reset


def test_bad_chunk_amid_an_answer_is_cut_visibly(sidecar: Sidecar, upstream: Upstream) -> None:
    seen = threading.Event()
    part = (PARTS["chunk"][0], b"zz\r\nnonsense\r\n0\r\n\r\n")
    with upstream.play(cutting(part, seen, Wire.await_end)), sidecar.connect() as wire:
        wire.send(get("/plain/x"))

        assert cut(wire, seen)[1] == b"hello"


# -- answers that end too late, or come too early


def test_octets_behind_an_answer_belong_to_nobody(sidecar: Sidecar, upstream: Upstream) -> None:
    stale = answer(b"stale")
    with (
        upstream.replying(lambda wire, request: wire.send(answer(request.target) + stale)),
        sidecar.connect() as wire,
    ):
        for number in range(5):
            wire.send(get(f"/plain/{number}"))
            assert wire.response().body == b"/%d" % number
        assert len(upstream.wires) == 5


def test_octets_on_an_idle_connection_end_it(sidecar: Sidecar, upstream: Upstream) -> None:
    answered = threading.Event()

    def script(wire: Wire) -> None:
        request = wire.request()
        wire.send(answer(request.target))
        assert answered.wait(60)
        wire.send(answer(b"stale"))
        wire.await_end()

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/1"))
        assert wire.response().body == b"/1"
        answered.set()
        eventually(lambda: sidecar.established(upstream.port) == 0, "the connection is closed")
        wire.send(get("/plain/2"))
        assert wire.response().body == b"/2"


@pytest.mark.parametrize("octets", [answer(b"/last", "Connection: close"), b"HTTP/1.0 200 OK\r\n\r\n/last"])
def test_upstream_that_half_closes_behind_its_answer_is_not_used_again(
    sidecar: Sidecar, upstream: Upstream, octets: bytes
) -> None:
    def script(wire: Wire) -> None:
        wire.request()
        wire.send(octets)
        wire.finish()
        wire.await_end()

    with upstream.play(script), sidecar.connect() as wire:
        for number in range(3):
            wire.send(post(f"/plain/{number}", b"order"))
            assert wire.response().body == b"/last"
            assert len(upstream.wires) == number + 1


@pytest.mark.parametrize("kept", [True, False])
def test_refusal_that_comes_while_the_application_uploads_stays_what_it_is(
    sidecar: Sidecar, upstream: Upstream, kept: bool
) -> None:
    def script(wire: Wire) -> None:
        wire.head()
        wire.send(answer(b"no more than 1 kB", status="413 Content Too Large"))
        if kept:
            wire.await_end()
        else:
            wire.finish()
            wire.await_end()

    size = 20_000_000

    def upload(wire: Wire) -> None:
        with contextlib.suppress(OSError):
            wire.send(get("/plain/upload", f"Content-Length: {size}", method="POST"))
            for _ in range(size // 1_000_000):
                wire.send(b"x" * 1_000_000)

    with upstream.play(script), sidecar.connect() as wire, Background(lambda: upload(wire)):
        response = wire.response()

        assert (response.status, response.body) == (413, b"no more than 1 kB")
        assert response.closes
        assert wire.await_end()


def test_early_answer_on_an_upload_that_pauses_is_passed_on_at_once(sidecar: Sidecar, upstream: Upstream) -> None:
    def script(wire: Wire) -> None:
        wire.head()
        wire.exactly(3)
        wire.send(answer(b"unauthorized", status="401 Unauthorized"))
        wire.await_end()

    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/upload", "Content-Length: 1000", method="POST") + b"abc")

        assert wire.response().body == b"unauthorized"


def test_answer_that_comes_octet_by_octet_is_passed_on(sidecar: Sidecar, upstream: Upstream) -> None:
    whole = answer(b"slowly", "X-One: 1")

    def reply(wire: Wire, request: Message) -> None:
        for position in range(len(whole)):
            wire.send(whole[position : position + 1])

    with upstream.replying(reply), sidecar.connect() as wire:
        for _ in range(2):
            wire.send(get("/plain/x"))
            response = wire.response()
            assert (response.body, response.get(b"x-one")) == (b"slowly", b"1")
        assert len(upstream.wires) == 1


def test_answers_stay_with_their_requests_when_connections_fail_at_random(sidecar: Sidecar, upstream: Upstream) -> None:
    """Every third connection dies at its second request, every fifth leaves stale octets behind an answer."""

    def script(wire: Wire) -> None:
        number = upstream.wires.index(wire)
        for count in range(100):
            request = wire.request()
            if number % 3 == 0 and count == 1:
                wire.reset()
                return
            # In one piece: what comes once the next request is out is taken for its answer, and nobody can tell.
            stale = answer(b"stale") if number % 5 == 0 and count == 2 else b""
            wire.send(answer(b"GET " + request.target) + stale)

    def client(name: int) -> None:
        with sidecar.connect() as wire:
            for number in range(40):
                wire.send(get(f"/plain/{name}/{number}"))
                response = wire.response()
                # A connection may die under the replacement of another one.
                assert response.status == 502 or response.body == b"GET /%d/%d" % (name, number)

    with upstream.play(script), contextlib.ExitStack() as stack:
        for name in range(4):
            stack.enter_context(Background(lambda name=name: client(name)))
