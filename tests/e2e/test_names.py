"""Names and addresses: all of them are used, what changes is followed, what fails is passed over or survived."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
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
    fresh_host,
    get,
    post,
)
from .names import NXDOMAIN, SERVFAIL, Fleet, Names, NameServer

TIMEOUT = {"connect": "20s", "first_byte": "60s", "idle": "60s", "total": "60s"}

A, B, C, D = (f"127.0.0.{number}" for number in range(2, 6))
DEAD = "127.0.0.9"
"""Where nobody listens."""
SIX = "::1"


@dataclass
class Site:
    names: Names
    fleet: Fleet
    sidecar: Sidecar

    def ask(self, dependency: str, times: int = 1, method: str = "GET") -> list[Message]:
        """Answers, each of which is whole and the right one."""
        answers = []
        for _ in range(times):
            nonce = next(_nonces)
            octets = post(f"/{dependency}/{nonce}", b"order") if method == "POST" else get(f"/{dependency}/{nonce}")
            response = self.sidecar.ask(octets)
            assert response.status == 200, response
            assert response.body == f"{method} /{nonce}".encode()
            answers.append(response)
        return answers

    @contextlib.contextmanager
    def hearing(self) -> Iterator[dict[str, int]]:
        """Requests that each server has heard meanwhile, by address; filled in at the end."""
        heard: dict[str, int] = {}
        before = self.fleet.heard()
        yield heard
        heard |= {host: count - before[host] for host, count in self.fleet.heard().items()}

    def only(self, dependency: str, *hosts: str) -> bool:
        """Whether none but `hosts` hear of `dependency` now, as far as ten requests tell."""
        with self.hearing() as heard:
            self.ask(dependency, 10)
        return sum(heard[host] for host in hosts) == 10

    def addresses(self, dependency: str) -> tuple[float, float]:
        """How many are healthy, and how many ejected."""
        name = "sidecar_upstream_addresses"
        metrics = self.sidecar.metrics_now(name)
        healthy, ejected = (
            metrics[name, frozenset({("dependency", dependency), ("state", state)})] for state in ("healthy", "ejected")
        )
        return healthy, ejected


_nonces = itertools.count()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("names")
    names = Names(folder / "names")
    with Fleet(A, B, C, D, SIX) as fleet:

        def dependency(name: str, **settings: Any) -> dict[str, Any]:
            """At `name`.test, a fresh connection for each request, no address ejected."""
            timeout = TIMEOUT | settings.pop("timeout", {})
            return {
                "upstream": f"http://{name}.test:{fleet.port}",
                "prefix": f"/{name}",
                "timeout": timeout,
                "dns_refresh": "100ms",
                "pool": {"max_idle": 0},
                "ejection": {"consecutive_failures": None},
            } | settings

        pooled = {"max_idle": 100, "idle_timeout": "1h", "max_age": "1h"}
        listed = [f"http://{host}:{fleet.port}" for host in (A, B)]
        dependencies = {
            "all": dependency("all"),
            "even": dependency("even"),
            "both": dependency("both"),
            "third": dependency("third"),
            "dead": dependency("dead"),
            "hanging": dependency("hanging", timeout={"connect": "300ms"}),
            "moving": dependency("moving", pool=pooled),
            "draining": dependency("draining", pool=pooled),
            "failing": dependency("failing"),
            "late": dependency("late"),
            "ejecting": dependency("ejecting", ejection={"consecutive_failures": 3, "for": "2s", "max": "50%"}),
            "outage": dependency("outage", ejection={"consecutive_failures": 2, "for": "1h", "max": "50%"}),
            "list": dependency("list", upstream=listed, hosts=[]),
            "list_dead": dependency("list_dead", upstream=[*listed, f"http://{DEAD}:{fleet.port}"], hosts=[]),
            "swapped": dependency(
                "swapped",
                pool=pooled,
                retry={"attempts": 4, "budget": {"ratio": "100%", "min_per_second": 1000}},
                ejection={"consecutive_failures": 5, "for": "200ms"},
            ),
            "named": dependency("named", prefix=None),
        }
        first = {"all": (A, B, C), "even": (A, B, C), "both": (A, SIX), "third": (A, B, DEAD), "dead": (DEAD,)}
        for name in dependencies:
            if name != "late":
                names[f"{name}.test"] = first.get(name, (A,))
        names["ejecting.test"] = (A, B)
        names["outage.test"] = (A, B, C)
        names["other.test"] = (A,)
        sidecar = Sidecar(folder, dependencies)
        sidecar.within = names.within
        with sidecar:
            yield Site(names, fleet, sidecar)


# -- several addresses


def test_all_addresses_are_used(site: Site) -> None:
    with site.hearing() as heard:
        site.ask("all", 60)

    assert all(heard[host] for host in (A, B, C))
    assert heard[D] == heard[SIX] == 0
    assert site.addresses("all") == (3, 0)


def test_ipv4_and_ipv6_are_used(site: Site) -> None:
    with site.hearing() as heard:
        site.ask("both", 60)

    assert heard[A] > 0
    assert heard[SIX] > 0


def test_busy_address_is_spared(site: Site) -> None:
    """Of any two the less busy one is asked, so the one that is busiest of all never is."""
    go_on = threading.Event()

    def reply(wire: Wire, request: Message) -> None:
        assert go_on.wait(60)
        echo(wire, request)

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(site.fleet[A].replying(reply))
        wires = []
        while not server.requests:
            wire = stack.enter_context(site.sidecar.connect())
            wire.send(get("/even/held"))
            wires.append(wire)
            site.sidecar.turn()
        eventually(
            lambda: site.sidecar.metric("sidecar_in_flight_requests", dependency="even") == len(server.requests),
            "all are under way there that are under way at all",
        )
        asked = len(server.requests)
        site.ask("even", 30)
        assert len(server.requests) == asked
        go_on.set()
        for wire in wires:
            assert wire.response().body == b"GET /held"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_one_dead_address_of_three_fails_no_request(site: Site, method: str) -> None:
    """A connect that fails passes to another address within the same attempt."""
    attempts = site.sidecar.metric("sidecar_attempts_total", dependency="third")
    site.ask("third", 60, method)

    assert site.sidecar.metric("sidecar_attempts_total", dependency="third") == attempts + 60


def test_address_that_does_not_answer_a_connect_fails_no_request(site: Site) -> None:
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.8", site.fleet.port))
        full.listen(0)
        stack.enter_context(socket.create_connection(full.getsockname()))
        site.names["hanging.test"] = ("127.0.0.8", A)
        eventually(lambda: site.addresses("hanging") == (2, 0), "both addresses are known")
        site.ask("hanging", 6)
        site.names["hanging.test"] = (A,)


def test_without_a_live_address_it_is_502(site: Site) -> None:
    assert site.sidecar.ask(get("/dead/x")).refusal == (502, "DOWNSTREAM_FAILURE", "connection_refused")


def test_list_of_upstreams_is_used_and_each_is_called_by_its_name(site: Site) -> None:
    with site.hearing() as heard:
        site.ask("list", 60)

    for host in (A, B):
        assert heard[host] > 0
        assert site.fleet[host].requests[-1].get(b"host") == site.fleet[host].authority.encode()
    assert heard[A] + heard[B] == 60


def test_dead_upstream_of_a_list_fails_no_request(site: Site) -> None:
    site.ask("list_dead", 60)


# -- change


def test_change_is_followed(site: Site) -> None:
    for hosts in ((A,), (B,), (C, D), (SIX,), (A,)):
        site.names["moving.test"] = hosts
        eventually(lambda hosts=hosts: site.only("moving", *hosts), f"requests go to {hosts}")
        assert site.addresses("moving") == (len(hosts), 0)


def test_vanished_address_is_drained(site: Site) -> None:
    """What is idle is closed at once, a response under way comes whole, and then that connection is closed too."""
    go_on = threading.Semaphore(0)
    old = site.fleet[A]
    ends: list[Ended] = []

    def script(wire: Wire) -> None:
        try:
            while True:
                request = wire.request()
                if request.target != b"/slow":
                    echo(wire, request)
                    continue
                wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for number in range(5):
                    assert go_on.acquire(timeout=60)
                    wire.send(b"1\r\n%d\r\n" % number)
                wire.send(b"0\r\n\r\n")
        except Ended as end:
            ends.append(end)
            raise

    with old.play(script), site.sidecar.connect() as slow:
        slow.send(get("/draining/slow"))
        slow.head()
        site.ask("draining", 3)
        assert len(old.wires) == 2
        site.names["draining.test"] = (B,)
        eventually(lambda: site.only("draining", B), "the change is followed")
        eventually(lambda: len(ends) == 1, "the idle connection is closed")
        for number in range(5):
            go_on.release()
            assert slow.chunk() == b"%d" % number
        assert slow.chunk() == b""
        eventually(lambda: len(ends) == 2, "the other connection is closed behind its response")


def test_swap_of_addresses_under_load_loses_no_request(site: Site) -> None:
    """Who is taken out ends what it has at once, a request that it has begun on included."""
    sidecar, rng = site.sidecar, random.Random(4)
    enough = threading.Event()
    hosts = [A, B, C, D]
    site.names["swapped.test"] = hosts
    eventually(lambda: site.addresses("swapped")[0] == 4, "all addresses are known")
    site.ask("swapped", 20)
    eventually(lambda: sidecar.metric("sidecar_in_flight_requests") == 0, "nothing is under way")
    fds = sidecar.fds()

    def client(name: int) -> int:
        number = 0
        with sidecar.connect() as wire:
            while not enough.is_set():
                number += 1
                wire.send(get(f"/swapped/{name}/{number}"))
                response = wire.response()
                assert (response.status, response.body) == (200, b"GET /%d/%d" % (name, number)), response
        return number

    with contextlib.ExitStack() as stack:
        stack.callback(enough.set)
        clients = [stack.enter_context(Background(lambda name=name: client(name))) for name in range(6)]
        for _ in range(20):
            out = rng.choice(hosts)
            left = [host for host in hosts if host != out]
            site.names["swapped.test"] = rng.sample(left, rng.randrange(1, 4))
            eventually(lambda out=out: _is_left_alone(site, out), "nobody is sent there any more")
            with site.fleet[out].play(site.fleet[out].serve):
                pass
        enough.set()
        asked = [each.join() for each in clients]

    assert min(asked) > 0
    site.names["swapped.test"] = (A,)
    eventually(lambda: site.only("swapped", A), "the change is followed")
    eventually(lambda: sidecar.fds() <= fds, "no descriptor is left")


def _is_left_alone(site: Site, host: str) -> bool:
    before = len(site.fleet[host].requests)
    total = sum(site.fleet.heard().values())
    eventually(lambda: sum(site.fleet.heard().values()) > total + 50, "the load goes on")
    return len(site.fleet[host].requests) == before


# -- failure of the resolver


def test_last_good_addresses_serve_on_while_the_resolver_fails(site: Site) -> None:
    sidecar = site.sidecar

    def said(words: str) -> int:
        return sum("failing.test" in line["msg"] and words in line["msg"] for line in sidecar.logged())

    def failures() -> float:
        return sidecar.metric("sidecar_dns_failures_total", dependency="failing")

    site.ask("failing")
    assert failures() == 0
    for number in (1, 2):
        before = failures()
        del site.names["failing.test"]
        eventually(lambda before=before: failures() >= before + 5, "lookups fail")
        site.ask("failing", 5)
        assert site.addresses("failing") == (1, 0)
        assert said("does not resolve") == number, "once for each time that it begins"
        site.names["failing.test"] = (B,)
        eventually(lambda: site.only("failing", B), "it is looked up again")
        eventually(lambda number=number: said("resolves again") == number, "and that is said")
        after = failures()
        site.ask("failing", 5)
        assert failures() == after


def test_name_that_has_never_resolved_is_502_and_recovers(site: Site) -> None:
    response = site.sidecar.ask(get("/late/x"))

    assert response.refusal == (502, "DOWNSTREAM_FAILURE", "dns_error")
    assert "late.test" in response.detail
    assert site.sidecar.metric("sidecar_dns_failures_total", dependency="late") > 0
    site.names["late.test"] = (C,)
    eventually(lambda: site.sidecar.ask(get("/late/x")).status == 200, "it resolves at last")
    assert site.only("late", C)


@pytest.fixture
def name_server() -> Iterator[tuple[NameServer, str]]:
    host = fresh_host()
    with NameServer(host) as server:
        yield server, host


def test_resolver_that_hangs_holds_nobody_else_up(
    tmp_path: Path, name_server: tuple[NameServer, str], upstream: Upstream
) -> None:
    """Nor the end of the process, though the C library's lookup cannot be given up."""
    server, host = name_server
    names = Names(tmp_path / "names", resolver=host)
    server.answers["good.test"] = ["127.0.0.1"]
    server.answers["fickle.test"] = ["127.0.0.1"]

    def at(name: str) -> dict[str, Any]:
        url = f"http://{name}.test:{upstream.port}"
        return {"upstream": url, "prefix": f"/{name}", "timeout": TIMEOUT, "dns_refresh": "100ms"}

    silent = at("silent") | {"timeout": TIMEOUT | {"connect": "300ms"}}
    sidecar = Sidecar(tmp_path, {"good": at("good"), "fickle": at("fickle"), "silent": silent})
    sidecar.within = names.within
    with sidecar:
        assert sidecar.ask(get("/good/x")).body == b"GET /x"
        for _ in range(3):
            response = sidecar.ask(get("/silent/x"))
            assert response.refusal == (504, "DOWNSTREAM_TIMEOUT", "dns_timeout")
            assert "timeout.connect" in response.detail
            assert sidecar.control("/livez").status == 200
            assert sidecar.ask(get("/good/x")).body == b"GET /x"
        assert sidecar.ask(get("/fickle/x")).body == b"GET /x"
        del server.answers["fickle.test"]
        asked = server.asked
        eventually(lambda: server.asked > asked, "it is asked again, and does not answer")
        assert sidecar.ask(get("/fickle/x")).body == b"GET /x"
        assert sidecar.ask(get("/good/x")).body == b"GET /x"
        sidecar.running.terminate()
        assert sidecar.running.wait(PATIENCE_S) == 0
    upstream.hang_up()


@pytest.mark.parametrize("mood", [SERVFAIL, NXDOMAIN, []], ids=["SERVFAIL", "NXDOMAIN", "no address"])
def test_resolver_that_answers_with_nothing_changes_nothing(
    tmp_path: Path, name_server: tuple[NameServer, str], upstream: Upstream, mood: int | list[str]
) -> None:
    server, host = name_server
    names = Names(tmp_path / "names", resolver=host)
    server.answers["fickle.test"] = ["127.0.0.1"]
    url = f"http://fickle.test:{upstream.port}"
    dependency = {"upstream": url, "prefix": "/plain", "timeout": TIMEOUT, "dns_refresh": "100ms"}
    sidecar = Sidecar(tmp_path, {"fickle": dependency})
    sidecar.within = names.within
    with sidecar:
        assert sidecar.ask(get("/plain/x")).body == b"GET /x"
        server.answers["fickle.test"] = mood
        eventually(lambda: sidecar.metric("sidecar_dns_failures_total") > 2, "lookups fail")
        assert sidecar.ask(get("/plain/x")).body == b"GET /x"
    upstream.hang_up()


# -- ejection


def test_address_that_fails_is_passed_over_and_comes_back(site: Site) -> None:
    bad = site.fleet[A]

    def failing(wire: Wire, request: Message) -> None:
        wire.send(answer(status="503 Service Unavailable"))

    def ask() -> int:
        return site.sidecar.ask(get("/ejecting/x")).status

    eventually(lambda: site.addresses("ejecting") == (2, 0), "both addresses are known")

    def spared() -> bool:
        eventually(lambda: ask() and site.addresses("ejecting") == (1, 1), "it is ejected")
        heard = len(bad.requests)
        statuses = {ask() for _ in range(10)}
        if site.addresses("ejecting") != (1, 1):
            return False  # its time has passed meanwhile, on a busy machine
        assert statuses == {200}
        assert len(bad.requests) == heard
        return True

    eventually(lambda: site.addresses("ejecting") == (2, 0), "both addresses are known")
    with bad.replying(failing):
        eventually(spared, "an address that is ejected is asked nothing")
    eventually(lambda: site.addresses("ejecting") == (2, 0), "its time is over")
    heard = len(bad.requests)
    eventually(lambda: ask() == 200 and len(bad.requests) > heard, "it is asked again")


def test_no_more_than_a_share_of_the_addresses_is_ejected(site: Site) -> None:
    """When all of them fail it is the dependency that fails, which is not hidden."""

    def failing(wire: Wire, request: Message) -> None:
        wire.send(answer(status="503 Service Unavailable"))

    eventually(lambda: site.addresses("outage") == (3, 0), "all addresses are known")
    with contextlib.ExitStack() as stack:
        for host in (A, B, C):
            stack.enter_context(site.fleet[host].replying(failing))
        for _ in range(30):
            assert site.sidecar.ask(get("/outage/x")).status == 503
            assert site.addresses("outage") in ((3, 0), (2, 1))
        assert site.addresses("outage") == (2, 1)


# -- rebinding


def elsewhere(site: Site) -> list[str]:
    """Authorities that no dependency names, though somebody listens at each of them."""
    port, sidecar = site.fleet.port, site.sidecar
    return [
        f"{A}:{port}",
        f"[::1]:{port}",
        f"[::ffff:{A}]:{port}",
        f"other.test:{port}",
        f"named.test:{sidecar.metrics[1]}",
        f"named.test:{sidecar.address[1]}",
        f"{sidecar.host}:{sidecar.metrics[1]}",
        f"{sidecar.host}:{sidecar.address[1]}",
        f"localhost:{sidecar.metrics[1]}",
        f"2130706434:{port}",
        f"0x7f.0.0.2:{port}",
        f"named.test.other.test:{port}",
    ]


@pytest.mark.parametrize("number", range(12))
def test_what_no_dependency_names_cannot_be_reached(site: Site, number: int) -> None:
    """Whatever a name is made to mean: by absolute target and CONNECT it is refused, by Host it selects nothing."""
    authority = elsewhere(site)[number]
    with site.hearing() as heard:
        for octets in (
            get(f"http://{authority}/", host=authority),
            get(f"http://{authority}/metrics", host="named.test"),
            get(authority, method="CONNECT", host=authority),
            post(f"http://{authority}/", b"order"),
        ):
            assert site.sidecar.ask(octets).status in (400, 403)
        assert site.sidecar.ask(get("/", host=authority)).status in (400, 404)

    assert set(heard.values()) == {0}


def test_what_a_dependency_names_is_reached_by_its_name_alone(site: Site) -> None:
    authority = f"named.test:{site.fleet.port}"
    for octets in (
        get("/x", host=authority),
        get("/x", host=authority.upper()),
        get(f"http://{authority}/x", host="any.test"),
    ):
        assert site.sidecar.ask(octets).body == b"GET /x"


def test_name_that_is_made_to_mean_something_else_leads_there_and_nowhere_beside(site: Site) -> None:
    """Whoever answers for the name of a dependency decides where it is, and of nothing but its own port."""
    site.names["named.test"] = (B,)
    authority = f"named.test:{site.fleet.port}"

    def moved() -> bool:
        with site.hearing() as heard:
            assert site.sidecar.ask(get("/x", host=authority)).body == b"GET /x"
        return heard[B] == 1

    eventually(moved, "the change is followed")
