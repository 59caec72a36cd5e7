"""The judge of request cases: what a client sends, and what may come of it."""

from __future__ import annotations

import re

from .arrivals import check_arrival
from .findings import Findings, Observation, common_safety
from .model import REFUSALS, Case
from .strict_request import Request


def judge_request(case: Case, seen: Observation) -> Findings:
    """Hold what was seen of a request case to its expectations."""
    findings = Findings(case)
    common_safety(case, seen, findings)
    whole = [request for request in seen.requests if request.complete]
    clean = [request for request in whole if not request.errors]
    _check_safety(case, seen, findings, whole)
    if case.verdict == "refuse" or (case.verdict == "either" and not whole):
        _check_refusal(case, seen, findings, whole)
    else:
        _check_forwarding(case, seen, findings, clean)
    return findings


def was_refused(seen: Observation) -> bool:
    """Whether nothing whole reached the upstream and the client was told, or its connection closed."""
    told = seen.closed or any(answer.status >= 400 for answer in seen.finals)
    return told and not any(request.complete for request in seen.requests)


def _check_safety(case: Case, seen: Observation, findings: Findings, whole: list[Request]) -> None:
    statuses = [answer.status for answer in seen.finals]
    findings.safety(
        len(whole) > case.requests,
        f"upstream parsed {len(whole)} requests where the client sent {case.requests}",
    )
    if case.requests == 1:
        smuggled = [request for request in whole if b"/smuggled/" in request.target]
        findings.safety(smuggled, "smuggled request reached the upstream")
    successes = sum(200 <= status < 300 for status in statuses)
    findings.safety(successes > case.requests, f"{successes} successes for {case.requests} requests")
    findings.safety(101 in statuses, "101 that no upstream agreed to")
    for answer in seen.finals:
        for echoed in answer.get("x-oracle-target"):
            mark = re.search(rb"/(?:t|smuggled|canary)/([a-z0-9-]+)", echoed)
            other = mark and (mark[1] != case.id.encode() or mark[0].startswith(b"/canary"))
            findings.safety(other, f"crossed: got the answer to {echoed!r}")
    server_faults = [status for status in statuses if status in (500, 502, 503, 504)]
    if server_faults:
        text = f"a client's fault answered {server_faults}, as if the upstream had failed"
        if case.verdict == "either" or case.phase == "body":
            findings.advice(True, text)
        else:
            findings.rule(True, text)
    if case.delivery.not_echoed:
        secret = case.delivery.not_echoed.encode()
        findings.safety(any(secret in a.head + a.body for a in seen.finals), "credential sent back")


def _check_refusal(case: Case, seen: Observation, findings: Findings, whole: list[Request]) -> None:
    statuses = [answer.status for answer in seen.finals]
    if whole:
        findings.rule(True, "reached the upstream as a whole request")
        return
    if case.phase == "head":
        findings.safety(seen.requests, "octets of an invalid head reached the upstream")
    if not statuses and not seen.closed:
        findings.safety(not case.may_wait, f"hang: neither answer nor close in {seen.elapsed_s:.1f} s")
        return
    accepted = frozenset(case.statuses) or REFUSALS
    if statuses and not any(status in accepted for status in statuses):
        local = case.local_ok and all(200 <= status < 300 for status in statuses)
        late = case.phase == "body" and any(status >= 500 for status in statuses)
        findings.rule(not (local or late or case.bytes_ok), f"refused with {statuses[:3]}")
    if case.statuses and not statuses and not case.half_close:
        # RFC 9112 section 9.6 tells how to close so that the answer survives; it does not insist.
        weight = findings.advice if seen.reset or seen.cut_off else findings.rule
        weight(True, f"closed without the promised {sorted(case.statuses)}")
    if case.close and statuses and not seen.closed:
        weight = findings.rule if case.close == "must" and case.verdict == "refuse" else findings.advice
        weight(True, "connection kept open after its framing was lost")


def _check_forwarding(case: Case, seen: Observation, findings: Findings, clean: list[Request]) -> None:
    good = [answer for answer in seen.finals if 200 <= answer.status < 300 and answer.complete]
    statuses = [answer.status for answer in seen.finals]
    if case.verdict == "forward":
        findings.rule(len(clean) != case.requests, f"upstream saw {len(clean)} clean requests of {case.requests}")
        if not case.answer_optional:
            weight = findings.advice if seen.cut_off else findings.rule
            weight(
                len(good) != case.requests,
                f"client saw {len(good)} good answers of {case.requests}: {statuses[:5]}",
            )
        extra = statuses[case.requests :]
        allowed = 1 if case.then_refusal and all(status in REFUSALS for status in extra) else 0
        findings.advice(len(extra) > allowed, f"answers to requests that were not sent: {extra[:3]}")
        findings.safety(seen.timed_out and not good, f"hang: no answer in {seen.elapsed_s:.1f} s")
    elif not case.answer_optional:
        findings.safety(clean and not statuses and not seen.closed, "request forwarded but never answered")
    _check_order(seen, findings)
    if (case.close or case.old_client) and not seen.closed and "keep-alive" not in case.id:
        weight = findings.rule if case.close == "must" else findings.advice
        weight(True, "connection not closed after the answer")
    if clean:
        check_arrival(case.arrival, clean, findings)


def _check_order(seen: Observation, findings: Findings) -> None:
    """Answers must come in the order of the requests; those of a pipeline are numbered in their query."""
    numbers = [
        int(match[1])
        for answer in seen.finals
        if (echoed := answer.get("x-oracle-target")) and (match := re.search(rb"\?(\d+)$", echoed[0]))
    ]
    findings.safety(numbers != sorted(set(numbers)), f"answers out of order: {numbers[:8]}")
