"""What holds between keys: routes, addresses, reach; and the warnings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.config import Config, load_text

Lines = Callable[..., list[str]]
Loaded = Callable[..., Config]


def hosts(config: Config) -> dict[str, tuple[str, ...]]:
    return {name: dependency.hosts for name, dependency in config.dependencies.items()}


def test_host_of_the_upstream_is_the_default(config: Loaded) -> None:
    found = config(
        "dependencies:\n"
        "  a: {upstream: http://Api}\n"
        "  b: {upstream: 'http://[::1]:81'}\n"
        "  c: {upstream: unix:/run/c, prefix: /c}\n"
        "  d: {upstream: http://d, hosts: [D, 'd.example.:80', D]}\n"
        "  e: {upstream: http://e, hosts: [], prefix: /e}\n"
    )
    assert hosts(found) == {
        "a": ("api:80",),
        "b": ("[::1]:81",),
        "c": (),
        "d": ("d", "d.example:80", "d"),
        "e": (),
    }


def test_default_host_that_several_have_belongs_to_none(config: Loaded) -> None:
    found = config(
        "dependencies:\n"
        "  a: {upstream: http://api, prefix: /a}\n"
        "  b: {upstream: http://api:80, listen: ':1'}\n"
        "  c: {upstream: http://api:81}\n"
    )
    assert hosts(found) == {"a": (), "b": (), "c": ("api:81",)}


def test_hosts_of_all_upstreams_are_the_default(config: Loaded) -> None:
    found = config(
        "dependencies:\n"
        "  a: {upstream: [http://A, unix:/a, 'http://a:81']}\n"
        "  b: {upstream: [https://a, https://b]}\n"
        "  c: {upstream: [http://c, http://d, http://e]}\n"
        "  d: {upstream: [http://d, 'http://e:81'], prefix: /d}\n"
        "  e: {upstream: http://e, prefix: /e}\n"
        "  f: {upstream: http://f, hosts: ['e:81', 'f:80']}\n"
        "  g: {upstream: [unix:/g, unix:/h], prefix: /g}\n"
    )
    assert hosts(found) == {
        "a": ("a:80", "a:81"),
        "b": ("a:443", "b:443"),
        "c": ("c:80",),
        "d": (),
        "e": (),
        "f": ("e:81", "f:80"),
        "g": (),
    }


def test_host_that_is_written_wins_over_one_by_default(config: Loaded) -> None:
    found = config(
        "dependencies:\n  a: {upstream: http://api, prefix: /a}\n  b: {upstream: http://b, hosts: ['api:80']}\n"
    )
    assert hosts(found) == {"a": (), "b": ("api:80",)}


def test_name_with_and_without_port_are_two_hosts(config: Loaded) -> None:
    found = config("dependencies:\n  a: {upstream: http://a, hosts: [x]}\n  b: {upstream: http://b, hosts: ['x:80']}\n")
    assert hosts(found) == {"a": ("x",), "b": ("x:80",)}


def test_host_belongs_to_one_dependency(report: Lines) -> None:
    assert report(
        "dependencies:\n"
        "  a: {upstream: http://a, hosts: [y, x]}\n"
        "  b: {upstream: http://b, hosts: [z, X.], prefix: /b}\n"
        "  c: {upstream: http://c, hosts: [z]}\n"
    ) == [
        "3:38: dependencies.b.hosts[1]: 'x' already selects dependencies.a (line 2)",
        "4:35: dependencies.c.hosts[0]: 'z' already selects dependencies.b (line 3)",
    ]


def test_prefix_belongs_to_one_dependency(report: Lines) -> None:
    assert report(
        "dependencies:\n"
        "  a: {upstream: http://a, prefix: /}\n"
        "  b: {upstream: http://b, prefix: /b}\n"
        "  c: {upstream: http://c, prefix: /b/c}\n"
        "  d: {upstream: http://d, prefix: /}\n"
        "  e: {upstream: http://e, prefix: /b}\n"
    ) == [
        "5:35: dependencies.d.prefix: '/' already selects dependencies.a (line 2)",
        "6:35: dependencies.e.prefix: '/b' already selects dependencies.b (line 3)",
    ]


def test_prefix_that_comes_with_an_alias_is_claimed_twice_all_the_same(report: Lines) -> None:
    [line] = report("dependencies:\n  a: &a {upstream: http://a, prefix: /a}\n  b: *a\n")
    assert line == "2:38: dependencies.b.prefix: '/a' already selects dependencies.a (line 2)"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("listen: ':21090'", "1:9: listen: ':21090' is already taken by metrics.listen (by default)"),
        (
            "metrics: {listen: '127.0.0.1:21080'}",
            "1:19: metrics.listen: '127.0.0.1:21080' is already taken by listen (by default)",
        ),
        (
            "metrics: {listen: ':1'}\nlisten: ':1'",
            "2:9: listen: ':1' is already taken by metrics.listen (line 1)",
        ),
        (
            "listen: ':1'\nmetrics: {listen: ':1'}",
            "2:19: metrics.listen: ':1' is already taken by listen (line 1)",
        ),
        (
            "listen: unix:/a\nmetrics: {listen: unix:/a}",
            "2:19: metrics.listen: 'unix:/a' is already taken by listen (line 1)",
        ),
    ],
)
def test_shared_port_and_metrics_have_two_addresses(text: str, line: str, report: Lines) -> None:
    assert report(f"{text}\ndependencies: {{a: {{upstream: http://a}}}}") == [line]


def test_port_of_a_dependency_is_free_of_all_others(report: Lines) -> None:
    assert report(
        "dependencies:\n"
        "  a: {upstream: http://a, listen: ':21080'}\n"
        "  b: {upstream: http://b, listen: 'localhost:21090'}\n"
        "  c: {upstream: http://c, listen: '127.0.0.1:1'}\n"
        "  d: {upstream: http://d, listen: ':1'}\n"
        "  e: {upstream: http://e, listen: unix:/e}\n"
        "  f: {upstream: http://f, listen: unix:/e}\n"
    ) == [
        "2:35: dependencies.a.listen: ':21080' is already taken by listen (by default)",
        "3:35: dependencies.b.listen: 'localhost:21090' is already taken by metrics.listen (by default)",
        "5:35: dependencies.d.listen: ':1' is already taken by dependencies.c.listen (line 4)",
        "7:35: dependencies.f.listen: 'unix:/e' is already taken by dependencies.e.listen (line 6)",
    ]


def test_port_zero_and_other_interfaces_are_free(config: Loaded) -> None:
    config(
        "listen: 127.0.0.1:0\n"
        "metrics: {listen: 127.0.0.1:0}\n"
        "dependencies:\n"
        "  a: {upstream: http://a, listen: 127.0.0.1:1}\n"
        "  b: {upstream: http://b, listen: '[::1]:1'}\n"
        "  c: {upstream: http://c, listen: ':0'}\n"
    )


def test_dependency_without_shared_port_needs_its_own(report: Lines) -> None:
    assert report(
        "listen: null\ndependencies:\n  a: {upstream: http://a, listen: ':1'}\n  b: {upstream: http://b, prefix: /b}\n"
    ) == [
        (
            "4:3: dependencies.b: nothing can reach it: the shared port is off (listen: null), so it "
            "needs a listen of its own"
        )
    ]


def test_dependency_on_the_shared_port_needs_something_that_selects_it(report: Lines) -> None:
    end = "so it needs a prefix, hosts or a listen of its own"
    assert report(
        "dependencies:\n"
        "  a: {upstream: http://api}\n"
        "  b: {upstream: http://api, prefix: /b}\n"
        "  c: {upstream: unix:/c}\n"
        "  d: {upstream: http://d, hosts: []}\n"
        "  e: {upstream: http://e}\n"
        "  f: {upstream: http://f, hosts: ['e:80']}\n"
        "  g: {upstream: ['http://api:81', 'http://d:81']}\n"
        "  h: {upstream: ['http://d:81', 'http://api:81'], prefix: /h}\n"
        "  i: {upstream: [unix:/i, unix:/j]}\n"
    ) == [
        (f"2:3: dependencies.a: nothing can reach it: the host of its upstream is also that of dependencies.b, {end}"),
        f"4:3: dependencies.c: nothing can reach it: nothing selects it, {end}",
        f"5:3: dependencies.d: nothing can reach it: nothing selects it, {end}",
        (f"6:3: dependencies.e: nothing can reach it: the host of its upstream is also that of dependencies.f, {end}"),
        (f"8:3: dependencies.g: nothing can reach it: the host of its upstream is also that of dependencies.h, {end}"),
        f"10:3: dependencies.i: nothing can reach it: nothing selects it, {end}",
    ]


def test_rules_are_silent_about_keys_that_are_wrong_themselves(report: Lines) -> None:
    lines = report(
        "listen: 21090\n"
        "metrics: {listen: 21080}\n"
        "dependencies:\n"
        "  a: {upstream: ftp://api, listen: ':21080', prefix: /a}\n"
        "  b: {upstream: unix:/b, hosts: ['*'], listener: {}}\n"
        "  c: {upstream: http://c, prefix: /a, listen: ':21090'}\n"
        "  d: {upstream: http://d, listen: ':21080'}\n"
        "  E: {upstream: http://d, listen: ':21080'}\n"
        "  f: 5\n"
    )
    assert [line.split(": ")[1] for line in lines] == [
        "listen",
        "metrics.listen",
        "dependencies.a.upstream",
        "dependencies.b.hosts[0]",
        "dependencies.E",
        "dependencies.f",
    ]


def test_rules_are_silent_about_metrics_that_is_no_mapping(report: Lines) -> None:
    assert report("metrics: 5\ndependencies: {a: {upstream: http://a, listen: ':21090'}}") == [
        "1:10: metrics: must be a mapping, found 5"
    ]


def test_empty_dependencies_are_named_beside_other_mistakes(report: Lines) -> None:
    assert report("listen: 5\ndependencies: {}")[1:] == [
        "2:15: dependencies: must name at least one dependency, with its upstream"
    ]


def warnings(text: str) -> list[str]:
    return [str(warning) for warning in load_text(text, "f", {}).warnings]


def test_total_that_ends_before_its_parts_is_a_warning() -> None:
    end = "is shorter than connect and first_byte together, so it may end a request before they do"
    assert warnings(
        "dependencies:\n"
        "  a: {upstream: http://a, timeout: {total: 5999ms}}\n"
        "  b: {upstream: http://b, timeout: {first_byte: 20s}}\n"
        "  c: {upstream: http://c, timeout: {total: 6s}}\n"
    ) == [
        f"f:2:44: warning: dependencies.a.timeout.total: {end}",
        f"f:3:27: warning: dependencies.b.timeout.total: {end}",
    ]


def test_more_idle_connections_than_there_can_be_is_a_warning_only_when_asked_for() -> None:
    assert warnings(
        "dependencies:\n"
        "  a: {upstream: http://a, pool: {max_connections: 5, max_idle: 6}}\n"
        "  b: {upstream: http://b, pool: {max_connections: 5}}\n"
        "  c: {upstream: http://c, pool: {max_connections: 5, max_idle: 5}}\n"
    ) == ["f:2:64: warning: dependencies.a.pool.max_idle: is more than max_connections, so it is never reached"]


def test_warning_about_a_default_is_given_once() -> None:
    found = warnings(
        "defaults: {pool: {max_connections: 1, max_idle: 2}}\n"
        "dependencies:\n  a: {upstream: http://a}\n  b: {upstream: http://b}\n"
    )
    assert [line.split(":")[1] for line in found] == ["1"]


def test_warnings_wait_until_there_are_no_mistakes(report: Lines) -> None:
    [line] = report("listen: 5\ndependencies: {a: {upstream: http://a, timeout: {total: 1s}}}")
    assert line.startswith("1:9: listen: ")
