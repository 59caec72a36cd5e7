"""What holds between the keys of TLS and upstreams, and the warnings about them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.config import load_text

Lines = Callable[..., list[str]]


def warnings(text: str, **environ: str) -> list[str]:
    """The warnings about a text, without the name of the file and the word."""
    found = [str(warning) for warning in load_text(text, "f", environ).warnings]
    return [line.removeprefix("f:").replace(" warning:", "", 1) for line in found]


PLAIN = "is for https:// upstreams, and this one speaks plain HTTP"
CERT = "needs a cert beside it"


@pytest.mark.parametrize("upstream", ["http://a", "http://a:443", "unix:/a", "[http://a, unix:/b]"])
@pytest.mark.parametrize("tls", ["", "{}", "{ca_file: /ca}", "{insecure_skip_verify: true}", "{key: /k}"])
def test_tls_is_for_what_speaks_it(upstream: str, tls: str, report: Lines) -> None:
    assert report(f"dependencies:\n  a:\n    prefix: /\n    upstream: {upstream}\n    tls: {tls}\n") == [
        f"5:5: dependencies.a.tls: {PLAIN}"
    ]


@pytest.mark.parametrize("tls", ["{key: /k}", "{cert: null, key: /k}", "{ca_file: /ca, key: /k}"])
def test_private_key_needs_a_certificate(tls: str, report: Lines) -> None:
    [line] = report(f"dependencies:\n  a:\n    upstream: https://a\n    tls: {tls}\n")
    assert line == f"4:{10 + tls.index('/k')}: dependencies.a.tls.key: {CERT}"
    [line] = report(f"dependencies: {{a: {{upstream: https://a}}}}\ndefaults:\n  tls: {tls}\n")
    assert line == f"3:{8 + tls.index('/k')}: dependencies.a.tls.key: {CERT}"


def test_key_in_the_defaults_is_judged_with_the_certificate_of_each_dependency(report: Lines) -> None:
    text = (
        "defaults: {tls: {key: /k}}\n"
        "dependencies:\n"
        "  a: {upstream: https://a, tls: {cert: /c, key: /own}}\n"
        "  b: {upstream: http://b}\n"
    )
    assert warnings(text) == []
    assert report(text + "  c: {upstream: https://c}\n") == [f"1:23: dependencies.c.tls.key: {CERT}"]


def test_listener_without_a_certificate_has_no_use_for_the_rest(report: Lines) -> None:
    assert report(
        "listener: {tls: {key: /k, client_ca: /ca}}\n"
        "dependencies:\n"
        "  a: {upstream: http://a, listen: ':1', listener: {tls: {client_ca: /a}}}\n"
        "  b: {upstream: http://b, listen: ':2', listener: {tls: {cert: /b, key: /b}}}\n"
        "  c: {upstream: http://c, listen: ':3'}\n"
    ) == [
        f"1:23: listener.tls.key: {CERT}",
        f"1:38: listener.tls.client_ca: {CERT}",
        f"3:69: dependencies.a.listener.tls.client_ca: {CERT}",
    ]


def test_listener_at_the_top_needs_no_certificate_where_it_only_hands_down(report: Lines) -> None:
    text = (
        "listen: null\n"
        "listener: {tls: {client_ca: /ca}}\n"
        "dependencies:\n"
        "  a: {upstream: http://a, listen: ':1', listener: {tls: {cert: /a}}}\n"
    )
    assert warnings(text) == []
    assert report(text + "  b: {upstream: http://b, listen: ':2'}\n") == [
        f"2:29: dependencies.b.listener.tls.client_ca: {CERT}"
    ]


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ("{cert: null}", "must not be null beside key (line 1) and client_ca (line 1); set both to null as well"),
        ("{cert: null, key: null}", "must not be null beside client_ca (line 1); set that to null as well"),
        ("{cert: null, client_ca: null}", "must not be null beside key (line 1); set that to null as well"),
    ],
)
def test_certificate_is_not_taken_away_from_what_is_merged_with_it(tls: str, message: str, report: Lines) -> None:
    assert report(
        "listener: {tls: {cert: /c, key: /k, client_ca: /ca}}\n"
        f"dependencies:\n  a: {{upstream: http://a, listen: ':1', listener: {{tls: {tls}}}}}\n"
    ) == [f"3:64: dependencies.a.listener.tls.cert: {message}"]


@pytest.mark.parametrize(
    ("upstream", "lines"),
    [
        (
            "[http://a, http://b, http://a]",
            ["3:36: dependencies.a.upstream[2]: must not be the same as upstream[0] (line 3), found 'http://a:80'"],
        ),
        (
            "[http://b, http://A., 'http://a:80/']",
            ["3:37: dependencies.a.upstream[2]: must not be the same as upstream[1] (line 3), found 'http://a:80'"],
        ),
        (
            "[https://a, 'https://a:443']",
            ["3:27: dependencies.a.upstream[1]: must not be the same as upstream[0] (line 3), found 'https://a:443'"],
        ),
        (
            "[unix:/a, unix:/a]",
            ["3:25: dependencies.a.upstream[1]: must not be the same as upstream[0] (line 3), found 'unix:/a'"],
        ),
        (
            "[http://a, http://a, http://a]",
            [
                "3:26: dependencies.a.upstream[1]: must not be the same as upstream[0] (line 3), found 'http://a:80'",
                "3:36: dependencies.a.upstream[2]: must not be the same as upstream[0] (line 3), found 'http://a:80'",
            ],
        ),
        (
            "[http://a, https://b, https://c]",
            [
                (
                    "3:26: dependencies.a.upstream[1]: must begin with http:// or unix:/, as upstream[0] does (line "
                    "3), found 'https://b:443'"
                )
            ],
        ),
        (
            "[https://a, http://b, unix:/c]",
            [
                (
                    "3:27: dependencies.a.upstream[1]: must begin with https://, as upstream[0] does (line 3), "
                    "found 'http://b:80'"
                )
            ],
        ),
        (
            "[https://a, unix:/c, https://a]",
            [
                (
                    "3:27: dependencies.a.upstream[1]: must begin with https://, as upstream[0] does (line 3), "
                    "found 'unix:/c'"
                ),
                "3:36: dependencies.a.upstream[2]: must not be the same as upstream[0] (line 3), found 'https://a:443'",
            ],
        ),
    ],
)
def test_upstreams_of_a_list_differ_and_are_all_https_or_none(upstream: str, lines: list[str], report: Lines) -> None:
    assert report(f"dependencies:\n  a:\n    upstream: {upstream}\n    prefix: /\n") == lines


@pytest.mark.parametrize(
    "upstream",
    [
        "[http://a, 'http://a:81', http://b, unix:/a]",
        "['http://a:443', unix:/a]",
        "[https://a, 'https://a:80']",
    ],
)
def test_upstreams_of_a_list_may_share_a_host_or_a_port(upstream: str) -> None:
    assert warnings(f"dependencies: {{a: {{upstream: {upstream}, prefix: /}}}}") == []


def test_two_dependencies_may_have_the_same_upstream() -> None:
    text = "dependencies:\n  a: {upstream: [http://x, http://y], prefix: /a}\n  b: {upstream: http://x, prefix: /b}\n"
    assert warnings(text) == []


def test_upstream_from_a_variable_is_not_shown(report: Lines) -> None:
    text = 'dependencies: {a: {upstream: [http://a, "${U}", "${U}"], prefix: /}}'
    same = "1:49: dependencies.a.upstream[2]: must not be the same as upstream[1] (line 1), found the value of ${U}"
    assert report(text, U="http://b") == [same]
    assert "secret" not in "".join(report(text, U="https://secret"))


@pytest.mark.parametrize(
    "text",
    [
        "defaults: {tls: {cert: c, key: /k}}\ndependencies: {a: {upstream: https://a}}",
        "defaults: {tls: 5}\ndependencies: {a: {upstream: https://a, tls: {key: /k, cert: /c}}}",
        "listener: {tls: {cert: c, key: /k, client_ca: /ca}}\ndependencies: {a: {upstream: http://a, listen: ':1'}}",
        "listener: {tls: {cert: , key: k}}\ndependencies: {a: {upstream: http://a}}",
        "dependencies: {a: {upstream: [https://a, x, http://a, https://a], tls: {key: /k}}, b: {upstream: http://b}}",
        "dependencies: {a: {upstream: [https://a, http://b], tls: {ca_file: /ca}}}",
        "dependencies: {a: {upstream: http://a, listener: {tls: {key: /k}}}}",
        "dependencies: {a: {upstream: ftp://a, tls: {key: /k}}, b: {upstream: http://b}}",
    ],
)
def test_rules_are_silent_about_keys_that_are_wrong_themselves(text: str, report: Lines) -> None:
    assert len(report(text)) == 1


def insecure(name: str) -> str:
    return (
        f"dependencies.{name}.tls.insecure_skip_verify: switches off the verification of the certificate of {name}: "
        "whoever is on the way can read and change everything"
    )


def test_every_dependency_that_trusts_anybody_has_a_warning_of_its_own() -> None:
    assert warnings(
        "defaults: {tls: {insecure_skip_verify: true}}\n"
        "dependencies:\n"
        "  a: {upstream: https://a}\n"
        "  b: {upstream: https://b, tls: {server_name: x}}\n"
        "  c: {upstream: https://c, tls: {insecure_skip_verify: false}}\n"
        "  d: {upstream: https://d, tls: {insecure_skip_verify: true}}\n"
        "  e: {upstream: http://e}\n"
    ) == [
        f"1:40: {insecure('a')}",
        f"1:40: {insecure('b')}",
        f"6:56: {insecure('d')}",
    ]


@pytest.mark.parametrize(
    ("defaults", "own", "warned"),
    [
        ("", "ca_file: /ca, insecure_skip_verify: true", True),
        ("insecure_skip_verify: true", "ca_file: /ca", True),
        ("ca_file: /ca, insecure_skip_verify: true", "", True),
        # The others have a use for it.
        ("ca_file: /ca", "insecure_skip_verify: true", False),
        ("", "insecure_skip_verify: true", False),
        ("", "ca_file: null, insecure_skip_verify: true", False),
    ],
)
def test_cas_have_no_effect_where_anybody_is_trusted(defaults: str, own: str, warned: bool) -> None:
    found = warnings(
        f"defaults: {{tls: {{{defaults}}}}}\n"
        f"dependencies:\n  a: {{upstream: https://a, tls: {{{own}}}}}\n  b: {{upstream: http://b}}\n"
    )
    messages = [line.partition(": ")[2] for line in found]
    wanted = ["dependencies.a.tls.ca_file: has no effect while insecure_skip_verify is true"] if warned else []
    assert sorted(messages) == sorted([insecure("a"), *wanted])


@pytest.mark.parametrize(
    ("merged", "own", "line"),
    [
        (
            "cert: /c, key: /k",
            "cert: /own",
            (
                "cert: is used with the key of line 1; name the one that belongs to it beside it, or key: null where "
                "that is in the file of cert"
            ),
        ),
        (
            "cert: /c, key: /k",
            "key: /own",
            "key: is used with the cert of line 1; name the one that belongs to it beside it",
        ),
        ("cert: /c, key: /k", "cert: /own, key: /own", None),
        ("cert: /c, key: /k", "cert: /own, key: null", None),
        ("cert: /c, key: /k", "key: null", None),
        ("cert: /c", "cert: /own", None),
        ("cert: /c, key: /k", "", None),
    ],
)
def test_pair_of_a_certificate_and_the_key_of_another_is_a_warning(merged: str, own: str, line: str | None) -> None:
    found = warnings(f"defaults: {{tls: {{{merged}}}}}\ndependencies: {{a: {{upstream: https://a, tls: {{{own}}}}}}}\n")
    assert [each.partition(": ")[2] for each in found] == ([f"dependencies.a.tls.{line}"] if line else [])
    found = warnings(
        f"listener: {{tls: {{{merged}}}}}\n"
        f"dependencies: {{a: {{upstream: http://a, listen: ':1', listener: {{tls: {{{own}}}}}}}}}\n"
    )
    assert [each.partition(": ")[2] for each in found] == ([f"dependencies.a.listener.tls.{line}"] if line else [])
