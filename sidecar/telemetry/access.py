"""One line of the log for each request that is worth one. docs/reference/logs.md lists every field."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from typing import Final

from sidecar.telemetry.lines import line_of, timestamp
from sidecar.telemetry.sink import LogSink

ALWAYS: Final = frozenset({"rejected", "4xx", "5xx", "slow"})
"""The requests that an access log can be told to log whatever its sample is."""

MAX_PATH: Final = 2048
"""Characters of a path at most."""

_MAX_METHOD: Final = 32

_MOST_WORDS: Final = 2048
"""More than there can be dependencies and codes; a bound all the same."""


class AccessLog:
    """One line for each request that is worth one.

    Args:
        sink: where the lines go.
        sample: the share of all requests that is logged, from 0 to 1.
        always: what is logged whatever the sample is, of `ALWAYS`: requests that the sidecar rejected, answers of 4xx
            and of 5xx, and requests slower than `slow_s`.
        slow_s: seconds.
        rng: from 0 up to 1, exclusively.
        max_per_second: lines at most. An open circuit can refuse 100,000 requests in a second, and a line for each
            would cost more than all the refusals; how many went without is told in a line of its own.
        clock: seconds since the epoch.

    Attributes:
        suppressed: requests that were worth a line and got none, because the second was full.

    Raises:
        ValueError: the sample is no share, or `always` names something else.
    """

    __slots__ = (
        "_4xx",
        "_5xx",
        "_all",
        "_clock",
        "_max_per_second",
        "_rejected",
        "_rng",
        "_room",
        "_sample",
        "_second",
        "_sink",
        "_slow_s",
        "_untold",
        "_words",
        "suppressed",
    )

    def __init__(
        self,
        sink: LogSink,
        sample: float,
        always: frozenset[str],
        slow_s: float,
        rng: Callable[[], float],
        max_per_second: int = 1000,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= sample <= 1:
            raise ValueError(f"the sample must be from 0 to 1, found {sample}")
        if not always <= ALWAYS:
            raise ValueError(f"always logged can be {sorted(ALWAYS)}, not {sorted(always - ALWAYS)}")
        self._sink = sink
        self._words: dict[str, bytes] = {}
        self._max_per_second = max_per_second
        self._second = -1
        self._room = 0
        self._untold = 0
        self.suppressed = 0
        self._clock = clock
        self._rng = rng
        self._sample = sample
        self._all = sample == 1
        self._rejected = "rejected" in always
        self._4xx = "4xx" in always
        self._5xx = "5xx" in always
        self._slow_s = slow_s if "slow" in always else float("inf")

    def wants(self, status: int, rejected: bool, duration_s: float) -> bool:
        """Whether a request gets a line.

        0.04 µs without a sample or where its answer is yes, 0.07 µs with one. The random number is asked for last.

        Args:
            status: of the answer; 0 where there was none.
            rejected: the sidecar answered, not the dependency.
            duration_s: from the request's head to the end of the answer.
        """
        if self._all or duration_s > self._slow_s or (rejected and self._rejected):
            return self._has_room()
        if status >= 400 and (self._5xx if status >= 500 else self._4xx):
            return self._has_room()
        return self._sample > 0 and self._rng() < self._sample and self._has_room()

    def _has_room(self) -> bool:
        """Whether the present second has room for another line."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self._room = self._max_per_second
            if self._untold:
                untold, self._untold = self._untold, 0
                document: dict[str, object] = {
                    "ts": timestamp(second),
                    "level": "warning",
                    "logger": "sidecar.access",
                    "msg": "requests without a line, beyond access_log.max_per_second",
                    "suppressed": untold,
                }
                self._sink.write(line_of(document))
        if self._room > 0:
            self._room -= 1
            return True
        self.suppressed += 1
        self._untold += 1
        return False

    def write(
        self,
        dependency: str,
        method: bytes,
        target: bytes,
        status: int,
        code: str | None,
        attempts: int,
        duration_s: float,
        waited_s: float,
        trace_id: str | None,
        octets: list[int] | None = None,
    ) -> None:
        """Write the line of one request.

        1.8 µs interpreted, 1.4 compiled, and what the sink takes.

        Args:
            dependency: its name.
            method: as it came.
            target: as it came. What can hold credentials, its query and userinfo, does not get into the line.
            status: of the answer.
            code: of `sidecar.errors`, where the sidecar answered itself.
            attempts: how often the dependency was asked.
            duration_s: from the request's head to the end of the answer.
            waited_s: of that, the time in which the request stood in a queue.
            trace_id: of the trace that the request belongs to, if it does.
            octets: relayed in a tunnel, to the dependency and to the application; None for a request that was none.
        """
        refused = b"" if code is None else b',"code":' + self._word(code)
        traced = b"" if trace_id is None else b',"trace_id":' + encode_basestring_ascii(trace_id).encode("ascii")
        if octets is not None:
            traced += b',"bytes_sent":%d,"bytes_received":%d' % (octets[0], octets[1])
        # Put together by hand: to make a dict and json.dumps of it takes more than three times as long.
        line = _LINE % (
            timestamp(self._clock()).encode("ascii"),
            self._word(dependency),
            _METHODS.get(method) or _quoted(method, _MAX_METHOD),
            _quoted(_path(target), MAX_PATH),
            status,
            refused,
            attempts,
            duration_s * 1000,
            waited_s * 1000,
            traced,
        )
        self._sink.write(line)

    def _word(self, word: str) -> bytes:
        """A name or a code as JSON. There are few of them, each is made once."""
        quoted = self._words.get(word)
        if quoted is None:
            quoted = encode_basestring_ascii(word).encode("ascii")
            if len(self._words) < _MOST_WORDS:
                self._words[word] = quoted
        return quoted


_LINE: Final = (
    b'{"ts":"%b","level":"info","logger":"sidecar.access","msg":"request","dependency":%b,"method":%b,"path":%b'
    b',"status":%d%b,"attempts":%d,"duration_ms":%.3f,"waited_ms":%.3f%b}\n'
)

_METHODS: Final = {
    method: b'"%b"' % method for method in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS")
}


def _path(target: bytes) -> bytes:
    """A request target without its query and fragment, and without an authority, which may hold a password."""
    path = target.partition(b"?")[0].partition(b"#")[0]
    if path.startswith(b"/"):
        return path
    _, scheme_ends, rest = path.partition(b"://")
    if scheme_ends:
        return b"/" + rest.partition(b"/")[2]
    return path.rpartition(b"@")[2]


_UNPRINTABLE: Final = re.compile(rb"[^ -~]")


def _quoted(octets: bytes, most: int) -> bytes:
    """`octets` as JSON text of at most `most` characters, percent-encoded where they are not printable ASCII."""
    text = _UNPRINTABLE.sub(_percent, octets[:most])[:most].decode("ascii")
    return encode_basestring_ascii(text).encode("ascii")


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]
