"""Whatever the text, the answer is a configuration or a report: no other exception, and soon."""

from __future__ import annotations

import re
from datetime import timedelta

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.config import Problem, load_text, policies, schema, tls
from sidecar.config.section import Section, known_keys
from sidecar.errors import ConfigError

SECTIONS = [each for module in (schema, policies, tls) for each in vars(module).values() if isinstance(each, type)]
KEYS = sorted({name for each in SECTIONS if issubclass(each, Section) for name in known_keys(each)})

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["http://a", "unix:/a", "5s", "1KiB", ":1", "127.0.0.1:21080", "/a", "append", "${A}", "${B}", "a:80"]
    )
    | st.sampled_from(["https://a", "https://b:1", "/a.pem", "-----BEGIN", "a.example"])
    | st.sampled_from(["50%", "0%", "100/second", "off", "shadow", "5xx", "100 calls", "GET", "CIRCUIT_OPEN"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=3) | st.integers() | st.none(),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
SIGNS = ": |:|- |\n|  |{|}|[|]|,|&a |*a|<<: |? |!!str |!x |!%ff|'|\"|# |---\n|...\n|%YAML 1.1\n|>\n"
SIGNS += "|\t|@|`|\x00|\ufeff|\u2028"
WORDS = ["${A}", "${B}", "http://a", "https://a", "/a.pem", "5s", "true", "7", "|\n"]
fragments = st.sampled_from([*KEYS, *SIGNS.split("|"), *WORDS])


def check(text: str) -> None:
    """One of the two outcomes, and a report of as many lines as problems, each within the text."""
    problems: tuple[Problem, ...] = ()
    try:
        assert load_text(text, "f", {"A": "http://a"}).config.dependencies
    except ConfigError as error:
        problems, lines = error.problems, str(error).split("\n")
        assert len(lines) == len(problems) > 0
    # YAML's line breaks; the end of the text may count as a line of its own.
    last = len(re.findall("\r\n|[\r\n\x85\u2028\u2029]", text)) + 2
    assert all(problem.line is None or 1 <= problem.line <= last for problem in problems)


@settings(deadline=timedelta(seconds=2))
@given(st.text())
@example("%")
@example("!<%ff> a")
@example("\ud800")
@example("9" * 5000)
def test_any_text(text: str) -> None:
    check(text)


@settings(deadline=timedelta(seconds=2), max_examples=300)
@given(st.lists(fragments, max_size=30).map("".join))
def test_any_text_that_looks_like_yaml(text: str) -> None:
    check(text)


@settings(deadline=timedelta(seconds=2), max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=6), values)
def test_any_values_at_any_key(top: dict[str, object], dependency: object) -> None:
    check(yaml.safe_dump({**top, "dependencies": {"a": dependency, "b": {"upstream": "http://b"}}}))


@settings(deadline=timedelta(seconds=5), max_examples=10)
@given(st.lists(fragments, min_size=1, max_size=4).map("".join))
def test_any_text_repeated_to_the_largest_file(text: str) -> None:
    check(text * ((1 << 18) // len(text.encode())))
