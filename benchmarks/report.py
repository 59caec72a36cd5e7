"""From single runs to medians, ratios, a Markdown table and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.measure import NOISE_CORES
from benchmarks.workloads import LATENCY, WORKLOADS, Workload

# Below this share of its core a proxy was waiting for the load generator.
SATURATED = 0.9

_WORKLOADS: Mapping[str, Workload] = {workload.name: workload for workload in WORKLOADS}


@dataclass(frozen=True, slots=True)
class Run:
    """One workload against one proxy in one round.

    Attributes:
        peer: The proxy's name.
        workload: The workload's name.
        round: From 1.
        requests: Answers received.
        requests_per_s: Throughput.
        p50_us: Median latency, microseconds.
        p99_us: 99th percentile, microseconds.
        read_bytes: Received by the client.
        cpu_us_per_request: CPU time of the proxy, its threads and children, microseconds; None without one.
        rss_mib: Resident memory right after the run; None without a proxy.
        proxy_core: Share of the proxy's core that was busy, 0 to 1.
        load_core: The same of the core of wrk and the upstream.
        foreign_cores: Cores' worth of work by others.
        steal_cores: Cores' worth of time that the hypervisor withheld.
        load_average: Over one minute, when the run began.
        quiet: Whether the machine was idle before it.
        takes: How often it was taken until the machine left it alone; this is the least disturbed one.
    """

    peer: str
    workload: str
    round: int
    requests: int
    requests_per_s: float
    p50_us: float
    p99_us: float
    read_bytes: float
    cpu_us_per_request: float | None
    rss_mib: float | None
    proxy_core: float
    load_core: float
    foreign_cores: float
    steal_cores: float
    load_average: float
    quiet: bool
    takes: int = 1

    @property
    def disturbance(self) -> float:
        """Cores' worth of time that others took, inside the machine or beside it."""
        return self.foreign_cores + self.steal_cores

    @property
    def noisy(self) -> bool:
        """Whether others used the machine, before it or during it."""
        return not self.quiet or self.disturbance > NOISE_CORES


@dataclass(frozen=True, slots=True)
class Start:
    """One proxy process, from its start to after its last workload; memory in MiB.

    Attributes:
        peer: The proxy's name.
        round: From 1.
        startup_ms: From the command to the first answered request (the sidecar: to ready).
        idle_rss_mib: Resident, children included, before any load.
        idle_pss_mib: The same with shared pages counted once.
        loaded_rss_mib: The largest reading right after a workload.
        loaded_pss_mib: The same with shared pages counted once.
    """

    peer: str
    round: int
    startup_ms: float
    idle_rss_mib: float
    idle_pss_mib: float
    loaded_rss_mib: float
    loaded_pss_mib: float


@dataclass(slots=True)
class PeerInfo:
    """A contestant as the report names it.

    Attributes:
        name: Its name on the command line.
        label: Its name in the table.
        version: What it says of itself.
        status: `missing` cannot run here; `failing` ran and was wrong.
        reason: Why, when it is not `ok`.
        failures: Workload name to what was wrong, when only some fail.
    """

    name: str
    label: str
    version: str = ""
    status: Literal["ok", "missing", "failing"] = "ok"
    reason: str = ""
    failures: dict[str, str] = field(default_factory=dict)

    def fault(self, workload: str) -> str | None:
        """Why this peer has no number for a workload, or None."""
        if self.status != "ok":
            return f"{self.status}: {self.reason}"
        reason = self.failures.get(workload)
        return None if reason is None else f"failing: {reason}"


@dataclass(slots=True)
class Results:
    """Everything that one invocation measured; `bases` are the peers that the others are divided by."""

    started_at: str
    profile: str
    rounds: int
    seconds: int
    machine: dict[str, Any]
    workloads: list[str]
    bases: list[str]
    peers: list[PeerInfo] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)


_Metric = Callable[[Run], float | None]

METRICS: Mapping[str, _Metric] = {
    "requests_per_s": lambda run: run.requests_per_s,
    "p50_us": lambda run: run.p50_us,
    "p99_us": lambda run: run.p99_us,
    "cpu_us_per_request": lambda run: run.cpu_us_per_request,
    "proxy_core": lambda run: run.proxy_core,
    "load_core": lambda run: run.load_core,
}
_RATIOS = ("requests_per_s", "p99_us", "cpu_us_per_request")


def median(values: Iterable[float | None]) -> float | None:
    """The median of those that are there; None when none is."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def paired_ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """The median, over the rounds that both have, of ours divided by theirs.

    Both numbers of a pair come from the same round, minutes apart at most: a machine that grows slower
    during the benchmark moves both and leaves the ratio alone.

    Args:
        ours: Round to value.
        theirs: The same of the base.
    """
    return median(ours[number] / theirs[number] for number in ours if theirs.get(number))


def _by_round(runs: Iterable[Run], peer: str, workload: str, metric: str) -> dict[int, float]:
    values = ((r.round, METRICS[metric](r)) for r in runs if r.peer == peer and r.workload == workload)
    return {number: value for number, value in values if value is not None}


def summarise(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """Workload to peer to medians (`requests_per_s`, ...), `spread` (least, most) and `vs` a base.

    A peer that is missing or failing for a workload is absent there.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for workload in results.workloads:
        counted = [peer.name for peer in results.peers if peer.fault(workload) is None]
        rows: dict[str, dict[str, Any]] = {}
        for peer in counted:
            series = {metric: _by_round(results.runs, peer, workload, metric) for metric in METRICS}
            if not series["requests_per_s"]:
                continue
            row: dict[str, Any] = {metric: median(values.values()) for metric, values in series.items()}
            row["spread"] = {
                metric: [min(values.values()), max(values.values())] for metric, values in series.items() if values
            }
            row["vs"] = {
                base: {
                    metric: paired_ratio(series[metric], _by_round(results.runs, base, workload, metric))
                    for metric in _RATIOS
                }
                for base in results.bases
                if base in counted
            }
            rows[peer] = row
        summary[workload] = rows
    return summary


def process_medians(results: Results) -> dict[str, dict[str, float | None]]:
    """Peer to the medians of start-up time (ms) and memory (MiB) over its rounds."""
    metrics = ("startup_ms", "idle_rss_mib", "idle_pss_mib", "loaded_rss_mib", "loaded_pss_mib")
    return {
        peer.name: {
            metric: median(getattr(start, metric) for start in results.starts if start.peer == peer.name)
            for metric in metrics
        }
        for peer in results.peers
        if peer.status == "ok" and any(start.peer == peer.name for start in results.starts)
    }


def to_json(results: Results) -> str:
    """The results with their summary, as a JSON document."""
    document = {
        "schema": 1,
        **asdict(results),
        "summary": summarise(results),
        "processes": process_medians(results),
    }
    return json.dumps(document, indent=1) + "\n"


def write_json(results: Results, path: Path) -> None:
    """Writes the JSON document, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(results))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers, padded for the terminal."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def text(line: Sequence[str]) -> str:
        first, *others = line
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([text(lines[0]), f"|{rule}|", *map(text, lines[1:])])


def number(value: float | None, decimals: int = 0, suffix: str = "") -> str:
    """A number for the table, or a dash."""
    return "-" if value is None else f"{value:,.{decimals}f}{suffix}"


def render(results: Results) -> str:
    """The report as Markdown."""
    machine = results.machine
    parts = [
        f"## Side by side, profile `{results.profile}`",
        (
            f"{machine.get('cpu', 'unknown CPU')}, {machine.get('kernel', '')}; {results.rounds} rounds of "
            f"{results.seconds} s per workload; started {results.started_at}."
        ),
    ]
    summary = summarise(results)
    for name in results.workloads:
        parts.append(f"### {_WORKLOADS[name].title} (`{name}`)")
        parts.append(_workload_table(results, name, summary[name]))
    parts.append("### Start-up and memory")
    parts.append(_process_table(results))
    parts.append("\n".join(f"- {note}" for note in _notes(results, summary)))
    return "\n\n".join(parts) + "\n"


def _workload_table(results: Results, workload: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    header = ["proxy", _WORKLOADS[workload].unit, *(f"x {base}" for base in results.bases)]
    header += ["p50 ms", "p99 ms", "CPU us/req", *(f"CPU x {base}" for base in results.bases), "core"]
    lines = []
    for peer in results.peers:
        row = rows.get(peer.name)
        if row is None:
            status = _status(peer, workload) or "not measured"
            lines.append([f"{peer.label}: {status}", *("" for _ in header[1:])])
            continue
        has_proxy = row["cpu_us_per_request"] is not None
        starved = has_proxy and workload != LATENCY.name and row["proxy_core"] < SATURATED
        lines.append(
            [
                peer.label,
                number(row["requests_per_s"]) + ("*" if starved else ""),
                *(number(_versus(row, base, "requests_per_s"), 2) for base in results.bases),
                number(row["p50_us"] / 1e3, 3),
                number(row["p99_us"] / 1e3, 3),
                number(row["cpu_us_per_request"], 1),
                *(number(_versus(row, base, "cpu_us_per_request"), 2) for base in results.bases),
                number(row["proxy_core"] * 100, 0, " %") if has_proxy else "-",
            ]
        )
    return markdown_table(header, lines)


def _status(peer: PeerInfo, workload: str) -> str:
    """The first word of the fault; the reason would make the table as wide as itself."""
    return (peer.fault(workload) or "").partition(":")[0]


def _versus(row: Mapping[str, Any], base: str, metric: str) -> float | None:
    ratios: Mapping[str, float | None] = row["vs"].get(base, {})
    return ratios.get(metric)


def _process_table(results: Results) -> str:
    header = ["proxy", "version", "start ms", "idle MiB", "after load MiB", *(f"x {base}" for base in results.bases)]
    medians = process_medians(results)
    lines = []
    for peer in results.peers:
        row = medians.get(peer.name)
        if row is None:
            if peer.status != "ok":
                lines.append([f"{peer.label}: {peer.status}", *("" for _ in header[1:])])
            continue
        loaded = {
            name: {start.round: start.loaded_rss_mib for start in results.starts if start.peer == name}
            for name in (peer.name, *(base for base in results.bases if base in medians))
        }
        lines.append(
            [
                peer.label,
                peer.version,
                number(row["startup_ms"]),
                number(row["idle_rss_mib"], 1),
                number(row["loaded_rss_mib"], 1),
                *(number(paired_ratio(loaded[peer.name], loaded.get(base, {})), 2) for base in results.bases),
            ]
        )
    return markdown_table(header, lines)


def _notes(results: Results, summary: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    notes = [f"{peer.label}: {peer.status}: {peer.reason}" for peer in results.peers if peer.status != "ok"]
    notes += [
        f"{peer.label}: failing `{workload}`: {reason}"
        for peer in results.peers
        for workload, reason in peer.failures.items()
    ]
    notes += [
        (
            "Medians over the rounds; a ratio is the median of the rounds' own ratios. For req/s more is better, "
            "for CPU, latency and memory less."
        ),
        "`core`: how busy the proxy's core was, the kernel's network work included.",
    ]
    starved = [
        row
        for workload, rows in summary.items()
        if workload != LATENCY.name
        for row in rows.values()
        if row["cpu_us_per_request"] is not None and row["proxy_core"] < SATURATED
    ]
    if starved:
        notes.append(
            f"`*`: its core was less than {SATURATED:.0%} busy: wrk and the upstream could not ask for more, "
            "so req/s is a lower bound. Compare CPU per request."
        )
    noisy = sum(run.noisy for run in results.runs)
    if noisy:
        notes.append(
            f"NOISY: {noisy} of {len(results.runs)} runs lost more than {NOISE_CORES:.0%} of a core to "
            "others, in this machine or beside it (steal): do not quote these numbers."
        )
    return notes
