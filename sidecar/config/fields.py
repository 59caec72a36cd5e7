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

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sidecar.config import terms, units
from sidecar.config.addresses import (
    Address,
    Upstream,
    parse_address,
    parse_host,
    parse_pem_file,
    parse_prefix,
    parse_server_name,
    parse_upstream,
)
from sidecar.config.mistake import Mistake

JsonSchema: TypeAlias = dict[str, Any]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Number = TypeVar("Number", int, float)

# As many as fit into a file by hand; a name stands for as many addresses as DNS gives for it.
MOST_UPSTREAMS = 64

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


def number(least: float, most: float) -> Kind:
    """A number from `least` to `most`, whole or not."""

    def read(value: object) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise Mistake("must be a number")
        return float(_bounded(value, least, most, str))

    return Kind(read, {"type": "number", "minimum": least, "maximum": most})


def ratio(*, zero: bool = False) -> Kind:
    """A percentage up to 100%, and from 0% or, without `zero`, above it."""

    def read(value: object) -> float:
        part = units.parse_ratio(value)
        if part > 1:
            raise Mistake("must be at most 100%")
        if part == 0 and not zero:
            raise Mistake("must be above 0%")
        return part

    return Kind(read, {"type": "string", "pattern": units.RATIO_PATTERN})


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


def choice_or(kind: Kind, *words: str) -> Kind:
    """One of a few words, or else `kind`."""

    def read(value: object) -> Any:
        if value in words:
            return value
        try:
            return kind.read(value)
        except Mistake as mistake:
            raise Mistake(f"{mistake}, or one of {', '.join(words)}", show=mistake.show) from None

    return Kind(read, {"anyOf": [choice(*words).schema, kind.schema]})


def text(parse: Callable[[object], Any], pattern: str) -> Kind:
    """Text that `parse` reads; `pattern` is what an editor can check of it."""
    return Kind(parse, {"type": "string", "pattern": pattern})


def optional(kind: Kind) -> Kind:
    """`kind`, or null."""

    def read(value: object) -> Any:
        return None if value is None else kind.read(value)

    return Kind(read, {"anyOf": [kind.schema, {"type": "null"}]})


class OneOrMore(NamedTuple):
    """A list of `kind`, which a single value stands for as well. No `Kind` itself: it leaves lists to pydantic, so that
    an error has the path of the entry."""

    kind: Kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: object, read_list: Callable[[object], Any]) -> Any:
            return read_list(value) if isinstance(value, list) else (self.kind.read(value),)

        return core_schema.no_info_wrap_validator_function(read, handler(source))


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
    """The name of a dependency or a candidate. Raises `Mistake`."""
    # A metric label, a log field and a path of the admin API: it holds nothing that needs quoting there.
    if not isinstance(value, str) or not re.fullmatch(_NAME, value):
        raise Mistake(
            "must be a name of a to z, 0 to 9, - and _, at most 63 long, with a letter or digit at both ends",
            show=False,
        )
    return value


def parse_candidate(value: object) -> str:
    """The name of a candidate. Raises `Mistake`."""
    name = parse_name(value)
    if name == "shadow":
        raise Mistake("is the name of the candidate that mode: shadow makes, so take another", show=False)
    return name


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
_upstream = text(parse_upstream, r"^([Hh][Tt][Tt][Pp][Ss]?://[^/?#@]+/?|unix:/.+)$")
UpstreamAddress = Annotated[Upstream, _upstream]
Upstreams = Annotated[tuple[UpstreamAddress, ...], Field(min_length=1, max_length=MOST_UPSTREAMS), OneOrMore(_upstream)]
Host = Annotated[str, text(parse_host, r"^(\[[0-9A-Fa-f:.]+\]|[^\[\]:/*]+)(:[0-9]{1,5})?$")]
OptionalPrefix = Annotated[str | None, optional(text(parse_prefix, r"^/([!-~]*[!-.0-~])?$"))]
TrustedNetwork = Annotated[Network, text(parse_network, r"^[0-9A-Fa-f:.]+(/[0-9.]+)?$")]
OptionalPemFile = Annotated[str | None, optional(text(parse_pem_file, r"^/(.*[^/])$"))]
OptionalServerName = Annotated[str | None, optional(text(parse_server_name, r"^(\[[0-9A-Fa-f:.]+\]|[^\[\]:/*]+)$"))]
CandidateName = Annotated[str, text(parse_candidate, f"^(?!shadow$){_NAME}$")]

# Where nothing to wait for is something to ask for.
SecondsOrNone = Annotated[float, duration(0)]
OptionalSeconds = Annotated[float | None, optional(duration())]
Ratio = Annotated[float, ratio()]
RatioOrNone = Annotated[float, ratio(zero=True)]
OptionalRatio = Annotated[float | None, optional(ratio())]
OptionalRate = Annotated[float | None, optional(text(terms.parse_rate, terms.RATE_PATTERN))]
WindowLength = Annotated[terms.Window, text(terms.parse_window, terms.WINDOW_PATTERN)]
_status = Kind(
    terms.parse_status,
    {"type": ["integer", "string"], "pattern": terms.STATUS_PATTERN, "minimum": 100, "maximum": 599},
)
Status = Annotated[int | str, _status]
RetryCondition = Annotated[int | str, choice_or(_status, "connect_error", "reset", "timeout")]
Method = Annotated[str, text(terms.parse_method, terms.METHOD_PATTERN)]
FieldName = Annotated[str, text(terms.parse_field_name, terms.FIELD_NAME_PATTERN)]
_words: JsonSchema = {"type": ["string", "integer"]}
FieldValue = Annotated[str, Kind(terms.parse_field_value, {**_words, "pattern": terms.FIELD_VALUE_PATTERN})]
Text = Annotated[str, Kind(terms.parse_text, _words)]
