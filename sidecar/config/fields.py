"""The kinds of value that a key can hold: how each is read, and how an editor may check it.

Each kind is a marker for `Annotated`. Pydantic runs its `read` alone, so an error has the path of the key and
no names of variants behind it, even where the Python type is a union.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sidecar.config import units
from sidecar.config.addresses import (
    Address,
    Upstream,
    parse_address,
    parse_host,
    parse_prefix,
    parse_upstream,
)
from sidecar.config.mistake import Mistake

JsonSchema: TypeAlias = dict[str, Any]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Number = TypeVar("Number", int, float)

_NAME = r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?"


class Kind(NamedTuple):
    """A kind of value: `read` gives the Python value or raises `Mistake`; an editor goes by `schema`."""

    read: Callable[[object], Any]
    schema: JsonSchema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)


def flag() -> Kind:
    """`true` or `false`."""

    def read(value: object) -> bool:
        if not isinstance(value, bool):
            raise Mistake("must be true or false")
        return value

    return Kind(read, {"type": "boolean"})


def count(least: int, most: int) -> Kind:
    """A whole number from `least` to `most`."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Mistake("must be a whole number")
        return _bounded(value, least, most, str)

    return Kind(read, {"type": "integer", "minimum": least, "maximum": most})


def duration(least: float = 0.001, most: float = 24 * 3600) -> Kind:
    """A duration, from `least` to `most` seconds."""

    def read(value: object) -> float:
        return _bounded(units.parse_duration(value), least, most, units.format_duration)

    return Kind(read, {"type": "string", "pattern": units.DURATION_PATTERN})


def size(least: int, most: int) -> Kind:
    """A size, from `least` to `most` bytes."""

    def read(value: object) -> int:
        return _bounded(units.parse_size(value), least, most, units.format_size)

    pattern = units.SIZE_PATTERN
    return Kind(read, {"type": ["string", "integer"], "pattern": pattern, "minimum": least, "maximum": most})


def choice(*words: str) -> Kind:
    """One of a few words."""

    def read(value: object) -> object:
        if value not in words:
            raise Mistake(f"must be one of {', '.join(words)}")
        return value

    return Kind(read, {"type": "string", "enum": list(words)})


def text(parse: Callable[[object], Any], pattern: str) -> Kind:
    """Text that `parse` reads; `pattern` is what an editor can check of it."""
    return Kind(parse, {"type": "string", "pattern": pattern})


def optional(kind: Kind) -> Kind:
    """`kind`, or null."""

    def read(value: object) -> Any:
        return None if value is None else kind.read(value)

    return Kind(read, {"anyOf": [kind.schema, {"type": "null"}]})


def filled_in() -> Kind:
    """Set by the program; to whoever writes it in a file, the key does not exist."""

    def read(value: object) -> Any:
        raise PydanticCustomError("extra_forbidden", "unknown key")

    return Kind(read, {})


def parse_network(value: object) -> Network:
    """A network in CIDR notation; an address alone is a network of one. Raises `Mistake`."""
    # Integers and bytes are addresses to ipaddress as well, but never meant as such in a file.
    if isinstance(value, str):
        try:
            return _network(value)
        except ValueError as error:
            if "host bits set" in str(error):
                raise Mistake("must be a network without host bits, as in 10.0.0.0/8") from None
    raise Mistake("must be a network such as 10.0.0.0/8 or fd00::/8")


# Every dependency has the networks of the listener at the top again.
_network = lru_cache(maxsize=1024)(ipaddress.ip_network)


def parse_name(value: object) -> str:
    """The name of a dependency. Raises `Mistake`."""
    # A metric label, a log field and a path of the admin API: it holds nothing that needs quoting there.
    if not isinstance(value, str) or not re.fullmatch(_NAME, value):
        raise Mistake(
            "must be a name of a to z, 0 to 9, - and _, at most 63 long, with a letter or digit at both ends",
            show=False,
        )
    return value


def _bounded(value: Number, least: Number, most: Number, written: Callable[[Any], str]) -> Number:
    if value < least:
        raise Mistake(f"must be at least {written(least)}")
    if value > most:
        raise Mistake(f"must be at most {written(most)}")
    return value


# The patterns are what an editor can check; `read` is stricter.
_listen = text(parse_address, r"^(unix:/.+|(\[[0-9A-Fa-f:.]+\]|[^\[\]:/]*):[0-9]{1,5})$")

DependencyName = Annotated[str, text(parse_name, f"^{_NAME}$")]
Boolean = Annotated[bool, flag()]
Seconds = Annotated[float, duration()]
ListenAddress = Annotated[Address, _listen]
OptionalListenAddress = Annotated[Address | None, optional(_listen)]
UpstreamAddress = Annotated[Upstream, text(parse_upstream, r"^([Hh][Tt][Tt][Pp]://[^/?#@]+/?|unix:/.+)$")]
Host = Annotated[str, text(parse_host, r"^(\[[0-9A-Fa-f:.]+\]|[^\[\]:/*]+)(:[0-9]{1,5})?$")]
OptionalPrefix = Annotated[str | None, optional(text(parse_prefix, r"^/([!-~]*[!-.0-~])?$"))]
TrustedNetwork = Annotated[Network, text(parse_network, r"^[0-9A-Fa-f:.]+(/[0-9.]+)?$")]
