"""Heads rewritten from one side to the other."""

from __future__ import annotations

from ipaddress import ip_network

import httptools
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sidecar.errors import BadRequest, Refusal
from sidecar.proxy.fields import ALIASED
from sidecar.proxy.headers import (
    Forwarding,
    cut,
    max_forwards,
    replace,
    request_for_upstream,
    response_for_downstream,
    trace_id,
)
from tests.proxy.heads import headers_of, request_head, response_head
from tests.proxy.transcript import message

_LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
_HOST_LINE = b"\r\nHost: payments:8080"


def _forwarding(mode: str = "off", peer: str = "127.0.0.1", scheme: str = "http") -> Forwarding:
    return Forwarding(mode, peer, scheme, _LOOPBACK)


def _sent(
    *fields: str,
    start: str = "GET /a HTTP/1.1",
    host_line: bytes | None = _HOST_LINE,
    forwarding: Forwarding | None = None,
) -> list[str]:
    """The lines that go upstream for a request, less the request line and our Via."""
    raw = message(start, *fields)
    head = request_head(raw)
    octets = request_for_upstream(head, head.target, host_line, forwarding or _forwarding(), b"_" in raw)
    lines = octets.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    assert lines[0] == f"{head.method.decode()} {head.target.decode()} HTTP/1.1"
    lines.remove("Via: 1.1 sidecar" if head.http11 else "Via: 1.0 sidecar")
    return lines[1:]


def test_request_travels_as_it_came_with_host_rewritten_in_its_place() -> None:
    assert _sent("accept: */*", "HOST: app", "X-A:1", "X-A: \t2 ", "x-a: \xe9") == [
        "accept: */*",
        "Host: payments:8080",
        "X-A:1",
        "X-A: \t2 ",
        "x-a: \xe9",
    ]


def test_via_names_the_version_of_the_request_and_follows_earlier_ones() -> None:
    for version in ("1.1", "1.0"):
        head = request_head(message(f"GET / HTTP/{version}", "Host: a", "Via: 1.1 b"))
        octets = request_for_upstream(head, b"/", None, _forwarding(), False)
        assert octets == message("GET / HTTP/1.1", "Host: a", "Via: 1.1 b", f"Via: {version} sidecar")


@pytest.mark.parametrize(
    ("start", "fields", "host_line", "expected"),
    [
        ("GET / HTTP/1.1", ["Host: app:1"], None, "Host: app:1"),
        ("GET http://b:8/ HTTP/1.1", ["Host: app"], None, "Host: b:8"),
        ("GET http://b:8/ HTTP/1.1", ["Host: app"], _HOST_LINE, "Host: payments:8080"),
        ("GET / HTTP/1.0", [], _HOST_LINE, "Host: payments:8080"),
        ("GET / HTTP/1.0", [], None, "Host: "),
        ("GET http://b/ HTTP/1.0", [], None, "Host: b"),
        ("GET / HTTP/1.0", ["Host: app"], None, "Host: app"),
    ],
)
def test_host_is_rewritten_or_kept(start: str, fields: list[str], host_line: bytes | None, expected: str) -> None:
    assert _sent(*fields, start=start, host_line=host_line) == [expected]


@pytest.mark.parametrize(
    "field",
    [
        "Connection: close",
        "connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eA==",
        "Upgrade: h2c",
        "HTTP2-Settings: x",
        "TE: gzip",
        "TE: trailersx",
    ],
)
def test_field_of_the_hop_ends_here(field: str) -> None:
    assert _sent("Host: a", "X-A: 1", field, "X-B: 2") == ["Host: payments:8080", "X-A: 1", "X-B: 2"]


def test_fields_that_connection_names_end_here_in_every_spelling() -> None:
    assert _sent("x-A: 1", "Host: a", "Connection: X-A, close", "X-a: 2", "X-AB: 3", "Connection: x-b", "X-B: 4") == [
        "Host: payments:8080",
        "X-AB: 3",
    ]


def test_connection_cannot_take_away_what_frames_or_routes() -> None:
    assert _sent(
        "Host: a", "Connection: Host, Content-Length, Via", "Via: 1.1 b", "Content-Length: 1", start="POST / HTTP/1.1"
    ) == ["Host: payments:8080", "Via: 1.1 b", "Content-Length: 1"]


@pytest.mark.parametrize("te", ["trailers", "gzip;q=0.5, Trailers"])
def test_readiness_for_trailers_is_passed_on_as_our_own(te: str) -> None:
    assert _sent("Host: a", f"TE: {te}", "Connection: TE") == ["Host: payments:8080", "TE: trailers", "Connection: TE"]


def test_transfer_coding_is_our_own() -> None:
    assert _sent("transfer-ENCODING: Chunked", "Host: a", start="POST / HTTP/1.1") == [
        "Host: payments:8080",
        "Transfer-Encoding: chunked",
    ]


def test_expectation_goes_end_to_end_but_not_from_http10() -> None:
    fields = ("Host: a", "Content-Length: 1", "Expect: 100-continue")
    assert "Expect: 100-continue" in _sent(*fields, start="POST / HTTP/1.1")
    assert "Expect: 100-continue" not in _sent(*fields, start="POST / HTTP/1.0")


def test_max_forwards_counts_down_for_options_alone() -> None:
    assert _sent("Host: a", "max-forwards: 7", start="OPTIONS * HTTP/1.1")[1] == "Max-Forwards: 6"
    assert _sent("Host: a", "max-forwards: 7")[1] == "max-forwards: 7"


@pytest.mark.parametrize("value", ["", "-1", "1x", "1234567890", "\xb2"])
def test_max_forwards_that_is_no_number_is_refused(value: str) -> None:
    head = request_head(message("OPTIONS / HTTP/1.1", "Host: a", f"Max-Forwards: {value}"))
    with pytest.raises(BadRequest, match="Max-Forwards must be a number"):
        max_forwards(head)


def test_max_forwards_that_is_not_there() -> None:
    assert max_forwards(request_head(message("OPTIONS / HTTP/1.1", "Host: a"))) == -1


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        (["Content_Length: 5"], []),
        (["X_Forwarded_For: 1.1.1.1"], []),
        (["Transfer_encoding: chunked"], []),
        (["Cookie: a", "X_Real_Ip: 1.1.1.1"], ["Cookie: a"]),
        (["X-User: me", "X_User: you"], ["X-User: me"]),
        (["X_User: you", "X-USER: me"], ["X-USER: me"]),
        (["X_User: you"], ["X_User: you"]),
        (["X_User: you", "X_User: she"], ["X_User: you", "X_User: she"]),
        (["A-B_C: 1", "A_B-C: 2", "A-B-C: 3"], ["A-B-C: 3"]),
        (["Accept: a_b"], ["Accept: a_b"]),
    ],
)
def test_name_that_underscores_make_an_alias_is_dropped(fields: list[str], kept: list[str]) -> None:
    assert _sent("Host: a", *fields) == ["Host: payments:8080", *kept]


_OURS = ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: app"]
_STRANGERS = ["X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: app"]
_BROUGHT = [
    "X-Forwarded-For: 1.1.1.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: first",
    "Forwarded: for=1.1.1.1",
]


@pytest.mark.parametrize(
    ("mode", "peer", "brought", "expected"),
    [
        ("append", "127.0.0.1", [], _OURS),
        ("append", "10.0.0.1", [], _STRANGERS),
        (
            "append",
            "127.0.0.1",
            _BROUGHT,
            [
                "X-Forwarded-Proto: https",
                "X-Forwarded-Host: first",
                "Forwarded: for=1.1.1.1",
                "X-Forwarded-For: 1.1.1.1, 127.0.0.1",
            ],
        ),
        ("append", "10.0.0.1", _BROUGHT, _STRANGERS),
        ("replace", "127.0.0.1", [], _OURS),
        ("replace", "127.0.0.1", _BROUGHT, _OURS),
        ("replace", "10.0.0.1", _BROUGHT, _STRANGERS),
        ("off", "127.0.0.1", [], []),
        ("off", "127.0.0.1", _BROUGHT, _BROUGHT),
        ("off", "10.0.0.1", [], []),
        ("off", "10.0.0.1", _BROUGHT, []),
        (
            "append",
            "127.0.0.1",
            ["x-forwarded-for: 1.1.1.1, 2.2.2.2", "X-Forwarded-For:", "X-FORWARDED-FOR: 3.3.3.3"],
            ["X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 127.0.0.1", *_OURS[1:]],
        ),
        # Named by Connection they are for us alone; ours are still said.
        ("append", "127.0.0.1", [*_BROUGHT, "Connection: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host"],
         ["Forwarded: for=1.1.1.1", *_OURS]),
    ],
)  # fmt: skip
def test_forwarding_fields(mode: str, peer: str, brought: list[str], expected: list[str]) -> None:
    assert _sent("Host: app", *brought, forwarding=_forwarding(mode, peer)) == ["Host: payments:8080", *expected]


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        ("127.0.0.9", "127.0.0.9"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_peer_is_named_by_its_address_alone(peer: str, shown: str) -> None:
    assert f"X-Forwarded-For: {shown}" in _sent("Host: app", forwarding=_forwarding("append", peer))


def test_peer_in_an_ipv6_socket_is_trusted_by_its_ipv4_address() -> None:
    lines = _sent("Host: app", _BROUGHT[0], forwarding=_forwarding("append", "::ffff:127.0.0.1"))
    assert "X-Forwarded-For: 1.1.1.1, 127.0.0.1" in lines


def test_forwarded_host_follows_the_requests_host_not_the_first_ones() -> None:
    forwarding = _forwarding("append")
    for host in ("a", "b", "b", "a"):
        assert f"X-Forwarded-Host: {host}" in _sent(f"Host: {host}", forwarding=forwarding)
    assert _sent(start="GET / HTTP/1.0", forwarding=forwarding) == ["Host: payments:8080", *_OURS[:2]]
    assert _sent(_BROUGHT[0], start="GET / HTTP/1.0", forwarding=_forwarding("replace")) == [
        "Host: payments:8080",
        *_OURS[:2],
    ]


def test_scheme_is_the_listeners() -> None:
    assert "X-Forwarded-Proto: https" in _sent("Host: a", forwarding=_forwarding("append", scheme="https"))


def _passed_on(start: str, *fields: str, chunked: bool = False, connection: bool | None = None) -> bytes:
    return response_for_downstream(response_head(message(start, *fields)), chunked, connection)


def test_response_travels_as_it_came() -> None:
    assert _passed_on("HTTP/1.1 200 OK", "DATE: x", "Set-Cookie: a", "X-A:1", "Set-Cookie: b") == message(
        "HTTP/1.1 200 OK", "DATE: x", "Set-Cookie: a", "X-A:1", "Set-Cookie: b", "Via: 1.1 sidecar"
    )


def test_fields_of_the_hop_end_here_on_the_way_back() -> None:
    assert _passed_on(
        "HTTP/1.0 404 No",
        "Connection: keep-alive, X-A",
        "Date: x",
        "Keep-Alive: timeout=5",
        "x-a: 1",
        "Upgrade: h2c",
        "Proxy-Authenticate: Basic",
        "Content-Length: 0",
    ) == message("HTTP/1.1 404 No", "Date: x", "Proxy-Authenticate: Basic", "Content-Length: 0", "Via: 1.0 sidecar")


@pytest.mark.parametrize(
    ("chunked", "connection", "own"),
    [
        (False, None, []),
        (True, None, ["Transfer-Encoding: chunked"]),
        (False, True, ["Connection: keep-alive"]),
        (True, False, ["Transfer-Encoding: chunked", "Connection: close"]),
    ],
)
def test_framing_and_persistence_are_our_own(chunked: bool, connection: bool | None, own: list[str]) -> None:
    octets = _passed_on(
        "HTTP/1.1 200 OK", "Date: x", "Transfer-Encoding: chunked", chunked=chunked, connection=connection
    )
    assert octets == message("HTTP/1.1 200 OK", "Date: x", "Via: 1.1 sidecar", *own)


def test_date_is_added_to_a_final_response_without_one() -> None:
    assert b"\r\nDate: " in _passed_on("HTTP/1.1 200 OK", "Content-Length: 0")
    assert b"\r\nDate: " not in _passed_on("HTTP/1.1 103 Early Hints", "Link: x")


@pytest.mark.parametrize(
    ("block", "name", "left"),
    [
        (b"\r\nA: 1\r\nB: 2", b"A", b"\r\nB: 2"),
        (b"\r\nA: 1\r\nB: 2", b"B", b"\r\nA: 1"),
        (b"\r\nA: 1\r\nA: 2", b"A", b"\r\nA: 2"),
        (b"\r\nAB: 1\r\nX: A:", b"A", b"\r\nAB: 1\r\nX: A:"),
    ],
)
def test_cut_takes_the_first_line_of_that_spelling(block: bytes, name: bytes, left: bytes) -> None:
    assert cut(block, name) == left


def test_replace_keeps_the_place() -> None:
    assert replace(b"\r\nA: 1\r\nB: 2", b"A", b"\r\nC: 3") == b"\r\nC: 3\r\nB: 2"
    assert replace(b"\r\nA: 1\r\nB: 2", b"B", b"\r\nC: 3") == b"\r\nA: 1\r\nC: 3"


# -- any set of fields

_HOP = {"connection", "keep-alive", "proxy-connection", "proxy-authorization", "upgrade", "http2-settings", "te"}
_SPECIAL = sorted(_HOP | {"x-a", "x-b", "x_a", "x_b", "content_length", "accept", "via", "cookie", "expect", "date"})


@st.composite
def _spelled(draw: st.DrawFn) -> str:
    name = draw(st.one_of(st.sampled_from(_SPECIAL), st.text("abAB-_1!~", min_size=1, max_size=5)))
    return "".join(draw(st.sampled_from((letter.lower(), letter.upper()))) for letter in name)


_VALUE = st.one_of(
    st.sampled_from(["", "x", "close", "keep-alive", "X-A", "x-b, X-a", "trailers", "gzip", "Host", "X_a"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, blacklist_characters="\x7f"), max_size=8).map(str.strip),
)
_FIELDS = st.lists(st.tuples(_spelled(), _VALUE), max_size=10)


def _members(value: str) -> set[str]:
    return {member for part in value.lower().split(",") if (member := part.strip(" \t"))}


def _named(fields: list[tuple[str, str]]) -> set[str]:
    members = {member for name, value in fields if name.lower() == "connection" for member in _members(value)}
    return members - {"host", "content-length", "transfer-encoding", "via", "connection", "close", "keep-alive"}


@given(_FIELDS)
@example([("X-A", ""), ("x-a", "1"), ("Connection", "x-a"), ("X_A", "2")])
def test_whatever_is_not_of_the_hop_nor_ours_travels_with_octets_and_order_kept(fields: list[tuple[str, str]]) -> None:
    raw = message("GET / HTTP/1.1", "Host: app", *(f"{name}: {value}" for name, value in fields))
    try:
        head = request_head(raw)
    except (Refusal, httptools.HttpParserError):
        assume(False)
    named = _named(fields)
    left = [
        (name, value)
        for name, value in fields
        if name.lower() not in _HOP and (name.lower() not in named or name.lower() in ("te", "upgrade"))
    ]
    present = {"host"} | {name.lower() for name, _ in left}
    expected = [
        (name, value)
        for name, value in left
        if "_" not in name or ((twin := name.lower().replace("_", "-")).encode() not in ALIASED and twin not in present)
    ]
    trailers = any(name.lower() == "te" and "trailers" in _members(value) for name, value in fields)
    own = [("TE", "trailers"), ("Connection", "TE")] if trailers else []
    octets = request_for_upstream(head, b"/", _HOST_LINE, _forwarding(), b"_" in raw)
    lines = [("Host", "payments:8080"), *expected, *own, ("Via", "1.1 sidecar")]
    assert octets == message("GET / HTTP/1.1", *(f"{name}: {value}" for name, value in lines))
    assert headers_of(octets) == [(n.encode("latin-1"), v.strip(" \t").encode("latin-1")) for n, v in lines]


@given(_FIELDS)
def test_on_the_way_back_too(fields: list[tuple[str, str]]) -> None:
    raw = message("HTTP/1.1 200 OK", "Date: x", *(f"{name}: {value}" for name, value in fields))
    try:
        head = response_head(raw)
    except (Refusal, httptools.HttpParserError):
        assume(False)
    named = _named(fields)
    kept = [
        (name, value)
        for name, value in [("Date", "x"), *fields]
        if name.lower() not in _HOP and name.lower() not in named
    ]
    lines = [*(f"{name}: {value}" for name, value in kept), "Via: 1.1 sidecar"]
    assert response_for_downstream(head, False, None) == message("HTTP/1.1 200 OK", *lines)


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("traceparent", "valid"),
    [
        ("00-{t}-00f067aa0ba902b7-01", True),
        ("00-{t}-00f067aa0ba902b7-00", True),
        ("01-{t}-00f067aa0ba902b7-ff", True),
        ("fe-{t}-00f067aa0ba902b7-01-more-of-it", True),
        ("fe-{t}-00f067aa0ba902b7-01-", True),
        ("fe-{t}-00f067aa0ba902b7-01.", False),
        ("00-{t}-00f067aa0ba902b7-01-", False),
        ("00-{t}-00f067aa0ba902b7-01-more", False),
        ("ff-{t}-00f067aa0ba902b7-01", False),
        ("0-{t}-00f067aa0ba902b7-01", False),
        ("0A-{t}-00f067aa0ba902b7-01", False),
        ("00-{t}-0000000000000000-01", False),
        ("00-{t}-00f067aa0ba902b-01", False),
        ("00-{t}-00f067aa0ba902b7", False),
        ("00-{t}-00f067aa0ba902b7-1", False),
        ("00-{t}-00f067aa0ba902b7-0g", False),
        ("00-{t}-00F067AA0BA902B7-01", False),
        ("  00-{t}-00f067aa0ba902b7-01 ", True),
        ("00-{t}0-00f067aa0ba902b7-01", False),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", False),
        ("00-" + TRACE.upper() + "-00f067aa0ba902b7-01", False),
        ("00-" + TRACE[:-1] + "-00f067aa0ba902b7-01", False),
        ("", False),
    ],
)
def test_trace_id_is_that_of_a_valid_traceparent(traceparent: str, valid: bool) -> None:
    line = f"Traceparent: {traceparent.format(t=TRACE)}".encode()
    assert trace_id(b"\r\nHost: app\r\n" + line + b"\r\nX: y") == (TRACE if valid else None)


def test_no_traceparent_has_no_trace_id() -> None:
    assert trace_id(b"\r\nHost: app\r\nX-Traceparent: 00-" + TRACE.encode() + b"-00f067aa0ba902b7-01") is None
