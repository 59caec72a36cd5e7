"""The header fields that a proxy has to look at, and nothing about the others.

llhttp reports every field; nearly all of them travel on as the octets they came in. `kind_of` tells the few that do
not, at the price of one dict lookup per field, by remembering the spellings it has met.
"""

from __future__ import annotations

from typing import Final, NamedTuple

OTHER: Final = 0
HOST: Final = 1
CONNECTION: Final = 2
CONTENT_LENGTH: Final = 3
TRANSFER_ENCODING: Final = 4
HOP: Final = 5  # means something to the next hop only, and is removed whatever its value
TE: Final = 6
EXPECT: Final = 7
MAX_FORWARDS: Final = 8
FORWARDED_FOR: Final = 9
FORWARDED_PROTO: Final = 10
FORWARDED_HOST: Final = 11
FORWARDED: Final = 12
DATE: Final = 13
UPGRADE: Final = 14  # for the next hop only, unless it is passed on to be agreed to
UNDERSCORED: Final = 15  # may be another field's alias to an upstream that maps "-" to "_" (CGI, WSGI)

_KIND_BY_NAME: Final[dict[bytes, int]] = {
    b"host": HOST,
    b"connection": CONNECTION,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    # RFC 9110 section 7.6.1; Proxy-Authorization (11.7.2) is for the first proxy that asks, and we never ask.
    b"keep-alive": HOP,
    b"proxy-connection": HOP,
    b"proxy-authorization": HOP,
    b"upgrade": UPGRADE,
    b"http2-settings": HOP,
    b"te": TE,
    b"expect": EXPECT,
    b"max-forwards": MAX_FORWARDS,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-forwarded-host": FORWARDED_HOST,
    b"forwarded": FORWARDED,
    b"date": DATE,
}

ALIASED: Final = frozenset(_KIND_BY_NAME) | {b"authorization", b"cookie", b"via", b"x-forwarded-port", b"x-real-ip"}
"""Fields whose underscore spelling is always dropped, because upstreams decide by them."""

_UNSTRIPPABLE: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"via", b"connection", b"expect"})

_MAX_SPELLINGS: Final = 2048  # a bound on memory, not a limit: past it, spellings are classified each time
_MAX_SPELLING: Final = 48

kind_by_spelling: Final[dict[bytes, int]] = {}
"""Name as it was spelled on the wire to its kind. Look here first; call `kind_of` on a KeyError."""


def kind_of(name: bytes) -> int:
    """Classify a field name in any spelling, and remember the spelling.

    Args:
        name: the field name, octets as received.
    """
    kind = _KIND_BY_NAME.get(name.lower(), OTHER)
    if kind == OTHER and b"_" in name:
        kind = UNDERSCORED
    if len(kind_by_spelling) < _MAX_SPELLINGS and len(name) <= _MAX_SPELLING:
        kind_by_spelling[name] = kind
    return kind


def tokens(value: bytes) -> set[bytes]:
    """The lower-case members of a comma-separated list, empty ones left out (RFC 9110 section 5.6.1)."""
    return {token for part in value.lower().split(b",") if (token := part.strip(b" \t"))}


class ConnectionOptions(NamedTuple):
    """What the Connection fields of a message say (RFC 9110 section 7.6.1).

    Attributes:
        persist: True for keep-alive, False for close (which wins), None for neither.
        upgrade: the sender would like to speak another protocol (RFC 9110 section 7.8).
        named: lower-case names of fields that are for the next hop only. Those that frame or route the message are
            left out whatever the sender lists: taking them away on his word would make another message of it.
    """

    persist: bool | None
    upgrade: bool
    named: frozenset[bytes]


NO_OPTIONS: Final = ConnectionOptions(None, False, frozenset())


def connection_options(value: bytes) -> ConnectionOptions:
    """Read the value of Connection; several fields are joined by commas before."""
    known = _known_options.get(value)
    if known is not None:
        return known
    members = tokens(value)
    persist = False if b"close" in members else True if b"keep-alive" in members else None
    named = frozenset(members - _UNSTRIPPABLE - {b"close", b"keep-alive", b"upgrade", b"te"})
    return ConnectionOptions(persist, b"upgrade" in members, named)


# The values that nearly every message has, taken apart once.
_known_options: Final[dict[bytes, ConnectionOptions]] = {}
_known_options.update(
    {value: connection_options(value) for value in (b"keep-alive", b"Keep-Alive", b"close", b"Close", b"TE, close")}
)


FORBIDDEN_TRAILERS: Final = frozenset(
    # Framing, routing, authentication, request modifiers, response control and content handling must not be
    # acted on from a trailer (RFC 9110 section 6.5.1); a recipient that merges trailers would act on them.
    {
        b"age",
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"expect",
        b"expires",
        b"forwarded",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"location",
        b"max-forwards",
        b"pragma",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"range",
        b"retry-after",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"vary",
        b"via",
        b"warning",
        b"www-authenticate",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
    }
)


def render_trailers(trailers: list[tuple[bytes, bytes]]) -> bytes:
    """Field lines of the trailers that may travel on, each ended by CRLF; those that may not are dropped.

    An If-* precondition is a request modifier, hence the prefix test; a name with an underscore might be read
    as its hyphenated twin.
    """
    return b"".join(
        b"%b: %b\r\n" % (name, value)
        for name, value in trailers
        if (low := name.lower().replace(b"_", b"-")) not in FORBIDDEN_TRAILERS and not low.startswith(b"if-")
    )
