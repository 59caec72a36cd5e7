"""Where a request goes: by absolute target, Host and prefix; by a port or a Unix socket of its own; nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .harness import Address, Sidecar, Upstream, Wire, answer, connect, free_port, fresh_host, get


@dataclass
class Site:
    sidecar: Sidecar
    own: tuple[str, int]
    own_unix: str
    upstreams: dict[str, Upstream]
    stranger: Upstream

    def authority(self, name: str) -> str:
        return self.upstreams[name].url.removeprefix("http://")


def naming(name: str) -> Upstream:
    """An upstream that says its name, the target and the Host that it was asked."""

    def script(wire: Wire) -> None:
        while True:
            request = wire.request()
            wire.send(answer(b"|".join([name.encode(), request.target, request.get(b"host") or b""])))

    return Upstream(script=script)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("routing")
    host = fresh_host()
    own, own_unix = (host, free_port(host)), str(folder / "own.sock")
    unix = Upstream(path=folder / "upstream.sock", script=lambda wire: unix.serve(wire))
    with naming("alpha") as alpha, naming("beta") as beta, naming("gamma") as gamma, unix, naming("x") as stranger:
        dependencies = {
            "alpha": {"upstream": alpha.url, "prefix": "/shop", "hosts": ["alpha.test", "alpha.test:8443"]},
            "beta": {"upstream": beta.url, "prefix": "/shop/orders", "strip_prefix": False, "preserve_host": True},
            "gamma": {"upstream": gamma.url, "listen": f"{own[0]}:{own[1]}"},
            "unix": {"upstream": unix.url, "listen": f"unix:{own_unix}", "prefix": "/unix"},
        }
        upstreams = {"alpha": alpha, "beta": beta, "gamma": gamma, "unix": unix}
        with Sidecar(folder, dependencies) as sidecar:
            yield Site(sidecar, own, own_unix, upstreams, stranger)


def routed(address: Address, octets: bytes) -> list[str]:
    """Who answered, and what it was asked: name, target, Host."""
    with connect(address) as wire:
        wire.send(octets)
        response = wire.response()
        assert response.status == 200, response
        return response.body.decode().split("|")


def test_absolute_target_selects_its_dependency_over_host_and_prefix(site: Site) -> None:
    """RFC 9112 section 3.2.2: the Host field is ignored where the target is absolute."""
    octets = get(f"http://{site.authority('beta')}/shop/x?y=1", host="alpha.test")

    assert routed(site.sidecar.address, octets) == ["beta", "/shop/x?y=1", site.authority("beta")]


def test_host_selects_its_dependency_over_prefix(site: Site) -> None:
    octets = get("/shop/orders/7", host="ALPHA.test:8443")

    assert routed(site.sidecar.address, octets)[:2] == ["alpha", "/orders/7"]


def test_longest_prefix_selects_its_dependency(site: Site) -> None:
    assert routed(site.sidecar.address, get("/shop/orders/7"))[:2] == ["beta", "/shop/orders/7"]
    assert routed(site.sidecar.address, get("/shop/ordersx"))[:2] == ["alpha", "/ordersx"]


def test_prefix_is_stripped_and_leaves_the_query_alone(site: Site) -> None:
    assert routed(site.sidecar.address, get("/shop?"))[1] == "/?"
    assert routed(site.sidecar.address, get("/shop/a%2Fb//c?q=/shop"))[1] == "/a%2Fb//c?q=/shop"


def test_host_is_rewritten_unless_preserved(site: Site) -> None:
    assert routed(site.sidecar.address, get("/shop/1", host="who.test"))[2] == site.authority("alpha")
    assert routed(site.sidecar.address, get("/shop/orders", host="who.test"))[2] == "who.test"


def test_own_port_sends_everything_to_its_dependency(site: Site) -> None:
    assert routed(site.own, get("/shop/orders/7", host="alpha.test"))[:2] == ["gamma", "/shop/orders/7"]


def test_own_port_refuses_an_absolute_target_of_another_dependency(site: Site) -> None:
    with connect(site.own) as wire:
        wire.send(get(f"http://{site.authority('alpha')}/"))
        response = wire.response()

    assert (response.status, response.error) == (403, "NO_ROUTE")


def test_own_unix_socket_leads_to_a_unix_upstream(site: Site) -> None:
    with connect(site.own_unix) as wire:
        for number in range(3):
            wire.send(get(f"/unix/{number}"))
            assert wire.response().body == f"GET /unix/{number}".encode()

    assert routed(site.sidecar.address, get("/unix/by/prefix")) == ["GET /by/prefix"]


def test_request_that_names_no_dependency_gets_404_and_keeps_its_connection(site: Site) -> None:
    with site.sidecar.connect() as wire:
        wire.send(get("/elsewhere"))
        refused = wire.response()
        wire.send(get("/shop/next"))
        served = wire.response()

    assert (refused.status, refused.error, refused.closes) == (404, "NO_ROUTE", False)
    assert served.body.startswith(b"alpha|/next|")


@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
def test_a_live_server_that_no_dependency_names_cannot_be_reached(site: Site, method: str) -> None:
    authority = site.stranger.url.removeprefix("http://")
    targets = [authority] if method == "CONNECT" else [f"http://{authority}/", f"HTTP://{authority}/shop"]
    for target in targets:
        response = site.sidecar.ask(get(target, method=method, host=authority))
        assert (response.status, response.error) == (403, "NO_ROUTE")
    # By Host, and on the port that belongs to one dependency, the name chooses nothing either.
    assert site.sidecar.ask(get("/", method="GET", host=authority)).status == 404
    assert routed(site.own, get("/", host=authority))[0] == "gamma"

    assert site.stranger.wires == []


def test_port_of_an_absolute_target_must_be_configured_too(site: Site) -> None:
    """The name of a known host opens none of its other ports."""
    port = site.stranger.port
    response = site.sidecar.ask(get(f"http://alpha.test:{port}/", host=f"alpha.test:{port}"))

    assert (response.status, response.error) == (403, "NO_ROUTE")
