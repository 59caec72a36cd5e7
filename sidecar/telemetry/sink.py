"""Where log lines go: a bounded queue in front of a file descriptor, and a thread that writes.

Whoever reads our output may be slow, gone, or on a full disk. None of that may hold up a request.
"""

from __future__ import annotations

import os
import select
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from typing import Final

from sidecar.telemetry.lines import line_of, timestamp

_BATCH: Final = 64 * 1024
"""Octets of one write, about as many as a pipe holds."""

_GATHER_S: Final = 0.01
"""How long lines gather once the writer is awake. Waking it costs more than all the rest; see `LogSink.write`."""

_RETRY_S: Final = 0.1
"""How long the writer rests after a write that failed, so that a full disk makes no busy loop."""


class LogSink:
    """A bounded queue in front of a file descriptor, and the thread that writes to it.

    Any thread may call `write`. The descriptor is taken as it is, blocking or not: its flags belong to everybody who
    shares it. A reader that does not read holds up the sink's own thread, and nobody else.

    Args:
        descriptor: where the lines go. It stays the caller's to close.
        max_lines: how many lines may wait.
        max_octets: how many octets they may have together.
        clock: seconds since the epoch, for the line that tells of drops.

    Attributes:
        dropped: lines that did not get out whole and never will. Each line given to `write` gets out, or waits, or is
            counted here, exactly once. Those in a write that still blocks when `close` gives up are counted, and
            those of them that get out nevertheless are taken off again when it returns.
    """

    __slots__ = (
        "_asleep",
        "_clock",
        "_closed",
        "_descriptor",
        "_ending",
        "_failing",
        "_lines",
        "_lock",
        "_max_lines",
        "_max_octets",
        "_octets",
        "_reported",
        "_writer",
        "_torn",
        "_under_way",
        "_wake",
        "dropped",
    )

    def __init__(
        self,
        descriptor: int,
        *,
        max_lines: int = 10_000,
        max_octets: int = 8 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._descriptor = descriptor
        self._max_lines = max_lines
        self._max_octets = max_octets
        self._clock = clock
        # Reentrant: the garbage collector may run a finalizer inside, and a finalizer may log.
        self._lock = threading.RLock()
        # Guarded by it:
        self._lines: deque[bytes] = deque()
        self._octets = 0  # of `_lines`
        self._under_way = 0  # lines that the thread has taken and not accounted for yet
        self.dropped = 0
        self._asleep = False
        self._closed = False
        # The thread's own:
        self._reported = 0  # how many of the dropped have been told
        self._failing = False  # the last write failed
        self._torn = False  # what got out last was a piece of a line
        # A bare lock, held: only whoever takes `_asleep` back may release it. A Semaphore is a lock around a lock, not
        # reentrant, and the same finalizer would stand still in it.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._ending = threading.Event()
        self._writer = threading.Thread(target=self._run, name="log", daemon=True)
        self._writer.start()

    def __repr__(self) -> str:
        return f"<LogSink fd={self._descriptor} waiting={len(self._lines)} dropped={self.dropped}>"

    def write(self, line: bytes) -> None:
        """Queue a line, or count it as dropped. Never blocks on the descriptor, never raises.

        0.22 µs, and 0.4 µs a line in all threads together. To wake the thread takes 1.9 µs here, and 3.3 µs a line in
        all where it happens at each one; so a line waits up to 10 ms for others, and it happens 100 times a second at
        most.

        Args:
            line: ends in its only newline.
        """
        size = len(line)
        with self._lock:
            if self._closed or len(self._lines) >= self._max_lines or self._octets + size > self._max_octets:
                self.dropped += 1
            else:
                self._lines.append(line)
                self._octets += size
            if not self._asleep:
                return
            self._asleep = False
        self._wake.release()

    def close(self, timeout_s: float) -> None:
        """Write what waits, as far as that is possible in time, and stop. What is left counts as dropped.

        Args:
            timeout_s: seconds. A write that blocks longer is left behind in the thread, which keeps no process alive.
        """
        self._ending.set()
        with self._lock:
            asleep, self._asleep = self._asleep, False
        if asleep:
            self._wake.release()
        self._writer.join(timeout_s)
        with self._lock:
            if not self._closed:
                self._closed = True
                self.dropped += len(self._lines) + self._under_way
                self._lines.clear()
                self._octets = 0

    # -- in the thread

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                lines = self._take()
                unreported = self.dropped - self._reported
                # Where writing fails, drops are told together with the next line: nobody asks just to tell of them.
                idle = not lines and (unreported == 0 or self._failing)
                ended = idle and self._ending.is_set()
                self._asleep = idle and not ended
            if ended:
                if self._torn:  # nothing follows that would begin with it
                    self._write_all(b"\n")
                return
            if idle:
                self._wake.acquire()
                self._ending.wait(_GATHER_S)
            else:
                self._put(lines, unreported)

    def _take(self) -> list[bytes]:
        """The next lines to write; under the lock."""
        lines: list[bytes] = []
        octets = 0
        while self._lines and (not lines or octets + len(self._lines[0]) <= _BATCH):
            line = self._lines.popleft()
            octets += len(line)
            lines.append(line)
        self._octets -= octets
        self._under_way = len(lines)
        return lines

    def _put(self, lines: list[bytes], unreported: int) -> None:
        """Write lines, and before them how many are missing; account for those that did not get out."""
        preface = b"\n" if self._torn else b""  # the piece becomes a line of its own, and spoils no other
        if unreported:
            preface += line_of(
                {
                    "ts": timestamp(self._clock()),
                    "level": "warning",
                    "msg": "log lines were dropped",
                    "dropped": unreported,
                }
            )
        octets = b"".join((preface, *lines))
        written = self._write_all(octets)
        whole = len(lines)
        self._failing = written < len(octets)
        if self._failing:
            ends = list(accumulate(map(len, lines), initial=len(preface)))
            # One of which all is out but its newline is whole: the next write begins with that.
            out = written + 1 if written and written + 1 in ends else written
            whole = bisect_right(ends, out) - 1  # -1: not even the preface
            if written:
                self._torn = written not in ends
        else:
            self._torn = False
        if whole >= 0:
            self._reported += unreported
        with self._lock:
            if self._closed:
                self.dropped -= max(whole, 0)  # `close` has counted all of them
            else:
                self.dropped += len(lines) - max(whole, 0)
            self._under_way = 0
        if self._failing:
            self._ending.wait(_RETRY_S)

    def _write_all(self, octets: bytes) -> int:
        """Write until all is out, the descriptor refuses, or the sink is closed.

        Returns:
            How many octets got out.
        """
        view = memoryview(octets)
        written = 0
        while written < len(octets) and not self._closed:
            try:
                count = os.write(self._descriptor, view[written:])
            except BlockingIOError:  # somebody who shares the descriptor has made it non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
                continue
            except OSError:  # EPIPE, EIO, ENOSPC, EBADF: it may pass
                break
            if count == 0:  # what a device may answer, and what would turn for ever
                break
            written += count
        return written
