"""JSON logs: records of the standard `logging`. docs/reference/logs.md lists every field."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

from sidecar.telemetry.lines import RESERVED, line_of, plain, timestamp
from sidecar.telemetry.sink import LogSink


class JsonHandler(logging.Handler):
    """Records of the standard `logging` as lines of JSON, by way of a sink.

    A record may carry a dict of further items as `extra={"fields": {...}}`. Names that a line has itself are led by
    "fields." there; a value that is no JSON is given as text.

    Args:
        sink: where the lines go.
    """

    def __init__(self, sink: LogSink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. One that cannot be made into text is told of instead of being lost."""
        try:
            line = line_of(_document(record))
        except Exception:  # noqa: BLE001  (arguments are formatted here, and their __str__ may raise anything)
            line = line_of(
                {
                    "ts": timestamp(record.created),
                    "level": "error",
                    "logger": record.name,
                    "msg": f"a log record of {record.pathname}:{record.lineno} cannot be formatted",
                    "exception": traceback.format_exc(),
                }
            )
        self._sink.write(line)


def _document(record: logging.LogRecord) -> dict[str, object]:
    """What a record says, in the order in which a line says it."""
    document: dict[str, object] = {
        "ts": timestamp(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "msg": record.getMessage(),
    }
    fields = getattr(record, "fields", None)
    if isinstance(fields, dict):
        for key, value in fields.items():
            name = str(key)
            document[f"fields.{name}" if name in RESERVED else name] = plain(value)
    if record.exc_info and record.exc_info[0] is not None:
        document["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
    return document


def configure(sink: LogSink) -> Callable[[], None]:
    """Send what is logged from INFO on, and warnings, to `sink`, and nowhere else.

    Returns:
        What puts things back as they were.
    """
    root = logging.getLogger()
    handlers, level = root.handlers, root.level

    def undo() -> None:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.handlers = handlers

    root.handlers = [JsonHandler(sink)]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    return undo
