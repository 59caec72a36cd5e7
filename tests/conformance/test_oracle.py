"""The oracle can fail: each kind of broken proxy is caught, and an honest one passes the same cases."""

from __future__ import annotations

import asyncio

import pytest

from . import stub_proxies as stubs
from .model import Case, load
from .runner import Options, ProxyUnusable, Result, listen, report, run

CASES = {case.id: case for kind in ("requests", "responses") for case in load(kind, promises=False)}
IMPATIENT = Options(width=1, patience_s=0.6, close_grace_s=0.3, deadline_s=0.8, linger_s=0.05)
"""For proxies that leave a client waiting, which is waited for in vain."""
PATIENT = Options(width=1, patience_s=20.0, close_grace_s=20.0, deadline_s=20.0, linger_s=0.05)
"""For those that do not: only a failure takes that long."""

# What is broken, the case that shows it, and the words of the finding.
BROKEN = [
    (stubs.Relay, "te-cl-clte", "ambiguous octets sent upstream"),
    (stubs.Relay, "host-missing", "reached the upstream as a whole request"),
    (stubs.Relay, "rl-two-sp-version", "ambiguous octets sent upstream"),
    (stubs.Relay, "rs-cl-dup-diff", "ambiguous answer to the client"),
    (stubs.Relay, "rs-ssh", "client got no HTTP"),
    (stubs.LengthOnly, "te-cl-tecl", "smuggled request reached the upstream"),
    (stubs.Leftover, "ok-get", "left a poisoned upstream connection"),
    (stubs.Crossed, "ok-get", "crossed: got the answer to"),
    (stubs.Late, "ok-get", "upstream parsed 2 requests where the client sent 1"),
    (stubs.Stray, "ok-get", "of no case, yet sent upstream"),
    (stubs.Silent, "ok-get", "hang: no answer"),
    (stubs.Silent, "rs-cl", "hang: no answer"),
    (stubs.Patient, "hd-unfinished", "past the proxy's own deadline"),
    (stubs.Whole, "rs-short-cl", "a truncated answer looks whole"),
    (stubs.Whole, "rs-short-chunk-mid", "a truncated answer looks whole"),
    (stubs.Whole, "rs-setcookie", "set-cookie lines"),
    (stubs.Insistent, "rs-post-empty-close", "sent upstream 2 times"),
    (stubs.TwoFramings, "rs-cl", "ambiguous answer to the client"),
    (stubs.KeepsAll, "hop-named", "x-hop reached the upstream"),
    (stubs.Decoding, "ok-target-pct", "target became"),
    (stubs.Blaming, "cl-alpha", "as if the upstream had failed"),
    (stubs.Welcoming, "cl-alpha", "refused with [200]"),
    (stubs.Clinging, "ok-conn-close", "connection not closed after the answer"),
    (stubs.Clinging, "cl-alpha", "connection kept open after its framing was lost"),
    (stubs.Babbling, "ok-get", "2 successes for 1 requests"),
    (stubs.Babbling, "rs-cl", "2 answers for 1"),
]


def judge(proxy_type: type[stubs.HonestProxy], *cases: Case, options: Options = IMPATIENT) -> list[Result]:
    """Results of `cases`, run against a proxy of this type."""

    async def against_stub() -> list[Result]:
        async with proxy_type(listener.getsockname()) as proxy:
            return await run(cases, proxy.address, listener, options)

    with listen(("127.0.0.1", 0)) as listener:
        return asyncio.run(against_stub())


@pytest.mark.parametrize(
    ("proxy_type", "case_id", "words"), BROKEN, ids=[f"{stub.__name__}-{name}" for stub, name, _ in BROKEN]
)
def test_broken_proxy_is_caught(proxy_type: type[stubs.HonestProxy], case_id: str, words: str) -> None:
    """The case fails, for the reason that the proxy is broken in."""
    [result] = judge(proxy_type, CASES[case_id])
    assert result.findings.verdict == "FAIL", str(result)
    assert any(words in reason for reason in result.findings.reasons), str(result)


@pytest.mark.parametrize("case_id", sorted({case_id for _, case_id, _ in BROKEN}))
def test_honest_proxy_passes_what_the_broken_ones_fail(case_id: str) -> None:
    """The same case passes where nothing is broken, so a failure means what it says."""
    [result] = judge(stubs.HonestProxy, CASES[case_id], options=PATIENT)
    assert result.findings.verdict == "PASS", str(result)


def test_should_level_finding_warns() -> None:
    """A rule broken at level should is a warning, not a failure."""
    [result] = judge(stubs.KeepsAll, CASES["hop-keepalive-unnamed"], options=PATIENT)
    assert result.findings.verdict == "WARN", str(result)
    assert not result.failed


def test_refused_connection_is_a_failure_of_the_proxy() -> None:
    """A proxy that is not there is reported at once, and not judged case by case."""
    with listen(("127.0.0.1", 0)) as listener, listen(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
        closed.close()
        with pytest.raises(ProxyUnusable, match="proxy gone"):
            asyncio.run(run([CASES["ok-get"]], address, listener, IMPATIENT))


def test_concurrent_cases_do_not_blame_each_other() -> None:
    """A smuggling proxy fails the case that smuggles and no clean one beside it."""
    names = ["ok-get", "ok-chunked", "te-cl-clte", "ok-target-pct", "rs-cl"]
    with listen(("127.0.0.1", 0)) as listener:

        async def against_relay() -> list[Result]:
            async with stubs.Relay(listener.getsockname()) as proxy:
                crowd = Options(width=5, patience_s=0.6, close_grace_s=0.3)
                return await run([CASES[name] for name in names], proxy.address, listener, crowd)

        results = asyncio.run(against_relay())
    assert [result.case.id for result in results if result.failed] == ["te-cl-clte"]


def test_report_counts_and_quotes_the_section() -> None:
    """A failure's line names verdict, case, finding, section and reason; passed cases are only counted."""
    text = report(judge(stubs.KeepsAll, CASES["hop-named"], CASES["ok-get"], options=PATIENT))
    assert "FAIL hop-named" in text
    assert "RFC 9110 section 7.6.1" in text
    assert "ok-get" not in text
    assert text.splitlines()[-1].split() == ["all", "1", "0", "1"]
