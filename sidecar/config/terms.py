"""The terms in which policies are written: rates, windows, statuses, methods and header fields; from text to values
that need no more checks."""

from __future__ import annotations

import re
from typing import NamedTuple

from sidecar.config import units
from sidecar.config.mistake import Mistake

# limits' grammar, as far as it names one rate: it takes several and numbers of any length, and reads 0 seconds as 1.
_RATE = re.compile(r" *([0-9]{1,10}) *(?:/|per) *(?:[1-9][0-9]{0,8} *)?[a-z]+ *", re.IGNORECASE)
_FASTEST = 10**9
_WINDOW_OF_CALLS = re.compile(r"([1-9][0-9]{0,8}) calls?")
# Outcomes are kept one by one: two bytes each, cleared at each transition.
_MOST_CALLS = 100_000
_STATUS = re.compile(r"([1-5])(?:[0-9]{2}|xx)", re.IGNORECASE)
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
# RFC 9110 section 5.6.2.
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
# Printable, without white space at the ends: RFC 9110 section 5.5, less tabs and octets beyond ASCII.
_FIELD_VALUE = re.compile(r"(?:[!-~](?:[ -~]{0,2046}[!-~])?)?")
_LARGEST_TEXT = 64 * 1024
# The framing of the answer, what only the next hop may read, and what the sidecar says about itself.
_FIELDS_OF_OURS = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "proxy-status",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# What an editor can check.
RATE_PATTERN = r"^ *[0-9]{1,10} *(/|per) *([1-9][0-9]{0,8} *)?[A-Za-z]+ *$"
WINDOW_PATTERN = rf"({units.DURATION_PATTERN})|(^{_WINDOW_OF_CALLS.pattern}$)"
STATUS_PATTERN = r"^[1-5]([0-9]{2}|[Xx]{2})$"
METHOD_PATTERN = f"^{_METHOD.pattern}$"
FIELD_NAME_PATTERN = f"^{_FIELD_NAME.pattern}$"
FIELD_VALUE_PATTERN = f"^{_FIELD_VALUE.pattern}$"


class Window(NamedTuple):
    """How far back the rules of a circuit breaker look: one of the two is None."""

    seconds: float | None
    calls: int | None

    def __str__(self) -> str:
        return f"{self.calls} calls" if self.seconds is None else units.format_duration(self.seconds)


def parse_rate(value: object) -> float:
    """Tokens a second of a text such as `100/second` or `30 per 5 minutes`. Raises `Mistake`."""
    forms = "must be a rate such as 100/second, 30/minute or 10 per 2 seconds"
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None or not isinstance(value, str):
        raise Mistake(forms)
    if not 0 < int(match[1]) <= _FASTEST:
        raise Mistake(f"must let through 1 to {_FASTEST} in its time")
    # 50 ms, most of them for its storages, that only a file with a rate in it has to pay.
    import limits

    try:
        item = limits.parse(value)
    except ValueError:
        raise Mistake(forms) from None
    return item.amount / item.get_expiry()


def parse_window(value: object) -> Window:
    """A time such as `10s` or a number of calls such as `100 calls`. Raises `Mistake`."""
    match = _WINDOW_OF_CALLS.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        try:
            seconds = units.parse_duration(value)
        except Mistake:
            raise Mistake("must be a time such as 10s or a number of calls such as 100 calls") from None
        if not 0.001 <= seconds <= 24 * 3600:
            raise Mistake("must be from 1ms to 24h")
        return Window(seconds, None)
    if int(match[1]) > _MOST_CALLS:
        raise Mistake(f"must be at most {_MOST_CALLS} calls")
    return Window(None, int(match[1]))


def parse_status(value: object) -> int | str:
    """A status code as a number, or a class of them as text, `5xx`. Raises `Mistake`."""
    text = str(value).lower() if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not _STATUS.fullmatch(text):
        raise Mistake("must be a status code from 100 to 599, such as 503, or a class of them, such as 5xx")
    return text if text.endswith("xx") else int(text)


def parse_method(value: object) -> str:
    """A method, in capitals: methods differ by case (RFC 9110 section 9.1). Raises `Mistake`."""
    if not isinstance(value, str) or not _METHOD.fullmatch(value):
        raise Mistake("must be a method in capitals, such as GET")
    return value


def parse_field_name(value: object) -> str:
    """The name of a header field that an answer of ours may carry. Raises `Mistake`."""
    if not isinstance(value, str) or not _FIELD_NAME.fullmatch(value):
        raise Mistake("must be the name of a header field, such as Content-Type", show=False)
    if value.lower() in _FIELDS_OF_OURS:
        raise Mistake("is a field that the sidecar writes itself", show=False)
    return value


def parse_field_value(value: object) -> str:
    """The value of a header field. Raises `Mistake`."""
    text = _text(value)
    if not _FIELD_VALUE.fullmatch(text):
        raise Mistake("must be one line of at most 2048 printable ASCII characters, without a space at either end")
    return text


def parse_text(value: object) -> str:
    """The text of a body. Raises `Mistake`."""
    text = _text(value)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Mistake("must be text that UTF-8 can hold") from None
    if size > _LARGEST_TEXT:
        raise Mistake(f"must be at most {units.format_size(_LARGEST_TEXT)} of text, found {size}B", show=False)
    return text


def _text(value: object) -> str:
    """Text as it was written. What a variable holds is typed even in quotes, so a whole number is its digits."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise Mistake("must be text; put it in quotes")
    return str(value)
