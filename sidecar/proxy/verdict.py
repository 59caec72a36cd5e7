"""How an attempt ended, in the words of `policy.classify`, told from the refusal that it led to."""

from __future__ import annotations

from typing import Final

from sidecar.errors import ConcurrencyLimited, Overloaded, Refusal, UpstreamTimeout
from sidecar.policy.classify import End
from sidecar.proxy.tls import is_tls

_MALFORMED: Final = ("http_protocol_error", "http_response_header_section_size")


def without_connection(refusal: Refusal) -> End:
    """There was no connection to the dependency."""
    if isinstance(refusal, Overloaded):
        return End.LOCAL_ERROR
    if isinstance(refusal, ConcurrencyLimited):
        return End.OWN_REFUSAL
    if isinstance(refusal, UpstreamTimeout):
        return End.CONNECT_TIMEOUT
    return End.TLS_ERROR if is_tls(refusal) else End.CONNECT_ERROR


def broken(refusal: Refusal, *, dead: bool) -> End:
    """The connection broke off.

    Args:
        refusal: what it led to.
        dead: it had served before, and not an octet of a response came on it this time.
    """
    if isinstance(refusal, UpstreamTimeout):
        return End.IDLE_TIMEOUT
    if dead:
        return End.DEAD_CONNECTION
    if is_tls(refusal):
        return End.TLS_ERROR
    if refusal.proxy_error in _MALFORMED:
        return End.MALFORMED
    return End.RESET
