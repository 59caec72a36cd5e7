"""Heads for the tests of framing and rewriting, taken in the way the connections do it: llhttp first."""

from __future__ import annotations

import httptools

from sidecar.proxy.fields import kind_of
from sidecar.proxy.framing import Field, RequestHead, ResponseHead, parse_request_head, parse_response_head


class _Notable:
    """Collects what llhttp reports: the notable fields, and all of them as they are."""

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        value = value.strip(b" \t")
        self.headers.append((name, value))
        kind = kind_of(name)
        if kind:
            self.fields.append((kind, name, value))


def _fed(parser: type, raw: bytes) -> _Notable:
    notable = _Notable()
    try:
        parser(notable).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    return notable


def request_head(raw: bytes) -> RequestHead:
    """The head of a request that llhttp accepts."""
    return parse_request_head(raw, _fed(httptools.HttpRequestParser, raw).fields)


def response_head(raw: bytes) -> ResponseHead:
    """The head of a response that llhttp accepts."""
    return parse_response_head(raw, _fed(httptools.HttpResponseParser, raw).fields)


def headers_of(raw: bytes) -> list[tuple[bytes, bytes]]:
    """The field lines that llhttp reads in a request's head."""
    return _fed(httptools.HttpRequestParser, raw).headers
