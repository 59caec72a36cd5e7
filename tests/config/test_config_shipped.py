"""The files in `config/`: complete, and true about the defaults they state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config import Config, TcpAddress, json_schema, load, load_text

FOLDER = Path(__file__).parents[2] / "config"
REFERENCE = (FOLDER / "sidecar.yaml").read_text()
# A commented key has no space after its #, prose has one.
UNCOMMENTED = re.sub(r"^(\s*)#(?=[a-z_]+:)", r"\1", REFERENCE, flags=re.MULTILINE)


def keys_of_schema(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    definitions = json_schema()["$defs"]
    for name, key in schema["properties"].items():
        inner = key
        if name == "dependencies":
            yield f"{path}{name}"
            path, inner = f"{path}{name}.", key["additionalProperties"]
            name = "payments"
        yield f"{path}{name}"
        # The keys of a listener stand once, at the top; the one of a dependency refers to them.
        if "$ref" in inner and (path, name) != ("dependencies.payments.", "listener"):
            yield from keys_of_schema(definitions[inner["$ref"].rpartition("/")[2]], f"{path}{name}.")


def keys_of_file(value: object, path: str = "") -> Iterator[str]:
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield f"{path}{name}"
        yield from keys_of_file(inner, f"{path}{name}.")


def test_reference_and_schema_name_the_same_keys() -> None:
    assert sorted(keys_of_file(yaml.safe_load(UNCOMMENTED))) == sorted(keys_of_schema(json_schema()))


def test_reference_states_the_defaults() -> None:
    least = "dependencies: {payments: {upstream: 'http://payments.default.svc.cluster.local:8080'}}"
    result = load(FOLDER / "sidecar.yaml", {})
    assert result.warnings == []
    assert result.config == load_text(least).config


def test_reference_states_the_defaults_in_the_words_of_the_schema() -> None:
    schema, file = json_schema(), yaml.safe_load(REFERENCE)

    def check(properties: dict[str, Any], section: dict[str, Any]) -> None:
        for key, value in section.items():
            assert value == properties[key].get("default", value), key
            if "$ref" in properties[key]:
                check(schema["$defs"][properties[key]["$ref"].rpartition("/")[2]]["properties"], value)

    check(schema["properties"], file)
    check(schema["$defs"]["Dependency"]["properties"], file["dependencies"]["payments"])


def test_commented_keys_of_the_reference_work_where_they_stand() -> None:
    with_port = UNCOMMENTED.replace("    listen: null", "    listen: ':21101'")
    assert with_port.count("listen: ':21101'") == 1
    with_tls = with_port.replace("upstream: http://", "upstream: https://")
    assert with_tls.count("upstream: https://") == 1
    result = load_text(with_tls, "f", {})
    assert result.warnings == []
    assert result.config.dependencies["payments"].hosts == ("payments.default.svc.cluster.local:8080",)
    assert result.config.dependencies["payments"].listener == result.config.listener
    assert result.config.dependencies["payments"].tls == result.config.defaults.tls


@pytest.mark.parametrize("text", [REFERENCE, (FOLDER / "demo.yaml").read_text()])
def test_lines_fit_a_screen(text: str) -> None:
    assert max(map(len, text.splitlines())) <= 110


def test_demo_is_one_dependency_with_short_timeouts() -> None:
    result = load(FOLDER / "demo.yaml", {})
    config: Config = result.config
    assert result.warnings == []
    assert config.listen == TcpAddress("127.0.0.1", 21080)
    assert config.metrics.listen == TcpAddress("127.0.0.1", 21090)
    [demo] = config.dependencies.values()
    assert (demo.name, str(demo.upstream[0]), demo.prefix) == ("demo", "http://127.0.0.1:21180", "/demo")
    assert (demo.timeout.first_byte, demo.timeout.total) == (2.0, 5.0)
