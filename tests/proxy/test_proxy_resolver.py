"""Names and the addresses behind them: what changes, what fails, what hangs, and that nobody is asked twice at once."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.config import Upstream
from sidecar.config.addresses import parse_upstream
from sidecar.proxy.resolver import MOST_ADDRESSES, Place, Resolver, is_address, system_lookup
from tests.proxy.transcript import Clock, StageLoop

REFRESH_S = 5.0
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


class Rig:
    """A resolver on a stage, with a lookup that does as the test says.

    Attributes:
        finds: what a lookup of a name finds: addresses, what fails it, or None for a lookup that hangs.
        asked: every name that was looked up.
        told: what the resolver has said there is, each time it said so.
        failures: lookups that it has counted as failed.
    """

    def __init__(self, *upstreams: str, **finds: Any) -> None:
        self.clock = Clock()
        self.loop = StageLoop(self.clock)
        self.upstreams = [parse_upstream(upstream) for upstream in upstreams]
        self.finds: dict[str, Any] = finds
        self.asked: list[tuple[str, int]] = []
        self.under_way = 0
        self.hanging: deque[asyncio.Future[Any]] = deque()
        self.told: list[list[Place]] = []
        self.failures = 0
        self.tasks: list[asyncio.Task[Any]] = []
        make, self.loop.create_task = self.loop.create_task, self._make_task  # type: ignore[method-assign]
        self._make = make
        self.resolver = Resolver("payments", self.upstreams, REFRESH_S, self._look_up, self.told.append, self._failed)

    def _make_task(self, coro: Any, **keys: Any) -> asyncio.Task[Any]:
        self.tasks.append(self._make(coro, **keys))
        return self.tasks[-1]

    def _failed(self) -> None:
        self.failures += 1

    async def _look_up(self, host: str, port: int) -> Any:
        self.asked.append((host, port))
        self.under_way += 1
        try:
            found = self.finds[host]
            if found is None:
                self.hanging.append(self.loop.create_future())
                found = await self.hanging[-1]
        finally:
            self.under_way -= 1
        if isinstance(found, BaseException):
            raise found
        return found

    def start(self) -> Rig:
        with self.loop.running():
            self.resolver.start()
        self.loop.settle()
        return self

    def looks(self, only: Upstream | None = None) -> asyncio.Task[None]:
        """Somebody waits for an address."""
        with self.loop.running():
            task = self.loop.create_task(self.resolver.look(only))
        self.loop.settle()
        return task

    def answers(self, found: Any) -> None:
        """The lookup that has hung longest comes to its end."""
        hanging = self.hanging.popleft()
        if isinstance(found, BaseException):
            hanging.set_exception(found)
        else:
            hanging.set_result(found)
        self.loop.settle()

    def passes(self, seconds: float) -> None:
        end = self.clock.seconds + seconds
        while (due := min((timer.when() for timer in self.loop.timers), default=end)) <= end:
            self.clock.seconds = max(due, self.clock.seconds)
            if not self.loop.timers:
                break
            self.loop.ring()
        self.clock.seconds = end

    @property
    def known(self) -> list[str]:
        """The addresses it has told last."""
        return [place.ip for place in self.told[-1]]

    def stop(self) -> None:
        with self.loop.running():
            self.resolver.stop()
        self.loop.settle()


@pytest.fixture
def rig() -> Iterator[Any]:
    """Makes rigs; behind the test none may have left a task, a timer or a fault."""
    made: list[Rig] = []

    def make(*upstreams: str, **finds: Any) -> Rig:
        made.append(Rig(*upstreams, **finds))
        return made[-1]

    yield make
    for each in made:
        each.stop()
        assert all(task.done() for task in each.tasks)
        assert (each.loop.timers, each.under_way, each.loop.faults) == ([], 0, [])


# -- what need not be looked up


@pytest.mark.parametrize(
    ("upstream", "ip"),
    [
        ("http://192.0.2.1:80", "192.0.2.1"),
        ("https://[2001:db8::1]", "2001:db8::1"),
        ("http://[::1]:8080", "::1"),
        ("unix:/run/payments.sock", ""),
    ],
)
def test_what_is_no_name_is_told_at_once_and_never_looked_up(rig, upstream: str, ip: str) -> None:
    each = rig(upstream)
    with each.loop.running():
        each.resolver.start()
    assert each.told == [[Place(each.upstreams[0], ip)]]
    each.looks()
    each.passes(20 * REFRESH_S)
    assert (each.asked, len(each.told), each.loop.timers) == ([], 1, [])


@pytest.mark.parametrize("host", ["payments", "localhost", "1.2.3.4.example", "127.1", "0x7f000001", "", "::1.example"])
def test_name_is_no_address(host: str) -> None:
    assert not is_address(host)


def test_addresses_stand_beside_names_and_do_not_wait_for_them(rig) -> None:
    each = rig("http://192.0.2.1", "http://a", "unix:/run/x", a=None).start()
    assert each.known == ["192.0.2.1", ""]
    each.answers(["192.0.2.7"])
    assert each.known == ["192.0.2.1", "192.0.2.7", ""]
    assert each.told[-1][1].upstream == each.upstreams[1]


# -- what changes


def test_name_is_looked_up_at_the_start_and_again_every_refresh(rig) -> None:
    each = rig("http://a:8080", a=["192.0.2.1"]).start()
    assert each.asked == [("a", 8080)]
    for times in range(2, 6):
        each.passes(REFRESH_S - 0.1)
        assert len(each.asked) == times - 1
        each.passes(0.1)
        assert len(each.asked) == times


def test_change_is_told_and_the_same_is_not_told_again(rig) -> None:
    each = rig("http://a", a=["192.0.2.1", "192.0.2.2"]).start()
    assert each.told[0] == []
    assert each.known == ["192.0.2.1", "192.0.2.2"]
    for found, times in [
        (["192.0.2.2", "192.0.2.1"], 2),  # in whatever order
        (["192.0.2.2"], 3),
        (["192.0.2.2"], 3),
        (("192.0.2.9", "2001:db8::1"), 4),
        (["192.0.2.1", "192.0.2.2"], 5),
    ]:
        each.finds["a"] = found
        each.passes(REFRESH_S)
        assert each.known == sorted(found)
        assert len(each.told) == times


def test_refresh_counts_from_the_end_of_a_lookup(rig) -> None:
    each = rig("http://a", a=None).start()
    each.passes(100)
    each.answers(["192.0.2.1"])
    each.passes(REFRESH_S - 0.1)
    assert len(each.asked) == 1
    each.passes(0.2)
    assert len(each.asked) == 2


@pytest.mark.parametrize(
    "found",
    [
        ["192.0.2.1", "192.0.2.1"],
        ["192.0.2.1"] * 1000,
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
    ],
)
def test_address_that_is_found_twice_is_one(rig, found: Any) -> None:
    assert rig("http://a", a=found).start().known == ["192.0.2.1"]


def test_same_address_behind_two_names_is_two_places(rig) -> None:
    each = rig("http://a", "http://b", a=["192.0.2.1"], b=["192.0.2.1"]).start()
    assert each.told[-1] == [Place(each.upstreams[0], "192.0.2.1"), Place(each.upstreams[1], "192.0.2.1")]


def _thousand(seed: int) -> list[str]:
    found = [f"10.0.{number >> 8}.{number & 255}" for number in range(1000)]
    random.Random(seed).shuffle(found)
    return found


def test_no_more_than_so_many_addresses_are_taken_and_those_in_use_stay(rig) -> None:
    each = rig("http://a", a=_thousand(1)).start()
    assert MOST_ADDRESSES == 256
    first = each.known
    assert first == sorted(_thousand(1)[:256])  # the preferred
    for seed in range(2, 5):
        each.finds["a"] = _thousand(seed)
        each.passes(REFRESH_S)
        assert each.known == first
    each.finds["a"] = [ip for ip in _thousand(5) if ip != first[7]]
    each.passes(REFRESH_S)
    assert len(each.known) == 256
    assert set(first) - set(each.known) == {first[7]}


# -- what fails


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UNKNOWN, "Name or service not known"),
        (OSError("nobody answers"), "nobody answers"),
        (TimeoutError(), "TimeoutError"),
        (UnicodeError("label too long"), "label too long"),
        ([], "the answer is empty"),
        ((), "the answer is empty"),
    ],
)
def test_failure_before_the_first_answer_leaves_none_and_says_why(rig, caplog, error: Any, reason: str) -> None:
    each = rig("http://a", a=error).start()
    assert (each.told, each.failures, each.resolver.reason) == ([[]], 1, reason)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"the name a of payments does not resolve ({reason}); no address is known")
    ]


def test_while_it_fails_the_last_good_addresses_serve_on(rig, caplog) -> None:
    caplog.set_level(logging.INFO, "sidecar.names")
    each = rig("http://a", a=["192.0.2.1", "192.0.2.2"]).start()
    for times, error in enumerate((UNKNOWN, [], OSError("x"), UNKNOWN), 1):
        each.finds["a"] = error
        each.passes(REFRESH_S)
        assert (each.known, len(each.told), each.failures) == (["192.0.2.1", "192.0.2.2"], 2, times)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "the name a of payments does not resolve (Name or service not known); its last good addresses (2) serve on",
        )
    ]
    caplog.clear()
    each.finds["a"] = ["192.0.2.1", "192.0.2.2"]
    for _ in range(3):
        each.passes(REFRESH_S)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "the name a of payments resolves again")
    ]
    assert (len(each.told), each.failures) == (2, 4)


def test_each_outage_is_said_and_of_each_name(rig, caplog) -> None:
    each = rig("http://a", "http://b", a=["192.0.2.1"], b=UNKNOWN).start()
    for found in (UNKNOWN, ["192.0.2.1"], UNKNOWN, UNKNOWN, ["192.0.2.2"]):
        each.finds["a"] = found
        each.passes(REFRESH_S)
    names = [record.getMessage().split()[2] for record in caplog.records if record.levelname == "WARNING"]
    assert names == ["b", "a", "a"]
    assert each.failures == 6 + 3
    assert each.known == ["192.0.2.2"]


@pytest.mark.parametrize(
    "defect",
    [
        RuntimeError("no such thing"),
        ["192.0.2.1", None],
        17,
        [b"192.0.2.1", "192.0.2.2"],
    ],
)
def test_defect_in_a_lookup_is_reported_and_the_next_one_made(rig, defect: Any) -> None:
    each = rig("http://a", a=["192.0.2.1"]).start()
    for times in range(1, 3):
        each.finds["a"] = defect
        each.passes(REFRESH_S)
        assert [fault["message"] for fault in each.loop.faults] == ["the lookup of a failed"]
        assert isinstance(each.loop.faults.pop()["exception"], RuntimeError | TypeError)
        assert (each.known, each.failures) == (["192.0.2.1"], times)
    each.finds["a"] = ["192.0.2.2"]
    each.passes(REFRESH_S)
    assert each.known == ["192.0.2.2"]


# -- what hangs


def test_at_most_one_lookup_of_a_name_is_under_way(rig) -> None:
    each = rig("http://a", a=None).start()
    waiting = [each.looks() for _ in range(5)]
    each.passes(20 * REFRESH_S)
    assert (len(each.asked), each.under_way) == (1, 1)
    assert not any(task.done() for task in waiting)
    each.answers(["192.0.2.1"])
    assert all(task.done() for task in waiting)
    assert each.known == ["192.0.2.1"]


def test_last_good_addresses_serve_on_while_it_hangs(rig) -> None:
    each = rig("http://a", a=["192.0.2.1"]).start()
    each.finds["a"] = None
    each.passes(20 * REFRESH_S)
    assert (each.known, each.failures, len(each.asked)) == (["192.0.2.1"], 0, 2)
    each.finds["a"] = ["192.0.2.3"]
    each.answers(["192.0.2.2"])
    assert each.known == ["192.0.2.2"]
    each.passes(REFRESH_S)
    assert each.known == ["192.0.2.3"]


def test_name_that_hangs_keeps_no_other_waiting(rig) -> None:
    each = rig("http://a", "http://b", a=["192.0.2.1"], b=None).start()
    assert each.known == ["192.0.2.1"]
    each.finds["a"] = ["192.0.2.2"]
    each.passes(REFRESH_S)
    assert each.known == ["192.0.2.2"]
    assert sorted(each.asked) == [("a", 80), ("a", 80), ("b", 80)]
    each.answers(["192.0.2.3"])
    assert each.known == ["192.0.2.2", "192.0.2.3"]


# -- who waits for an address


def test_who_waits_goes_on_with_the_first_address(rig) -> None:
    each = rig("http://a", "http://b", "http://c", a=None, b=None, c=None).start()
    waiting = each.looks()
    each.answers(UNKNOWN)
    assert not waiting.done()
    each.answers(["192.0.2.2"])
    assert (waiting.done(), each.under_way) == (True, 1)
    assert each.known == ["192.0.2.2"]


def test_who_waits_goes_on_without_one_when_no_name_has_any(rig) -> None:
    each = rig("http://a", "http://b", a=None, b=None).start()
    waiting = each.looks()
    each.answers(UNKNOWN)
    each.answers(OSError("nobody answers"))
    assert waiting.done()
    assert (each.told, each.resolver.reason) == ([[]], "nobody answers")


def test_who_waits_does_not_wait_for_the_next_refresh(rig) -> None:
    each = rig("http://a", a=UNKNOWN).start()
    each.finds["a"] = ["192.0.2.1"]
    assert each.looks().done()
    assert (each.known, len(each.asked)) == (["192.0.2.1"], 2)


def test_who_wants_one_of_the_names_waits_for_that(rig) -> None:
    each = rig("http://a", "http://b", a=["192.0.2.1"], b=None).start()
    waiting = each.looks(each.upstreams[1])
    assert not waiting.done()
    assert len(each.asked) == 2
    assert each.looks(each.upstreams[0]).done()
    each.answers(["192.0.2.2"])
    assert waiting.done()


def test_who_gives_up_leaves_the_lookup_to_the_others(rig) -> None:
    each = rig("http://a", a=None).start()
    one, other = each.looks(), each.looks()
    one.cancel()
    each.loop.settle()
    assert one.cancelled()
    each.answers(["192.0.2.1"])
    assert (other.done(), each.known) == (True, ["192.0.2.1"])


# -- its end


@pytest.mark.parametrize("found", [None, ["192.0.2.1"], UNKNOWN])
def test_stopped_it_leaves_no_task_and_looks_nothing_up(rig, found: Any) -> None:
    each = rig("http://a", "http://b", a=found, b=None).start()
    waiting = each.looks(each.upstreams[1])
    each.stop()
    assert all(task.done() for task in each.tasks)
    assert waiting.done()
    assert (each.loop.timers, each.under_way) == ([], 0)
    asked, told = list(each.asked), list(each.told)
    each.passes(10 * REFRESH_S)
    assert (each.asked, each.told) == (asked, told)
    each.stop()


def test_stopped_before_it_began_to_look_it_asks_nobody(rig) -> None:
    each = rig("http://a", a=["192.0.2.1"])
    with each.loop.running():
        each.resolver.start()
        each.resolver.stop()
    each.loop.settle()
    assert each.asked == []
    assert all(task.done() for task in each.tasks)


# -- the host's own


async def test_system_lookup_finds_what_the_host_knows() -> None:
    assert "127.0.0.1" in await system_lookup("localhost", 80)


async def test_system_lookup_says_each_address_once(monkeypatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        four = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))
        six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 80, 0, 0))
        return [six, four, six, four]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await system_lookup("a", 80) == ["2001:db8::1", "192.0.2.1"]


async def test_names_that_hang_take_nothing_from_others(monkeypatch) -> None:
    released = threading.Event()

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        if host.startswith("slow"):
            released.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    hanging = [asyncio.ensure_future(system_lookup(f"slow{number}", 80)) for number in range(40)]
    assert await asyncio.wait_for(system_lookup("fast", 80), 30) == ["192.0.2.1"]
    hanging[0].cancel()
    released.set()
    found = await asyncio.gather(*hanging, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [["192.0.2.1"]] * 39


@pytest.mark.parametrize("loop", ["uvloop.new_event_loop", "asyncio.new_event_loop"])
def test_lookup_that_hangs_does_not_keep_the_process_from_its_end(loop: str) -> None:
    program = f"""
import asyncio, socket, time, uvloop
from sidecar.proxy.resolver import system_lookup
socket.getaddrinfo = lambda *_, **__: time.sleep(3600)
async def main():
    hanging = asyncio.ensure_future(system_lookup("a", 80))
    await asyncio.sleep(0)
    hanging.cancel()
with asyncio.Runner(loop_factory={loop}) as runner:
    runner.run(main())
print("over")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (ran.stdout, ran.stderr) == ("over\n", "")


def test_answer_that_comes_when_the_loop_is_closed_is_for_nobody(monkeypatch) -> None:
    released, threads = threading.Event(), []

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        threads.append(threading.current_thread())
        released.wait(60)
        return []

    async def give_up() -> None:
        lookup = asyncio.ensure_future(system_lookup("a", 80))
        while not threads:
            await asyncio.sleep(0.001)
        lookup.cancel()

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    asyncio.run(give_up())
    released.set()
    threads[0].join(60)
    assert not threads[0].is_alive()


async def test_want_of_threads_is_a_failure_like_others(monkeypatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="can't start new thread"):
        await system_lookup("localhost", 80)


async def test_defect_in_the_thread_reaches_who_waits(monkeypatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: 17)
    with pytest.raises(TypeError):
        await system_lookup("localhost", 80)


async def test_system_lookup_of_an_unknown_name_is_an_error() -> None:
    with pytest.raises(OSError, match=r"\S"):
        await system_lookup("name.invalid", 80)
