"""The JSON Schema: it names the keys that there are, and takes what `load` takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml

from sidecar.config import json_schema, load_text
from sidecar.config.schema import Config
from sidecar.config.section import Section, known_keys, unwrapped

ROOT = Path(__file__).parents[2]
SCHEMA = json_schema()
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def faults(value: object, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """What a validator would object to, for the keywords that the schema uses; others are errors."""
    for keyword, rule in schema.items():
        match keyword:
            case "$schema" | "title" | "description" | "default" | "$defs":
                continue
            case "$ref":
                yield from faults(value, SCHEMA["$defs"][rule.removeprefix("#/$defs/")], path)
                continue
            case "anyOf":
                good = any(not list(faults(value, each)) for each in rule)
            case "type":
                kinds = [kind for name in ([rule] if isinstance(rule, str) else rule) for kind in TYPES[name]]
                good = type(value) in kinds
            case "enum":
                good = value in rule
            case "pattern":
                good = not isinstance(value, str) or re.search(rule, value) is not None
            case "minimum":
                good = not isinstance(value, (int, float)) or value >= rule
            case "maximum":
                good = not isinstance(value, (int, float)) or value <= rule
            case "minProperties":
                good = not isinstance(value, dict) or len(value) >= rule
            case "maxProperties":
                good = not isinstance(value, dict) or len(value) <= rule
            case "minItems":
                good = not isinstance(value, list) or len(value) >= rule
            case "maxItems":
                good = not isinstance(value, list) or len(value) <= rule
            case "required":
                good = not isinstance(value, dict) or set(rule) <= set(value)
            case "properties" | "additionalProperties":
                good = not isinstance(value, dict) or rule is not False or set(value) <= set(schema["properties"])
                if isinstance(value, dict) and rule is not False:
                    for key, each in value.items():
                        if keyword == "additionalProperties" or key in rule:
                            inner = rule if keyword == "additionalProperties" else rule[key]
                            yield from faults(each, inner, f"{path}.{key}")
            case "items":
                good = True
                for each in value if isinstance(value, list) else []:
                    yield from faults(each, rule, f"{path}[]")
            case "propertyNames":
                good = not isinstance(value, dict) or not any(list(faults(key, rule)) for key in value)
            case _:
                raise AssertionError(keyword)
        if not good:
            yield f"{path}: {keyword}"


def test_schema_is_json_of_the_draft_that_editors_know() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["required"] == ["dependencies"]
    assert SCHEMA["$defs"]["Dependency"]["required"] == ["upstream"]


def models(model: type[Section] = Config) -> Iterator[type[Section]]:
    yield model
    for field in known_keys(model).values():
        annotation, _ = unwrapped(field.annotation)
        inner = get_args(annotation)[1] if get_origin(annotation) is dict else annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from models(inner)


def test_schema_has_every_section() -> None:
    assert {model.__name__ for model in models()} == {*SCHEMA["$defs"], "Config"}
    assert len(SCHEMA["$defs"]) == 25


@pytest.mark.parametrize("model", sorted(set(models()), key=lambda model: model.__name__))
def test_every_section_names_its_keys_and_describes_them(model: type[Section]) -> None:
    section = SCHEMA if model is Config else SCHEMA["$defs"][model.__name__]
    assert set(section["properties"]) == set(known_keys(model)) - {"name"}
    assert section["additionalProperties"] is False
    assert all(len(key["description"]) > 10 for key in section["properties"].values())


def test_key_that_is_a_word_of_python_has_its_own_name() -> None:
    assert [*SCHEMA["$defs"]["Ejection"]["properties"]] == ["consecutive_failures", "for", "max"]


def test_defaults_are_as_written_and_fit_their_own_keys() -> None:
    timeout = SCHEMA["$defs"]["Timeout"]["properties"]
    assert {name: key["default"] for name, key in timeout.items()} == {
        "connect": "1s",
        "first_byte": "5s",
        "idle": "60s",
        "total": "15s",
        "tunnel": "5m",
    }
    for section in (SCHEMA, *SCHEMA["$defs"].values()):
        for name, key in section["properties"].items():
            if "default" in key:
                assert not list(faults(key["default"], key)), name
    assert "default" not in SCHEMA["$defs"]["Dependency"]["properties"]["hosts"]


@pytest.mark.parametrize(
    "text",
    [
        (ROOT / "config/sidecar.yaml").read_text(),
        (ROOT / "config/demo.yaml").read_text(),
        "listen: unix:/a\nmetrics: {listen: ':1'}\ndependencies: {a: {upstream: http://a/}}",
        (
            "listen: '[::1]:1'\nlistener:\n"
            "dependencies: {a: {upstream: unix:/a, listen: null, prefix: /, hosts: ['[::1]', a:1]}}"
        ),
        ("listen:\ndefaults: {max_body: 5, timeout: }\ndependencies: {a: {upstream: http://a, listen: localhost:1}}"),
        (
            'drain_idle: "${A:-5s}"\n'
            'listener: {backlog: "${B:-5}", forwarded: "${C:-off}", allow_half_close: "${D:-true}"}\n'
            'dependencies: {a: {upstream: "http://${E:-a}:${F:-80}"}}'
        ),
        (
            "access_log: {sample: 0%, always: [4xx]}\nmetrics: {buckets: [1s]}\n"
            "dependencies:\n  a:\n    upstream: http://a\n"
            "    rate_limit: {rate: 10 per 2 Minutes, burst: 5}\n"
            "    circuit_breaker: {window: 100 calls, failure_statuses: [429, '500', 4XX]}\n"
            "    retry: {'on': [timeout, 429, 5xx], methods: [M-SEARCH], budget: {min_per_second: 0.5}}\n"
            "    fallback: {'on': [CIRCUIT_OPEN], headers: {X-A: '', x-b: 5}, body: 7}\n"
            "    candidates: {b: {rate_limit: , circuit_breaker: {open_for: 1s}}, c: }\n"
            "    expected_latency: 1s\n"
        ),
        "dependencies: {a: {upstream: http://a, candidates: , fallback: {headers: }, queue: }}",
        (
            "listener: {tls: {cert: /a/b.pem, key: /a/é, client_ca: /c}}\n"
            "defaults: {tls: , ejection: , max_tunnels: 0, dns_refresh: 100ms, timeout: {tunnel: 1h}}\n"
            "dependencies:\n"
            "  a:\n"
            "    upstream: [https://a, HTTPS://b:1/]\n"
            '    tls: {ca_file: /a, cert: "${C:-/c}", key: null, server_name: "[::1]"}\n'
            "    ejection: {consecutive_failures: null, for: 1ms, max: 0%}\n"
            '  b: {upstream: [http://b, unix:/b, "${B:-http://c}"], listen: ":1", listener: {tls: {key: null}}}\n'
            "  c: {upstream: [http://d]}\n"
        ),
    ],
)
def test_what_loads_fits_the_schema(text: str) -> None:
    load_text(text, "f", {})
    assert not list(faults(yaml.safe_load(text), SCHEMA))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({}, ": required"),
        ({"dependencies": {}}, ".dependencies: minProperties"),
        ({"dependencies": {"A b": {"upstream": "http://a"}}}, ".dependencies: propertyNames"),
        ({"dependencies": {"a": {}}}, ".dependencies.a: required"),
        (
            {"dependencies": {"a": {"upstream": "http://a", "name": "a"}}},
            ".dependencies.a: additionalProperties",
        ),
        ({"dependencies": {"a": {"upstream": "ftp://a"}}}, ".dependencies.a.upstream: anyOf"),
        ({"dependencies": {"a": {"upstream": []}}}, ".dependencies.a.upstream: anyOf"),
        ({"dependencies": {"a": {"upstream": None}}}, ".dependencies.a.upstream: anyOf"),
        ({"dependencies": {"a": {"upstream": ["http://a", "b"]}}}, ".dependencies.a.upstream: anyOf"),
        (
            {"dependencies": {"a": {"upstream": [f"http://a{n}" for n in range(65)]}}},
            ".dependencies.a.upstream: anyOf",
        ),
        (
            {"dependencies": {"a": {"upstream": "https://a", "tls": {"ca_file": "ca.pem"}}}},
            ".dependencies.a.tls.ca_file: anyOf",
        ),
        (
            {"dependencies": {"a": {"upstream": "https://a", "tls": {"server_name": "a:443"}}}},
            ".dependencies.a.tls.server_name: anyOf",
        ),
        (
            {"dependencies": {"a": {"upstream": "http://a", "ejection": {"for_": "1s"}}}},
            ".dependencies.a.ejection: additionalProperties",
        ),
        ({"dependencies": {"a": {"upstream": "http://a", "max_tunnels": -1}}}, ".dependencies.a.max_tunnels: anyOf"),
        ({"dependencies": {"a": {"upstream": "http://a/b"}}}, ".dependencies.a.upstream: anyOf"),
        ({"dependencies": {"a": {"upstream": "http://a", "prefix": "/a/"}}}, ".dependencies.a.prefix: anyOf"),
        (
            {"dependencies": {"a": {"upstream": "http://a", "hosts": ["a/b"]}}},
            ".dependencies.a.hosts[]: anyOf",
        ),
        ({"dependencies": {"a": {"upstream": "http://a"}}, "listen": "a"}, ".listen: anyOf"),
        ({"dependencies": {"a": {"upstream": "http://a"}}, "drain_idle": 5}, ".drain_idle: anyOf"),
        ({"dependencies": None}, ".dependencies: type"),
        ({"dependencies": {"a": {"upstream": "http://a"}}, "metrics": {"buckets": []}}, ".metrics.buckets: minItems"),
        (
            {"dependencies": {"a": {"upstream": "http://a", "candidates": {"shadow": {}}}}},
            ".dependencies.a.candidates: propertyNames",
        ),
        (
            {"dependencies": {"a": {"upstream": "http://a", "candidates": {"b": {"rate_limit": {"mode": "off"}}}}}},
            ".dependencies.a.candidates.b.rate_limit: additionalProperties",
        ),
        (
            {"dependencies": {"a": {"upstream": "http://a", "retry": {"methods": ["get"]}}}},
            ".dependencies.a.retry.methods: anyOf",
        ),
        (
            {"dependencies": {"a": {"upstream": "http://a", "retry": {"on": [600]}}}},
            ".dependencies.a.retry.on[]: anyOf",
        ),
        (
            {"dependencies": {"a": {"upstream": "http://a"}}, "defaults": {"prefix": "/"}},
            ".defaults: additionalProperties",
        ),
    ],
)
def test_what_does_not_load_does_not_fit(value: dict[str, object], fault: str) -> None:
    assert list(faults(value, SCHEMA)) == [fault]
