"""Prometheus' own tools on what a real sidecar exposes."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from .harness import (
    PATIENCE_S,
    Ended,
    Message,
    Sidecar,
    Upstream,
    Wire,
    answer,
    connect,
    eventually,
    free_port,
    fresh_host,
    get,
    need,
)

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Sidecar]:
    plain: dict[str, Any] = {
        "upstream": upstream.url,
        "prefix": "/plain",
        "rate_limit": {"rate": "100000/second"},
        "concurrency": {"limit": 100},
        "circuit_breaker": {"slow_calls": {"slower_than": "1m"}},
        "retry": {"attempts": 2},
        "candidates": {"stricter": {"circuit_breaker": {"consecutive_failures": 2}}},
    }
    broken = plain | {
        "prefix": "/broken",
        "circuit_breaker": {"consecutive_failures": 1, "open_for": "1h"},
        "retry": {},
    }
    broken["circuit_breaker"]["max_open_for"] = "1h"
    with Sidecar(tmp_path_factory.mktemp("prometheus"), {"plain": plain, "broken": broken}) as sidecar:
        yield sidecar


def fail(wire: Wire, request: Message) -> None:
    wire.send(answer(status="503 Service Unavailable"))


@pytest.fixture
def tripped(sidecar: Sidecar, upstream: Upstream) -> None:
    """The circuit of `broken` is open."""
    with upstream.replying(fail):
        assert sidecar.ask(get("/broken/x")).status == 503


def test_promtool_finds_nothing_to_complain_of(sidecar: Sidecar, tripped: None) -> None:
    promtool = need("promtool")
    exposition = sidecar.control("/metrics").body
    done = subprocess.run(
        [promtool, "check", "metrics"], input=exposition, capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


class Prometheus:
    """A Prometheus of this test's own, that scrapes one target; ended by its own process."""

    def __init__(self, folder: Path, target: str) -> None:
        host = fresh_host()
        self.address = (host, free_port(host))
        config = folder / "prometheus.yaml"
        scrape = {"job_name": "sidecar", "static_configs": [{"targets": [target]}]}
        config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}))  # JSON is YAML
        self._err = folder / "prometheus.err"
        with self._err.open("wb") as err:
            self._process = psutil.Popen(
                [
                    need("prometheus"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={host}:{self.address[1]}",
                    "--log.level=warn",
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
            )

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except psutil.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE_S)
        assert 'msg="Error' not in self._err.read_text()

    def asks(self, path: str) -> Any:
        """The data of an answer of its API; None while it cannot answer."""
        assert self._process.poll() is None, self._err.read_text()
        with contextlib.suppress(OSError, Ended), connect(self.address) as wire:
            wire.send(get(path, "Connection: close", "Accept-Encoding: identity"))
            response = wire.response()
            if response.status == 200:
                return json.loads(response.body)["data"]
        return None

    def query(self, expression: str) -> dict[str, float]:
        """The value of each series of an expression, by its label `state`."""
        data = self.asks(f"/api/v1/query?query={quote(expression)}")
        return {each["metric"].get("state", ""): float(each["value"][1]) for each in (data or {"result": []})["result"]}


def test_prometheus_scrapes_it_and_answers_what_an_alert_would_ask(
    sidecar: Sidecar, tripped: None, tmp_path: Path
) -> None:
    need("prometheus")
    with Prometheus(tmp_path, "{}:{}".format(*sidecar.metrics)) as prometheus:
        states = eventually(
            lambda: prometheus.query('circuit_breaker_state{dependency="broken"}'), "the state has been scraped"
        )
        assert states == {
            "closed": 0,
            "open": 1,
            "half_open": 0,
            "forced_open": 0,
            "forced_closed": 0,
            "disabled": 0,
        }
        assert prometheus.query('circuit_breaker_state{dependency="plain"} == 1') == {"closed": 1}
        assert prometheus.query("sum(sidecar_requests_total{source='upstream', status='5xx'}) >= 1")
        assert prometheus.query("histogram_quantile(0.5, sum by (le) (sidecar_request_duration_seconds_bucket)) > 0")
        (target,) = prometheus.asks("/api/v1/targets")["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        kinds = prometheus.asks("/api/v1/metadata?metric=circuit_breaker_state")
        assert kinds["circuit_breaker_state"][0]["type"] == "gauge"
    eventually(lambda: sidecar.established() == 0, "its connection is gone")
