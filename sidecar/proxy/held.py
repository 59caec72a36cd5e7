"""A response that is kept back for a moment, because another attempt may bring a better one."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import Final

from sidecar.proxy.framing import ResponseHead

HELD_LIMIT: Final = 65_536
"""Octets of body kept back at most; a response that is longer goes to the application as it comes."""

_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after:[ \t]*([^\r\n]*)", re.IGNORECASE)


class HeldResponse:
    """The response of an attempt that may be followed by another.

    Attributes:
        head: as the upstream sent it.
        body: what has come of it, not framed.
        bodiless: it has no body, whatever its head says.
        trailers: that came behind it.
    """

    __slots__ = ("bodiless", "body", "head", "trailers")

    def __init__(self, head: ResponseHead, body: bytes, bodiless: bool) -> None:
        self.head = head
        self.body = bytearray(body)
        self.bodiless = bodiless
        self.trailers: list[tuple[bytes, bytes]] = []

    @property
    def too_large(self) -> bool:
        """Whether it is longer, or says that it will be, than what is kept back."""
        announced = 0 if self.bodiless else self.head.content_length or 0
        return max(len(self.body), announced) > HELD_LIMIT

    @property
    def retry_after_s(self) -> float | None:
        """What its Retry-After asks for, in seconds; None where there is none that can be read (RFC 9110 10.2.3)."""
        match = _RETRY_AFTER.search(self.head.block)
        if match is None:
            return None
        value = match[1].strip()
        if value.isdigit():
            return float(value[:9])
        try:
            # A date is wall-clock time by its nature; here it only ever makes a wait longer.
            return max(0.0, parsedate_to_datetime(value.decode("latin-1")).timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
