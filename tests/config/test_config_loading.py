"""Files, the report on them, and the errors that it is made of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.config import Problem, load, load_text
from sidecar.errors import ConfigError, SidecarError

GOOD = "dependencies: {a: {upstream: http://a}}\n"


def failure(path: Path | str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    return str(caught.value)


def test_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.yaml"
    path.write_text(GOOD)
    assert load(path).config == load(str(path)).config == load_text(GOOD).config


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + GOOD.encode(), GOOD.encode().replace(b"\n", b"\r\n")])
def test_byte_order_mark_and_crlf_are_no_matter(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    assert load(path).config == load_text(GOOD).config


def test_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    assert failure(tmp_path / "f") == f"{tmp_path}/f: there is no such file"


def test_folder_is_a_mistake(tmp_path: Path) -> None:
    assert failure(tmp_path) == f"{tmp_path}: is a folder; name the file in it"


def test_file_that_cannot_be_opened_is_a_mistake(tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    assert failure(tmp_path / "loop") == f"{tmp_path}/loop: cannot be read: Too many levels of symbolic links"


def test_name_that_no_file_can_have_is_a_mistake() -> None:
    assert failure("a\0b") == "a\0b: cannot be read: embedded null byte"


def test_file_in_another_encoding_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    assert failure(path) == f"{path}: must be UTF-8 text, but line 2 holds the byte 0xE9"


def test_file_of_more_than_a_mebibyte_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(GOOD.encode() + b"#" * (1 << 20))
    assert failure(path) == f"{path}: is larger than 1MiB"
    with pytest.raises(ConfigError, match="is larger than 1MiB"):
        load_text(path.read_text())


def test_more_dependencies_than_any_pod_has_are_a_mistake() -> None:
    text = "defaults: {max_body: 1}\ndependencies:\n" + "".join(
        f"  d{n}: {{upstream: http://a}}\n" for n in range(1001)
    )
    with pytest.raises(ConfigError) as caught:
        load_text(text, "f")
    assert str(caught.value) == "f:3:3: has 1001 dependencies, and 1000 is the most"


def test_more_values_than_can_be_merged_are_a_mistake() -> None:
    text = f"defaults: {{timeout: {{{', '.join(f'k{n}: 1' for n in range(999))}}}}}\ndependencies:\n"
    text += "".join(f"  d{n}: {{upstream: http://d{n}}}\n" for n in range(1000))
    with pytest.raises(ConfigError) as caught:
        load_text(text, "f")
    assert str(caught.value) == "f:1:1: holds 1001 values, too many to merge into 1000 dependencies"


def test_error_carries_its_problems_and_reads_as_the_report() -> None:
    with pytest.raises(SidecarError) as caught:
        load_text("listen: 5\nlistenr: 5\n", "f", {})
    assert isinstance(caught.value, ConfigError)
    assert [(problem.line, problem.column, problem.path) for problem in caught.value.problems] == [
        (1, 1, "dependencies"),
        (1, 9, "listen"),
        (2, 1, "listenr"),
    ]
    assert str(caught.value).split("\n") == [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (
            Problem("f", 14, 17, "a.b", "must be at least 1, found 0"),
            "f:14:17: a.b: must be at least 1, found 0",
        ),
        (Problem("f", 14, 17, "", "is wrong"), "f:14:17: is wrong"),
        (Problem("f", None, None, "", "is empty"), "f: is empty"),
        (Problem("f", 1, 2, "a", "is odd", "warning"), "f:1:2: warning: a: is odd"),
    ],
)
def test_problem_is_one_line(problem: Problem, text: str) -> None:
    assert str(problem) == text
