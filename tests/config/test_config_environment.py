"""Environment variables in values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config import Config, load_text
from sidecar.config.environment import refers, substitute
from sidecar.config.mistake import Mistake

ENVIRON = {"A": "x", "B_2": "y", "EMPTY": "", "NESTED": "${A}"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "x"),
        ("a${A}b${B_2}c", "axbyc"),
        ("${NONE:-d}", "d"),
        ("${NONE:-}", ""),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""),
        ("${A:-d}", "x"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A $ $$ {A}", "$A $ $$ {A}"),
        ("${NESTED}", "${A}"),
    ],
)
def test_references_are_replaced(text: str, value: str) -> None:
    assert substitute(text, ENVIRON) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NONE}", "needs the variable NONE, which is not set; set it or write ${NONE:-default}"),
        ("${}", "has ${ without a name and }; write ${NAME} or ${NAME:-default}, or $${ for the text ${"),
        ("${A", "has ${ without a name and }; write ${NAME} or ${NAME:-default}, or $${ for the text ${"),
        ("${1A}", "has ${ without a name and }; write ${NAME} or ${NAME:-default}, or $${ for the text ${"),
        ("${A-d}", "has ${ without a name and }; write ${NAME} or ${NAME:-default}, or $${ for the text ${"),
    ],
)
def test_what_is_no_reference_is_refused(text: str, message: str) -> None:
    with pytest.raises(Mistake) as caught:
        substitute(text, ENVIRON)
    assert str(caught.value) == message


@given(st.text())
def test_text_without_references_is_kept(text: str) -> None:
    assert refers(text) or substitute(text, {}) == text


@given(st.text())
def test_escaped_text_is_kept(text: str) -> None:
    assert substitute(text.replace("${", "$${"), {}) == text or "$${" in text


def test_values_are_typed_after_substitution_also_in_quotes(config: Callable[..., Config]) -> None:
    found = config(
        'listen: ${LISTEN:-}\nlistener: {max_connections: "${MOST}", allow_half_close: "${HALF}"}\n'
        'dependencies: {a: {upstream: "http://${HOST}:81", listen: ":1", prefix: "/$${x}"}}',
        MOST="7",
        HALF="true",
        HOST="api",
    )
    assert found.listen is None
    assert found.listener.max_connections == 7
    assert found.listener.allow_half_close is True
    assert str(found.dependencies["a"].upstream[0]) == "http://api:81"
    assert found.dependencies["a"].prefix == "/${x}"


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_TEST_HOST", "api")
    result = load_text('dependencies: {a: {upstream: "http://${SIDECAR_TEST_HOST}"}}')
    assert result.config.dependencies["a"].upstream[0].host == "api"


def test_keys_are_not_substituted(report: Callable[..., list[str]]) -> None:
    [line] = report('dependencies: {"${A}": {upstream: "http://a"}}', A="a")
    assert line.startswith("1:16: dependencies.'${A}': must be a name")


def test_variable_that_is_not_set_is_one_mistake_wherever_it_ends_up(
    report: Callable[..., list[str]],
) -> None:
    assert report(
        "listen: ${A}\n"
        "defaults: {timeout: {total: '${B}'}}\n"
        "dependencies:\n"
        "  a: {upstream: '${C}', prefix: &p '${D}'}\n"
        "  b: {upstream: http://b, prefix: *p, hosts: [x, '${E}']}\n"
        "  c: {upstream: http://c, listen: '${F}', listener: {backlog: 1}}\n"
    ) == [
        "1:9: listen: needs the variable A, which is not set; set it or write ${A:-default}",
        "2:29: defaults.timeout.total: needs the variable B, which is not set; set it or write ${B:-default}",
        ("4:17: dependencies.a.upstream: needs the variable C, which is not set; set it or write ${C:-default}"),
        "4:33: dependencies.a.prefix: needs the variable D, which is not set; set it or write ${D:-default}",
        ("5:50: dependencies.b.hosts[1]: needs the variable E, which is not set; set it or write ${E:-default}"),
        "6:35: dependencies.c.listen: needs the variable F, which is not set; set it or write ${F:-default}",
    ]


def test_the_value_of_a_variable_is_never_shown(report: Callable[..., list[str]]) -> None:
    secret = "hunter2"
    lines = report(
        "listen: ${S}\n"
        "metrics: {listen: 'x${S}'}\n"
        "listener: {max_connections: '${S}', trusted_proxies: ['${S}'], forwarded: '${S}'}\n"
        "defaults: {strip_prefix: '${S}', max_body: '${S}', timeout: '${S}', pool: {max_idle: '${N}'}}\n"
        "dependencies:\n"
        "  a: {upstream: 'http://${S}/${S}', hosts: ['${S}:0'], prefix: '${S:-/x}'}\n"
        "  b: {upstream: 'http://${S}', hosts: ['${S}'], prefix: '/${S}', listen: 'unix:/${S}'}\n"
        "  c: {upstream: 'http://${S}', hosts: ['${S}'], listen: 'unix:/${S}', timeout: {total: '${N}'}}\n"
        "  d: {upstream: 'http://${S}', prefix: '/${S}'}\n",
        S=secret,
        N="4711",
    )
    assert len(lines) == 15
    assert secret not in "\n".join(lines)
    assert "4711" not in "\n".join(lines)
    assert lines[0].endswith("found the value of ${S}")
    assert lines[1].endswith("found the value of x${S}")


def test_a_long_or_unprintable_reference_is_shown_in_one_short_line(report: Callable[..., list[str]]) -> None:
    [line] = report(f'dependencies: {{a: {{upstream: "${{A}}\\n{"x" * 200}"}}}}', A="a")
    assert line.endswith("…'")
    assert "found the value of '${A}\\nxxx" in line
    assert len(line) < 200
