"""What a head says about framing, and every reason to refuse one."""

from __future__ import annotations

import pytest

from sidecar.errors import BadRequest, NotImplementedMethod, UpstreamFailure
from sidecar.proxy.framing import parse_request_head
from tests.proxy.heads import request_head, response_head
from tests.proxy.transcript import message


def _request(start: str, *fields: str):
    return request_head(message(start, *fields))


def _response(start: str, *fields: str):
    return response_head(message(start, *fields))


def test_plain_request() -> None:
    head = _request("GET /a?b HTTP/1.1", "Host: app:1", "Accept: */*")
    assert (head.method, head.target, head.host, head.http11) == (b"GET", b"/a?b", b"app:1", True)
    assert head.block == b"\r\nHost: app:1\r\nAccept: */*"
    assert (head.content_length, head.chunked, head.keep_alive, head.expects_continue) == (0, False, True, False)
    assert repr(head) == "<RequestHead GET /a?b>"


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: close"], False),
        ("1.1", ["Connection: x", "Connection: close"], False),
        ("1.1", ["Connection: keep-alive, close"], False),
        ("1.0", [], False),
        ("1.0", ["Connection: keep-alive"], True),
        ("1.0", ["Connection: Keep-Alive", "Connection: close"], False),
        ("1.1", ["Proxy-Connection: close"], False),
        ("1.1", ["Connection: keep-alive", "Proxy-Connection: Close"], False),
        ("1.1", ["Proxy-Connection: keep-alive"], True),
        ("1.0", ["Proxy-Connection: keep-alive"], False),
    ],
)
def test_persistence_of_requests_and_responses(version: str, fields: list[str], keep_alive: bool) -> None:
    assert _request(f"GET / HTTP/{version}", "Host: a", *fields).keep_alive is keep_alive
    assert _response(f"HTTP/{version} 200 OK", "Content-Length: 0", *fields).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("fields", "length", "chunked", "expects"),
    [
        (["Content-Length: 5"], 5, False, False),
        (["Content-Length: 007"], 7, False, False),
        (["Transfer-Encoding: chunked"], 0, True, False),
        (["Transfer-Encoding: Chunked"], 0, True, False),
        (["Content-Length: 5", "Expect: 100-Continue"], 5, False, True),
        (["Transfer-Encoding: chunked", "Expect: 100-continue"], 0, True, True),
        (["Content-Length: 0", "Expect: 100-continue"], 0, False, False),
        (["Content-Length: 5", "Expect: other"], 5, False, False),
    ],
)
def test_framing_of_a_request(fields: list[str], length: int, chunked: bool, expects: bool) -> None:
    head = _request("POST / HTTP/1.1", "Host: a", *fields)
    assert (head.content_length, head.chunked, head.expects_continue) == (length, chunked, expects)


def test_http10_expects_no_100() -> None:
    assert not _request("POST / HTTP/1.0", "Content-Length: 5", "Expect: 100-continue").expects_continue


@pytest.mark.parametrize(
    ("start", "target", "host", "absolute"),
    [
        ("GET http://b:8/x?y HTTP/1.1", b"/x?y", b"b:8", True),
        ("GET HTTP://b HTTP/1.1", b"/", b"b", True),
        ("GET http://b?q HTTP/1.1", b"/?q", b"b", True),
        ("OPTIONS http://b HTTP/1.1", b"*", b"b", True),
        ("OPTIONS * HTTP/1.1", b"*", b"a", False),
        ("CONNECT b:443 HTTP/1.1", b"b:443", b"a", False),
        ("GET //b/x HTTP/1.1", b"//b/x", b"a", False),
        ("GET http://[::1]:8/ HTTP/1.1", b"/", b"[::1]:8", True),
    ],
)
def test_forms_of_a_target(start: str, target: bytes, host: bytes, absolute: bool) -> None:
    head = _request(start, "Host: a")
    assert (head.target, head.host, head.absolute) == (target, host, absolute)


@pytest.mark.parametrize("host", ["", "a", "a.b.", "a:", "a:80", "127.0.0.1:1", "[::1]", "[::1]:99999", "x%20y", "a_b"])
def test_host_with_an_optional_port_is_accepted(host: str) -> None:
    for _ in range(2):  # once examined, once remembered
        assert _request("GET / HTTP/1.1", f"Host: {host}").host == host.encode()


def test_http10_needs_no_host() -> None:
    assert _request("GET / HTTP/1.0").host is None


_BAD_REQUESTS = [
    ("GET  / HTTP/1.1", ["Host: a"], "one space between"),
    ("GET /  HTTP/1.1", ["Host: a"], "one space between"),
    ("GET / HTTP/2.0", ["Host: a"], "version must be"),
    ("GET / HTTP/0.9", ["Host: a"], "version must be"),
    ("GET / HTTP/1.1", [], "must have a Host"),
    ("GET / HTTP/1.1", ["Host: a", "Host: a"], "one Host field"),
    ("GET / HTTP/1.1", ["Host: a b"], "Host field is not"),
    ("GET / HTTP/1.1", ["Host: a/b"], "Host field is not"),
    ("GET / HTTP/1.1", ["Host: u@a"], "Host field is not"),
    ("GET / HTTP/1.1", ["Host: a:80a"], "Host field is not"),
    ("GET / HTTP/1.1", ["Host: a:123456"], "Host field is not"),
    ("GET / HTTP/1.1", ["Host: [::1"], "Host field is not"),
    ("GET / HTTP/1.0", ["Host: a,b c"], "Host field is not"),
    ("GET /a#b HTTP/1.1", ["Host: a"], "fragment"),
    ("GET http://b/#c HTTP/1.1", ["Host: a"], "fragment"),
    ("GET * HTTP/1.1", ["Host: a"], "belongs to OPTIONS"),
    ("GET https://b/ HTTP/1.1", ["Host: a"], "must be a path, or an absolute http"),
    ("GET http:///x HTTP/1.1", ["Host: a"], "authority of the target"),
    ("GET http://u@b/ HTTP/1.1", ["Host: a"], "authority of the target"),
    ("GET http://b:x/ HTTP/1.1", ["Host: a"], "authority of the target"),
    ("GET http://b/ HTTP/1.1", [], "must have a Host"),
    ("CONNECT b HTTP/1.1", ["Host: a"], "host and a port"),
    ("CONNECT u@b:1 HTTP/1.1", ["Host: a"], "host and a port"),
    ("CONNECT b:1 HTTP/1.1", ["Host: a", "Content-Length: 1"], "no body"),
    ("CONNECT b:1 HTTP/1.1", ["Host: a", "Transfer-Encoding: chunked"], "no body"),
    ("POST / HTTP/1.0", ["Transfer-Encoding: chunked"], "no meaning in HTTP/1.0"),
    ("POST / HTTP/1.1", ["Host: a", "Content-Length: 1234567890123456789"], "one decimal number"),
    ("POST / HTTP/1.1", ["Host: a", "Transfer-Encoding: identity, chunked"], "chunked, once"),
    ("POST / HTTP/1.1", ["Host: a", "Transfer-Encoding: chunked, chunked"], "chunked, once"),
    ("POST / HTTP/1.1", ["Host: a", "Transfer-Encoding: ;, chunked"], "chunked, once"),
    ("POST / HTTP/1.1", ["Host: a", "Transfer-Encoding: , chunked"], "chunked, once"),
]


@pytest.mark.parametrize(("start", "fields", "words"), _BAD_REQUESTS)
def test_request_that_two_parsers_could_read_differently_is_refused(start: str, fields: list[str], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        _parsed_without_llhttp(start, fields)


def _parsed_without_llhttp(start: str, fields: list[str]) -> object:
    """Some of these llhttp refuses by itself, in this version; the proxy does not rely on that."""
    from sidecar.proxy.fields import kind_of

    lines = [field.encode("latin-1").partition(b":") for field in fields]
    notable = [(kind_of(name), name, value.strip(b" \t")) for name, _, value in lines if kind_of(name)]
    return parse_request_head(message(start, *fields), notable)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["Content-Length: 1", "Content-Length: 1"], "one decimal number"),
        (["Content-Length: +1"], "one decimal number"),
        (["Content-Length: "], "one decimal number"),
        (["Content-Length: 1", "Transfer-Encoding: chunked"], "exclude each other"),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], "chunked, once"),
        (["Transfer-Encoding: "], "chunked, once"),
    ],
)
def test_what_llhttp_refuses_is_refused_without_it_too(fields: list[str], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        _parsed_without_llhttp("POST / HTTP/1.1", ["Host: a", *fields])


@pytest.mark.parametrize("raw", [b"\rGET / HTTP/1.1\r\n\r\n", b"\nGET / HTTP/1.1\r\n\r\n", b"get / HTTP/1.1\r\n\r\n"])
def test_request_line_begins_with_a_method(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="must begin with a method"):
        parse_request_head(raw, [])


@pytest.mark.parametrize("method", ["TRACE", "PRI", "SOURCE", "DESCRIBE", "SETUP"])
def test_method_that_is_no_one_to_forward_is_refused(method: str) -> None:
    with pytest.raises(NotImplementedMethod, match=f"method {method} is not carried"):
        _parsed_without_llhttp(f"{method} / HTTP/1.1", ["Host: a"])


@pytest.mark.parametrize("coding", ["gzip, chunked", "br , gzip,chunked"])
def test_sound_transfer_coding_that_is_not_carried_is_501(coding: str) -> None:
    with pytest.raises(NotImplementedMethod, match="only transfer coding"):
        _request("POST / HTTP/1.1", "Host: a", f"Transfer-Encoding: {coding}")


def test_plain_response() -> None:
    head = _response("HTTP/1.1 200 OK", "Date: x", "Content-Length: 3")
    assert (head.status, head.line, head.http11, head.block) == (
        200,
        b"HTTP/1.1 200 OK",
        True,
        b"\r\nDate: x\r\nContent-Length: 3",
    )
    assert (head.content_length, head.chunked, head.keep_alive, head.dated) == (3, False, True, True)
    assert repr(head) == "<ResponseHead 200>"


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ("HTTP/1.1 200 OK", b"HTTP/1.1 200 OK"),
        ("HTTP/1.0 200 OK", b"HTTP/1.1 200 OK"),
        ("HTTP/1.1 200 ", b"HTTP/1.1 200 "),
        ("HTTP/1.1 200", b"HTTP/1.1 200 "),
        ("HTTP/1.1 999 \xe4\t!", b"HTTP/1.1 999 \xe4\t!"),
        ("HTTP/1.1 404 " + "x" * 80, b"HTTP/1.1 404 " + b"x" * 80),
    ],
)
def test_status_line_goes_on_under_our_version(line: str, ours: bytes) -> None:
    for _ in range(2):  # once examined, once remembered
        assert _response(line).line == ours


@pytest.mark.parametrize("status", [100, 103, 204])
def test_length_has_no_place_in_a_message_without_body(status: int) -> None:
    assert _response(f"HTTP/1.1 {status} X", "Content-Length: 0").hop_by_hop == [b"Content-Length"]


@pytest.mark.parametrize("status", [200, 205, 304, 404])
def test_length_stays_where_it_belongs(status: int) -> None:
    assert _response(f"HTTP/1.1 {status} X", "Content-Length: 0").hop_by_hop == []


def test_fields_of_the_hop_are_listed_as_spelled() -> None:
    head = _response(
        "HTTP/1.1 200 OK",
        "CONNECTION: x-a, close",
        "Keep-alive: 5",
        "Transfer-Encoding: chunked",
        "TE: x",
        "Upgrade: y",
    )
    assert head.hop_by_hop == [b"CONNECTION", b"Keep-alive", b"Transfer-Encoding", b"TE", b"Upgrade"]
    assert head.named == {b"x-a"}
    assert head.chunked


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (message("HTTP/1.1 000 X"), "status line"),
        (message("HTTP/1.1 099 X"), "status line"),
        (message("HTTP/1.1 20 X"), "status line"),
        (message("HTTP/2.0 200 X"), "status line"),
        (message("HTTP/1.1  200 X"), "status line"),
        (message("HTTP/1.1 200 a\x00b"), "status line"),
        (message("ICY 200 X"), "status line"),
    ],
)
def test_malformed_status_line_is_the_upstreams_failure(raw: bytes, words: str) -> None:
    from sidecar.proxy.framing import parse_response_head

    with pytest.raises(UpstreamFailure, match=words) as caught:
        parse_response_head(raw, [])
    assert caught.value.proxy_error == "http_protocol_error"


@pytest.mark.parametrize(
    ("start", "fields", "words"),
    [
        ("HTTP/1.1 200 OK", ["Transfer-Encoding: chunked, chunked"], "Transfer-Encoding"),
        ("HTTP/1.1 200 OK", ["Transfer-Encoding: gzip, chunked"], "Transfer-Encoding"),
        ("HTTP/1.1 200 OK", ["Transfer-Encoding: identity"], "Transfer-Encoding"),
        ("HTTP/1.1 200 OK", ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], "Transfer-Encoding"),
        ("HTTP/1.1 200 OK", ["Transfer-Encoding: chunked", "Content-Length: 2"], "Transfer-Encoding"),
        ("HTTP/1.0 200 OK", ["Transfer-Encoding: chunked"], "Transfer-Encoding"),
        ("HTTP/1.1 200 OK", ["Content-Length: 2", "Content-Length: 2"], "Content-Length"),
        ("HTTP/1.1 200 OK", ["Content-Length: -1"], "Content-Length"),
        ("HTTP/1.1 200 OK", ["Content-Length: 1234567890123456789"], "Content-Length"),
    ],
)
def test_ambiguous_framing_is_the_upstreams_failure(start: str, fields: list[str], words: str) -> None:
    from sidecar.proxy.fields import kind_of
    from sidecar.proxy.framing import parse_response_head

    lines = [field.encode().partition(b":") for field in fields]
    with pytest.raises(UpstreamFailure, match=words) as caught:
        parse_response_head(message(start, *fields), [(kind_of(name), name, value.strip()) for name, _, value in lines])
    assert caught.value.proxy_error == "http_protocol_error"
