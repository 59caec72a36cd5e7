"""Medians, ratios and what the report says of peers without a number."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.report import (
    PeerInfo,
    Results,
    Run,
    Start,
    markdown_table,
    median,
    number,
    paired_ratio,
    process_medians,
    render,
    summarise,
    to_json,
)


def run(peer: str, turn: int, requests_per_s: float, **changes: Any) -> Run:
    """A quiet run of `small-get` with the proxy's core busy."""
    values: dict[str, Any] = {
        "peer": peer,
        "workload": "small-get",
        "round": turn,
        "requests": int(requests_per_s),
        "requests_per_s": requests_per_s,
        "p50_us": 1000.0,
        "p99_us": 2000.0,
        "read_bytes": 1e6,
        "cpu_us_per_request": 1e6 / requests_per_s,
        "rss_mib": 20.0,
        "proxy_core": 1.0,
        "load_core": 0.5,
        "foreign_cores": 0.0,
        "steal_cores": 0.0,
        "load_average": 0.1,
        "quiet": True,
    }
    return Run(**{**values, **changes})


def results(*runs: Run, peers: tuple[str, ...] = ("sidecar", "envoy", "go")) -> Results:
    """Results of these runs, with a process of 20 MiB and 100 ms for each."""
    return Results(
        started_at="2026-01-01T00:00:00+00:00",
        profile="bare",
        rounds=3,
        seconds=5,
        machine={"cpu": "a CPU", "kernel": "Linux"},
        workloads=["small-get"],
        bases=["envoy", "go"],
        peers=[PeerInfo(name, name.upper()) for name in peers],
        runs=list(runs),
        starts=[Start(r.peer, r.round, 100.0, 20.0, 18.0, 24.0, 21.0) for r in runs],
    )


def row_of(text: str, label: str) -> list[str]:
    """The cells of the first table row that begins with the label."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {label}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_median_leaves_out_what_is_not_there() -> None:
    assert median([3.0, None, 1.0, 2.0]) == 2.0


def test_median_of_an_even_count_is_between_the_middle_two() -> None:
    assert median([1.0, 2.0, 4.0, 100.0]) == 3.0


def test_median_of_nothing_is_nothing() -> None:
    assert median([]) is None
    assert median([None]) is None


def test_a_ratio_compares_within_a_round() -> None:
    """A machine that slows down to a tenth in round 3 does not move it; the ratio of medians would be 1.5."""
    ours = {1: 200.0, 2: 150.0, 3: 20.0}
    theirs = {1: 100.0, 2: 100.0, 3: 10.0}
    assert paired_ratio(ours, theirs) == 2.0


def test_a_ratio_uses_only_the_rounds_of_both() -> None:
    assert paired_ratio({1: 10.0, 2: 90.0}, {1: 5.0, 3: 1.0}) == 2.0


@pytest.mark.parametrize("theirs", [{}, {2: 1.0}, {1: 0.0}])
def test_a_ratio_without_a_common_round_is_nothing(theirs: dict[int, float]) -> None:
    assert paired_ratio({1: 10.0}, theirs) is None


def test_summary_has_medians_spread_and_ratios() -> None:
    summary = summarise(
        results(
            *(run("sidecar", turn, rate) for turn, rate in enumerate([300, 200, 250], 1)),
            *(run("envoy", turn, rate) for turn, rate in enumerate([100, 100, 50], 1)),
        )
    )
    row = summary["small-get"]["sidecar"]
    assert row["requests_per_s"] == 250
    assert row["spread"]["requests_per_s"] == [200, 300]
    assert row["vs"]["envoy"]["requests_per_s"] == 3.0
    assert row["vs"]["envoy"]["cpu_us_per_request"] == pytest.approx(1 / 3)


def test_no_proxy_has_no_cpu_time() -> None:
    summary = summarise(
        results(
            run("direct", 1, 900.0, cpu_us_per_request=None),
            run("envoy", 1, 100.0),
            peers=("direct", "envoy"),
        )
    )
    assert summary["small-get"]["direct"]["cpu_us_per_request"] is None
    assert summary["small-get"]["direct"]["vs"]["envoy"]["cpu_us_per_request"] is None


def test_a_peer_that_fails_later_loses_its_earlier_rounds() -> None:
    given = results(run("sidecar", 1, 300.0), run("envoy", 1, 100.0))
    given.peers[0].failures["small-get"] = "socket errors: 3 read"
    assert "sidecar" not in summarise(given)["small-get"]
    text = render(given)
    assert row_of(text, "SIDECAR: ")[0] == "SIDECAR: failing"
    assert "- SIDECAR: failing `small-get`: socket errors: 3 read" in text


def test_a_failing_base_is_compared_with_nobody() -> None:
    given = results(run("sidecar", 1, 300.0), run("envoy", 1, 100.0))
    given.peers[1].status = "failing"
    assert summarise(given)["small-get"]["sidecar"]["vs"].keys() == {"go"}
    assert row_of(render(given), "SIDECAR")[2] == "-"


def test_the_bases_are_columns() -> None:
    given = results(run("sidecar", 1, 300.0), run("nginx", 1, 100.0), peers=("sidecar", "nginx"))
    given.bases = ["nginx"]
    assert row_of(render(given), "proxy")[:3] == ["proxy", "req/s", "x nginx"]
    assert row_of(render(given), "SIDECAR")[2] == "3.00"


def test_the_unit_is_the_workload_s() -> None:
    given = results(run("sidecar", 1, 300.0, workload="handshake"))
    given.workloads = ["handshake"]
    assert row_of(render(given), "proxy")[1] == "handshakes/s"


def test_a_missing_peer_is_named_with_its_reason() -> None:
    given = results(run("sidecar", 1, 300.0))
    given.peers[1].status, given.peers[1].reason = "missing", "Envoy is not installed"
    text = render(given)
    assert text.count("| ENVOY: missing ") == 2
    assert "- ENVOY: missing: Envoy is not installed" in text


def test_process_medians_leave_out_peers_that_did_not_run() -> None:
    given = results(run("sidecar", 1, 300.0))
    assert process_medians(given) == {
        "sidecar": {
            "startup_ms": 100.0,
            "idle_rss_mib": 20.0,
            "idle_pss_mib": 18.0,
            "loaded_rss_mib": 24.0,
            "loaded_pss_mib": 21.0,
        }
    }


def test_a_proxy_that_waited_for_load_is_marked() -> None:
    text = render(results(run("sidecar", 1, 300.0, proxy_core=0.8), run("envoy", 1, 100.0)))
    assert row_of(text, "SIDECAR")[1] == "300*"
    assert row_of(text, "ENVOY")[1] == "100"
    assert "a lower bound" in text


@pytest.mark.parametrize("change", [{"quiet": False}, {"foreign_cores": 0.2}, {"steal_cores": 0.2}])
def test_a_disturbed_run_is_told(change: dict[str, Any]) -> None:
    given = results(run("sidecar", 1, 300.0, **change), run("envoy", 1, 100.0))
    assert "NOISY: 1 of 2 runs" in render(given)


def test_a_quiet_benchmark_does_not_warn() -> None:
    assert "NOISY" not in render(results(run("sidecar", 1, 300.0)))


def test_json_carries_runs_and_summary() -> None:
    document = json.loads(to_json(results(run("sidecar", 1, 300.0), run("envoy", 1, 100.0))))
    assert document["runs"][0]["peer"] == "sidecar"
    assert document["summary"]["small-get"]["sidecar"]["vs"]["envoy"]["requests_per_s"] == 3.0
    assert document["processes"]["envoy"]["startup_ms"] == 100.0


def test_table_columns_align() -> None:
    lines = markdown_table(["proxy", "req/s"], [["a", "1"], ["longer", "1,000"]]).splitlines()
    assert lines == [
        "| proxy  | req/s |",
        "|--------|------:|",
        "| a      |     1 |",
        "| longer | 1,000 |",
    ]


def test_numbers_have_separators_and_dashes() -> None:
    assert number(12345.678, 1) == "12,345.7"
    assert number(0.5, 0, " %") == "0 %"
    assert number(None) == "-"
