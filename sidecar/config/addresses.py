"""Addresses to listen on, upstreams, host names, path prefixes and files: from text to values that need no more
checks."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from sidecar.config.mistake import Mistake

_ADDRESS_FORMS = "must be an address such as 127.0.0.1:8080, [::1]:8080, :8080 (all interfaces) or unix:/run/app.sock"
_HOST_FORMS = "must name a host: a DNS name, an IPv4 address, or an IPv6 address in brackets"
# Underscores are no host name by RFC 952, but Docker Compose makes them.
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PORT = re.compile(r"[0-9]{1,5}")
# sun_path holds 108 bytes on Linux, the last of them NUL.
_LONGEST_SOCKET_PATH = 107
# PATH_MAX of Linux.
_LONGEST_PATH = 4096
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP port to listen on. `host` None is every interface, IPv4 and IPv6; `port` 0 lets the kernel
    choose."""

    host: str | None
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host or '')}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket to listen on, at an absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address: TypeAlias = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a dependency is: an origin of the scheme http or https, or a Unix socket when `unix_path` is set (then
    `host` is localhost and the scheme http)."""

    host: str
    port: int
    unix_path: str | None = None
    scheme: str = "http"

    @property
    def authority(self) -> str:
        """The value of the Host header that the upstream expects: without the port where that is the scheme's
        own."""
        return bracketed(self.host) if self.port == _PORTS[self.scheme] else self.host_and_port

    @property
    def host_and_port(self) -> str:
        """The authority with its port always written, IPv6 in brackets."""
        return f"{bracketed(self.host)}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_and_port}" if self.unix_path is None else f"unix:{self.unix_path}"


def bracketed(host: str) -> str:
    """`host` as it stands in an authority: an IPv6 address in brackets, all else as it is."""
    return f"[{host}]" if ":" in host else host


def upstream_hosts(upstreams: Iterable[Upstream]) -> tuple[str, ...]:
    """`host:port` of each upstream that has a host, once."""
    return tuple(dict.fromkeys(each.host_and_port for each in upstreams if each.unix_path is None))


def parse_address(value: object) -> Address:
    """An address to listen on. Raises `Mistake`."""
    if not isinstance(value, str):
        raise Mistake(_ADDRESS_FORMS)
    if value.startswith("unix:"):
        return UnixAddress(_socket_path(value))
    if "/" in value or ":" not in value:
        raise Mistake(_ADDRESS_FORMS)
    host, port = _split(value, least_port=0, default_host="")
    if port is None:
        raise Mistake("must end with a port, as in 127.0.0.1:8080")
    return TcpAddress(host or None, port)


def parse_upstream(value: object) -> Upstream:
    """An upstream: `http://host[:port]`, `https://host[:port]` or `unix:/path`. Raises `Mistake`."""
    text = value if isinstance(value, str) else ""
    if text.startswith("unix:"):
        return Upstream("localhost", 80, _socket_path(text))
    scheme, found, rest = text.partition("://")
    if "@" in re.split(r"[/?#]", rest if found else text, maxsplit=1)[0]:
        # Not shown: what stands there is a password, as a rule.
        raise Mistake("must not hold a user or password; let the application send an Authorization header", show=False)
    scheme = scheme.lower()
    if scheme not in _PORTS or not found:
        raise Mistake("must begin with http://, https:// or unix:/, as in http://payments:8080")
    if re.search(r"[?#]", rest):
        raise Mistake("must end after the host and port; a query belongs to the request")
    authority, _, path = rest.partition("/")
    if path:
        raise Mistake("must end after the host and port; the path comes from the request (see prefix and strip_prefix)")
    host, port = _split(authority, least_port=1)
    return Upstream(host, _PORTS[scheme] if port is None else port, scheme=scheme)


def parse_host(value: object) -> str:
    """A host to route by, `name` or `name:port`: lowercased, no trailing dot. Raises `Mistake`."""
    if not isinstance(value, str):
        raise Mistake(_HOST_FORMS)
    if "*" in value:
        raise Mistake("must be a whole name; wildcards are not supported")
    if "/" in value:
        raise Mistake("must be a host or host:port alone, without scheme or path")
    host, port = _split(value, least_port=1)
    return bracketed(host) if port is None else f"{bracketed(host)}:{port}"


def parse_server_name(value: object) -> str:
    """The name in a certificate: that of a host, in normal form, an IPv6 address without brackets. Raises `Mistake`."""
    if not isinstance(value, str):
        raise Mistake(_HOST_FORMS)
    if "*" in value:
        raise Mistake("must be a whole name, which a certificate for *.example.com covers as well")
    if "/" in value:
        raise Mistake("must be a name alone, without scheme or path")
    host, port = _split(value, least_port=1)
    if port is not None:
        raise Mistake("must be a name alone, without a port")
    return host


def parse_pem_file(value: object) -> str:
    """The absolute path of a PEM file, which is not opened: it need not exist where a configuration is checked. Raises
    `Mistake`."""
    if isinstance(value, str) and "-----BEGIN" in value:
        # Not shown: what stands there may be a private key.
        raise Mistake("must be the path of a PEM file, not its content", show=False)
    if not isinstance(value, str) or not value.startswith("/") or value.endswith("/") or "\0" in value:
        raise Mistake("must be the absolute path of a PEM file, as in /etc/tls/tls.crt")
    if _encoded_size(value) > _LONGEST_PATH:
        raise Mistake(f"must be a path of at most {_LONGEST_PATH} bytes")
    return value


def parse_prefix(value: object) -> str:
    """A path prefix: `/` for everything, else segments without a slash at the end. Raises `Mistake`."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise Mistake("must be a path that begins with /")
    if re.search(r"[?#]", value):
        raise Mistake("must be a path alone, without ? or #")
    if not re.fullmatch(r"[!-~]+", value):
        raise Mistake("must be printable ASCII without spaces; percent-encode the rest")
    if value == "/":
        return value
    if value.endswith("/"):
        raise Mistake("must not end with /")
    # %2e is a dot to whoever decodes before resolving, so it is one here.
    segments = [segment.lower().replace("%2e", ".") for segment in value[1:].split("/")]
    if not {"", ".", ".."}.isdisjoint(segments):
        raise Mistake("must not hold empty, . or .. segments")
    return value


def overlap(one: Address, other: Address) -> bool:
    """Whether binding both would fail: the same socket path, or the same port on interfaces that meet."""
    if isinstance(one, UnixAddress) or isinstance(other, UnixAddress):
        return one == other
    if one.port != other.port or one.port == 0:
        return False
    if one.host is None or other.host is None:
        return True
    # The wildcards of IPv4 and IPv6 are apart: asyncio binds `::` with IPV6_V6ONLY.
    if not {one.host, other.host}.isdisjoint({"0.0.0.0", "::"}):
        return not _families(one.host).isdisjoint(_families(other.host))
    return not _interfaces(one.host).isdisjoint(_interfaces(other.host))


def _interfaces(host: str) -> set[str]:
    """The addresses behind `host`, as far as they are known without asking DNS."""
    return {host, "127.0.0.1", "::1"} if host == "localhost" else {host}


def _families(host: str) -> set[int]:
    """The IP versions that `host` may be bound in."""
    try:
        return {ipaddress.ip_address(host).version}
    except ValueError:
        return {4, 6}


def _split(authority: str, *, least_port: int, default_host: str | None = None) -> tuple[str, int | None]:
    """Host (normal form, no brackets) and port of an authority. An empty host is `default_host`, or a
    mistake."""
    if authority.startswith("["):
        literal, closed, rest = authority[1:].partition("]")
        if not closed or rest[:1] not in ("", ":"):
            raise Mistake(_HOST_FORMS)
        host, has_port, port = _ipv6(literal), rest[:1], rest[1:]
    else:
        if authority.count(":") > 1:
            raise Mistake("an IPv6 address goes in brackets, as in [::1]:8080")
        host, has_port, port = authority.partition(":")
        host = default_host if default_host is not None and not host else _host(host)
    if not has_port:
        return host, None
    if not _PORT.fullmatch(port) or not least_port <= int(port) <= 65535:
        raise Mistake(f"must have a port from {least_port} to 65535")
    return host, int(port)


def _host(text: str) -> str:
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise Mistake(_HOST_FORMS)
    if labels[-1].isdigit():
        # The URL standard's rule: a name that ends in a number is an IPv4 address or nothing.
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise Mistake("is no valid IPv4 address") from None
    return name


def _ipv6(literal: str) -> str:
    try:
        address = ipaddress.IPv6Address(literal)
    except ValueError:
        raise Mistake("is no valid IPv6 address") from None
    if address.scope_id is not None:
        raise Mistake("must not name a zone (%) in an IPv6 address")
    return str(address)


def _socket_path(text: str) -> str:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise Mistake("must be the absolute path of a socket, as in unix:/run/app.sock")
    if _encoded_size(path) > _LONGEST_SOCKET_PATH:
        raise Mistake(f"must be a socket path of at most {_LONGEST_SOCKET_PATH} bytes")
    return path


def _encoded_size(path: str) -> int:
    """The bytes of a path as the kernel gets it. Raises `Mistake`."""
    try:
        # What an environment variable holds may be no UTF-8, and is a path nonetheless.
        return len(path.encode(errors="surrogateescape"))
    except UnicodeEncodeError:
        raise Mistake("must be text that UTF-8 can hold") from None
