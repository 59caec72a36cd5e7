"""Which dependency a request is for, beside a model that tries them one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.routing import Router, canonical_host


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [
        (b"a", b"a", b""),
        (b"A.B.:80", b"a.b", b"80"),
        (b"a:", b"a", b""),
        (b"[::1]", b"[::1]", b""),
        (b"[FE80::1]:8", b"[fe80::1]", b"8"),
        (b"", b"", b""),
    ],
)
def test_host_is_compared_without_case_and_without_the_roots_dot(host: bytes, name: bytes, port: bytes) -> None:
    assert canonical_host(host) == (name, port)


_ROUTER = Router(
    [
        ("pay", ["pay:8080"], "/pay", [8080]),
        ("orders", ["orders"], None, [9000]),
        ("web", ["web:80", "www:80"], "/", [80]),
        ("six", ["[::1]:8080"], "/pay/v6", [8080]),
    ]
)


@pytest.mark.parametrize(
    ("host", "target"),
    [
        (b"pay:8080", "pay"),
        (b"PAY.:8080", "pay"),
        (b"pay", None),
        (b"pay:80", None),
        (b"orders", "orders"),
        (b"orders:1", "orders"),
        (b"web", "web"),
        (b"web:", "web"),
        (b"www:80", "web"),
        (b"www:81", None),
        (b"[::1]:8080", "six"),
        (b"[::1]", None),
        (b"else", None),
    ],
)
def test_host_selects_with_its_port_or_any(host: bytes, target: str | None) -> None:
    assert _ROUTER.by_host(host) == target


@pytest.mark.parametrize(
    ("authority", "target"),
    [
        (b"pay:8080", "pay"),
        (b"pay", None),
        (b"orders", "orders"),
        (b"orders:80", "orders"),
        (b"orders:9000", "orders"),
        (b"orders:9001", None),
        (b"web", "web"),
        (b"web:8080", None),
        (b"[::1]:8080", "six"),
        (b"pay:99999", None),
        (b"evil:80", None),
    ],
)
def test_absolute_target_selects_only_host_and_port_that_are_configured(authority: bytes, target: str | None) -> None:
    assert _ROUTER.by_authority(authority) == target


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (b"/pay", "pay"),
        (b"/pay?x=/pay/v6", "pay"),
        (b"/pay/", "pay"),
        (b"/pay/v6", "six"),
        (b"/pay/v6/x", "six"),
        (b"/pay/v66", "pay"),
        (b"/payx", "web"),
        (b"/PAY", "web"),
        (b"//pay", "web"),
        (b"/", "web"),
        (b"*", "web"),
    ],
)
def test_longest_prefix_that_ends_at_a_segment_wins(path: bytes, target: str | None) -> None:
    assert _ROUTER.by_path(path) == target


def test_without_prefixes_no_path_selects() -> None:
    assert Router([("a", ["a"], None, [80])]).by_path(b"/a") is None


def test_unix_upstream_has_no_port_to_be_named_by() -> None:
    router = Router([("a", ["a"], None, [])])
    assert router.by_authority(b"a") == "a"
    assert router.by_authority(b"a:8080") is None


_SEGMENT = st.sampled_from(["a", "b", "ab", "%2F", ""])
_PATH = st.lists(_SEGMENT, max_size=5).map(lambda segments: "/" + "/".join(segments))


@given(st.lists(_PATH, unique_by=lambda path: path.rstrip("/"), max_size=6), _PATH, st.sampled_from(["", "?", "?/a/b"]))
def test_by_path_is_what_trying_every_prefix_gives(prefixes: list[str], path: str, query: str) -> None:
    router = Router([(prefix, [], prefix, [80]) for prefix in prefixes])
    matching = [prefix for prefix in prefixes if (path + "/").startswith(prefix.rstrip("/") + "/")]
    expected = max(matching, key=lambda prefix: len(prefix.rstrip("/")), default=None)
    assert router.by_path((path + query).encode()) == expected


_HOSTS = st.builds(
    lambda name, port: f"{name}{port}", st.sampled_from(["a", "b.c", "[::1]"]), st.sampled_from(["", ":80", ":8080"])
)


@given(st.lists(_HOSTS, unique=True, max_size=9), _HOSTS, st.booleans())
def test_by_host_is_what_trying_every_host_gives(hosts: list[str], asked: str, upper: bool) -> None:
    router = Router([(host, [host], None, [80]) for host in hosts])
    name, _, port = asked.rpartition(":") if asked[-1] == "0" else (asked, "", "80")
    exact = next((host for host in hosts if host == f"{name}:{port}"), None)
    expected = exact or next((host for host in hosts if host == name), None)
    assert router.by_host((asked.upper() if upper else asked).encode()) == expected
