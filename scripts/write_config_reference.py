"""Write the tables of docs/reference/configuration.md from the JSON Schema of the configuration.

python -m scripts.write_config_reference           # rewrites what stands between the two markers
python -m scripts.write_config_reference --check   # exit status 1 where the page is stale
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts import generated
from sidecar.config import fields, json_schema, terms, units

SCRIPT = Path(__file__).name
PAGE = generated.ROOT / "docs" / "reference" / "configuration.md"

Schema = dict[str, Any]

# Where the keys of each section stand in the file, in the order of the page. Sections that have the same keys in a
# second place are described once: so are the terms of candidates, with the policies that have a mode beside them.
PLACES = {
    "": "The top level",
    "Listener": "`listener`",
    "ListenerTls": "`listener.tls`",
    "Metrics": "`metrics`",
    "AccessLog": "`access_log`",
    "Defaults": "`defaults`",
    "Timeout": "`defaults.timeout`",
    "Pool": "`defaults.pool`",
    "Tls": "`defaults.tls`",
    "Ejection": "`defaults.ejection`",
    "RateLimit": "`defaults.rate_limit`",
    "Concurrency": "`defaults.concurrency`",
    "Queue": "`defaults.queue`",
    "CircuitBreaker": "`defaults.circuit_breaker`",
    "FailureRate": "`defaults.circuit_breaker.failure_rate`",
    "SlowCalls": "`defaults.circuit_breaker.slow_calls`",
    "HalfOpen": "`defaults.circuit_breaker.half_open`",
    "Retry": "`defaults.retry`",
    "Backoff": "`defaults.retry.backoff`",
    "Budget": "`defaults.retry.budget`",
    "Fallback": "`defaults.fallback`",
    "Candidate": "`defaults.candidates.NAME`",
    "Dependency": "`dependencies.NAME`",
}
ALSO = {
    "Listener": "The same keys stand in `dependencies.NAME.listener`, for a port of the dependency's own.",
    "Defaults": "The same keys and sections stand in each `dependencies.NAME`, where they win over the defaults.",
    "Dependency": "And every key of `defaults`, for this dependency alone.",
}


def _pattern(annotated: Any) -> str:
    """What the schema says about a kind of text, and so how that kind is told in it."""
    kind = next(each for each in annotated.__metadata__ if isinstance(each, fields.Kind))
    return str((kind.schema["anyOf"][0] if "anyOf" in kind.schema else kind.schema)["pattern"])


def _bounds(least: int, most: int) -> str:
    """How many entries a list may have."""
    return f"{least} to {most}" if least else f"at most {most}"


WORDS = {
    units.DURATION_PATTERN: "duration",
    _pattern(fields.ListenAddress): "address",
    _pattern(fields.UpstreamAddress): "upstream",
    _pattern(fields.Host): "host",
    _pattern(fields.TrustedNetwork): "network",
    _pattern(fields.OptionalPrefix): "path",
    _pattern(fields.OptionalPemFile): "file",
    _pattern(fields.OptionalServerName): "name",
    units.RATIO_PATTERN: "percentage",
    terms.RATE_PATTERN: "rate",
    terms.WINDOW_PATTERN: "duration or number of calls",
    terms.STATUS_PATTERN: "status code or class",
    terms.METHOD_PATTERN: "method",
}
"""The patterns of the schema in words; what each looks like is told on the page."""


def tables() -> str:
    """All tables of the page, one for each section."""
    root = json_schema()
    inherited = set(root["$defs"]["Defaults"]["properties"])
    parts = []
    for section, place in PLACES.items():
        schema = root["$defs"][section] if section else root
        keys = {
            key: value for key, value in schema["properties"].items() if section != "Dependency" or key not in inherited
        }
        words = [*schema["description"].split(), ALSO.get(section, "")]  # a docstring, broken into lines
        parts.append(f"### {place}\n\n{' '.join(words).strip()}")
        parts.append("\n".join(_rows(keys, schema["required"])))
    return "\n\n".join(parts)


def _rows(keys: Schema, required: list[str]) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key, value in keys.items():
        cells = (f"`{key}`", _type(value), _default(key, value, required), value["description"])
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(key: str, value: Schema, required: list[str]) -> str:
    if key in required:
        return "required"
    if "default" not in value:
        return "see its keys" if "$ref" in value else "see right"
    default = value["default"]
    return f"`{default if isinstance(default, str) and default else json.dumps(default)}`"


def _type(value: Schema) -> str:
    if "$ref" in value or "additionalProperties" in value:
        return "mapping"
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}, {_bounds(value.get('minItems', 0), value['maxItems'])}"
    if "anyOf" in value:
        # A variable may stand for every value, which the page says once.
        words = [_type(each) for each in value["anyOf"] if each.get("pattern") != r"\$\{"]
        return " or ".join(words)
    if value["type"] == "boolean":
        return "`true` or `false`"
    if value["type"] == "null":
        return "null"
    if "enum" in value:
        return ", ".join(f"`{word}`" for word in value["enum"])
    if value["type"] in ("integer", "number"):
        kind = "whole number" if value["type"] == "integer" else "number"
        return f"{kind}, {value['minimum']} to {value['maximum']}"
    if value["type"] == ["string", "integer"] and "pattern" not in value:
        return "text"
    if value.get("pattern") == units.SIZE_PATTERN:
        return f"size, {units.format_size(value['minimum'])} to {units.format_size(value['maximum'])}"
    return WORDS[value["pattern"]]


def main(argv: Sequence[str] | None = None, path: Path = PAGE) -> int:
    """Write the page, or with --check say whether that would change it."""
    return generated.run(SCRIPT, path, tables, argv)


if __name__ == "__main__":
    sys.exit(main())
