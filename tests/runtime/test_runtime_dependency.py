"""What a dependency's configuration becomes."""

from __future__ import annotations

import pytest

from sidecar.config import load_text
from sidecar.runtime.deadlines import Deadlines
from sidecar.runtime.dependency import Dependency


def _dependency(keys: str) -> Dependency:
    config = load_text(f"dependencies: {{payments: {{{keys}}}}}", "f", {}).config
    return Dependency(config.dependencies["payments"], Deadlines())


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("upstream: 'http://pay:8080'", b"\r\nHost: pay:8080"),
        ("upstream: 'http://pay'", b"\r\nHost: pay"),
        ("upstream: 'http://[::1]:81'", b"\r\nHost: [::1]:81"),
        ("upstream: 'unix:/run/pay.sock', prefix: /pay", b"\r\nHost: localhost"),
        ("upstream: 'http://pay:8080', preserve_host: true", None),
    ],
)
def test_host_line_is_what_the_upstream_expects(keys: str, line: bytes | None) -> None:
    assert _dependency(keys).host_line == line


@pytest.mark.parametrize(
    ("keys", "prefix", "strip"),
    [
        ("upstream: 'http://pay'", b"", 0),
        ("upstream: 'http://pay', prefix: /payments", b"/payments", 9),
        ("upstream: 'http://pay', prefix: /payments, strip_prefix: false", b"/payments", 0),
        ("upstream: 'http://pay', prefix: /", b"", 0),
    ],
)
def test_prefix_is_stripped_by_as_many_octets_as_it_has(keys: str, prefix: bytes, strip: int) -> None:
    dependency = _dependency(keys)
    assert (dependency.prefix, dependency.strip) == (prefix, strip)


def test_timeouts_and_limits_are_taken_over_in_seconds_and_octets() -> None:
    dependency = _dependency(
        "upstream: 'http://pay', max_body: 2KiB, max_response_head: 1KiB,"
        " timeout: {first_byte: 1s, idle: 2s, total: 3s}"
    )
    assert (dependency.first_byte_s, dependency.idle_s, dependency.total_s) == (1, 2, 3)
    assert (dependency.max_body, dependency.max_response_head) == (2048, 1024)


def test_repr_names_it() -> None:
    assert repr(_dependency("upstream: 'http://pay'")) == "<Dependency payments>"
