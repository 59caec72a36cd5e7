"""A dependency as the data plane sees it: its settings, turned into what a request needs, once."""

from __future__ import annotations

from sidecar.config import Dependency as Settings


class Dependency:
    """What a request to one dependency needs, precomputed from its configuration.

    Attributes:
        name: the key in the configuration.
        settings: the configuration itself.
        host_line: the Host field line that replaces the application's, led by CRLF; None keeps the application's.
        prefix: what a path must begin with to lose `strip` octets.
        strip: how many octets of the path a route by prefix takes away.
        max_body: octets of request body, or None for no limit.
        first_byte_s, idle_s, total_s: timeouts in seconds.
    """

    __slots__ = (
        "first_byte_s",
        "host_line",
        "idle_s",
        "max_body",
        "max_response_head",
        "name",
        "prefix",
        "settings",
        "strip",
        "total_s",
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = settings.name
        authority = settings.upstream.authority.encode("ascii")
        self.host_line: bytes | None = None if settings.preserve_host else b"\r\nHost: " + authority
        self.prefix = (settings.prefix or "").rstrip("/").encode("ascii")
        self.strip = len(self.prefix) if settings.strip_prefix else 0
        self.max_body: int | None = settings.max_body
        self.max_response_head: int = settings.max_response_head
        self.first_byte_s: float = settings.timeout.first_byte
        self.idle_s: float = settings.timeout.idle
        self.total_s: float = settings.timeout.total

    def __repr__(self) -> str:
        return f"<Dependency {self.name}>"
