"""The policies over real sockets: what an application, a scraper and a reader of the log see of a real sidecar.

How the policies compose is told on a fake clock in tests/proxy/test_proxy_policies.py; here it is shown that the whole
of it holds in a process, with a kernel and a clock.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import (
    PATIENCE_S,
    Background,
    Ended,
    Message,
    Sidecar,
    Upstream,
    Wire,
    answer,
    echo,
    eventually,
    get,
    missing,
    need,
    post,
    steady,
)

PATIENT = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s"}
ALL_LOGGED = {"sample": "100%", "max_per_second": 1_000_000}
OFF = {"mode": "off"}
AT_ONCE = {"base": "1ms", "max": "1ms"}
FOR_LONG = {"consecutive_failures": 1, "open_for": "1h", "max_open_for": "1h"}

POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    # Long enough that a scrape behind the trip still sees it open, on a machine that is busy.
    "opening": {
        "circuit_breaker": {
            "consecutive_failures": 2,
            "open_for": "4s",
            "half_open": {"trials": 1, "successes": 1, "max_wait": "1m"},
        }
    },
    "down": {"circuit_breaker": FOR_LONG},
    "limited": {"rate_limit": {"rate": "1/hour", "burst": 2}},
    "paced": {"rate_limit": {"rate": "50/second", "burst": 1}, "queue": {"limit": 100, "max_wait": "1m"}},
    "narrow": {"concurrency": {"limit": 2}},
    "queued": {"concurrency": {"limit": 1}, "queue": {"limit": 4, "max_wait": "1m"}},
    "flushed": {"concurrency": {"limit": 1}, "queue": {"limit": 4, "max_wait": "1m"}, "circuit_breaker": FOR_LONG},
    "flapping": {
        "circuit_breaker": OFF,
        "retry": {"attempts": 2, "backoff": AT_ONCE, "budget": {"ratio": "100%", "min_per_second": 100}},
    },
    "thrifty": {
        "circuit_breaker": OFF,
        "retry": {"attempts": 3, "backoff": AT_ONCE, "budget": {"ratio": "20%", "min_per_second": 0}},
    },
    "covered": {
        "circuit_breaker": FOR_LONG,
        "fallback": {
            "on": ["CIRCUIT_OPEN"],
            "status": 203,
            "headers": {"Content-Type": "text/plain"},
            "body": "yesterday's",
        },
    },
    "compared": {
        "candidates": {
            "stingy": {"rate_limit": {"rate": "1/hour", "burst": 3}},
            "nervous": {"circuit_breaker": FOR_LONG},
        },
    },
    "left": {
        "concurrency": {"limit": 1},
        "queue": {"limit": 4, "max_wait": "1m"},
        "retry": {"attempts": 2, "budget": {"min_per_second": 100}},
    },
    "everything": {
        "rate_limit": {"rate": "100000/second"},
        "concurrency": {"limit": 8},
        "queue": {"limit": 30, "max_wait": "1m"},
        "circuit_breaker": {
            "consecutive_failures": 4,
            "failure_rate": {"threshold": None},
            "open_for": "20ms",
            "max_open_for": "50ms",
        },
        "retry": {"attempts": 3, "backoff": AT_ONCE, "budget": {"ratio": "50%", "min_per_second": 10}},
        "candidates": {"nervous": {"circuit_breaker": {"consecutive_failures": 1}}},
    },
}


def dependency(name: str, upstream: Upstream, **policies: Any) -> dict[str, Any]:
    return {
        "upstream": upstream.url,
        "prefix": f"/{name}",
        "hosts": [],
        "timeout": PATIENT,
        "circuit_breaker": {},
        **policies,
    }


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Sidecar]:
    """Each test has a dependency of its own, named after what it shows."""
    dependencies = {name: dependency(name, upstream, **policies) for name, policies in POLICIES.items()}
    with Sidecar(tmp_path_factory.mktemp("policies"), dependencies, access_log=ALL_LOGGED) as sidecar:
        yield sidecar


def fail(wire: Wire, request: Message) -> None:
    """The dependency's own failure, which names the request that it is the answer to."""
    wire.send(answer(request.target, status="503 Service Unavailable"))


def requests_logged(sidecar: Sidecar, dependency: str, count: int) -> list[dict[str, Any]]:
    """The lines about requests for a dependency: exactly so many, then and a moment later."""

    def lines() -> list[dict[str, Any]]:
        return [line for line in sidecar.logged() if line["msg"] == "request" and line["dependency"] == dependency]

    eventually(lambda: len(lines()) >= count, f"{count} requests for {dependency} in the log")
    assert len(steady(lambda: len(lines()) * [None])) == count
    return lines()


class Held:
    """Holds each answer back until it is let through, in the order of arrival or all at once."""

    def __init__(self) -> None:
        self.arrived: list[bytes] = []
        self._let_through = threading.Semaphore(0)

    def __call__(self, wire: Wire, request: Message) -> None:
        self.arrived.append(request.target)
        assert self._let_through.acquire(timeout=60)
        echo(wire, request)

    def await_arrivals(self, count: int) -> None:
        eventually(lambda: len(self.arrived) >= count, f"{count} requests at the upstream")

    def let_through(self, count: int = 1) -> None:
        self._let_through.release(count)


@contextlib.contextmanager
def asking(sidecar: Sidecar, *targets: str) -> Iterator[list[Wire]]:
    """One request on a connection of its own for each target, in that order as the sidecar sees it."""
    with contextlib.ExitStack() as stack:
        wires = []
        for target in targets:
            wires.append(stack.enter_context(sidecar.connect()))
            wires[-1].send(get(target))
            sidecar.turn()
        yield wires


# -- the circuit


@pytest.mark.usefixtures("settled")
def test_circuit_opens_refuses_probes_on_its_own_and_closes_and_scrapes_and_log_tell_it(
    sidecar: Sidecar, upstream: Upstream
) -> None:
    assert sidecar.state("opening") == "closed"
    with upstream.replying(fail):
        for number in (1, 2):
            response = sidecar.ask(get(f"/opening/{number}"))
            assert (response.status, response.body) == (503, b"/%d" % number), "its own, untouched"
            assert response.get(b"proxy-status") is None
        assert sidecar.state("opening") == "open"
        refused = sidecar.ask(get("/opening/refused"))
        assert (refused.status, refused.error) == (503, "CIRCUIT_OPEN")
        assert 1 <= int(refused.get(b"retry-after") or b"") <= 5
        assert "2 failures in a row (consecutive_failures: 2)" in refused.detail
        assert len(upstream.requests) == 2
        assert sidecar.control("/readyz").status == 200
    eventually(lambda: sidecar.state("opening") == "half_open", "it probes, though nobody asks")
    with upstream.play(upstream.serve):
        assert sidecar.ask(get("/opening/trial")).body == b"GET /trial"
        assert sidecar.state("opening") == "closed"
        assert sidecar.metric("circuit_breaker_open_seconds_total", dependency="opening") > 3.5

    lines = requests_logged(sidecar, "opening", 4)
    assert [(line["path"], line["status"], line.get("code"), line["attempts"]) for line in lines] == [
        ("/opening/1", 503, "DOWNSTREAM_ERROR", 1),
        ("/opening/2", 503, "DOWNSTREAM_ERROR", 1),
        ("/opening/refused", 503, "CIRCUIT_OPEN", 0),
        ("/opening/trial", 200, None, 1),
    ]
    moves = [
        line for line in sidecar.logged() if line.get("logger") == "sidecar.circuit" and line["dependency"] == "opening"
    ]
    assert [(line["from"], line["to"], line["reason"], line["level"]) for line in moves] == [
        ("closed", "open", "consecutive_failures", "warning"),
        ("open", "half_open", "waited", "info"),
        ("half_open", "closed", "trials_succeeded", "info"),
    ]
    trip = moves[0]["trip"]
    assert [sample["status"] for sample in trip["last_failures"]] == [503, 503]
    assert trip["probes_at"] > trip["at"]


@pytest.mark.usefixtures("settled")
def test_sidecar_stays_ready_while_a_dependency_is_down(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(lambda wire: wire.reset()):
        assert sidecar.ask(get("/down/x")).error == "DOWNSTREAM_FAILURE"
        for _ in range(3):
            assert sidecar.ask(get("/down/x")).error == "CIRCUIT_OPEN"
            assert sidecar.control("/readyz").status == 200
            assert sidecar.control("/livez").status == 200
    assert sidecar.ask(get("/plain/x")).status == 200, "nor does it harm another"


# -- rate, concurrency, queue


@pytest.mark.usefixtures("settled")
def test_rate_refusal_is_429_and_says_when_to_come_back(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.play(upstream.serve), sidecar.connect() as wire:
        for _ in range(2):
            wire.send(get("/limited/x"))
            assert wire.response().status == 200
        wire.send(get("/limited/x"))
        refused = wire.response()
        wait_s = json.loads(refused.body)["retry_after"]
        assert (refused.status, refused.error, refused.closes) == (429, "RATE_LIMITED", False)
        assert 3000 < wait_s <= 3600
        assert int(refused.get(b"retry-after") or b"") == math.ceil(wait_s)
        assert refused.get(b"proxy-status").startswith(b"sidecar; error=http_request_denied; details=")
        assert len(upstream.requests) == 2
    assert sidecar.metric("sidecar_rejections_total", dependency="limited", reason="RATE_LIMITED") == 1
    assert sidecar.metric("sidecar_rate_limit_tokens", dependency="limited") < 1


@pytest.mark.usefixtures("settled")
def test_requests_wait_for_tokens_and_all_are_served(sidecar: Sidecar, upstream: Upstream) -> None:
    targets = [f"/paced/{number}" for number in range(20)]
    with upstream.play(upstream.serve), asking(sidecar, *targets) as wires:
        for target, wire in zip(targets, wires, strict=True):
            assert wire.response().body == b"GET " + target.removeprefix("/paced").encode()
    assert sidecar.metric("sidecar_queue_wait_seconds_count", dependency="paced") >= 1
    assert sidecar.metric("sidecar_rejections_total", dependency="paced") == 0


@pytest.mark.usefixtures("settled")
def test_requests_beyond_the_slots_are_refused_until_one_is_free(sidecar: Sidecar, upstream: Upstream) -> None:
    held = Held()
    with upstream.replying(held), asking(sidecar, "/narrow/a", "/narrow/b") as wires:
        held.await_arrivals(2)
        refused = sidecar.ask(get("/narrow/c"))
        assert (refused.status, refused.error, refused.get(b"retry-after")) == (503, "CONCURRENCY_LIMITED", b"1")
        assert sidecar.metric("sidecar_in_flight_requests", dependency="narrow") == 2
        held.let_through(3)
        assert {wire.response().body for wire in wires} == {b"GET /a", b"GET /b"}
        assert sidecar.ask(get("/narrow/d")).body == b"GET /d"


@pytest.mark.usefixtures("settled")
def test_queue_is_served_in_order_of_arrival_and_no_longer_than_its_limit(sidecar: Sidecar, upstream: Upstream) -> None:
    held = Held()
    targets = [f"/queued/{number}" for number in range(5)]
    with upstream.replying(held), asking(sidecar, *targets) as wires:
        assert sidecar.metric("sidecar_queued_requests", dependency="queued") == 4
        refused = sidecar.ask(get("/queued/too-many"))
        assert refused.error == "CONCURRENCY_LIMITED"
        assert "all 4 places in the queue are taken (queue.limit)" in refused.detail
        for number, wire in enumerate(wires):
            held.await_arrivals(number + 1)
            assert len(held.arrived) == number + 1, "one at a time"
            held.let_through()
            assert wire.response().body == b"GET /%d" % number
    assert held.arrived == [b"/%d" % number for number in range(5)]
    lines = requests_logged(sidecar, "queued", 6)
    assert [line["waited_ms"] > 0 for line in lines if line["status"] == 200] == [False, True, True, True, True]


@pytest.mark.usefixtures("settled")
def test_circuit_that_opens_answers_all_who_wait_at_once(sidecar: Sidecar, upstream: Upstream) -> None:
    go_on = threading.Event()

    def fail_later(wire: Wire, request: Message) -> None:
        assert go_on.wait(60)
        fail(wire, request)

    with upstream.replying(fail_later), asking(sidecar, *(f"/flushed/{number}" for number in range(4))) as wires:
        assert sidecar.metric("sidecar_queued_requests", dependency="flushed") == 3
        go_on.set()
        first, *rest = [wire.response() for wire in wires]
        assert (first.status, first.body) == (503, b"/0")
        assert [response.error for response in rest] == ["CIRCUIT_OPEN"] * 3
        assert len(upstream.requests) == 1


# -- retries, fallback, candidates


class Flapping:
    """The first attempt of each request fails, the next succeeds."""

    def __init__(self) -> None:
        self.seen: Counter[bytes] = Counter()

    def __call__(self, wire: Wire, request: Message) -> None:
        self.seen[request.target] += 1
        if self.seen[request.target] == 1:
            fail(wire, request)
        else:
            wire.send(answer(request.method + b" " + request.target + b" " + request.body))


@pytest.mark.usefixtures("settled")
def test_flapping_dependency_is_asked_again_where_that_is_safe(sidecar: Sidecar, upstream: Upstream) -> None:
    flapping = Flapping()
    with upstream.replying(flapping), sidecar.connect() as wire:
        for number in range(20):
            wire.send(get(f"/flapping/get/{number}"))
            assert wire.response().body == b"GET /get/%d " % number
            wire.send(post(f"/flapping/put/{number}", b"order %d" % number, method="PUT"))
            assert wire.response().body == b"PUT /put/%d order %d" % (number, number)
            wire.send(post(f"/flapping/post/{number}", b"order %d" % number))
            assert wire.response().status == 503
    assert {target: count for target, count in flapping.seen.items() if b"post" in target and count != 1} == {}
    assert sum(flapping.seen.values()) == 20 * (2 + 2 + 1)
    assert sidecar.metric("sidecar_retries_total", dependency="flapping") == 40
    assert sidecar.metric("sidecar_attempts_total", dependency="flapping") == 100
    assert sidecar.metric("sidecar_requests_total", dependency="flapping") == 60
    lines = requests_logged(sidecar, "flapping", 60)
    assert Counter((line["method"], line["status"], line["attempts"]) for line in lines) == {
        ("GET", 200, 2): 20,
        ("PUT", 200, 2): 20,
        ("POST", 503, 1): 20,
    }


@pytest.mark.usefixtures("settled")
def test_upstream_sees_no_more_than_the_budget_allows(sidecar: Sidecar, upstream: Upstream) -> None:
    rng = random.Random(1)
    offered = 300

    def mostly(wire: Wire, request: Message) -> None:
        (fail if rng.random() < 0.6 else echo)(wire, request)

    with upstream.replying(mostly), sidecar.connect() as wire:
        for number in range(offered):
            wire.send(get(f"/thrifty/{number}"))
            assert wire.response().body in (b"/%d" % number, b"GET /%d" % number)
        assert offered < len(upstream.requests) <= 1.2 * offered
    assert sidecar.metric("sidecar_retry_budget_exhausted_total", dependency="thrifty") > 0


@pytest.mark.usefixtures("settled")
def test_fallback_answers_in_place_of_the_refusal(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.replying(fail), sidecar.connect() as wire:
        wire.send(get("/covered/trip"))
        assert wire.response().status == 503
        wire.send(get("/covered/x"))
        response = wire.response()
        assert (response.status, response.body) == (203, b"yesterday's")
        assert response.get(b"content-type") == b"text/plain"
        assert (response.get(b"proxy-status") or b"").endswith(b"; fallback")
        wire.send(get("/covered/x", method="HEAD"))
        assert wire.response(bodiless=True).status == 203
        wire.send(post("/covered/x", b""))
        assert wire.response().error == "CIRCUIT_OPEN"
        assert len(upstream.requests) == 1
    lines = requests_logged(sidecar, "covered", 4)
    assert [(line["status"], line["code"]) for line in lines] == [
        (503, "DOWNSTREAM_ERROR"),
        (203, "CIRCUIT_OPEN"),
        (203, "CIRCUIT_OPEN"),
        (503, "CIRCUIT_OPEN"),
    ]


@pytest.mark.usefixtures("settled")
def test_candidates_count_what_they_would_have_refused_and_refuse_nothing(sidecar: Sidecar, upstream: Upstream) -> None:
    with upstream.replying(fail):
        assert sidecar.ask(get("/compared/trips-one")).status == 503
    with upstream.play(upstream.serve):
        for number in range(4):
            assert sidecar.ask(get(f"/compared/{number}")).body == b"GET /%d" % number

    def refused(candidate: str, reason: str) -> float:
        labels = {"dependency": "compared", "candidate": candidate, "reason": reason}
        return sidecar.metric("sidecar_candidate_rejections_total", **labels)

    assert refused("stingy", "RATE_LIMITED") == 2
    assert refused("nervous", "CIRCUIT_OPEN") == 4
    assert sidecar.metric("sidecar_candidate_state", dependency="compared", candidate="nervous", state="open") == 1
    assert sidecar.metric("sidecar_rejections_total", dependency="compared") == 0
    assert sidecar.state("compared") == "closed"

    def moves() -> list[dict[str, Any]]:
        lines = (line for line in sidecar.logged() if line.get("candidate") == "nervous")
        return [line for line in lines if line["dependency"] == "compared"]

    (move,) = eventually(moves, "its transition is in the log")
    assert (move["level"], move["from"], move["to"]) == ("info", "closed", "open")


# -- clients that leave


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("how", ["reset", "finish"])
def test_client_that_leaves_leaves_no_slot_no_place_and_no_connection(
    sidecar: Sidecar, upstream: Upstream, how: str
) -> None:
    held = Held()

    def busy_or_held(wire: Wire, request: Message) -> None:
        if request.target == b"/backing-off":
            wire.send(answer(b"", "Retry-After: 50", status="503 Busy"))
        else:
            held(wire, request)

    def at_rest() -> bool:
        names = ("sidecar_in_flight_requests", "sidecar_queued_requests")
        return all(sidecar.metric(name, dependency="left") == 0 for name in names)

    gone = sidecar.metric("sidecar_client_disconnects_total", dependency="left")
    with upstream.replying(busy_or_held):
        with asking(sidecar, "/left/backing-off") as (backs_off,):
            eventually(lambda: upstream.requests, "its first attempt has failed")
            eventually(lambda: sidecar.metric("sidecar_attempts_total", dependency="left") >= 1, "and it backs off")
            with asking(sidecar, "/left/under-way", "/left/waiting") as (under_way, waiting):
                held.await_arrivals(1)
                assert sidecar.metric("sidecar_queued_requests", dependency="left") == 1
                for wire in (waiting, under_way, backs_off):
                    getattr(wire, how)()
                eventually(at_rest, "nothing is under way any more")
        held.let_through()
    eventually(lambda: sidecar.established() == 0, "no connection is left, on either side")
    assert sidecar.metric("sidecar_client_disconnects_total", dependency="left") == gone + 3
    held = Held()
    held.let_through()
    with upstream.replying(held):
        assert sidecar.ask(get("/left/next")).body == b"GET /next"


# -- whatever happens, each gets its own


class Moody:
    """Fails in every way there is, by a seed; what it says names the request that it is the answer to."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.seen: Counter[bytes] = Counter()

    def __call__(self, wire: Wire, request: Message) -> None:
        self.seen[request.target] += 1
        nonce = request.get(b"x-nonce") or b""
        assert request.target.endswith(b"/" + nonce)
        assert request.body == (b"" if request.method == b"GET" else nonce)
        mood = self._rng.random()
        if mood < 0.2:
            wire.send(answer(nonce, status="503 Service Unavailable"))
        elif mood < 0.25:
            wire.reset()
        elif mood < 0.3:
            wire.close()
        elif mood < 0.35:
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + nonce)
            wire.close()
        elif mood < 0.4:
            wire.send(b"nonsense\r\n\r\n")
            wire.close()
        elif mood < 0.6:
            wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(nonce))
            wire.send(nonce + b"\r\n0\r\n\r\n")
        else:
            wire.send(answer(nonce))


def told(wire: Wire, nonce: bytes) -> tuple[str, bool]:
    """What became of a request, and whether its connection ends; no octet of it may be another's."""
    try:
        response = wire.response()
    except Ended as end:  # visibly cut
        return "cut" if end.octets in (b"", nonce) else f"another's: {end}", True
    if response.get(b"proxy-status") is not None:
        return response.error, response.closes
    assert response.body == nonce
    return str(response.status), response.closes


@pytest.mark.usefixtures("settled")
def test_no_answer_reaches_another_request(sidecar: Sidecar, upstream: Upstream) -> None:
    moody = Moody(20261125)
    clients, each = 50, 20
    results: list[str] = []

    def client(name: int) -> None:
        rng = random.Random(name)
        with contextlib.ExitStack() as stack:
            closes, wire = True, None
            for number in range(each):
                if closes or wire is None:
                    wire = stack.enter_context(sidecar.connect())
                nonce = b"%d-%d-%d" % (name, number, rng.randrange(10**9))
                target, field = f"/everything/{nonce.decode()}", f"X-Nonce: {nonce.decode()}"
                wire.send(get(target, field) if rng.random() < 0.7 else post(target, nonce, field, method="PUT"))
                result, closes = told(wire, nonce)
                results.append(result)

    with upstream.replying(moody), contextlib.ExitStack() as stack:
        for name in range(clients):
            stack.enter_context(Background(lambda name=name: client(name)))
    counted = Counter(results)
    assert sum(counted.values()) == clients * each
    assert set(counted) <= {"200", "503", "cut", "DOWNSTREAM_FAILURE", "CIRCUIT_OPEN", "CONCURRENCY_LIMITED"}
    assert counted["200"] > 0
    assert counted["503"] + counted["DOWNSTREAM_FAILURE"] > 0
    assert max(moody.seen.values()) > 1, "some were tried again"
    assert sidecar.metric("sidecar_requests_total", dependency="everything") == clients * each
    assert sidecar.metric("sidecar_in_flight_requests", dependency="everything") == 0
    assert sidecar.metric("sidecar_queued_requests", dependency="everything") == 0
    requests_logged(sidecar, "everything", clients * each)


# -- the end


@pytest.fixture
def start(tmp_path: Path, upstream: Upstream) -> Iterator[Callable[..., Sidecar]]:
    """Starts a sidecar of this test's own, with one dependency that has these policies."""
    with contextlib.ExitStack() as stack:
        stack.callback(upstream.hang_up)

        def start(environment: dict[str, str] | None = None, drain_timeout: str = "60s", **policies: Any) -> Sidecar:
            dependencies = {"own": dependency("own", upstream, **policies)}
            sidecar = Sidecar(tmp_path, dependencies, access_log=ALL_LOGGED, drain_timeout=drain_timeout)
            sidecar.environment = environment or {}
            return stack.enter_context(sidecar)

        yield start


def test_sigterm_while_requests_wait_loses_none(start: Callable[..., Sidecar], upstream: Upstream) -> None:
    sidecar = start(concurrency={"limit": 1}, queue={"limit": 10, "max_wait": "1m"})
    held = Held()
    with upstream.replying(held), asking(sidecar, *(f"/own/{number}" for number in range(5))) as wires:
        held.await_arrivals(1)
        sidecar.running.terminate()
        eventually(lambda: sidecar.control("/readyz").status == 503, "it drains")
        held.let_through(5)
        assert [wire.response().body for wire in wires] == [b"GET /%d" % number for number in range(5)]
        for wire in wires:
            wire.close()
        assert sidecar.running.wait(PATIENCE_S) == 0
    assert len(requests_logged(sidecar, "own", 5)) == 5


def test_sigterm_while_a_request_backs_off_loses_nothing(start: Callable[..., Sidecar], upstream: Upstream) -> None:
    sidecar = start(retry={"attempts": 2, "budget": {"min_per_second": 100}})
    times: Counter[bytes] = Counter()

    def busy(wire: Wire, request: Message) -> None:
        times[request.target] += 1
        if times[request.target] == 1:
            wire.send(answer(b"", "Retry-After: 2", status="503 Busy"))
        else:
            echo(wire, request)

    with upstream.replying(busy), asking(sidecar, "/own/a", "/own/b") as wires:
        eventually(lambda: len(times) == 2, "the first attempts have failed")
        sidecar.running.terminate()
        eventually(lambda: sidecar.control("/readyz").status == 503, "it drains")
        assert [wire.response().body for wire in wires] == [b"GET /a", b"GET /b"]
        for wire in wires:
            wire.close()
        assert sidecar.running.wait(PATIENCE_S) == 0
    assert [line["attempts"] for line in requests_logged(sidecar, "own", 2)] == [2, 2]


def test_end_of_the_drain_answers_those_who_still_wait_or_back_off(
    start: Callable[..., Sidecar], upstream: Upstream
) -> None:
    sidecar = start(
        drain_timeout="300ms",
        concurrency={"limit": 1},
        queue={"limit": 10, "max_wait": "1m"},
        retry={"attempts": 2},
    )
    held = Held()

    def script(wire: Wire, request: Message) -> None:
        if request.target == b"/backs-off":
            wire.send(answer(b"", "Retry-After: 50", status="503 Busy"))
        else:
            held(wire, request)

    with upstream.replying(script), asking(sidecar, "/own/backs-off", "/own/under-way", "/own/waits") as wires:
        held.await_arrivals(1)
        sidecar.running.terminate()
        responses = [wire.response() for wire in wires]
        assert [(response.error, response.closes) for response in responses] == [("DRAINING", True)] * 3
        for wire in wires:
            wire.close()
        assert sidecar.running.wait(PATIENCE_S) == 0
        held.let_through()
    assert [line["code"] for line in requests_logged(sidecar, "own", 3)] == ["DRAINING"] * 3


# -- the wall clock


def faketime() -> Path:
    """libfaketime, for programs with threads."""
    need("faketime")
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return found[0] if found else missing("libfaketimeMT.so.1 is not installed")


class Wall:
    """The wall clock of a process; the monotonic one goes on as ever."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "faketime"
        self.jumps("+0")
        self.environment = {
            "LD_PRELOAD": str(faketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jumps(self, to: str) -> None:
        """From now on it is off by so much."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{to}\n")
        fresh.replace(self._file)


def test_jump_of_the_wall_clock_moves_no_circuit_and_no_bucket(
    start: Callable[..., Sidecar], upstream: Upstream, tmp_path: Path
) -> None:
    wall = Wall(tmp_path)
    sidecar = start(
        wall.environment,
        rate_limit={"rate": "1/hour", "burst": 4},
        circuit_breaker={"consecutive_failures": 2, "open_for": "30m", "max_open_for": "30m"},
    )
    with upstream.play(upstream.serve):
        assert sidecar.ask(get("/own/good")).status == 200
    with upstream.replying(fail):
        for _ in range(2):
            assert sidecar.ask(get("/own/bad")).status == 503
    for jump in ("+1h", "-1h", "+0"):
        wall.jumps(jump)
        refused = sidecar.ask(get("/own/x"))
        assert refused.error == "CIRCUIT_OPEN"
        assert 20 * 60 < json.loads(refused.body)["retry_after"] <= 33 * 60
        assert sidecar.state("own") == "open"
        assert sidecar.metric("sidecar_rate_limit_tokens", dependency="own") == pytest.approx(1, abs=0.5)
        assert sidecar.metric("circuit_breaker_open_seconds_total", dependency="own") < 600
    lines = requests_logged(sidecar, "own", 6)
    assert len({line["ts"][:13] for line in lines[3:]}) == 3, "the clock did jump"
    assert all(0 <= line["duration_ms"] < 600_000 for line in lines)


def test_circuit_probes_on_time_though_the_wall_clock_went_back(
    start: Callable[..., Sidecar], upstream: Upstream, tmp_path: Path
) -> None:
    wall = Wall(tmp_path)
    sidecar = start(wall.environment, circuit_breaker={"consecutive_failures": 1, "open_for": "1s"})
    with upstream.replying(fail):
        assert sidecar.ask(get("/own/bad")).status == 503
        wall.jumps("-1h")
        eventually(lambda: sidecar.state("own") == "half_open", "it probes")
