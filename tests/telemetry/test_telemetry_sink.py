"""The queue in front of a descriptor: real pipes and files that are full, slow, broken, and whole again."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.telemetry.sink import LogSink
from tests.e2e.harness import PATIENCE_S, eventually, full_pipe, in_pipe, steady

NOTICE = b'{"ts":"2001-09-09T01:46:40.250Z","level":"warning","msg":"log lines were dropped","dropped":%d}\n'


def clock() -> float:
    return 1_000_000_000.25


def line(number: int, size: int = 20) -> bytes:
    return b"%0*d\n" % (size - 1, number)


def ended(sink: LogSink) -> bool:
    return not sink._writer.is_alive()


def taken(sink: LogSink) -> bool:
    """Whether the thread has taken all that waited."""
    return "waiting=0" in repr(sink)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield descriptor, path
    os.close(descriptor)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what the sinks of a test ask the kernel to write."""
    sizes: list[int] = []

    def write(descriptor: int, octets: bytes) -> int:
        sizes.append(len(octets))
        return os.write(descriptor, octets)

    monkeypatch.setattr("sidecar.telemetry.sink.os", SimpleNamespace(write=write))
    return sizes


# -- a descriptor that takes everything


def test_lines_come_out_in_order_and_close_waits_for_them(file: tuple[int, Path]) -> None:
    descriptor, path = file
    sink = LogSink(descriptor)
    lines = [line(number, 200) for number in range(5000)]
    for each in lines:
        sink.write(each)
    sink.close(PATIENCE_S)

    assert path.read_bytes() == b"".join(lines)
    assert sink.dropped == 0
    assert ended(sink)


def test_line_needs_no_close_to_come_out(file: tuple[int, Path]) -> None:
    descriptor, path = file
    sink = LogSink(descriptor)
    for number in range(3):
        sink.write(line(number))
        eventually(lambda number=number: path.read_bytes().endswith(line(number)), "it is written")
    sink.close(PATIENCE_S)


def test_lines_are_joined_up_to_64_kib(file: tuple[int, Path], writes: list[int]) -> None:
    descriptor, path = file
    sink = LogSink(descriptor)
    with sink._lock:  # the thread finds them all at once
        for number in range(1000):
            sink.write(line(number, 200))
    sink.close(PATIENCE_S)

    assert path.stat().st_size == 200_000
    assert writes == [65_400, 65_400, 65_400, 3_800]


def test_line_longer_than_a_batch_is_written(file: tuple[int, Path]) -> None:
    descriptor, path = file
    sink = LogSink(descriptor)
    sink.write(line(1, 200_000))
    sink.close(PATIENCE_S)

    assert path.read_bytes() == line(1, 200_000)


def test_finalizer_that_logs_inside_does_not_stand_still(file: tuple[int, Path]) -> None:
    descriptor, path = file
    sink = LogSink(descriptor)
    with sink._lock:  # where the garbage collector may run it
        sink.write(line(1))
    sink.close(PATIENCE_S)

    assert path.read_bytes() == line(1)


def test_repr_shows_what_waits_and_what_was_dropped(file: tuple[int, Path]) -> None:
    descriptor, _ = file
    sink = LogSink(descriptor, max_lines=0)
    sink.write(line(1))

    assert repr(sink) == f"<LogSink fd={descriptor} waiting=0 dropped=1>"
    sink.close(PATIENCE_S)


# -- a pipe that nobody reads


@pytest.mark.parametrize(
    ("limit", "fitting"), [({"max_lines": 3}, 3), ({"max_octets": 70}, 3), ({"max_octets": 60}, 3)]
)
def test_what_does_not_fit_is_dropped_and_counted(limit: dict[str, int], fitting: int) -> None:
    with full_pipe() as (reading, writing, filled):
        sink = LogSink(writing, clock=clock, **limit)
        sink.write(line(0))
        eventually(lambda: taken(sink), "the thread is in the pipe with it")
        for number in range(1, 6):
            sink.write(line(number))

        assert sink.dropped == 5 - fitting
        read = bytearray()
        eventually(lambda: read.extend(in_pipe(reading)) or read.endswith(line(3)), "it goes on when it is read")
        assert bytes(read[filled:]) == line(0) + NOTICE % 2 + b"".join(map(line, range(1, 4)))
        sink.close(PATIENCE_S)
        assert sink.dropped == 2


def test_place_of_lines_that_are_written_is_free_again() -> None:
    reading, writing = os.pipe()
    sink = LogSink(writing, max_lines=2, max_octets=40)
    for number in range(50):
        sink.write(line(number))
        assert os.read(reading, 100) == line(number)
    sink.close(PATIENCE_S)

    assert sink.dropped == 0
    os.close(reading)
    os.close(writing)


def test_drops_are_told_of_even_if_no_further_line_comes() -> None:
    with full_pipe() as (reading, writing, filled):
        sink = LogSink(writing, max_lines=0, clock=clock)
        for number in range(7):
            sink.write(line(number))
        read = bytearray()
        eventually(lambda: read.extend(in_pipe(reading)) or read.endswith(b"}\n"), "it is told")
        sink.close(PATIENCE_S)

        told = [json.loads(each)["dropped"] for each in bytes(read[filled:] + in_pipe(reading)).splitlines()]
        assert sum(told) == sink.dropped == 7


def test_close_gives_up_in_time_and_counts_what_is_left() -> None:
    with full_pipe() as (reading, writing, filled):
        sink = LogSink(writing)
        for number in range(100):
            sink.write(line(number))
        sink.close(0.05)

        assert sink.dropped == 100
        sink.write(line(100))
        assert sink.dropped == 101
        sink.close(0.05)
        assert sink.dropped == 101, "only once"

        # What the thread was stuck with gets out after all, and nothing else.
        read = bytearray()
        eventually(lambda: read.extend(in_pipe(reading)) or ended(sink), "the thread ends")
        read += in_pipe(reading)
        out = bytes(read[filled:]).splitlines(keepends=True)
        assert out == [line(number) for number in range(len(out))]
        assert len(out) + sink.dropped == 101


def test_writers_in_many_threads_lose_no_count() -> None:
    with full_pipe() as (reading, writing, filled):
        sink = LogSink(writing, max_lines=50)
        threads = [
            threading.Thread(target=lambda: [sink.write(line(number)) for number in range(5000)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        read = bytearray()
        eventually(
            lambda: read.extend(in_pipe(reading)) or not any(thread.is_alive() for thread in threads), "all is written"
        )
        closing = threading.Thread(target=sink.close, args=(PATIENCE_S,))
        closing.start()
        eventually(lambda: read.extend(in_pipe(reading)) or not closing.is_alive(), "it is closed")
        read += in_pipe(reading)

    out = bytes(read[filled:]).splitlines()
    told = [json.loads(each)["dropped"] for each in out if each.startswith(b"{")]
    assert len(out) - len(told) + sink.dropped == 20_000
    assert sum(told) == sink.dropped


# -- a descriptor that somebody has made non-blocking


def test_full_non_blocking_pipe_is_waited_for_without_turning(writes: list[int]) -> None:
    with full_pipe() as (reading, writing, filled):
        os.set_blocking(writing, False)
        sink = LogSink(writing)
        sink.write(line(1))
        eventually(lambda: writes, "it has tried")
        assert steady(lambda: len(writes)) == 1

        read = bytearray()
        eventually(lambda: read.extend(in_pipe(reading)) or read.endswith(line(1)), "it goes on when it is read")
        assert (len(read), writes) == (filled + 20, [20, 20])
        sink.close(PATIENCE_S)
        assert sink.dropped == 0


def test_slow_reader_of_a_non_blocking_pipe_gets_every_octet(writes: list[int]) -> None:
    with full_pipe() as (reading, writing, filled):
        os.set_blocking(writing, False)
        sink = LogSink(writing)
        lines = [line(number, 7001) for number in range(40)]
        for each in lines:
            sink.write(each)
        read = bytearray()
        while len(read) < filled + 40 * 7001:
            read += os.read(reading, 5000)
        sink.close(PATIENCE_S)

    assert bytes(read[filled:]) == b"".join(lines)
    assert len(writes) >= 5, "in pieces, since one write is 64 KiB at most"
    assert sink.dropped == 0


def test_close_gives_up_on_a_full_non_blocking_pipe() -> None:
    with full_pipe() as (reading, writing, filled):
        os.set_blocking(writing, False)
        sink = LogSink(writing)
        sink.write(line(1))
        eventually(lambda: taken(sink), "it has tried")
        sink.close(0.05)

        assert sink.dropped == 1
        assert len(in_pipe(reading)) == filled
        eventually(lambda: ended(sink), "the thread ends")
        assert (in_pipe(reading), sink.dropped) == (b"", 1)


# -- a descriptor that refuses


def no_space() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def no_reader() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def no_terminal() -> int:
    terminal, line_of_it = pty.openpty()
    os.close(terminal)
    return line_of_it


def no_descriptor() -> int:
    with open(os.devnull, "wb") as opened:
        # So far up that no other thread of the tests is given this number meanwhile.
        descriptor = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 900)
    os.close(descriptor)
    return descriptor


REFUSALS = {no_space: errno.ENOSPC, no_reader: errno.EPIPE, no_terminal: errno.EIO, no_descriptor: errno.EBADF}


@pytest.fixture(params=REFUSALS, ids=lambda make: make.__name__)
def refusing(request: pytest.FixtureRequest) -> Iterator[int]:
    descriptor = request.param()
    with pytest.raises(OSError) as refusal:
        os.write(descriptor, b"x")
    assert refusal.value.errno == REFUSALS[request.param]
    yield descriptor
    try:
        os.close(descriptor)
    except OSError:
        pass


def test_refused_lines_are_counted_and_later_ones_tried(
    refusing: int, file: tuple[int, Path], writes: list[int]
) -> None:
    sink = LogSink(refusing, clock=clock)
    for number in range(3):
        sink.write(line(number))
        eventually(lambda number=number: sink.dropped == number + 1, "it is counted")
    assert steady(lambda: len(writes)) == 3, "one try for each line, and none without one"

    os.dup2(file[0], refusing)
    sink.write(line(3))
    eventually(file[1].read_bytes, "it is written")
    sink.write(line(4))
    sink.close(PATIENCE_S)
    assert file[1].read_bytes() == NOTICE % 3 + line(3) + line(4)
    assert sink.dropped == 3


def test_close_is_not_held_up_by_a_descriptor_that_refuses(refusing: int) -> None:
    sink = LogSink(refusing)
    for number in range(5000):
        sink.write(line(number, 200))
    sink.close(PATIENCE_S)

    assert ended(sink)
    assert sink.dropped == 5000


def scripted(monkey: Callable[[int], int | OSError]) -> tuple[SimpleNamespace, bytearray]:
    """An `os` whose write takes as many octets as it is told to, or raises."""
    out = bytearray()

    def write(_: int, octets: memoryview) -> int:
        answer = monkey(len(octets))
        if isinstance(answer, OSError):
            raise answer
        out.extend(octets[:answer])
        return min(answer, len(octets))

    return SimpleNamespace(write=write), out


def test_line_that_was_torn_spoils_no_other() -> None:
    answers: list[int | OSError] = [25, OSError(errno.ENOSPC, "full")]
    fake, out = scripted(lambda size: answers.pop(0) if answers else size)
    with mock.patch("sidecar.telemetry.sink.os", fake):
        sink = LogSink(1, clock=clock)
        with sink._lock:
            for number in range(3):
                sink.write(line(number))
        eventually(lambda: sink.dropped == 2, "one line is out, one is torn, one is lost")
        sink.write(line(3))
        eventually(lambda: out.endswith(line(3)), "it goes on")
        sink.write(line(4))
        sink.close(PATIENCE_S)

    assert bytes(out) == line(0) + line(1)[:5] + b"\n" + NOTICE % 2 + line(3) + line(4)
    assert sink.dropped == 2


def test_device_that_takes_nothing_is_a_device_that_refuses() -> None:
    fake, out = scripted(lambda size: 0)
    with mock.patch("sidecar.telemetry.sink.os", fake):
        sink = LogSink(1)
        sink.write(line(0))
        eventually(lambda: sink.dropped == 1, "it is counted")
        sink.close(PATIENCE_S)

    assert (out, sink.dropped) == (b"", 1)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(2, 90_000), min_size=1, max_size=12),
    answers=st.lists(st.one_of(st.integers(0, 40), st.integers(0, 70_000), st.just(None)), max_size=30),
)
@example(sizes=[62, 65475], answers=[61, 0])  # all of the first but its newline
@example(sizes=[2], answers=[1, 0])  # the same, and nothing follows
@example(sizes=[2], answers=[1, 0, 0])  # nor does the newline get out at the end
def test_every_line_gets_out_or_is_counted(sizes: list[int], answers: list[int | None]) -> None:
    def answer(size: int) -> int | OSError:
        if not answers:
            return size
        taken = answers.pop(0)
        return OSError(errno.EIO, "refused") if taken is None else taken

    fake, out = scripted(answer)
    lines = [b"%c" % (97 + number) * (size - 1) + b"\n" for number, size in enumerate(sizes)]
    with mock.patch("sidecar.telemetry.sink.os", fake), mock.patch("sidecar.telemetry.sink._RETRY_S", 0):
        sink = LogSink(1, clock=clock)
        for each in lines:
            sink.write(each)
        sink.close(PATIENCE_S)

    pieces = bytes(out).splitlines(keepends=True)
    if pieces and pieces[-1] + b"\n" in lines:
        pieces[-1] += b"\n"  # which the descriptor has not taken, though all of the line
    whole = [piece for piece in pieces if piece in lines]
    notices = [json.loads(piece) for piece in pieces if piece.startswith(b'{"') and piece.endswith(b"}\n")]
    assert whole == sorted(whole), "in order"
    assert len(whole) + sink.dropped == len(lines)
    assert sum(notice["dropped"] for notice in notices) <= sink.dropped
    assert all(
        piece in lines or piece == b"\n" or piece.startswith(b"{") or any(each.startswith(piece[:-1]) for each in lines)
        for piece in pieces
    ), "what was torn is a line of its own"
