"""Which fields a proxy looks at, whatever their spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy import fields
from sidecar.proxy.fields import (
    FORBIDDEN_TRAILERS,
    connection_options,
    kind_by_spelling,
    kind_of,
    render_trailers,
    tokens,
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"Host", fields.HOST),
        (b"hOST", fields.HOST),
        (b"Connection", fields.CONNECTION),
        (b"Content-Length", fields.CONTENT_LENGTH),
        (b"Transfer-Encoding", fields.TRANSFER_ENCODING),
        (b"Keep-Alive", fields.HOP),
        (b"Proxy-Connection", fields.HOP),
        (b"Proxy-Authorization", fields.HOP),
        (b"Upgrade", fields.UPGRADE),
        (b"HTTP2-Settings", fields.HOP),
        (b"TE", fields.TE),
        (b"Expect", fields.EXPECT),
        (b"Max-Forwards", fields.MAX_FORWARDS),
        (b"X-Forwarded-For", fields.FORWARDED_FOR),
        (b"X-Forwarded-Proto", fields.FORWARDED_PROTO),
        (b"X-Forwarded-Host", fields.FORWARDED_HOST),
        (b"Forwarded", fields.FORWARDED),
        (b"Date", fields.DATE),
        (b"Content_Length", fields.UNDERSCORED),
        (b"Anything_Else", fields.UNDERSCORED),
        (b"Accept", fields.OTHER),
        (b"Proxy-Authenticate", fields.OTHER),  # for the client, since we are no proxy that it authenticates to
    ],
)
def test_field_has_its_kind(name: bytes, kind: int) -> None:
    assert kind_of(name) == kind


@given(st.sampled_from(sorted(fields._KIND_BY_NAME)), st.data())
def test_kind_does_not_depend_on_spelling(name: bytes, data: st.DataObject) -> None:
    upper = data.draw(st.lists(st.booleans(), min_size=len(name), max_size=len(name)))
    spelled = bytes(c - 32 if up and 97 <= c <= 122 else c for c, up in zip(name, upper, strict=True))
    assert kind_of(spelled) == kind_of(name)
    assert kind_by_spelling.get(spelled, kind_of(name)) == kind_of(name)


def test_long_spellings_are_not_remembered() -> None:
    assert kind_of(b"x" * 49) == fields.OTHER
    assert b"x" * 49 not in kind_by_spelling


def test_spellings_remembered_are_bounded() -> None:
    for number in range(3000):
        assert kind_of(b"x-%d" % number) == fields.OTHER
    assert len(kind_by_spelling) == 2048
    assert kind_of(b"hOsT") == fields.HOST
    kind_by_spelling.clear()


@pytest.mark.parametrize(
    ("value", "members"),
    [
        (b"", set()),
        (b" , ,", set()),
        (b"a", {b"a"}),
        (b"A,\tb ,, C", {b"a", b"b", b"c"}),
    ],
)
def test_list_is_read_without_case_white_space_and_empty_members(value: bytes, members: set[bytes]) -> None:
    assert tokens(value) == members


@pytest.mark.parametrize(
    ("value", "persist", "upgrade", "named"),
    [
        (b"keep-alive", True, False, set()),
        (b"Close", False, False, set()),
        (b"keep-alive, close", False, False, set()),
        (b"close, keep-alive", False, False, set()),
        (b"", None, False, set()),
        (b"X-A, x-b", None, False, {b"x-a", b"x-b"}),
        (b"TE, close", False, False, set()),
        (b"Upgrade, X-A", None, True, {b"x-a"}),
        (b"Host, Content-Length, Transfer-Encoding, Via, Connection, X-A", None, False, {b"x-a"}),
    ],
)
def test_connection_says_whether_to_persist_and_which_fields_end_here(
    value: bytes, persist: bool | None, upgrade: bool, named: set[bytes]
) -> None:
    assert connection_options(value) == (persist, upgrade, named)


@pytest.mark.parametrize("name", [*sorted(FORBIDDEN_TRAILERS), b"if-match", b"If-None-Match"])
@pytest.mark.parametrize("spell", [bytes.lower, bytes.upper, lambda name: name.replace(b"-", b"_")])
def test_field_that_must_not_be_acted_on_late_is_no_trailer(name: bytes, spell) -> None:
    assert render_trailers([(b"A", b"1"), (spell(name), b"x"), (b"B", b"2")]) == b"A: 1\r\nB: 2\r\n"


def test_trailers_travel_on_in_order_with_their_octets() -> None:
    assert render_trailers([(b"X-Sum", b"\xff a"), (b"x-sum", b""), (b"Digest", b"1")]) == (
        b"X-Sum: \xff a\r\nx-sum: \r\nDigest: 1\r\n"
    )
