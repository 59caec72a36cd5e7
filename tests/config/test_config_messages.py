"""Every message about a single key, as whoever made the mistake reads it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Lines = Callable[..., list[str]]

TOP = "dependencies: {a: {upstream: http://a}}\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "listen: 5",
            (
                "listen: must be an address such as 127.0.0.1:8080, [::1]:8080, :8080 (all interfaces) "
                "or unix:/run/app.sock, found 5"
            ),
        ),
        ("listen: localhost:99999", "listen: must have a port from 0 to 65535, found 'localhost:99999'"),
        ("listner: {}", "listner: unknown key, did you mean listener?"),
        (
            "zzz: 1",
            (
                "zzz: unknown key; known here are listen, listener, metrics, access_log, drain_idle, drain_timeout, "
                "defaults, dependencies"
            ),
        ),
        ("listener: 5", "listener: must be a mapping, found 5"),
        ("listener: []", "listener: must be a mapping, found a list"),
        ("listener: {forwarded: on}", "listener.forwarded: must be one of append, replace, off, found 'on'"),
        (
            "listener: {forwarded: null}",
            "listener.forwarded: must be one of append, replace, off, found null",
        ),
        (
            "listener: {forwarded: {}}",
            "listener.forwarded: must be one of append, replace, off, found a mapping",
        ),
        (
            "listener: {trusted_proxies: 10.0.0.0/8}",
            "listener.trusted_proxies: must be a list, found '10.0.0.0/8'",
        ),
        ("listener: {trusted_proxies: null}", "listener.trusted_proxies: must be a list, found null"),
        ("listener: {trusted_proxies: {}}", "listener.trusted_proxies: must be a list, found a mapping"),
        (
            "listener: {trusted_proxies: [10]}",
            "listener.trusted_proxies[0]: must be a network such as 10.0.0.0/8 or fd00::/8, found 10",
        ),
        (
            "listener: {trusted_proxies: ['::1', x]}",
            "listener.trusted_proxies[1]: must be a network such as 10.0.0.0/8 or fd00::/8, found 'x'",
        ),
        (
            "listener: {trusted_proxies: [10.0.0.1/8]}",
            ("listener.trusted_proxies[0]: must be a network without host bits, as in 10.0.0.0/8, found '10.0.0.1/8'"),
        ),
        (
            f"listener: {{trusted_proxies: [{'1.1.1.1, ' * 257}]}}",
            "listener.trusted_proxies: must have at most 256 entries, found 257",
        ),
        ("listener: {max_connections: 0}", "listener.max_connections: must be at least 1, found 0"),
        (
            "listener: {max_connections: 1000001}",
            "listener.max_connections: must be at most 1000000, found 1000001",
        ),
        (
            "listener: {max_connections: many}",
            "listener.max_connections: must be a whole number, found 'many'",
        ),
        ("listener: {max_connections: 1.5}", "listener.max_connections: must be a whole number, found 1.5"),
        ("listener: {max_connections: true}", "listener.max_connections: must be a whole number, found true"),
        ("listener: {max_connections: '5'}", "listener.max_connections: must be a whole number, found '5'"),
        ("listener: {max_connections: }", "listener.max_connections: must be a whole number, found null"),
        ("listener: {backlog: 65536}", "listener.backlog: must be at most 65535, found 65536"),
        (
            "listener: {head_timeout: 10}",
            "listener.head_timeout: must have a unit (ms, s, m or h), as in 250ms or 5s, found 10",
        ),
        (
            "listener: {head_timeout: 10 s}",
            "listener.head_timeout: must be a duration such as 250ms, 5s, 2m or 1h, found '10 s'",
        ),
        ("listener: {head_timeout: 0s}", "listener.head_timeout: must be at least 1ms, found '0s'"),
        ("listener: {head_timeout: 25h}", "listener.head_timeout: must be at most 24h, found '25h'"),
        (
            "listener: {max_headers: 64KB!}",
            (
                "listener.max_headers: must be a size such as 512B, 64KiB or 10MB, or a whole number of "
                "bytes, found '64KB!'"
            ),
        ),
        ("listener: {max_headers: 63}", "listener.max_headers: must be at least 64B, found 63"),
        ("listener: {max_headers: 17MiB}", "listener.max_headers: must be at most 16MiB, found '17MiB'"),
        (
            "listener: {allow_half_close: yes}",
            "listener.allow_half_close: must be true or false, found 'yes'",
        ),
        ("listener: {allow_half_close: 1}", "listener.allow_half_close: must be true or false, found 1"),
        (
            "metrics: {listen: null}",
            (
                "metrics.listen: must be an address such as 127.0.0.1:8080, [::1]:8080, :8080 (all "
                "interfaces) or unix:/run/app.sock, found null"
            ),
        ),
        ("metrics: {listens: ':1'}", "metrics.listens: unknown key, did you mean listen?"),
        (
            "defaults: {upstream: http://a}",
            (
                "defaults.upstream: unknown key; known here are strip_prefix, preserve_host, max_body, "
                "max_response_head, timeout, pool, max_tunnels, tls, dns_refresh, ejection, rate_limit, concurrency, "
                "queue, circuit_breaker, retry, fallback, candidates, expected_latency"
            ),
        ),
        ("defaults: {timeout: {tunnel: 0s}}", "defaults.timeout.tunnel: must be at least 1ms, found '0s'"),
        ("defaults: {timeout: {tunnel: 25h}}", "defaults.timeout.tunnel: must be at most 24h, found '25h'"),
        ("defaults: {max_tunnels: -1}", "defaults.max_tunnels: must be at least 0, found -1"),
        ("defaults: {max_tunnels: 65536}", "defaults.max_tunnels: must be at most 65535, found 65536"),
        ("defaults: {max_tunnels: null}", "defaults.max_tunnels: must be a whole number, found null"),
        ("defaults: {dns_refresh: 99ms}", "defaults.dns_refresh: must be at least 100ms, found '99ms'"),
        ("defaults: {dns_refresh: 61m}", "defaults.dns_refresh: must be at most 1h, found '61m'"),
        (
            "defaults: {dns_refresh: null}",
            "defaults.dns_refresh: must be a duration such as 250ms, 5s, 2m or 1h, found null",
        ),
        ("defaults: {pool: {max_idle: -1}}", "defaults.pool.max_idle: must be at least 0, found -1"),
        (
            "defaults: {timeout: {frist_byte: 1s}}",
            "defaults.timeout.frist_byte: unknown key, did you mean first_byte?",
        ),
        ("defaults: 7", "defaults: must be a mapping, found 7"),
        (
            '"a\\nb": 7',
            (
                "'a\\nb': unknown key; known here are listen, listener, metrics, access_log, drain_idle, "
                "drain_timeout, defaults, dependencies"
            ),
        ),
    ],
)
def test_mistake_at_the_top_is_one_line(text: str, line: str, report: Lines) -> None:
    [found] = report(TOP + text)
    place, _, rest = found.partition(": ")
    assert rest == line
    # Unknown keys are found at the key, all else at the value.
    key = text.rstrip("]} ").rsplit("{", 1)[-1].partition(":")[0]
    if "unknown key" in line:
        assert place == f"2:{text.index(key) + 1}"
    else:
        assert place.startswith("2:")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: {}", "2:3: dependencies.a.upstream: is required, but missing"),
        ("a:", "2:3: dependencies.a.upstream: is required, but missing"),
        ("a: {upstraem: http://a}", "2:7: dependencies.a.upstraem: unknown key, did you mean upstream?"),
        ("a: http://a", "2:6: dependencies.a: must be a mapping, found 'http://a'"),
        (
            "a: {upstream: 5}",
            (
                "2:17: dependencies.a.upstream: must begin with http://, https:// or unix:/, as in "
                "http://payments:8080, found 5"
            ),
        ),
        (
            "a: {upstream: http://a:b@c}",
            (
                "2:17: dependencies.a.upstream: must not hold a user or password; let the application "
                "send an Authorization header"
            ),
        ),
        (
            "a: {upstream: http://a, name: a}",
            (
                "2:27: dependencies.a.name: unknown key; known here are strip_prefix, preserve_host, "
                "max_body, max_response_head, timeout, pool, max_tunnels, tls, dns_refresh, ejection, rate_limit, "
                "concurrency, queue, circuit_breaker, retry, fallback, candidates, expected_latency, upstream, listen, "
                "listener, hosts, prefix"
            ),
        ),
        ("a: {upstream: []}", "2:17: dependencies.a.upstream: must not be empty"),
        (
            "a: {upstream: null}",
            (
                "2:17: dependencies.a.upstream: must begin with http://, https:// or unix:/, as in "
                "http://payments:8080, found null"
            ),
        ),
        (
            "a: {upstream: {http: a}}",
            (
                "2:17: dependencies.a.upstream: must begin with http://, https:// or unix:/, as in "
                "http://payments:8080, found a mapping"
            ),
        ),
        (
            "a: {upstream: [http://a, b:80]}",
            (
                "2:28: dependencies.a.upstream[1]: must begin with http://, https:// or unix:/, as in "
                "http://payments:8080, found 'b:80'"
            ),
        ),
        (
            "a: {upstream: [http://a, [http://b]]}",
            (
                "2:28: dependencies.a.upstream[1]: must begin with http://, https:// or unix:/, as in "
                "http://payments:8080, found a list"
            ),
        ),
        (
            "a: {upstream: [https://a:b@c]}",
            (
                "2:18: dependencies.a.upstream[0]: must not hold a user or password; let the application "
                "send an Authorization header"
            ),
        ),
        (
            f"a: {{upstream: [{', '.join(f'http://a{n}' for n in range(65))}]}}",
            "2:17: dependencies.a.upstream: must have at most 64 entries, found 65",
        ),
        ("a: {upstream: http://a, hosts: a}", "2:34: dependencies.a.hosts: must be a list, found 'a'"),
        (
            "a: {upstream: http://a, hosts: [a, 'b c']}",
            (
                "2:38: dependencies.a.hosts[1]: must name a host: a DNS name, an IPv4 address, or an "
                "IPv6 address in brackets, found 'b c'"
            ),
        ),
        (
            "a: {upstream: http://a, prefix: /a/}",
            "2:35: dependencies.a.prefix: must not end with /, found '/a/'",
        ),
        (
            "a: {upstream: http://a, max_body: -1}",
            "2:37: dependencies.a.max_body: must be at least 0B, found -1",
        ),
        (
            "a: {upstream: http://a, timeout: 5s}",
            "2:36: dependencies.a.timeout: must be a mapping, found '5s'",
        ),
        (
            "a: {upstream: http://a, timeout: {total: 5}}",
            ("2:44: dependencies.a.timeout.total: must have a unit (ms, s, m or h), as in 250ms or 5s, found 5"),
        ),
        (
            "A b: {upstream: http://a}",
            (
                "2:3: dependencies.'A b': must be a name of a to z, 0 to 9, - and _, at most 63 long, "
                "with a letter or digit at both ends"
            ),
        ),
        (
            "'': {upstream: http://a}",
            (
                "2:3: dependencies.'': must be a name of a to z, 0 to 9, - and _, at most 63 long, with "
                "a letter or digit at both ends"
            ),
        ),
        (
            f"{'a' * 64}: {{upstream: http://a}}",
            (
                f"2:3: dependencies.{'a' * 64}: must be a name of a to z, 0 to 9, - and _, at most 63 "
                "long, with a letter or digit at both ends"
            ),
        ),
        (
            "a: {upstream: http://a, listener: {backlog: 1}}",
            (
                "2:27: dependencies.a.listener: is for a port of the dependency's own, and it has no "
                "listen; settings for the shared port go into listener at the top"
            ),
        ),
        (
            f"a: {{upstream: {'x' * 99}}}",
            (
                "2:17: dependencies.a.upstream: must begin with http://, https:// or unix:/, as in "
                f"http://payments:8080, found '{'x' * 60}…'"
            ),
        ),
    ],
)
def test_mistake_in_a_dependency_is_one_line(text: str, line: str, report: Lines) -> None:
    assert report("dependencies:\n  " + text) == [line]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", " is empty; it needs at least one dependency with its upstream"),
        ("---\n", " is empty; it needs at least one dependency with its upstream"),
        ("# nothing\n", " is empty; it needs at least one dependency with its upstream"),
        ("null", " is empty; it needs at least one dependency with its upstream"),
        ("text", "1:1: must be a mapping of keys, found 'text'"),
        ("[]", "1:1: must be a mapping of keys, found a list"),
        ("{}", "1:1: dependencies: is required, but missing"),
        ("\nlisten: :1", "2:1: dependencies: is required, but missing"),
        ("dependencies: {}", "1:15: dependencies: must name at least one dependency, with its upstream"),
        ("dependencies:", "1:14: dependencies: must name at least one dependency, with its upstream"),
        ("dependencies: 5", "1:15: dependencies: must be a mapping, found 5"),
        ("dependencys: {}", "1:1: dependencys: unknown key, did you mean dependencies?"),
    ],
)
def test_mistake_of_the_whole_file_is_one_line(text: str, line: str, report: Lines) -> None:
    assert report(text) == [line]


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(report: Lines) -> None:
    assert report(
        "dependencies:\n"
        "  a: {upstream: http://a, pool: {max_age: 1}}\n"
        "  b: {upstream: http://b, prefix: /a}\n"
        "  c: {upstream: http://c, prefix: /a}\n"
        "listener: {backlog: 0, backlog: 1}\n"
        "listen: ${PORT}\n"
        "lissten: 1\n"
        "defaults: {timeout: {total: 0s}}\n"
    ) == [
        "2:43: dependencies.a.pool.max_age: must have a unit (ms, s, m or h), as in 250ms or 5s, found 1",
        "4:35: dependencies.c.prefix: '/a' already selects dependencies.b (line 3)",
        "5:21: listener.backlog: must be at least 1, found 0",
        "5:24: listener.backlog: duplicate key, first given on line 5",
        "6:9: listen: needs the variable PORT, which is not set; set it or write ${PORT:-default}",
        "7:1: lissten: unknown key, did you mean listen?",
        "8:29: defaults.timeout.total: must be at least 1ms, found '0s'",
    ]


def test_key_that_looks_like_a_mark_of_pydantic_is_a_key(report: Lines) -> None:
    lines = report(
        '"[key]": 1\n'
        "dependencies:\n"
        '  "[key]": 1\n'
        '  b: {upstream: http://b, "[key]": 1}\n'
        '  c: {upstream: http://c, timeout: {"[key]": 1}}\n'
    )
    assert [line.split(": ")[0:2] for line in lines] == [
        ["1:1", "'[key]'"],
        ["3:3", "dependencies.'[key]'"],
        ["3:12", "dependencies.'[key]'"],
        ["4:27", "dependencies.b.'[key]'"],
        ["5:37", "dependencies.c.timeout.'[key]'"],
    ]


def test_a_missing_upstream_is_named_beside_an_unrelated_unknown_key(report: Lines) -> None:
    assert report("dependencies:\n  a: {prefxi: /a}") == [
        "2:3: dependencies.a.upstream: is required, but missing",
        "2:7: dependencies.a.prefxi: unknown key, did you mean prefix?",
    ]
