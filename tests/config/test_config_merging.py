"""`defaults` under every dependency, the shared listener's settings under those of single ports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from sidecar.config import Config, Dependency

Lines = Callable[..., list[str]]
Loaded = Callable[..., Config]

TWO = "dependencies:\n  a: {upstream: http://a}\n  b: {upstream: http://b, timeout: {total: 9s}}\n"


def test_defaults_reach_every_dependency_at_any_depth(config: Loaded) -> None:
    found = config("defaults: {max_body: 1MiB, timeout: {connect: 2s, total: 8s}}\n" + TWO)
    a, b = found.dependencies.values()
    assert (a.max_body, a.timeout.connect, a.timeout.total) == (1 << 20, 2.0, 8.0)
    assert (b.max_body, b.timeout.connect, b.timeout.total) == (1 << 20, 2.0, 9.0)
    assert found.defaults.timeout.total == 8.0


def test_null_section_keeps_the_defaults_and_null_value_replaces_them(config: Loaded) -> None:
    found = config(
        "defaults: {max_body: 1MiB, timeout: {total: 8s}}\n"
        "dependencies:\n  a:\n    upstream: http://a\n    max_body: null\n    timeout:\n"
    )
    assert found.dependencies["a"].max_body is None
    assert found.dependencies["a"].timeout.total == 8.0


@pytest.mark.parametrize("empty", ["defaults:", "defaults: {}", "listener:", "metrics:", "defaults: {pool: }"])
def test_empty_section_is_all_defaults(empty: str, config: Loaded) -> None:
    assert config(f"{empty}\n{TWO}") == config(TWO)


def test_listener_of_a_dependency_is_that_of_the_top_with_its_own_keys(config: Loaded) -> None:
    found = config(
        "listener: {backlog: 7, max_headers: 1KiB, trusted_proxies: [10.0.0.0/8]}\n"
        "dependencies:\n"
        "  a: {upstream: http://a, listen: ':1', listener: {backlog: 8, trusted_proxies: []}}\n"
        "  b: {upstream: http://b, listen: ':2'}\n"
        "  c: {upstream: http://c}\n"
    )
    a, b, c = found.dependencies.values()
    assert (a.listener.backlog, a.listener.max_headers, a.listener.trusted_proxies) == (8, 1024, ())
    assert b.listener == c.listener == found.listener


def test_mistake_in_defaults_is_reported_once_at_its_own_line(report: Lines) -> None:
    assert report("defaults: {max_bdy: 1, pool: 5, timeout: {total: 0s}}\n" + TWO) == [
        "1:12: defaults.max_bdy: unknown key, did you mean max_body?",
        "1:30: defaults.pool: must be a mapping, found 5",
        "1:50: defaults.timeout.total: must be at least 1ms, found '0s'",
    ]


def test_mistake_in_the_shared_listener_is_reported_once(report: Lines) -> None:
    assert report("listener: {backlog: 0}\n" + TWO) == ["1:21: listener.backlog: must be at least 1, found 0"]


def test_mistake_in_the_listener_of_a_dependency_is_reported_there(report: Lines) -> None:
    assert report(
        "listener: {backlog: 1}\ndependencies: {a: {upstream: http://a, listen: ':1', listener: {backlog: 0}}}"
    ) == ["2:74: dependencies.a.listener.backlog: must be at least 1, found 0"]


def test_defaults_do_not_stand_in_for_what_they_may_not_hold(report: Lines) -> None:
    lines = report("defaults: {upstream: http://x}\ndependencies: {a: {}}")
    assert [line.split(": ")[1] for line in lines] == ["defaults.upstream", "dependencies.a.upstream"]


def test_merged_sections_of_the_wrong_kind_are_reported_where_they_stand(report: Lines) -> None:
    lines = report("defaults: {timeout: {total: 1s}}\nlistener: 5\ndependencies: {a: {upstream: http://a, timeout: 5}}")
    assert lines == [
        "2:11: listener: must be a mapping, found 5",
        "3:49: dependencies.a.timeout: must be a mapping, found 5",
    ]


def test_dependency_knows_its_name(config: Loaded) -> None:
    assert [each.name for each in config(TWO).dependencies.values()] == ["a", "b"]


def test_configuration_cannot_be_changed(config: Loaded) -> None:
    found = config(TWO)
    with pytest.raises(ValidationError):
        found.drain_idle = 5
    with pytest.raises(ValidationError):
        found.dependencies["a"].name = "b"


def test_equal_texts_are_equal_configurations(config: Loaded) -> None:
    assert config(TWO) == config(TWO)
    assert isinstance(config(TWO).dependencies["a"], Dependency)
