"""What is logged: records of `logging`, and a line for each request that is worth one."""

from __future__ import annotations

import json
import logging
import random
import sys
import warnings
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.telemetry.lines import MAX_LINE
from sidecar.telemetry.logs import ALWAYS, MAX_PATH, AccessLog, JsonHandler, configure

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Lines:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.written.append(line)

    @property
    def documents(self) -> list[dict[str, Any]]:
        for line in self.written:
            assert line.endswith(b"\n")
            assert all(32 <= octet < 127 for octet in line[:-1])
        return [json.loads(line) for line in self.written]

    @property
    def only(self) -> dict[str, Any]:
        (document,) = self.documents
        return document


@pytest.fixture
def lines() -> Lines:
    return Lines()


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


# -- requests


def never() -> float:
    raise AssertionError("no random number is needed")


def written(target: bytes, method: bytes = b"GET", **changes: Any) -> tuple[bytes, dict[str, Any]]:
    lines = Lines()
    log = AccessLog(lines, 1, frozenset(), 1.0, never, clock=lambda: 1_700_000_000.5)
    request = {
        "status": 200,
        "code": None,
        "attempts": 1,
        "duration_s": 0.0123456,
        "waited_s": 0.0,
        "trace_id": None,
    } | changes
    log.write("payments", method, target, **request)
    return lines.written[0], lines.only


def test_line_of_a_request() -> None:
    line, _ = written(b"/v1/charges?token=secret")

    assert line == (
        b'{"ts":"2023-11-14T22:13:20.500Z","level":"info","logger":"sidecar.access","msg":"request",'
        b'"dependency":"payments","method":"GET","path":"/v1/charges","status":200,"attempts":1,'
        b'"duration_ms":12.346,"waited_ms":0.000}\n'
    )


def test_line_of_a_refused_request_has_its_code_and_trace() -> None:
    _, line = written(b"/", status=429, code="RATE_LIMITED", attempts=0, waited_s=1.5, trace_id=TRACE)

    assert line["code"] == "RATE_LIMITED"
    assert line["trace_id"] == TRACE
    assert (line["attempts"], line["waited_ms"]) == (0, 1500)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a/b", "/a/b"),
        (b"/a?b", "/a"),
        (b"/a?b?c#d", "/a"),
        (b"/a#b?c", "/a"),
        (b"/?", "/"),
        (b"?x", ""),
        (b"", ""),
        (b"*", "*"),
        (b"http://user:secret@any.test/a?b", "/a"),
        (b"http://user:secret@any.test", "/"),
        (b"http://any.test?secret", "/"),
        (b"user:secret@any.test:443", "any.test:443"),
        (b"any.test:443", "any.test:443"),
        (b"//user@any.test/a", "//user@any.test/a"),
        (b'/"\\', '/"\\'),
        (b"/%3Fa b", "/%3Fa b"),
        (b"/\xc3\xa4\n\x00\x7f", "/%C3%A4%0A%00%7F"),
        (b"/" + b"a" * 5000, "/" + "a" * (MAX_PATH - 1)),
        (b"/" + b"\xff" * 5000, ("/" + "%FF" * 5000)[:MAX_PATH]),
    ],
)
def test_path_is_the_target_without_what_may_be_secret(target: bytes, path: str) -> None:
    assert written(target)[1]["path"] == path


SECRET = st.text("0123456789", min_size=12, max_size=20).map(lambda digits: f"secret{digits}".encode())


@given(before=st.binary(), secret=SECRET, mark=st.sampled_from([b"?", b"#"]), after=st.binary())
@example(before=b"http://x", secret=b"secret000000000000", mark=b"?", after=b"@y/")
@example(before=b'/"}\n{"level":"error', secret=b"secret000000000000", mark=b"?", after=b"\n")
def test_any_target_gives_one_line_without_its_query(before: bytes, secret: bytes, mark: bytes, after: bytes) -> None:
    line, document = written(before + mark + secret + after)

    assert line.count(b"\n") == 1
    assert line.isascii()
    assert len(line) <= MAX_LINE
    assert secret not in line
    assert secret.decode() not in json.dumps(document)
    assert len(document["path"]) <= MAX_PATH
    assert list(document) == [
        "ts",
        "level",
        "logger",
        "msg",
        "dependency",
        "method",
        "path",
        "status",
        "attempts",
        "duration_ms",
        "waited_ms",
    ]


@given(st.binary())
def test_any_method_and_path_of_the_greatest_length_fit(method: bytes) -> None:
    line, document = written(b"/" + b'"' * 9000, method, code="X" * 40, trace_id=TRACE)

    assert len(line) <= MAX_LINE
    assert len(document["method"]) <= 32


@pytest.mark.parametrize(
    ("always", "status", "rejected", "duration_s", "wanted"),
    [
        (ALWAYS, 200, False, 0.5, False),
        (ALWAYS, 0, False, 0.5, False),
        (ALWAYS, 399, False, 1.0, False),
        (ALWAYS, 200, False, 1.001, True),
        (ALWAYS, 404, False, 0.0, True),
        (ALWAYS, 500, False, 0.0, True),
        (ALWAYS, 599, False, 0.0, True),
        (ALWAYS, 503, True, 0.0, True),
        ({"rejected"}, 503, True, 9.0, True),
        ({"rejected"}, 503, False, 9.0, False),
        ({"4xx"}, 400, False, 0.0, True),
        ({"4xx"}, 499, True, 0.0, True),
        ({"4xx"}, 500, True, 9.0, False),
        ({"5xx"}, 499, True, 9.0, False),
        ({"5xx"}, 500, False, 0.0, True),
        ({"slow"}, 500, True, 1.0, False),
        ({"slow"}, 200, False, 9.0, True),
        (set(), 500, True, 9.0, False),
    ],
)
def test_what_is_always_logged(
    lines: Lines, always: set[str], status: int, rejected: bool, duration_s: float, wanted: bool
) -> None:
    log = AccessLog(lines, 0, frozenset(always), 1.0, never)

    assert log.wants(status, rejected, duration_s) == wanted


def test_whole_sample_logs_everything_and_asks_for_no_random_number(lines: Lines) -> None:
    log = AccessLog(lines, 1, frozenset(), 1.0, never)

    assert log.wants(200, False, 0.0)


def test_sample_is_the_share_that_is_logged(lines: Lines) -> None:
    log = AccessLog(lines, 0.25, ALWAYS, 1.0, iter([0.0, 0.2499, 0.25, 0.9]).__next__)

    assert [log.wants(200, False, 0.0) for _ in range(4)] == [True, True, False, False]
    assert log.wants(500, False, 0.0), "and no random number is left to ask for"

    log = AccessLog(lines, 0.1, ALWAYS, 1.0, random.Random(1).random)
    assert 900 < sum(log.wants(200, False, 0.0) for _ in range(10_000)) < 1100


@pytest.mark.parametrize("sample", [-0.1, 1.1, float("nan")])
def test_sample_that_is_no_share_is_refused(lines: Lines, sample: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        AccessLog(lines, sample, ALWAYS, 1.0, never)


def test_unknown_word_in_always_is_refused(lines: Lines) -> None:
    with pytest.raises(ValueError, match=r"not \['3xx'\]"):
        AccessLog(lines, 0, frozenset({"3xx", "4xx"}), 1.0, never)


# -- trace ids
