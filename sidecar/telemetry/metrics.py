"""What Prometheus scrapes, in its text format or as OpenMetrics.

A family is made when it is asked for, a few dependencies at a time, so that a scrape of many dependencies never keeps
the loop from its requests for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

from sidecar.proxy.listener import Listener
from sidecar.proxy.pool import Pool
from sidecar.runtime.deadlines import Deadlines
from sidecar.runtime.vitals import Vitals
from sidecar.telemetry.access import AccessLog
from sidecar.telemetry.families import FAMILIES, HISTOGRAMS, Family, HistogramFamily

SLICE: Final = 5
"""Dependencies rendered between two turns of the loop: with the default buckets 85 lines of a histogram, or 400 of the
requests by method. docs/explanation/performance.md has what that takes."""


@dataclass(slots=True)
class Sources:
    """What is read at a scrape.

    Attributes:
        pools: of every dependency.
        listeners: every data port.
        deadlines, vitals: of the process.
        version: of the program.
        config_hash: of the configuration in force.
        config_loaded_at: when that was loaded, Unix time in seconds.
        config_successful: whether the last attempt to load one succeeded.
        access_log: what writes a line for a request, if anything does.
        log_lines_dropped: how many lines of log could not be written.
    """

    pools: Mapping[str, Pool]
    listeners: Sequence[Listener]
    deadlines: Deadlines
    vitals: Vitals
    version: str
    config_hash: str
    config_loaded_at: float
    config_successful: bool = True
    access_log: AccessLog | None = None
    log_lines_dropped: Callable[[], int] = field(default=lambda: 0)


class Exposition:
    """Renders everything that can be scraped.

    Args:
        sources: what to read.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._process = ProcessCollector(registry=None)

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition in the format that a scraper asks for, and its content type; yields between slices.

        Args:
            accept: the value of Accept; empty for none.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no number, which is compared with numbers
            encode, content_type = choose_encoder("")
        parts: list[bytes] = []
        name = ""
        for metric in self.metrics():
            text = encode(_One(metric)).removesuffix(_EOF)
            if metric.name == name:  # another slice of the same family, which has its header already
                text = b"".join(line for line in text.splitlines(keepends=True) if not line.startswith(b"# "))
            name = metric.name
            parts.append(text)
            await asyncio.sleep(0)
        if content_type.startswith("application/openmetrics-text"):
            parts.append(_EOF)
        return b"".join(parts), content_type

    def metrics(self) -> Iterator[Metric]:
        """Every family, those of many dependencies in slices of the same name."""
        pools = list(self._sources.pools.values())
        slices = [pools[at : at + SLICE] for at in range(0, len(pools), SLICE)]
        now = self._sources.deadlines.read()
        for pool in pools:
            pool.dependency.admission.advance(now)
        for family in FAMILIES:
            for some in slices or [[]]:
                yield _metric(family, some, self._sources.deadlines.read())
        for histogram in HISTOGRAMS:
            for some in slices or [[]]:
                yield _histogram(histogram, some)
        yield from self._own()
        yield from self._process.collect()

    def _own(self) -> Iterator[Metric]:
        """What is of the process and of no dependency."""
        sources = self._sources
        unrouted = Metric(
            "sidecar_unrouted_rejections", "Answers to what was no request for any dependency, by code.", "counter"
        )
        totals: dict[str, int] = {}
        for listener in sources.listeners:
            for code, count in listener.unrouted.items():
                totals[code] = totals.get(code, 0) + count
        for code, count in totals.items():
            unrouted.add_sample("sidecar_unrouted_rejections_total", {"reason": code}, count)
        yield unrouted
        yield _plain(
            "gauge",
            "sidecar_downstream_connections",
            "Connections of applications.",
            sum(listener.connections for listener in sources.listeners),
        )
        yield _plain(
            "counter",
            "sidecar_tls_handshake_failures_total",
            "TLS handshakes of applications that came to nothing.",
            sum(listener.failed_handshakes for listener in sources.listeners),
        )
        yield _plain(
            "gauge",
            "sidecar_config_last_reload_successful",
            "1 when the last attempt to load the configuration succeeded, else 0.",
            float(sources.config_successful),
        )
        yield _plain(
            "gauge",
            "sidecar_config_last_reload_timestamp_seconds",
            "When the configuration in force was loaded, in seconds since 1970.",
            sources.config_loaded_at,
        )
        yield _plain(
            "gauge", "sidecar_config_info", "1; the hash is of the configuration in force.", 1, hash=sources.config_hash
        )
        vitals = sources.vitals.read()
        yield _plain(
            "gauge",
            "sidecar_event_loop_lag_seconds",
            "By how much the event loop was late at worst in the last ten seconds.",
            vitals.loop_lag_s,
        )
        yield _plain(
            "counter",
            "sidecar_standstill_seconds_total",
            "Seconds for which the process stood still: stopped, throttled, or its loop blocked.",
            sources.deadlines.standstill_s,
        )
        yield _plain(
            "counter",
            "sidecar_log_lines_dropped_total",
            "Lines of log that could not be written in time.",
            sources.log_lines_dropped(),
        )
        yield _plain(
            "counter",
            "sidecar_access_log_suppressed_total",
            "Requests that were worth a line of log and got none, beyond access_log.max_per_second.",
            0 if sources.access_log is None else sources.access_log.suppressed,
        )
        yield _plain("gauge", "sidecar_build_info", "1; the version of the program.", 1, version=sources.version)


class _One:
    """A registry of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> list[Metric]:
        return [self._metric]


_EOF: Final = b"# EOF\n"


def _plain(kind: str, name: str, documentation: str, value: float, **labels: str) -> Metric:
    metric = Metric(name.removesuffix("_total") if kind == "counter" else name, documentation, kind)
    metric.add_sample(name, labels, value)
    return metric


def _metric(family: Family, pools: Sequence[Pool], now: float) -> Metric:
    name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
    metric = Metric(name, family.help, family.kind)
    for pool in pools:
        dependency = {"dependency": pool.dependency.name}
        for values, value in family.rows(pool, now):
            metric.add_sample(family.name, dependency | dict(zip(family.labels, values, strict=True)), value)
    return metric


def _bound(seconds: float) -> str:
    return str(floatToGoString(seconds))  # type: ignore[no-untyped-call]


def _histogram(family: HistogramFamily, pools: Sequence[Pool]) -> Metric:
    metric = Metric(family.name, family.help, "histogram")
    for pool in pools:
        histogram = family.of(pool)
        dependency = {"dependency": pool.dependency.name}
        so_far = 0
        for bound, count in zip([*histogram.bounds, float("inf")], histogram.counts, strict=True):
            so_far += count
            metric.add_sample(f"{family.name}_bucket", dependency | {"le": _bound(bound)}, so_far)
        metric.add_sample(f"{family.name}_count", dependency, so_far)
        metric.add_sample(f"{family.name}_sum", dependency, histogram.sum_s)
    return metric
