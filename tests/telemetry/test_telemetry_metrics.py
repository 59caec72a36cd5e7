"""What Prometheus scrapes: names, types, labels, values, in both formats, and what a scrape costs the loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from sidecar.policy.states import TRANSITIONS, State
from sidecar.proxy.listener import UNROUTED
from sidecar.runtime.vitals import Vitals
from sidecar.telemetry import metrics
from sidecar.telemetry.metrics import Exposition, Sources
from tests.proxy.test_proxy_policies import FAIL, Asking, ask, half_open, trip
from tests.proxy.transcript import GET, OK, Conversation, message

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
"""What Prometheus 2.42 asks for."""

OPENMETRICS = "application/openmetrics-text; version=1.0.0"

EVERYTHING: dict[str, Any] = {
    "rate_limit": {"rate": "100/second", "burst": 7},
    "concurrency": {"limit": 4},
    "queue": {"limit": 5, "max_wait": "1s"},
    "circuit_breaker": {"consecutive_failures": 2, "slow_calls": {"slower_than": "1s"}},
    "retry": {"attempts": 2, "methods": ["PUT"]},
    "candidates": {"stricter": {"circuit_breaker": {"consecutive_failures": 1}}},
}

D = {"dependency"}
FAMILIES = {
    "circuit_breaker_state": ("gauge", D | {"state"}),
    "circuit_breaker_transitions_total": ("counter", D | {"from", "to", "reason"}),
    "circuit_breaker_open_seconds_total": ("counter", D),
    "circuit_breaker_window_calls": ("gauge", D),
    "circuit_breaker_window_failures": ("gauge", D),
    "circuit_breaker_window_slow_calls": ("gauge", D),
    "circuit_breaker_failure_ratio_threshold": ("gauge", D),
    "circuit_breaker_calls_total": ("counter", D | {"outcome"}),
    "circuit_breaker_slow_calls_total": ("counter", D),
    "sidecar_requests_total": ("counter", D | {"method", "status", "source"}),
    "sidecar_attempts_total": ("counter", D | {"outcome"}),
    "sidecar_retries_total": ("counter", D),
    "sidecar_retry_budget_exhausted_total": ("counter", D),
    "sidecar_retry_budget_balance": ("gauge", D),
    "sidecar_connections_replaced_total": ("counter", D),
    "sidecar_rejections_total": ("counter", D | {"reason"}),
    "sidecar_client_disconnects_total": ("counter", D),
    "sidecar_request_duration_seconds": ("histogram", D),
    "sidecar_upstream_duration_seconds": ("histogram", D),
    "sidecar_queue_wait_seconds": ("histogram", D),
    "sidecar_in_flight_requests": ("gauge", D),
    "sidecar_concurrency_limit": ("gauge", D),
    "sidecar_queued_requests": ("gauge", D),
    "sidecar_rate_limit_tokens": ("gauge", D),
    "sidecar_rate_limit_burst": ("gauge", D),
    "sidecar_upstream_connections": ("gauge", D | {"state"}),
    "sidecar_upstream_addresses": ("gauge", D | {"state"}),
    "sidecar_dns_failures_total": ("counter", D),
    "sidecar_tunnels": ("gauge", D),
    "sidecar_tunnels_opened_total": ("counter", D),
    "sidecar_tunnel_seconds_total": ("counter", D),
    "sidecar_tunnel_bytes_total": ("counter", D | {"direction"}),
    "sidecar_candidate_state": ("gauge", D | {"candidate", "state"}),
    "sidecar_candidate_rejections_total": ("counter", D | {"candidate", "reason"}),
    "sidecar_candidate_transitions_total": ("counter", D | {"candidate", "state"}),
    "sidecar_candidate_unobserved_total": ("counter", D | {"candidate"}),
    "sidecar_unrouted_rejections_total": ("counter", {"reason"}),
    "sidecar_downstream_connections": ("gauge", set()),
    "sidecar_tls_handshake_failures_total": ("counter", set()),
    "sidecar_config_last_reload_successful": ("gauge", set()),
    "sidecar_config_last_reload_timestamp_seconds": ("gauge", set()),
    "sidecar_config_info": ("gauge", {"hash"}),
    "sidecar_event_loop_lag_seconds": ("gauge", set()),
    "sidecar_standstill_seconds_total": ("counter", set()),
    "sidecar_log_lines_dropped_total": ("counter", set()),
    "sidecar_access_log_suppressed_total": ("counter", set()),
    "sidecar_build_info": ("gauge", {"version"}),
    "process_virtual_memory_bytes": ("gauge", set()),
    "process_resident_memory_bytes": ("gauge", set()),
    "process_start_time_seconds": ("gauge", set()),
    "process_cpu_seconds_total": ("counter", set()),
    "process_open_fds": ("gauge", set()),
    "process_max_fds": ("gauge", set()),
}
"""Every family there is: its type, and its labels beside those of a histogram."""

OF_CONFIGURATION = {
    "circuit_breaker_failure_ratio_threshold": 0.5,
    "sidecar_concurrency_limit": 4,
    "sidecar_rate_limit_burst": 7,
    "sidecar_rate_limit_tokens": 7,
    "sidecar_retry_budget_balance": 1,
    "sidecar_config_last_reload_successful": 1,
    "sidecar_config_last_reload_timestamp_seconds": 1_700_000_000,
    "sidecar_config_info": 1,
    "sidecar_build_info": 1,
}
"""What is not 0 in a sidecar that has just started, and no state."""

Series = tuple[str, frozenset[tuple[str, str]]]


class Scrape:
    """A sidecar on a stage, and its exposition."""

    def __init__(self, talk: Conversation, **sources: Any) -> None:
        self.talk = talk
        self.sources = Sources(
            pools=talk.pools,
            listeners=[talk.listener],
            deadlines=talk.deadlines,
            vitals=Vitals(talk.deadlines),
            version="1.2.3",
            config_hash="0123456789ab",
            config_loaded_at=1_700_000_000.0,
            **sources,
        )
        self.exposition = Exposition(self.sources)

    def text(self, accept: str = "") -> str:
        octets, _ = asyncio.run(self.exposition.render(accept))
        return octets.decode("ascii")

    def families(self, accept: str = "") -> dict[str, Metric]:
        """What a parser makes of it, by the names of the type lines."""
        parse = openmetrics.text_string_to_metric_families if accept else text_string_to_metric_families
        found: dict[str, Metric] = {}
        for family in parse(self.text(accept)):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert name not in found, f"{name} is there twice"
            found[name] = family
        return found

    def series(self, accept: str = "") -> dict[Series, float]:
        """The value of each series."""
        samples = [sample for family in self.families(accept).values() for sample in family.samples]
        found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
        assert len(found) == len(samples), "no series is there twice"
        return found

    def value(self, name: str, **labels: str) -> float:
        labels = {"dependency": "payments"} | labels
        return self.series()[name, frozenset(labels.items())]

    def ones(self, name: str, **labels: str) -> list[str]:
        """The states of a one-hot gauge that are 1; all others are 0."""
        of = {"dependency": "payments"} | labels
        states = {
            dict(pairs)["state"]: value
            for (family, pairs), value in self.series().items()
            if family == name and of.items() <= dict(pairs).items()
        }
        assert set(states.values()) <= {0.0, 1.0}
        return [state for state, value in states.items() if value]


@pytest.fixture
def scrape() -> Scrape:
    return Scrape(Conversation(**EVERYTHING))


# -- families and series


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_every_family_has_its_name_type_and_labels(scrape: Scrape, accept: str) -> None:
    found = {}
    for name, family in scrape.families(accept).items():
        labels = {frozenset(sample.labels.keys() - {"le"}) for sample in family.samples}
        assert len(labels) == 1, f"{name} has a series, and all of them the same labels"
        found[name] = (family.type, set(*labels))
        assert family.documentation.endswith("."), name
    assert found == FAMILIES


def test_both_formats_tell_the_same(scrape: Scrape) -> None:
    ask(scrape.talk, FAIL)
    ours = [
        {name: value for name, value in scrape.series(accept).items() if not name[0].startswith("process_")}
        for accept in ("", OPENMETRICS)
    ]
    assert ours[0] == ours[1]


def test_every_series_stands_at_0_from_load_on(scrape: Scrape) -> None:
    for (name, pairs), value in scrape.series().items():
        labels = dict(pairs)
        if name.startswith("process_"):
            continue
        if name in ("circuit_breaker_state", "sidecar_candidate_state"):
            assert value == (labels["state"] == "closed")
        elif name == "sidecar_upstream_addresses":  # which has been looked up
            assert value == (labels["state"] == "healthy")
        else:
            assert value == OF_CONFIGURATION.get(name, 0), name


def busy(talk: Conversation) -> None:
    """Everything happens that can be counted."""
    for octets in (GET, message("PURGE /x?y=z HTTP/1.1", "Host: app"), message("DELETE /a HTTP/1.1", "Host: app")):
        ask(talk, octets=octets)
    stray = talk.client()
    stray.sends(b"nonsense\r\n\r\n")
    left = Asking(talk)
    left.client.resets()
    again = Asking(talk, message("PUT /a HTTP/1.1", "Host: app", "Content-Length: 0"))
    again.gets(FAIL)
    talk.passes(1)
    again.gets(OK)
    held = [Asking(talk) for _ in range(6)]  # four slots, and two who wait
    talk.passes(1.1)
    for asking in held:
        if asking.upstream is not None:
            asking.gets(OK)
    trip(talk)
    ask(talk)
    talk.passes(31)
    assert talk.state == "half_open"
    for _ in range(3):
        ask(talk)
    assert talk.state == "closed"


def test_whatever_happens_no_series_comes_or_goes() -> None:
    scrape = Scrape(Conversation(**EVERYTHING))
    before = scrape.series()
    busy(scrape.talk)
    after = scrape.series()
    assert after.keys() == before.keys()
    grown = {name for (name, pairs), value in after.items() if value > before[name, pairs]}
    for name in (
        "circuit_breaker_transitions_total",
        "circuit_breaker_open_seconds_total",
        "circuit_breaker_calls_total",
        "sidecar_requests_total",
        "sidecar_attempts_total",
        "sidecar_retries_total",
        "sidecar_rejections_total",
        "sidecar_client_disconnects_total",
        "sidecar_request_duration_seconds_count",
        "sidecar_upstream_duration_seconds_sum",
        "sidecar_queue_wait_seconds_bucket",
        "sidecar_candidate_rejections_total",
        "sidecar_candidate_transitions_total",
        "sidecar_candidate_unobserved_total",
        "sidecar_unrouted_rejections_total",
    ):
        assert name in grown, name


def test_no_counter_ever_goes_back() -> None:
    talk = Conversation(**EVERYTHING)
    scrape = Scrape(talk)
    counters = {name for name, (kind, _) in FAMILIES.items() if kind == "counter"}
    before = scrape.series()
    for step in (lambda: busy(talk), lambda: talk.passes(1), lambda: trip(talk), lambda: talk.passes(40)):
        step()
        after = scrape.series()
        for series, value in before.items():
            if series[0] in counters or series[0].endswith(("_bucket", "_sum", "_count")):
                assert after[series] >= value, series
        before = after


def test_only_legal_transitions_have_series(scrape: Scrape) -> None:
    found = {
        (dict(pairs)["from"], dict(pairs)["to"], dict(pairs)["reason"])
        for name, pairs in scrape.series()
        if name == "circuit_breaker_transitions_total"
    }
    assert found == {
        (origin.value, state.value, reason.value)
        for (origin, state), reasons in TRANSITIONS.items()
        for reason in reasons
    }


@pytest.mark.parametrize(
    ("keys", "absent"),
    [
        ({"circuit_breaker": {"failure_rate": {"threshold": None}}}, ["circuit_breaker_failure_ratio_threshold"]),
        ({"retry": {"attempts": 1}}, ["sidecar_retry_budget_balance"]),
        ({"concurrency": {}}, ["sidecar_concurrency_limit"]),
        ({"rate_limit": {}}, ["sidecar_rate_limit_tokens", "sidecar_rate_limit_burst"]),
        ({"rate_limit": {"mode": "shadow", "rate": "1/second"}}, ["sidecar_rate_limit_tokens"]),
        ({"candidates": {}}, [name for name in FAMILIES if "candidate" in name]),
        (
            {"candidates": {"c": {"concurrency": {"limit": 1}}}},
            ["sidecar_candidate_state", "sidecar_candidate_transitions_total"],
        ),
        ({"circuit_breaker": {"mode": "off"}}, ["circuit_breaker_failure_ratio_threshold"]),
    ],
)
def test_what_is_not_configured_has_no_series(keys: dict[str, Any], absent: list[str]) -> None:
    families = Scrape(Conversation(**EVERYTHING | keys)).families()
    without = [name for name, family in families.items() if not family.samples]
    assert set(absent) <= set(without)
    assert set(without) <= {*absent, "sidecar_rate_limit_burst"}


# -- states


def test_state_is_one_hot_and_tells_what_is_enforced() -> None:
    talk = Conversation(circuit_breaker={"consecutive_failures": 2})
    scrape = Scrape(talk)
    breaker = talk.gate.breaker
    assert scrape.ones("circuit_breaker_state") == ["closed"]
    trip(talk)
    assert scrape.ones("circuit_breaker_state") == ["open"]
    talk.passes(31)
    assert scrape.ones("circuit_breaker_state") == ["half_open"]
    for state in (State.FORCED_OPEN, State.FORCED_CLOSED):
        talk.do(breaker.force, state, talk.deadlines.read())
        assert scrape.ones("circuit_breaker_state") == [state.value]
    talk.do(breaker.release, talk.deadlines.read())
    assert scrape.ones("circuit_breaker_state") == ["closed"]
    assert [state.value for state in State] == [
        dict(pairs)["state"] for name, pairs in scrape.series() if name == "circuit_breaker_state"
    ]


@pytest.mark.parametrize("mode", ["off", "shadow"])
def test_circuit_that_is_not_enforced_is_shown_as_disabled(mode: str) -> None:
    scrape = Scrape(Conversation(circuit_breaker={"mode": mode, "consecutive_failures": 1}))
    ask(scrape.talk, FAIL)
    assert scrape.ones("circuit_breaker_state") == ["disabled"]
    if mode == "shadow":
        assert scrape.ones("sidecar_candidate_state", candidate="shadow") == ["open"]


def test_scrape_sees_a_circuit_half_open_as_soon_as_that_is_due() -> None:
    """Also where the wheel has not turned since: no timer and no call is needed for a scrape to be right."""
    talk = Conversation(circuit_breaker={"consecutive_failures": 1}, candidates={"c": {"circuit_breaker": {}}})
    scrape = Scrape(talk)
    trip(talk)
    talk.passes(29.9)
    assert scrape.ones("circuit_breaker_state") == ["open"]
    talk.clock.seconds += 0.2
    assert scrape.ones("circuit_breaker_state") == ["half_open"]
    assert scrape.ones("sidecar_candidate_state", candidate="c") == ["half_open"]
    assert (
        scrape.value("circuit_breaker_transitions_total", **{"from": "open", "to": "half_open", "reason": "waited"})
        == 1
    )
    assert scrape.value("circuit_breaker_open_seconds_total") == pytest.approx(30.1, abs=0.05)


def test_window_shows_what_the_rules_look_at() -> None:
    talk = Conversation(
        circuit_breaker={"slow_calls": {"slower_than": "1s"}}, timeout={"first_byte": "1m", "total": "1m"}
    )
    scrape = Scrape(talk)
    ask(talk)
    ask(talk, FAIL)
    hangs = Asking(talk)
    talk.passes(1.1)

    def window() -> list[float]:
        return [scrape.value(f"circuit_breaker_window_{what}") for what in ("calls", "failures", "slow_calls")]

    assert window() == [2, 1, 1]
    assert scrape.value("circuit_breaker_slow_calls_total") == 1
    talk.passes(20)
    assert window() == [0, 0, 1], "it still hangs"
    hangs.client.resets()
    assert scrape.value("circuit_breaker_slow_calls_total") == 1


# -- values


def test_gauges_show_the_moment() -> None:
    talk = Conversation(
        rate_limit={"rate": "1/minute", "burst": 5}, concurrency={"limit": 1}, queue={"limit": 5, "max_wait": "1m"}
    )
    scrape = Scrape(talk)
    held, waiting = Asking(talk), Asking(talk)
    assert scrape.value("sidecar_in_flight_requests") == 2
    assert scrape.value("sidecar_queued_requests") == 1
    assert scrape.value("sidecar_rate_limit_tokens") == pytest.approx(4)
    assert scrape.value("sidecar_upstream_connections", state="active") == 1
    waiting.client.resets()
    held.gets(OK)
    assert scrape.value("sidecar_in_flight_requests") == 0
    assert scrape.value("sidecar_queued_requests") == 0
    assert scrape.value("sidecar_upstream_connections", state="active") == 0
    assert scrape.value("sidecar_upstream_connections", state="idle") == 1
    talk.passes(60)
    assert scrape.value("sidecar_rate_limit_tokens") == pytest.approx(5)


def test_histogram_is_cumulative_and_ends_at_infinity(scrape: Scrape) -> None:
    for seconds in (0.001, 0.0011, 0.3, 3, 100):
        scrape.talk.dependency.counters.request_duration.observe(seconds)
    name = "sidecar_request_duration_seconds"
    buckets = {
        float(dict(pairs)["le"]): value
        for (family, pairs), value in scrape.series().items()
        if family == f"{name}_bucket"
    }
    assert list(buckets) == [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, float("inf")]
    assert [buckets[bound] for bound in (0.001, 0.0025, 0.25, 0.5, 5.0, 30.0, float("inf"))] == [1, 2, 2, 3, 4, 4, 5]
    assert scrape.value(f"{name}_count") == 5
    assert scrape.value(f"{name}_sum") == pytest.approx(103.3021)


def test_unrouted_answers_of_all_listeners_are_added_up() -> None:
    talk = Conversation(shared=True)
    scrape = Scrape(talk)
    scrape.sources.listeners = [talk.listener, talk.listener]
    client = talk.client()
    client.sends(message("GET /nowhere HTTP/1.1", "Host: unknown"))
    values = {
        dict(pairs)["reason"]: value
        for (name, pairs), value in scrape.series().items()
        if name == "sidecar_unrouted_rejections_total"
    }
    assert values == dict.fromkeys(UNROUTED, 0) | {"NO_ROUTE": 2}
    assert scrape.series()["sidecar_downstream_connections", frozenset()] == 2


def test_process_tells_of_itself() -> None:
    talk = Conversation()
    scrape = Scrape(talk, log_lines_dropped=lambda: 17, config_successful=False)
    talk.stands_still(3)
    values = {name: value for (name, pairs), value in scrape.series().items() if not pairs}
    assert values["sidecar_log_lines_dropped_total"] == 17
    assert values["sidecar_config_last_reload_successful"] == 0
    assert values["sidecar_standstill_seconds_total"] == pytest.approx(3, abs=0.1)
    assert values["sidecar_event_loop_lag_seconds"] == pytest.approx(3, abs=0.1)
    assert values["process_resident_memory_bytes"] > 1 << 20
    assert ("sidecar_config_info", frozenset({("hash", "0123456789ab")})) in scrape.series()
    assert ("sidecar_build_info", frozenset({("version", "1.2.3")})) in scrape.series()


# -- slices


@pytest.fixture(scope="module")
def crowd() -> Scrape:
    """Twenty-five dependencies, each a little different: three slices, the last of which is short."""
    others = {f"d{number:02}": {"upstream": f"http://d{number}", **EVERYTHING} for number in range(24)}
    talk = Conversation(others=others, **EVERYTHING)
    for number, pool in enumerate(talk.pools.values()):
        pool.dependency.counters.retries = number
        pool.dependency.counters.request_duration.observe(number / 10)
    return Scrape(talk)


def of_sidecar(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("process_")]


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
@pytest.mark.parametrize("size", [1, 7, 10, 24])
def test_slices_give_the_same_text_as_one_piece(
    crowd: Scrape, monkeypatch: pytest.MonkeyPatch, accept: str, size: int
) -> None:
    monkeypatch.setattr(metrics, "SLICE", 1000)
    whole = of_sidecar(crowd.text(accept))
    monkeypatch.setattr(metrics, "SLICE", size)
    assert of_sidecar(crowd.text(accept)) == whole


def test_others_get_their_turn_between_slices(crowd: Scrape, monkeypatch: pytest.MonkeyPatch) -> None:
    turn = 0
    rendered: list[int] = []
    one = metrics._One

    def noted(metric: Metric) -> Any:
        rendered.append(turn)
        return one(metric)

    async def take_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def main() -> None:
        other = asyncio.create_task(take_turns())
        await asyncio.sleep(0)
        await crowd.exposition.render("")
        other.cancel()

    monkeypatch.setattr(metrics, "_One", noted)
    asyncio.run(main())
    slices = -(-25 // metrics.SLICE)
    assert len(rendered) > slices * len(metrics.FAMILIES + metrics.HISTOGRAMS)
    assert max(Counter(rendered).values()) == 1


def test_scrapes_at_once_do_not_mix(crowd: Scrape) -> None:
    async def main() -> list[tuple[bytes, str]]:
        return await asyncio.gather(*(crowd.exposition.render(accept) for accept in ("", OPENMETRICS, "")))

    first, other, third = (of_sidecar(octets.decode()) for octets, _ in asyncio.run(main()))
    assert first == third == of_sidecar(crowd.text())
    assert other == of_sidecar(crowd.text(OPENMETRICS))


def test_sidecar_without_dependencies_exposes_the_rest() -> None:
    scrape = Scrape(Conversation())
    scrape.sources.pools = {}
    families = scrape.families()
    assert {name for name, family in families.items() if family.samples} == {
        name for name, (_, labels) in FAMILIES.items() if "dependency" not in labels
    }


# -- formats


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=many", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (
            PROMETHEUS,
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
    ],
)
def test_format_is_the_one_asked_for(scrape: Scrape, accept: str, content_type: str) -> None:
    octets, said = asyncio.run(scrape.exposition.render(accept))
    assert said == content_type
    assert octets.endswith(b"\n# EOF\n") == said.startswith("application/openmetrics-text")
    assert octets.count(b"# EOF") <= 1


SMALL = Scrape(Conversation())
TYPES = ["application/openmetrics-text", "text/plain", "*/*", "x"]
VERSIONS = ["version=", "1.0.0", "2.0.0", "0.0.0", "1.0.0.0", "1", "-1"]
PARAMETERS = ["q=0.5", "escaping=", "allow-utf-8", "dots", "values"]
ACCEPT_PARTS = st.sampled_from([*TYPES, *VERSIONS, *PARAMETERS, ";", ",", "=", " "])


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(ACCEPT_PARTS, max_size=12).map("".join)))
@example("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8")
@example("text/plain;version=1.0.0;escaping=dots")
@example("application/openmetrics-text;version=" + "9" * 5000)
@example("application/openmetrics-text;version=2.0.0")
def test_no_accept_fails_a_scrape(accept: str) -> None:
    octets, content_type = asyncio.run(SMALL.exposition.render(accept))
    assert b'{dependency="payments",state="closed"} 1.0\n' in octets  # behind a name that can be asked for escaped
    assert content_type.split(";")[0] in ("text/plain", "application/openmetrics-text")


# -- what a client says stays out of it


def words() -> Iterator[st.SearchStrategy[str]]:
    yield from [st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=12).map(lambda word: f"zq{word}")] * 4


KNOWN_METHODS = st.sampled_from(["GET", "HEAD", "POST", "PROPFIND", "M-SEARCH", "MKCOL", "REPORT", "QUERY", "LINK"])


@settings(max_examples=60, deadline=None)
@given(st.one_of(KNOWN_METHODS, st.from_regex("ZQ[A-Z-]{1,10}", fullmatch=True)), *words())
def test_no_label_holds_a_path_or_a_word_of_a_client(
    method: str, path: str, query: str, field: str, value: str
) -> None:
    talk = Conversation()
    scrape = Scrape(talk)
    before = scrape.series().keys()
    client = talk.client()
    client.sends(
        message(f"{method} /{path}?{query} HTTP/1.1", f"Host: {value}", f"{field}: {value}", f"User-Agent: {value}")
    )
    client.resets()
    assert scrape.series().keys() == before
    text = scrape.text()
    for word in (path, query, field, value):
        assert word not in text
    assert method in text or method not in ("GET", "HEAD", "POST")
    assert "ZQ" not in text


def test_half_open_circuit_of_a_conversation_is_seen_by_both_formats() -> None:
    talk = Conversation(circuit_breaker={"consecutive_failures": 1})
    half_open(talk)
    line = 'circuit_breaker_state{dependency="payments",state="half_open"} 1.0\n'
    scrape = Scrape(talk)
    assert line in scrape.text()
    assert line in scrape.text(OPENMETRICS)
