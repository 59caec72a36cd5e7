"""Heads of requests and responses: what they say about framing, and what of it is refused.

llhttp has already parsed the octets when these functions run; it enforces token and field-value characters, CRLF,
Content-Length syntax and the exclusion of Content-Length with Transfer-Encoding. What it lets through and a proxy
must not is refused here: anything that the next parser could read differently (RFC 9112 sections 2.2, 3, 6 and
11.2), before a single octet has gone upstream.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.errors import BadRequest, NotImplementedMethod, UpstreamFailure
from sidecar.proxy.fields import (
    CONNECTION,
    CONTENT_LENGTH,
    DATE,
    EXPECT,
    HOP,
    HOST,
    NO_OPTIONS,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    ConnectionOptions,
    connection_options,
    tokens,
)

Field = tuple[int, bytes, bytes]
"""Kind (see `fields`), name as spelled, value without surrounding white space."""

# reg-name, IPv4 or bracketed IPv6, and a port (RFC 9110 section 4.2.1 by way of RFC 3986 section 3.2.2). No userinfo.
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?")
_known_hosts: Final[set[bytes]] = set()
_MAX_KNOWN_HOSTS: Final = 1024  # a bound on memory; an application names few hosts
# Of a WebSocket as well, which some clients ask a proxy for by its own scheme (RFC 6455 section 3).
_ABSOLUTE: Final = re.compile(rb"(?:http|ws)://([^/?]*)(.*)", re.IGNORECASE)
_CODING: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t \x21-\x7e\x80-\xff]*))?")

# Methods that llhttp knows because it also reads RTSP, or that are no method of a request to forward.
_FOREIGN_METHODS: Final = frozenset(
    {
        b"ANNOUNCE",
        b"DESCRIBE",
        b"FLUSH",
        b"GET_PARAMETER",
        b"PAUSE",
        b"PLAY",
        b"PRI",
        b"RECORD",
        b"REDIRECT",
        b"SETUP",
        b"SET_PARAMETER",
        b"SOURCE",
        b"TEARDOWN",
        b"TRACE",  # reflects credentials to whoever asks; no application needs it through a sidecar
    }
)


class RequestHead:
    """A request's head.

    Attributes:
        method: as it came.
        target: as it came, or in origin-form where it came in absolute-form.
        http11: HTTP/1.1 rather than 1.0.
        block: the field lines as they came, each led by CRLF, without an end.
        fields: those that a proxy must look at.
        host: value of Host, or the authority of an absolute-form target; None where an HTTP/1.0 request has none.
        absolute: the target came in absolute-form, so Host must be written anew.
        content_length: octets of body announced; 0 for none.
        chunked: the body is in the chunked coding.
        keep_alive: the application wants the connection to persist.
        options: what Connection says.
        expects_continue: the application waits for 100 before it sends its body.
        upgrade: the protocols that it would rather speak, and may; None for none.
    """

    __slots__ = (
        "absolute",
        "block",
        "chunked",
        "content_length",
        "expects_continue",
        "fields",
        "host",
        "http11",
        "keep_alive",
        "method",
        "options",
        "target",
        "upgrade",
    )

    method: bytes
    target: bytes
    http11: bool
    block: bytes
    fields: list[Field]
    host: bytes | None
    absolute: bool
    content_length: int
    chunked: bool
    keep_alive: bool
    options: ConnectionOptions
    expects_continue: bool
    upgrade: bytes | None

    def __repr__(self) -> str:
        return f"<RequestHead {self.method.decode('latin-1')} {self.target.decode('latin-1')}>"


def parse_request_head(raw: bytes, fields: list[Field]) -> RequestHead:
    """Read a request's head that llhttp has accepted.

    Args:
        raw: the head, from the first octet of the request line to the empty line inclusive.
        fields: its notable fields, in order.

    Raises:
        BadRequest: the head is one that two parsers could read differently.
        NotImplementedMethod: the method or the transfer coding is not carried.
    """
    eol = raw.find(b"\r\n")
    if not 65 <= raw[0] <= 90:  # llhttp skips a lone CR or LF in front; all its methods begin with a capital
        raise BadRequest("the request line must begin with a method")
    try:
        method, target, version = raw[:eol].split(b" ")
    except ValueError:
        raise BadRequest("the request line must be a method, a target and a version, with one space between") from None
    head = RequestHead()
    if version == b"HTTP/1.1":
        http11 = True
    elif version == b"HTTP/1.0":
        http11 = False
    else:
        raise BadRequest("the version must be HTTP/1.1 or HTTP/1.0")
    host: bytes | None = None
    length: int | None = None
    encodings: list[bytes] | None = None
    connection: bytes | None = None
    upgrade: bytes | None = None
    expects = False
    for kind, name, value in fields:
        if kind == HOST:
            if host is not None:
                raise BadRequest("there must be one Host field")
            host = value
        elif kind == CONTENT_LENGTH:
            if length is not None or not value.isdigit() or len(value) > 18:
                raise BadRequest("Content-Length must be one decimal number")
            length = int(value)
        elif kind == CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif kind == TRANSFER_ENCODING:
            encodings = [*(encodings or ()), value]
        elif kind == EXPECT:
            expects = http11 and value.lower() == b"100-continue"
        elif kind == UPGRADE:
            upgrade = value if upgrade is None else upgrade + b", " + value
        elif kind == HOP and name.lower() == b"proxy-connection" and b"close" in tokens(value):
            connection = b"close" if connection is None else connection + b",close"  # llhttp heeds it as well
    if method in _FOREIGN_METHODS:
        raise NotImplementedMethod(f"the method {method.decode('ascii')} is not carried")
    head.method = method
    head.http11 = http11
    head.block = raw[eol:-4]
    head.fields = fields
    head.options = options = NO_OPTIONS if connection is None else connection_options(connection)
    head.keep_alive = http11 if options.persist is None else options.persist
    head.chunked = False
    if encodings is not None:
        _check_request_codings(encodings, http11, length)
        head.chunked = True
    head.content_length = length or 0
    head.expects_continue = expects and (head.chunked or head.content_length > 0)
    head.upgrade = None if upgrade is None else _upgrade(head, upgrade)
    head.absolute = False
    if target[:1] != b"/":  # every other form is rare; llhttp lets an empty one through behind CONNECT
        target, host = _other_form(head, target, host)
    elif target.find(b"#") >= 0:  # not `in`, which for bytes first tries the needle as an integer
        raise BadRequest("the target must not have a fragment")
    if host is None:
        if http11:
            raise BadRequest("an HTTP/1.1 request must have a Host field")
    elif host not in _known_hosts:
        _check_host(host)
    head.target = target
    head.host = host
    return head


def _upgrade(head: RequestHead, protocols: bytes) -> bytes | None:
    """The protocols that a request may be upgraded to; None where it goes plainly.

    One with a body does: it would have to be read to its end before anything could switch. And so does one that asks
    for HTTP/2: behind its 101 any number of requests could pass that no policy sees.
    """
    if not (head.http11 and head.options.upgrade) or head.chunked or head.content_length or head.method == b"CONNECT":
        return None
    names = {token.partition(b"/")[0] for token in tokens(protocols)}
    return protocols if names and names.isdisjoint(_NO_UPGRADES) else None


_NO_UPGRADES: Final = frozenset({b"h2c", b"h2", b"http"})


def _check_host(host: bytes) -> None:
    if not _HOST.fullmatch(host):
        raise BadRequest("the Host field is not a host name with an optional port")
    if len(_known_hosts) < _MAX_KNOWN_HOSTS and len(host) <= 128:
        _known_hosts.add(host)


def _check_request_codings(encodings: list[bytes], http11: bool, length: int | None) -> None:
    if not http11:
        raise BadRequest("Transfer-Encoding has no meaning in HTTP/1.0")
    if length is not None:
        raise BadRequest("Content-Length and Transfer-Encoding exclude each other")
    codings = [coding.strip(b" \t") for value in encodings for coding in value.lower().split(b",")]
    if codings == [b"chunked"]:
        return
    sound = all(_CODING.fullmatch(coding) for coding in codings)
    if sound and codings[-1] == b"chunked" and not {b"chunked", b"identity"} & set(codings[:-1]):
        raise NotImplementedMethod("the only transfer coding carried is chunked")  # RFC 9112 section 6.1
    raise BadRequest("Transfer-Encoding must be chunked, once")


def _other_form(head: RequestHead, target: bytes, host: bytes | None) -> tuple[bytes, bytes | None]:
    """Target in origin-form, and Host, of a request in absolute, authority or asterisk form (RFC 9112 section 3.2)."""
    if head.method == b"CONNECT":
        if head.content_length or head.chunked:
            raise BadRequest("CONNECT has no body")
        if not _HOST.fullmatch(target) or b":" not in target:
            raise BadRequest("the target of CONNECT is a host and a port")
        return target, host
    if target == b"*":
        if head.method != b"OPTIONS":
            raise BadRequest("the target * belongs to OPTIONS")
        return target, host
    match = _ABSOLUTE.fullmatch(target)
    if match is None or b"#" in target:
        raise BadRequest("the target must be a path, or an absolute http:// URI without a fragment")
    if host is None and head.http11:
        raise BadRequest("an HTTP/1.1 request must have a Host field")
    authority, path = match.groups()
    if not authority or not _HOST.fullmatch(authority):
        raise BadRequest("the authority of the target is not a host name with an optional port")
    head.absolute = True
    if not path:
        path = b"*" if head.method == b"OPTIONS" else b"/"  # RFC 9112 section 3.2.4
    elif path[0] != 47:
        path = b"/" + path
    return path, authority


class ResponseHead:
    """A response's head.

    Attributes:
        status: 100 to 999.
        line: the status line under our own version, as it goes to the application.
        http11: the upstream speaks HTTP/1.1 rather than 1.0.
        block: as in `RequestHead`.
        hop_by_hop: names, as spelled, of the field lines that end here.
        content_length: octets of body announced, or None.
        chunked: the body is in the chunked coding.
        keep_alive: the upstream lets its connection persist.
        named: lower-case names of further fields that Connection makes hop-by-hop.
        dated: it has a Date.
        upgrade: the protocol that it switches to; None where it says nothing of one.
    """

    __slots__ = (
        "block",
        "chunked",
        "content_length",
        "dated",
        "hop_by_hop",
        "http11",
        "keep_alive",
        "line",
        "named",
        "status",
        "upgrade",
    )

    status: int
    line: bytes
    http11: bool
    block: bytes
    hop_by_hop: list[bytes]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    named: frozenset[bytes]
    dated: bool
    upgrade: bytes | None

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status}>"


def check_switch(asked: RequestHead, head: ResponseHead) -> None:
    """See to it that a 101 switches to what was asked for (RFC 9110 section 15.2.2).

    Raises:
        UpstreamFailure: nobody asked for it.
    """
    if asked.upgrade is None:
        raise UpstreamFailure("the upstream switched protocols, which nobody asked for", "http_protocol_error")
    names = tokens(head.upgrade or b"")
    if not names or not names <= tokens(asked.upgrade):
        raise UpstreamFailure("the upstream switched to a protocol that was not asked for", "http_protocol_error")


_status_lines: dict[bytes, tuple[int, bool, bytes]] = {}
_MAX_STATUS_LINES: Final = 512


def _status_line(line: bytes) -> tuple[int, bool, bytes]:
    """Status, version and our own form of a status line; well-formed short ones are remembered."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamFailure("the upstream's status line is malformed", "http_protocol_error")
    minor, status, reason = match.groups()
    result = (int(status), minor == b"1", b"HTTP/1.1 %b %b" % (status, reason or b""))
    if len(line) <= 64 and len(_status_lines) < _MAX_STATUS_LINES:
        _status_lines[line] = result
    return result


def parse_response_head(raw: bytes, fields: list[Field]) -> ResponseHead:
    """Read a response's head that llhttp has accepted.

    Args:
        raw: the head, from the status line to the empty line inclusive.
        fields: its notable fields, in order.

    Raises:
        UpstreamFailure: the head is malformed or its framing ambiguous.
    """
    eol = raw.find(b"\r\n")
    line = raw[:eol]
    head = ResponseHead()
    known = _status_lines.get(line)
    head.status, http11, head.line = known if known is not None else _status_line(line)
    length: int | None = None
    encodings: list[bytes] | None = None
    connection: bytes | None = None
    hop_by_hop: list[bytes] = []
    upgrade: bytes | None = None
    dated = False
    for kind, name, value in fields:
        if kind == CONTENT_LENGTH:
            if length is not None or not value.isdigit() or len(value) > 18:
                raise UpstreamFailure("the upstream's Content-Length is not one decimal number", "http_protocol_error")
            length = int(value)
        elif kind == DATE:
            dated = True
        elif kind == CONNECTION:
            hop_by_hop.append(name)
            connection = value if connection is None else connection + b"," + value
        elif kind == TRANSFER_ENCODING:
            hop_by_hop.append(name)
            encodings = [*(encodings or ()), value]
        elif kind == UPGRADE:
            hop_by_hop.append(name)
            upgrade = value if upgrade is None else upgrade + b", " + value
        elif kind == HOP or kind == TE:
            hop_by_hop.append(name)
            if name.lower() == b"proxy-connection" and b"close" in tokens(value):
                connection = b"close" if connection is None else connection + b",close"  # llhttp heeds it as well
    if length is not None and head.status < 205 and head.status != 200:
        hop_by_hop.extend(_lengths_that_must_not_be(head.status, fields))
    head.http11 = http11
    head.block = raw[eol:-4]
    head.hop_by_hop = hop_by_hop
    head.content_length = length
    head.dated = dated
    head.upgrade = upgrade
    options = NO_OPTIONS if connection is None else connection_options(connection)
    head.named = options.named
    head.keep_alive = http11 if options.persist is None else options.persist
    head.chunked = False
    if encodings is not None:
        if not http11 or length is not None or [value.lower() for value in encodings] != [b"chunked"]:
            raise UpstreamFailure("the upstream's Transfer-Encoding cannot be relied on", "http_protocol_error")
        head.chunked = True
    return head


def _lengths_that_must_not_be(status: int, fields: list[Field]) -> list[bytes]:
    """Content-Length has no place in 1xx and 204 (RFC 9110 section 8.6)."""
    return [name for kind, name, _ in fields if kind == CONTENT_LENGTH] if status < 200 or status == 204 else []
