"""Write the table of docs/reference/metrics.md from the collector.

python -m scripts.write_metrics_reference           # rewrites what stands between the two markers
python -m scripts.write_metrics_reference --check   # exit status 1 where the page is stale
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import generated
from sidecar.config import load_text
from sidecar.proxy.listener import Listener
from sidecar.proxy.pool import Pool
from sidecar.proxy.resolver import system_lookup
from sidecar.proxy.routing import Router
from sidecar.runtime.deadlines import Deadlines
from sidecar.runtime.dependency import Dependency
from sidecar.runtime.vitals import Vitals
from sidecar.telemetry.metrics import Exposition, Sources

SCRIPT = Path(__file__).name
PAGE = generated.ROOT / "docs" / "reference" / "metrics.md"

EVERYTHING = """
dependencies:
  payments:
    upstream: http://payments:8080
    rate_limit: {rate: 100/second}
    concurrency: {limit: 10}
    circuit_breaker: {slow_calls: {slower_than: 1s}}
    retry: {attempts: 2}
    candidates: {stricter: {circuit_breaker: {consecutive_failures: 3}}}
"""
"""A configuration with which every family has a series."""


def exposition() -> Exposition:
    """What is exposed with `EVERYTHING`, by a sidecar that has just started."""
    config = load_text(EVERYTHING, environ={}).config
    deadlines = Deadlines()
    pools = {
        name: Pool(Dependency(keys, deadlines), deadlines, system_lookup) for name, keys in config.dependencies.items()
    }
    router: Router[Pool] = Router([])
    listener = Listener(config.listener, router, None, deadlines)
    return Exposition(Sources(pools, [listener], deadlines, Vitals(deadlines), "0", "0", 0.0))


def table() -> str:
    """One row for each family."""
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for metric in exposition().metrics():
        name = metric.name + ("_total" if metric.type == "counter" else "")
        labels = {label: None for sample in metric.samples for label in sample.labels if label != "le"}
        listed = ", ".join(f"`{label}`" for label in labels)
        rows.append(f"| `{name}` | {metric.type} | {listed} | {metric.documentation} |")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None, path: Path = PAGE) -> int:
    """Write the page, or with --check say whether that would change it."""
    return generated.run(SCRIPT, path, table, argv)


if __name__ == "__main__":
    sys.exit(main())
