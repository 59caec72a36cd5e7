"""The keys of TLS: what they hold by default and when written, merged, and every message about a single one."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.config import Config, Listener, ListenerTls, Tls, Upstream, load

Lines = Callable[..., list[str]]
Loaded = Callable[..., Config]


def test_default_is_no_tls_from_applications_and_the_trust_of_the_system(config: Loaded) -> None:
    found = config("dependencies: {a: {upstream: https://a}}")
    assert dict(found.listener.tls) == {"cert": None, "key": None, "client_ca": None}
    assert dict(found.dependencies["a"].tls) == {
        "ca_file": None,
        "cert": None,
        "key": None,
        "server_name": None,
        "insecure_skip_verify": False,
    }


def test_written_keys_are_read(config: Loaded) -> None:
    found = config(
        "listener: {tls: {cert: /run/tls.crt, key: /run/tls.key, client_ca: /run/ca.crt}}\n"
        "dependencies:\n"
        "  a:\n"
        "    upstream: [https://a, 'https://b:8443']\n"
        "    timeout: {tunnel: 1h}\n"
        "    max_tunnels: 0\n"
        "    dns_refresh: 100ms\n"
        "    tls: {ca_file: /etc/ca.pem, cert: /etc/a.pem, key: /etc/a.key, server_name: API.Example.}\n"
    )
    assert found.listener.tls == ListenerTls(cert="/run/tls.crt", key="/run/tls.key", client_ca="/run/ca.crt")
    a = found.dependencies["a"]
    assert a.upstream == (Upstream("a", 443, scheme="https"), Upstream("b", 8443, scheme="https"))
    assert (a.timeout.tunnel, a.max_tunnels, a.dns_refresh) == (3600.0, 0, 0.1)
    tls: Tls = a.tls
    assert (tls.ca_file, tls.cert, tls.key) == ("/etc/ca.pem", "/etc/a.pem", "/etc/a.key")
    assert (tls.server_name, tls.insecure_skip_verify) == ("api.example", False)


def test_upstream_is_a_tuple_whether_one_is_written_or_a_list(config: Loaded) -> None:
    found = config("dependencies:\n  a: {upstream: http://a}\n  b: {upstream: [http://b]}\n")
    assert [each.upstream for each in found.dependencies.values()] == [(Upstream("a", 80),), (Upstream("b", 80),)]


def test_defaults_reach_what_speaks_tls_and_are_no_mistake_elsewhere(config: Loaded) -> None:
    found = config(
        "defaults: {tls: {ca_file: /ca, cert: /c, key: /k}, ejection: {for: 7s}, dns_refresh: 1s, max_tunnels: 3}\n"
        "dependencies:\n"
        "  a: {upstream: https://a, tls: {server_name: x, cert: /own, key: null}, ejection: {max: 10%}}\n"
        "  b: {upstream: http://b}\n"
    )
    a, b = found.dependencies.values()
    assert (a.tls.ca_file, a.tls.cert, a.tls.key, a.tls.server_name) == ("/ca", "/own", None, "x")
    assert (a.ejection.for_, a.ejection.max, a.dns_refresh, a.max_tunnels) == (7.0, 0.1, 1.0, 3)
    assert b.tls == found.defaults.tls
    assert b.ejection == found.defaults.ejection


def test_port_of_a_dependency_has_the_certificate_of_the_top_or_its_own(config: Loaded) -> None:
    found = config(
        "listener: {tls: {cert: /c, key: /k, client_ca: /ca}}\n"
        "dependencies:\n"
        "  a: {upstream: http://a, listen: ':1'}\n"
        "  b: {upstream: http://b, listen: ':2', listener: {tls: {cert: /own, key: /own.key}}}\n"
        "  c: {upstream: http://c, listen: ':3', listener: {tls: {cert: null, key: null, client_ca: null}}}\n"
    )
    a, b, c = (each.listener for each in found.dependencies.values())
    assert a == found.listener
    assert b.tls == ListenerTls(cert="/own", key="/own.key", client_ca="/ca")
    assert c == Listener()


FILE = "must be the absolute path of a PEM file, as in /etc/tls/tls.crt"
CONTENT = "must be the path of a PEM file, not its content"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tls: /ca.pem", "tls: must be a mapping, found '/ca.pem'"),
        ("tls: true", "tls: must be a mapping, found true"),
        ("tls: {ca_file: ca.pem}", f"tls.ca_file: {FILE}, found 'ca.pem'"),
        ("tls: {ca_file: 5}", f"tls.ca_file: {FILE}, found 5"),
        ("tls: {ca_file: [/a]}", f"tls.ca_file: {FILE}, found a list"),
        ('tls: {ca_file: "/a\\0b"}', f"tls.ca_file: {FILE}, found '/a\\x00b'"),
        ("tls: {cert: /certs/}", f"tls.cert: {FILE}, found '/certs/'"),
        (
            f"tls: {{cert: /{'x' * 4096}}}",
            f"tls.cert: must be a path of at most 4096 bytes, found '/{'x' * 59}…'",
        ),
        ("tls: {cert: /c, key: '-----BEGIN EC PRIVATE KEY----- MHcC'}", f"tls.key: {CONTENT}"),
        ("tls: {server_name: 'a:443'}", "tls.server_name: must be a name alone, without a port, found 'a:443'"),
        (
            "tls: {server_name: '*.a'}",
            "tls.server_name: must be a whole name, which a certificate for *.example.com covers as well, found '*.a'",
        ),
        ("tls: {insecure_skip_verify: yes}", "tls.insecure_skip_verify: must be true or false, found 'yes'"),
        ("tls: {skip_verify: true}", "tls.skip_verify: unknown key, did you mean insecure_skip_verify?"),
        ("tls: {cafile: /a}", "tls.cafile: unknown key, did you mean ca_file?"),
        (
            "tls: {client_ca: /a}",
            ("tls.client_ca: unknown key; known here are ca_file, cert, key, server_name, insecure_skip_verify"),
        ),
    ],
)
def test_mistake_is_one_line_wherever_it_stands(text: str, line: str, report: Lines) -> None:
    [found] = report(f"dependencies:\n  a:\n    upstream: https://a\n    {text}\n")
    place, _, rest = found.partition(": ")
    assert place.startswith("4:")
    assert rest == f"dependencies.a.{line}"
    [found] = report(f"dependencies: {{a: {{upstream: https://a}}}}\ndefaults:\n  {text}\n")
    place, _, rest = found.partition(": ")
    assert place.startswith("3:")
    assert rest == f"defaults.{line}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tls: on", "tls: must be a mapping, found 'on'"),
        ("tls: {cert: tls.crt}", f"tls.cert: {FILE}, found 'tls.crt'"),
        ("tls: {cert: /c, key: 'unix:/k'}", f"tls.key: {FILE}, found 'unix:/k'"),
        ('tls: {cert: "-----BEGIN CERTIFICATE-----\\nMIIB"}', f"tls.cert: {CONTENT}"),
        ("tls: {cert: /c, client_ca: false}", f"tls.client_ca: {FILE}, found false"),
        ("tls: {ca_file: /a}", "tls.ca_file: unknown key; known here are cert, key, client_ca"),
        ("tls: {certs: /a}", "tls.certs: unknown key, did you mean cert?"),
    ],
)
def test_mistake_in_a_listener_is_one_line_wherever_it_stands(text: str, line: str, report: Lines) -> None:
    [found] = report(f"dependencies:\n  a:\n    upstream: http://a\n    listen: ':1'\n    listener: {{{text}}}\n")
    place, _, rest = found.partition(": ")
    assert place.startswith("5:")
    assert rest == f"dependencies.a.listener.{line}"
    [found] = report(f"dependencies: {{a: {{upstream: http://a, listen: ':1'}}}}\nlistener:\n  {text}\n")
    place, _, rest = found.partition(": ")
    assert place.startswith("3:")
    assert rest == f"listener.{line}"


def test_private_key_in_a_variable_is_not_shown(report: Lines) -> None:
    [line] = report(
        'dependencies: {a: {upstream: https://a, tls: {cert: /c, key: "${KEY}"}}}',
        KEY="-----BEGIN PRIVATE KEY-----\nMIIE",
    )
    assert line == f"1:62: dependencies.a.tls.key: {CONTENT}"


def test_files_are_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, pem = tmp_path / "sidecar.yaml", tmp_path / "any.pem"
    file.write_text(
        f"listener: {{tls: {{cert: {pem}, key: {pem}, client_ca: {pem}}}}}\n"
        f"dependencies: {{a: {{upstream: https://a, tls: {{ca_file: {pem}, cert: {pem}, key: {pem}}}}}}}\n"
    )
    load(file, {})  # what is imported late is imported now
    touched = []

    def noted(name: str, really: Callable[..., object]) -> Callable[..., object]:
        def called(path: object, *args: object, **kwargs: object) -> object:
            touched.append((name, path))
            return really(path, *args, **kwargs)

        return called

    for owner, name in ((builtins, "open"), (os, "open"), (os, "stat"), (os, "lstat"), (os, "access")):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    found = load(file, {}).config
    monkeypatch.undo()
    assert touched == [("open", file)]
    assert found.listener.tls.cert == found.dependencies["a"].tls.ca_file == str(pem)
