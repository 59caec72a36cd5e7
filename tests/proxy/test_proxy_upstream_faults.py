"""What an upstream can do wrong, and that every cut can be seen."""

from __future__ import annotations

import errno
import socket

import pytest

from tests.proxy.transcript import GET, OK, OK_DOWNSTREAM, message

_FAILED = (502, "DOWNSTREAM_FAILURE")
_OVERLOADED = (503, "OVERLOADED")


@pytest.mark.parametrize(
    ("error", "answered", "proxy_error", "words"),
    [
        (OSError(errno.ECONNREFUSED, "Connection refused"), _FAILED, "connection_refused", "Connection refused"),
        (OSError("no way through"), _FAILED, "connection_refused", "no connection to payments: no way through"),
        (OSError(), _FAILED, "connection_refused", "no connection to payments: Connection refused"),
        (OSError(errno.ENOENT, "No such file or directory"), _FAILED, "connection_refused", "No such file"),
        (OSError(errno.ECONNRESET, "Reset"), _FAILED, "connection_terminated", "broke the connection before"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), _FAILED, "destination_ip_unroutable", "No route"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), _FAILED, "destination_ip_unroutable", "Network"),
        (OSError(errno.EMFILE, "Too many open files"), _OVERLOADED, "proxy_internal_response", "on this side"),
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign"), _OVERLOADED, "proxy_internal_response", "on this side"),
    ],
)
def test_connection_that_cannot_be_made_says_whose_fault_it_is(
    converse, error: OSError, answered: tuple[int, str], proxy_error: str, words: str
) -> None:
    talk = converse()
    talk.dialing = error
    client = talk.client()
    client.sends(GET)
    answer = client.gets_refusal(*answered)
    assert answer.proxy_error == proxy_error
    assert words in answer.detail
    assert client.ended == ("fin" if answered == _OVERLOADED else "open")
    assert talk.is_at_rest()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (UnicodeError("label too long"), "label too long"),
        (OSError("nobody answers"), "nobody answers"),
    ],
)
def test_name_that_was_never_resolved_is_the_dependencys_failure(converse, error: Exception, reason: str) -> None:
    talk = converse(addresses={"payments": error})
    client = talk.client()
    client.sends(GET)
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert answer.proxy_error == "dns_error"
    assert answer.detail == f"the name payments of payments does not resolve: {reason}"
    assert (client.ended, talk.dialed) == ("open", [])
    assert talk.is_at_rest()


def test_last_descriptors_are_not_for_dependencies(converse) -> None:
    talk = converse()
    client = talk.client()
    talk.descriptor = 1 << 40
    client.sends(GET)
    assert "on this side" in client.gets_refusal(503, "OVERLOADED").detail
    assert talk.is_at_rest()


def test_connection_that_dies_between_handshake_and_request_is_the_upstreams_failure(converse) -> None:
    talk = converse()
    talk.dialing = "reset"
    client = talk.client()
    client.sends(GET)
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert answer.proxy_error == "connection_terminated"
    assert talk.is_at_rest()


_MALFORMED_HEADS = [
    b"\x00",
    b"garbage\r\n\r\n",
    b"HTTP/1.1 000 X\r\n\r\n",
    b"HTTP/2.0 200 X\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"\r\n\r\n",
    message("HTTP/1.1 200 OK", "Content-Length: 1", "Content-Length: 2"),
    message("HTTP/1.1 200 OK", "Content-Length: 1", "Transfer-Encoding: chunked"),
    message("HTTP/1.1 200 OK", "Transfer-Encoding: chunked, chunked"),
    message("HTTP/1.1 200 OK", "A : b"),
    message("HTTP/1.1 200 OK", "A: b", " folded"),
    message("HTTP/1.1 101 Switching", "Upgrade: x", "Connection: upgrade"),
]
# In one read with their head, which has not gone out yet.
_MALFORMED_BODIES = [
    message("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body="x\r\n"),
    message("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body="1\r\nab\r\n"),
]


@pytest.mark.parametrize(
    ("octets", "split"),
    [(octets, split) for octets in _MALFORMED_HEADS for split in (False, True)]
    + [(octets, False) for octets in _MALFORMED_BODIES],
)
def test_malformed_response_is_502_and_its_connection_never_used_again(converse, octets: bytes, split: bool) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(*([octets[at : at + 1] for at in range(len(octets))] if split else [octets]))
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert answer.proxy_error == "http_protocol_error"
    assert (client.ended, upstream.ended) == ("open", "closed")
    client.sends(GET)
    talk.upstream().sends(OK)
    client.gets(OK_DOWNSTREAM)


@pytest.mark.parametrize("parts", [1, 40])
def test_response_head_beyond_its_limit_is_502(converse, parts: int) -> None:
    talk = converse(max_response_head="1KiB")
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    head = message("HTTP/1.1 200 OK", "A: " + "x" * 1000, "Content-Length: 0")
    size = len(head) // parts + 1
    upstream.sends(*(head[at : at + size] for at in range(0, len(head), size)))
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert answer.proxy_error == "http_response_header_section_size"
    assert "exceeds 1024 octets (max_response_head)" in answer.detail
    assert upstream.ended == "closed"


def test_response_head_at_its_limit_passes(converse) -> None:
    talk = converse(max_response_head="1KiB")
    client = talk.client()
    client.sends(GET)
    bare = message("HTTP/1.1 200 OK", "A: ", "Content-Length: 0")
    talk.upstream().sends(message("HTTP/1.1 200 OK", "A: " + "x" * (1024 - len(bare)), "Content-Length: 0"))
    assert client.takes().startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("end", ["resets", "half_closes", "closes"])
@pytest.mark.parametrize("octets", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_end_before_the_response_head_is_502(converse, end: str, octets: bytes) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    if octets:
        upstream.sends(octets)
    getattr(upstream, end)()
    answer = client.gets_refusal(502, "DOWNSTREAM_FAILURE")
    assert answer.proxy_error == "connection_terminated"
    assert ("broke the connection" if end == "resets" else "closed the connection") in answer.detail
    assert client.ended == "open"
    assert talk.is_at_rest()


@pytest.mark.parametrize("end", ["resets", "half_closes", "closes"])
def test_truncated_length_ends_short_of_it(converse, end: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 9", body="abc"))
    getattr(upstream, end)()
    client.gets(message("HTTP/1.1 200 OK", "Date: x", "Content-Length: 9", "Via: 1.1 sidecar", body="abc"))
    assert client.ended == "fin"
    assert talk.is_at_rest()


@pytest.mark.parametrize("end", ["resets", "half_closes", "closes", "garbles"])
def test_truncated_chunks_have_no_last_one(converse, end: str) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body="3\r\nabc\r\n"))
    if end == "garbles":
        upstream.sends(b"x\r\n")
    else:
        getattr(upstream, end)()
    assert client.takes().endswith(b"\r\n\r\n3\r\nabc\r\n")
    assert client.ended == "fin"
    assert talk.is_at_rest()


def test_reset_of_what_only_the_end_delimits_has_no_last_chunk(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", body="abc"))
    upstream.resets()
    assert client.takes().endswith(b"\r\n\r\n3\r\nabc\r\n")
    assert client.ended == "fin"


@pytest.mark.parametrize("chunked", [False, True])
def test_cut_is_a_reset_where_the_end_alone_would_delimit_it(converse, chunked: bool) -> None:
    talk = converse()
    client = talk.client()
    client.sends(message("GET /a HTTP/1.0"))
    upstream = talk.upstream()
    fields, body = (["Transfer-Encoding: chunked"], b"3\r\nabc\r\n") if chunked else ([], b"abc")
    upstream.sends(message("HTTP/1.1 200 OK", *fields, body=body))
    upstream.resets()
    assert client.takes().endswith(b"\r\n\r\nabc")
    assert client.ended == "reset"
    assert talk.is_at_rest()


def test_pipelined_request_behind_a_cut_is_not_served(converse) -> None:
    talk = converse()
    client = talk.client()
    client.sends(GET + GET)
    upstream = talk.upstream()
    upstream.sends(message("HTTP/1.1 200 OK", "Content-Length: 9", body="abc"))
    upstream.resets()
    assert client.ended == "fin"
    assert talk.no_upstream
