"""What the end of an attempt says about the dependency.

Nearly every attempt ends with a whole response, and is judged by one look into a table: `Classifier.failing[status]`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

from sidecar.policy.states import Outcome

# Bound to the module: cheaper to read than an attribute of an enum.
_SUCCESS: Final = Outcome.SUCCESS
_FAILURE: Final = Outcome.FAILURE

STATUSES: Final = 1000
"""A status code has three digits (RFC 9112 section 4)."""


class End(enum.Enum):
    """Every way in which an attempt can end."""

    RESPONSE = "response"  # whole; its status decides
    # the dependency's
    CONNECT_ERROR = "connect_error"  # refused, unreachable, its name unknown
    TLS_ERROR = "tls_error"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    IDLE_TIMEOUT = "idle_timeout"  # it stopped sending its response, or reading the request
    TOTAL_TIMEOUT = "total_timeout"  # while it owed us something
    RESET = "reset"  # gone before its response was whole
    MALFORMED = "malformed"
    # nobody's, or not the dependency's
    OWN_REFUSAL = "own_refusal"  # by a policy of ours
    LOCAL_ERROR = "local_error"  # no descriptor, no local port
    CLIENT_FAULT = "client_fault"  # the application broke or stalled its own request
    DRAIN = "drain"
    DEAD_CONNECTION = "dead_connection"  # reused, and closed by the other side before a byte of the response
    CLIENT_GONE = "client_gone"  # how long it waited decides


FAILURES: Final = frozenset(
    {
        End.CONNECT_ERROR,
        End.TLS_ERROR,
        End.CONNECT_TIMEOUT,
        End.FIRST_BYTE_TIMEOUT,
        End.IDLE_TIMEOUT,
        End.TOTAL_TIMEOUT,
        End.RESET,
        End.MALFORMED,
    }
)
"""Ends that are the dependency's failure whatever the status was: a response that breaks off is none."""


def parse_statuses(items: Iterable[int | str]) -> list[bool]:
    """A table of 1,000 booleans, by status code.

    Args:
        items: codes (429, "429") and classes ("5xx"); none for a table without a true one.

    Raises:
        ValueError: an item is neither.
    """
    table = [False] * STATUSES
    for item in items:
        text = str(item).lower()
        digits = text.removesuffix("xx")
        plain = digits.isascii() and digits.isdigit() and digits[0] in "12345"
        if plain and len(digits) == 1 and len(text) == 3:
            first = int(digits) * 100
            for status in range(first, first + 100):
                table[status] = True
        elif plain and len(text) == 3 and digits == text:
            table[int(text)] = True
        else:
            raise ValueError(f"must be a status code such as 429 or a class such as 5xx, found {item!r}")
    return table


class Classifier:
    """Turns ends into outcomes.

    Args:
        failing: from `parse_statuses`; the statuses that are failures.
        abandoned_after_s: a client that waited so long in vain for a response head leaves a failure behind. Ignored it
            would let an application with short timeouts hide a dependency that hangs.
    """

    __slots__ = ("abandoned_after_s", "failing")

    def __init__(self, failing: list[bool], abandoned_after_s: float = 1.0) -> None:
        if len(failing) != STATUSES:
            raise ValueError(f"a table of statuses has {STATUSES} entries, found {len(failing)}")
        self.failing = failing
        self.abandoned_after_s = abandoned_after_s

    def of_status(self, status: int) -> Outcome:
        """The outcome of a whole response."""
        return _FAILURE if self.failing[status] else _SUCCESS

    def outcome(self, end: End, status: int = 0, waited_s: float = 0.0) -> Outcome:
        """The outcome of an attempt.

        Args:
            end: how it ended.
            status: of its final response head; 0 when there was none.
            waited_s: how long the dependency had owed a response head when the attempt ended, in seconds; of interest
                only for a client that left without having had one.
        """
        if end is End.RESPONSE:
            return self.of_status(status)
        if end in FAILURES:
            return _FAILURE
        if end is End.CLIENT_GONE:
            # Many a client closes as soon as it reads a 503: the status is known, and whoever left does not undo it.
            if self.failing[status] or (status == 0 and waited_s >= self.abandoned_after_s):
                return _FAILURE
        return Outcome.IGNORED
