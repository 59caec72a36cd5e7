"""Heads rewritten from one side to the other (RFC 9110 section 7.6).

The field lines are one run of octets, `block`, each line led by CRLF. Lines that must go are cut out of it, lines of
our own come behind it; everything else travels as it came, in name, order and octets. Most requests lose or change
one line (Host) and most responses one (Connection).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from sidecar.errors import BadRequest
from sidecar.proxy.answers import NAME, date_line
from sidecar.proxy.fields import (
    ALIASED,
    CONNECTION,
    EXPECT,
    FORWARDED,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    HOP,
    HOST,
    MAX_FORWARDS,
    TE,
    TRANSFER_ENCODING,
    UNDERSCORED,
    UPGRADE,
    tokens,
)
from sidecar.proxy.framing import RequestHead, ResponseHead

_VIA_11: Final = b"\r\nVia: 1.1 " + NAME.encode("ascii")
_VIA_10: Final = b"\r\nVia: 1.0 " + NAME.encode("ascii")
_END: Final = b"\r\n\r\n"
_CHUNKED: Final = b"\r\nTransfer-Encoding: chunked"
_CLOSE: Final = b"\r\nConnection: close"
_KEEP_ALIVE: Final = b"\r\nConnection: keep-alive"
# Versions behind 00 may have more than we know (section 3.2).
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-.*)?",
    re.DOTALL,
)


def cut(block: bytes, name: bytes) -> bytes:
    """`block` without its first line whose name is spelled `name`."""
    start = block.find(b"\r\n" + name + b":")
    if start < 0:
        return block
    end = block.find(b"\r\n", start + 2)
    return block[:start] + block[end:] if end >= 0 else block[:start]


def replace(block: bytes, name: bytes, line: bytes) -> bytes:
    """`block` with `line`, led by CRLF, in place of its first line whose name is spelled `name`."""
    start = block.find(b"\r\n" + name + b":")
    end = block.find(b"\r\n", start + 2)
    return block[:start] + line + block[end:] if end >= 0 else block[:start] + line


def without(block: bytes, names: frozenset[bytes]) -> bytes:
    """`block` without the lines whose lower-case name is in `names`."""
    lines = block.split(b"\r\n")[1:]
    return b"".join(b"\r\n" + line for line in lines if line.partition(b":")[0].lower() not in names)


class Forwarding:
    """What the X-Forwarded family says about one downstream connection.

    Args:
        mode: append, replace or off.
        peer: the application's address in text; "127.0.0.1" for a Unix socket.
        scheme: http or https, as the listener speaks.
        trusted_proxies: networks whose X-Forwarded fields are believed.
    """

    __slots__ = ("_for", "_host", "_lines", "_mode", "_proto", "_trusted")

    def __init__(self, mode: str, peer: str, scheme: str, trusted_proxies: Sequence[IPv4Network | IPv6Network]) -> None:
        address = ip_address(peer.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        if mapped is not None:  # an IPv4 peer on an IPv6 socket
            address = mapped
        self._mode = mode
        self._trusted = any(address in network for network in trusted_proxies)
        self._for = str(address).encode("ascii")
        self._proto = scheme.encode("ascii")
        self._host: bytes | None = None
        self._lines = b""

    def lines(self, host: bytes | None) -> bytes:
        """Our own lines for a request that brought none; the last are kept, since Host rarely changes."""
        if self._mode == "off":
            return b""
        if host != self._host or not self._lines:
            self._lines = b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b" % (self._for, self._proto)
            if host:
                self._lines += b"\r\nX-Forwarded-Host: " + host
            self._host = host
        return self._lines

    def merge(self, head: RequestHead, block: bytes) -> tuple[bytes, bytes]:
        """Block and own lines for a request that brought some of the family itself."""
        brought = [field for field in head.fields if FORWARDED_FOR <= field[0] <= FORWARDED]
        believed = self._trusted and self._mode != "replace"
        if self._mode == "off":
            if not believed:
                for _, name, _ in brought:
                    block = cut(block, name)
            return block, b""
        chain = [self._for]
        kinds = set()
        named = head.options.named
        for kind, name, value in brought:
            if not believed or name.lower() in named:
                block = cut(block, name)
            elif kind == FORWARDED_FOR:
                block = cut(block, name)
                if value:
                    chain.insert(-1, value)
            else:
                kinds.add(kind)
        lines = b"\r\nX-Forwarded-For: " + b", ".join(chain)
        if FORWARDED_PROTO not in kinds:
            lines += b"\r\nX-Forwarded-Proto: " + self._proto
        if FORWARDED_HOST not in kinds and head.host:
            lines += b"\r\nX-Forwarded-Host: " + head.host
        return block, lines


def request_for_upstream(
    head: RequestHead, target: bytes, host_line: bytes | None, forwarding: Forwarding, raw_has_underscore: bool
) -> bytes:
    """The head that goes upstream.

    Args:
        head: as the application sent it.
        target: as the upstream shall see it.
        host_line: the Host line to write, led by CRLF; None keeps the application's.
        forwarding: the connection's X-Forwarded lines.
        raw_has_underscore: the head holds an underscore somewhere, so aliases are worth a look.

    Raises:
        BadRequest: a field that the proxy must act on is malformed.
    """
    block = head.block
    own = b""
    family = hosted = trailers = False
    for kind, name, value in head.fields:
        if kind == HOST:
            hosted = True
            if host_line is not None:
                block = replace(block, name, host_line)
            elif head.absolute:
                block = replace(block, name, b"\r\nHost: %b" % (head.host or b""))
        elif kind == CONNECTION or kind == HOP or kind == UPGRADE:
            block = cut(block, name)
        elif kind == TRANSFER_ENCODING:
            block = cut(block, name)
            own = _CHUNKED
        elif FORWARDED_FOR <= kind <= FORWARDED:
            family = True
        elif kind == TE:
            block = cut(block, name)
            trailers = trailers or b"trailers" in tokens(value)
        elif kind == EXPECT:
            if not head.http11:
                block = cut(block, name)
        elif kind == MAX_FORWARDS and head.method == b"OPTIONS":
            block = replace(block, name, b"\r\nMax-Forwards: %d" % (max_forwards(head) - 1))
    if head.options.named:
        block = without(block, head.options.named)
    if head.upgrade is not None:
        own += b"\r\nConnection: Upgrade\r\nUpgrade: " + head.upgrade
    elif trailers:
        own += b"\r\nTE: trailers\r\nConnection: TE"  # RFC 9110 section 10.1.4
    if raw_has_underscore:
        block = _without_aliases(head, block)
    if not hosted:
        if host_line is not None:
            own = host_line + own
        elif head.host is not None:
            own = b"\r\nHost: %b" % head.host + own
        else:
            own = b"\r\nHost: " + own
    if family:
        block, forwarded = forwarding.merge(head, block)
    else:
        forwarded = forwarding.lines(head.host)
    via = _VIA_11 if head.http11 else _VIA_10
    return b"".join((head.method, b" ", target, b" HTTP/1.1", block, own, via, forwarded, _END))


def trace_id(block: bytes) -> str | None:
    """The trace that a request belongs to, by its traceparent (W3C Trace Context, level 1); None without a valid one.

    Args:
        block: its field lines.
    """
    at = block.find(b"\r\ntraceparent:")  # as nearly everybody spells it
    if at < 0:
        at = block.lower().find(b"\r\ntraceparent:")
        if at < 0:
            return None
    value = block[at + 14 :].partition(b"\r\n")[0].strip(b" \t")
    match = _TRACEPARENT.fullmatch(value)
    if match is None or (match["version"] == b"00" and match["more"] is not None):
        return None
    return match["trace"].decode("ascii")


def max_forwards(head: RequestHead) -> int:
    """The value of an OPTIONS request's Max-Forwards, or -1 where it has none (RFC 9110 section 7.6.2).

    Raises:
        BadRequest: it is not a number.
    """
    values = [value for kind, _, value in head.fields if kind == MAX_FORWARDS]
    if not values:
        return -1
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > 9:
        raise BadRequest("Max-Forwards must be a number, stated once")
    return int(values[0])


def _without_aliases(head: RequestHead, block: bytes) -> bytes:
    """Drop names with underscores that an upstream could take for another field of this request."""
    underscored = [name for kind, name, _ in head.fields if kind == UNDERSCORED]
    if not underscored:
        return block
    present = {line.partition(b":")[0].lower() for line in block.split(b"\r\n")[1:]}
    for name in underscored:
        twin = name.lower().replace(b"_", b"-")
        if twin in ALIASED or twin in present:
            block = cut(block, name)
    return block


def switching_for_downstream(head: ResponseHead) -> bytes:
    """The head of a 101 that goes to the application (RFC 9110 section 15.2.2)."""
    octets = response_for_downstream(head, chunked=False, connection=None)
    return b"%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (octets[:-2], head.upgrade or b"")


def response_for_downstream(head: ResponseHead, chunked: bool, connection: bool | None) -> bytes:
    """The head that goes to the application.

    Args:
        head: as the upstream sent it.
        chunked: our own framing is chunked.
        connection: True announces keep-alive (to HTTP/1.0), False announces close, None says nothing.
    """
    block = head.block
    for name in head.hop_by_hop:
        block = cut(block, name)
    if head.named:
        block = without(block, head.named)
    via = _VIA_11 if head.http11 else _VIA_10
    if head.dated and not chunked and connection is None:
        return b"".join((head.line, block, via, _END))
    date = date_line() if not head.dated and head.status >= 200 else b""  # RFC 9110 section 6.6.1
    ending = b"" if connection is None else _KEEP_ALIVE if connection else _CLOSE
    return b"".join((head.line, block, via, date, _CHUNKED if chunked else b"", ending, _END))
