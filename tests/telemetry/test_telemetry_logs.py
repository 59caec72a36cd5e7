"""Records of the standard `logging` as lines of JSON."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.telemetry.lines import MAX_LINE
from sidecar.telemetry.logs import JsonHandler, configure
from tests.telemetry.conftest import Lines

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


# -- records


@pytest.fixture
def log(lines: Lines) -> logging.Logger:
    """A logger of its own, outside of the tree that pytest listens to."""
    logger = logging.Logger("sidecar.test")  # noqa: LOG001
    logger.addHandler(JsonHandler(lines))
    return logger


def test_record_is_a_line_with_time_level_logger_and_message(lines: Lines) -> None:
    record = logging.LogRecord("sidecar", logging.WARNING, __file__, 1, "%s of %d", ("one", 2), None)
    record.created = 1_700_000_000.5
    JsonHandler(lines).emit(record)

    assert lines.written == [
        b'{"ts":"2023-11-14T22:13:20.500Z","level":"warning","logger":"sidecar","msg":"one of 2"}\n'
    ]


def test_fields_of_a_record_are_items_of_the_line(log: logging.Logger, lines: Lines) -> None:
    log.info("opened", extra={"fields": {"dependency": "a", "calls": 20, "ratio": 0.5, "sample": [1, None], 7: True}})

    line = lines.only
    assert list(line)[:4] == ["ts", "level", "logger", "msg"]
    assert {key: line[key] for key in list(line)[4:]} == {
        "dependency": "a",
        "calls": 20,
        "ratio": 0.5,
        "sample": [1, None],
        "7": True,
    }


def test_field_cannot_pose_as_what_a_line_says_itself(log: logging.Logger, lines: Lines) -> None:
    log.info("so", extra={"fields": {"level": "critical", "msg": "no", "exception": "none"}})

    line = lines.only
    assert (line["level"], line["msg"]) == ("info", "so")
    assert "exception" not in line
    assert (line["fields.level"], line["fields.msg"], line["fields.exception"]) == ("critical", "no", "none")


def test_fields_that_are_no_dict_are_none(log: logging.Logger, lines: Lines) -> None:
    log.info("so", extra={"fields": "x"})

    assert list(lines.only) == ["ts", "level", "logger", "msg"]


def test_exception_is_a_text_of_its_own(log: logging.Logger, lines: Lines) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("failed")

    line = lines.only
    assert (line["level"], line["msg"]) == ("error", "failed")
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: two\nlines")


def test_exc_info_without_an_exception_is_no_exception(log: logging.Logger, lines: Lines) -> None:
    assert sys.exc_info() == (None, None, None)
    log.info("so", exc_info=True)  # noqa: LOG014

    assert "exception" not in lines.only


def test_record_that_cannot_be_formatted_is_told_of(log: logging.Logger, lines: Lines) -> None:
    log.info("%d of %d", "one")

    line = lines.only
    assert line["level"] == "error"
    assert line["logger"] == "sidecar.test"
    assert __file__ in line["msg"]
    assert "TypeError" in line["exception"]


def test_argument_whose_text_fails_fails_nobody(log: logging.Logger, lines: Lines) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    log.info("%s", Broken())
    log.info("so", extra={"fields": {"x": Broken()}})

    assert ["RuntimeError: no text" in line["exception"] for line in lines.documents] == [True, True]


def test_line_is_shortened(log: logging.Logger, lines: Lines) -> None:
    log.info("x" * 100_000)

    assert len(lines.written[0]) <= MAX_LINE
    assert lines.only["truncated"] is True


@given(message=st.text(), name=st.text(), value=st.text())
@example(message="\n{}\r\x00\x7f\u2028", name="\x1b[2J\ud800", value="\n")
def test_no_text_gets_out_raw(message: str, name: str, value: str) -> None:
    lines = Lines()
    record = logging.LogRecord(name, logging.INFO, __file__, 1, message, (), None)
    record.fields = {value: value}
    JsonHandler(lines).emit(record)

    assert lines.only["level"] == "info"


def test_configured_log_has_everything_from_info_on_and_warnings(lines: Lines) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        undo = configure(lines)
        try:
            logging.getLogger("sidecar.any").info("info")
            logging.getLogger("sidecar.any").debug("debug")
            warnings.warn("look out", UserWarning, stacklevel=1)
        finally:
            undo()
        said = [(line["level"], line["logger"], line["msg"].partition("\n")[0]) for line in lines.documents]

    assert said[0] == ("info", "sidecar.any", "info")
    assert said[1][:2] == ("warning", "py.warnings")
    assert said[1][2].endswith("UserWarning: look out")
    assert len(said) == 2
    assert (root.handlers, root.level) == before
