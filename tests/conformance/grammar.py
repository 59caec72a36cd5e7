"""The productions of RFC 9110 and 9112 that both strict parsers share.

They are narrower than what a tolerant server reads: the recording upstream stands in for whichever
implementation is least forgiving, because that is the one a smuggled request is aimed at.
"""

from __future__ import annotations

import re

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

# RFC 9112 section 3. The target is any run of octets without controls and spaces: which form it has is
# the case's business, not the parser's.
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([^\x00-\x20\x7f]+) (HTTP/[0-9]\.[0-9])")

# RFC 9112 section 4. The space before an empty reason is required, yet clients do without it.
STATUS_LINE = re.compile(rb"(HTTP/1\.[01]) ([1-9][0-9]{2})(| [\t\x20-\x7e\x80-\xff]*)")

# RFC 9112 section 5, RFC 9110 section 5.5: no whitespace before the colon, optional whitespace trimmed.
FIELD_LINE = re.compile(rb"(" + TOKEN + rb"):[ \t]*([^\x00\r\n]*?)[ \t]*")
CONTROL = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")

# RFC 9112 section 7.1. Sixteen digits hold any 64-bit size; more, zeros aside, overflow some parser.
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_EXTENSION = rb"(?:[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + _QUOTED + rb"))?)*"
CHUNK_LINE = re.compile(rb"(0*[0-9A-Fa-f]{1,16})" + _EXTENSION)

DIGITS = re.compile(rb"0*[0-9]{1,18}")

# RFC 3986 section 3.2.2 and RFC 9110 section 7.2: uri-host [ ":" port ]; no userinfo, no path.
HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")

# RFC 9110 section 6.5.1: what decides framing, routing, authentication or the meaning of the content
# has been acted upon before a trailer arrives, so it must not arrive there.
FORBIDDEN_IN_TRAILERS = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"cookie",
        b"expect",
        b"host",
        b"max-forwards",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
    }
)

Field = tuple[bytes, bytes]


def values(fields: list[Field], name: bytes) -> list[bytes]:
    """The values of all lines called `name` (lower case), in order."""
    return [value for key, value in fields if key == name]


def list_members(lines: list[bytes]) -> list[bytes]:
    """The members of a comma-separated field in lower case, empty ones kept (RFC 9110 section 5.6.1)."""
    return [member.strip(b" \t").lower() for line in lines for member in line.split(b",")]
