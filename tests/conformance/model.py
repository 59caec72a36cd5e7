"""The schema of a case; tests/conformance/README.md explains each key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

CASES = Path(__file__).parent / "cases"

Verdict = Literal["forward", "refuse", "either", "relay", "bad-gateway", "cut"]

# A fault of the client is answered with a 4xx; 501 and 505 say that the sidecar does not speak that.
REFUSALS = frozenset({400, 403, 404, 405, 408, 411, 413, 414, 415, 417, 421, 422, 426, 428, 429, 431, 501, 505})


_NO_TCHAR_AFTER = rb"(?![!#$%&'*+\-.^_`|~0-9A-Za-z])"


class CaseError(ValueError):
    """A case does not follow the schema; the message names file, case and key."""


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What must be true of the requests that reach the upstream."""

    method: str | None = None
    target: str | None = None
    target_matches: str | None = None
    version: str | None = None
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    only: dict[str, str] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    members: dict[str, list[str]] = field(default_factory=dict)
    host_without: str | None = None
    host_agrees: bool = False
    te_announced: bool = False
    trailers: dict[str, str] = field(default_factory=dict)
    no_trailers: tuple[str, ...] = ()
    at_most: int | None = None
    reuse: Literal["any", "rather not", "never"] = "any"


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What must be true of the answers that reach the client."""

    status: int = 200
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    lines: dict[str, list[str]] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    interims: tuple[int, ...] | None = None
    framing: tuple[str, ...] = ()
    not_echoed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One conversation and its verdict."""

    id: str
    category: str
    rfc: str
    why: str
    verdict: Verdict
    send: str | list[str | dict[str, str]]
    level: Literal["must", "should"] = "must"
    methods: tuple[str, ...] = ()
    requests: int = 1
    statuses: tuple[int, ...] = ()
    prefer: Literal["refuse", ""] = ""
    phase: Literal["head", "body"] = "head"
    close: Literal["must", "should", ""] = ""
    may_wait: bool = False
    half_close: bool = False
    then_refusal: bool = False
    answer_optional: bool = False
    local_ok: bool = False
    bytes_ok: bool = False
    answer: str | None = None
    answer_at: Literal["end", "head"] = "end"
    at_once: bool = False
    then: Literal["keep", "close", "reset"] = "keep"
    arrival: Arrival = Arrival()
    delivery: Delivery = Delivery()

    @property
    def steps(self) -> list[str | dict[str, str]]:
        """`send` as a list of octets to write and conditions to wait for."""
        return [self.send] if isinstance(self.send, str) else self.send

    def sends_method(self, method: bytes) -> bool:
        """Whether the client wrote this word; what it did not write was put together on the way."""
        # Nothing is asked of what stands before it: a request may follow a body without a break.
        word = re.compile(re.escape(method) + _NO_TCHAR_AFTER)
        return any(word.search(octets(step)) for step in self.steps if isinstance(step, str))

    @property
    def old_client(self) -> bool:
        """Whether the first request speaks HTTP/1.0."""
        first = self.steps[0] if self.steps else ""
        return isinstance(first, str) and first.partition("\r\n")[0].endswith(" HTTP/1.0")

    @property
    def awaits_close(self) -> bool:
        """Whether the end of the connection is part of what is judged."""
        return bool(self.close) or self.old_client or self.verdict == "cut"


_REPEAT = re.compile(r"\{\{(\d+)\*(.*?)\}\}", re.DOTALL)


def expand(text: str) -> str:
    """Replace each `{{count*text}}` by that many copies."""
    return _REPEAT.sub(lambda match: match[2] * int(match[1]), text)


def octets(text: str) -> bytes:
    """The wire form of a string in a case: one character U+0000 to U+00FF, one octet."""
    return expand(text).encode("latin-1")


def load(kind: Literal["requests", "responses"], *, promises: bool, folder: Path = CASES) -> list[Case]:
    """All cases of a kind, in the order of the files.

    Args:
        kind: requests, what clients send; responses, what upstreams answer.
        promises: merge `promise`, what this sidecar does where the RFC leaves it open, over the rest.
        folder: where the two folders of JSON files are.

    Raises:
        CaseError: a key is unknown or missing, or an id is used twice.
    """
    cases: list[Case] = []
    for path in sorted((folder / kind).glob("*.json")):
        raws = json.loads(path.read_text("utf-8"))
        cases += [_build(raw, promises, f"{path.name}: {raw.get('id', '?')}") for raw in raws]
    ids = [case.id for case in cases]
    if twice := sorted({case_id for case_id in ids if ids.count(case_id) > 1}):
        raise CaseError(f"{kind}: used twice: {', '.join(twice)}")
    return cases


def _build(raw: dict[str, Any], promises: bool, where: str) -> Case:
    values = dict(raw)
    promise = values.pop("promise", {})
    if promises:
        for key, value in promise.items():
            nested = isinstance(value, dict) and isinstance(values.get(key), dict)
            values[key] = values[key] | value if nested else value
    for key, part in (("arrival", Arrival), ("delivery", Delivery)):
        if key in values:
            values[key] = part(**_frozen(part, values[key], where))
    return Case(**_frozen(Case, values, where))


def _frozen(part: type[Case | Arrival | Delivery], values: dict[str, Any], where: str) -> dict[str, Any]:
    if unknown := values.keys() - {entry.name for entry in fields(part)}:
        raise CaseError(f"{where}: unknown key {', '.join(sorted(unknown))}")
    required = {entry.name for entry in fields(part) if _required(entry)}
    if missing := required - values.keys():
        raise CaseError(f"{where}: missing {', '.join(sorted(missing))}")
    return {key: tuple(value) if isinstance(value, list) and key != "send" else value for key, value in values.items()}


def _required(entry: Any) -> bool:
    return entry.default is MISSING and entry.default_factory is MISSING


def selected(cases: list[Case], only: str | None) -> Iterator[Case]:
    """Cases whose id or category matches the regular expression `only`."""
    for case in cases:
        if only is None or re.search(only, case.id) or re.search(only, case.category):
            yield case
