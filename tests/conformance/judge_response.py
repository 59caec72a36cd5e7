"""The judge of response cases: what an upstream answers, and what the client may see of it."""

from __future__ import annotations

import re

from .answers import Answer
from .arrivals import check_arrival
from .findings import Findings, Observation, common_safety
from .model import Case, Delivery, expand

# RFC 9110 section 9.2.2: what these did once they may not do twice because an answer was lost.
_NOT_IDEMPOTENT = (b"POST", b"PATCH")


def judge_response(case: Case, seen: Observation) -> Findings:
    """Hold what was seen of a response case to its expectations."""
    findings = Findings(case)
    common_safety(case, seen, findings)
    final = seen.finals[0] if seen.finals else None
    statuses = [answer.status for answer in seen.finals]
    findings.safety(len(statuses) > case.requests, f"{len(statuses)} answers for {case.requests}: {statuses}")
    sent = [request for request in seen.requests if request.complete]
    findings.safety(len(sent) > case.requests and sent[0].method in _NOT_IDEMPOTENT, f"sent upstream {len(sent)} times")
    silent = final is None and not seen.closed and not seen.garbage
    findings.safety(silent, f"hang: no answer in {seen.elapsed_s:.1f} s")
    findings.safety(
        final is not None and not final.complete and not seen.closed,
        f"hang: the cut was not shown to the client in {seen.elapsed_s:.1f} s",
    )
    relayed = final is not None and _relayed(case.delivery, final)
    refused = final is None or final.status >= 500
    cut = refused or (final is not None and not final.complete and seen.closed)
    summary = _summary(final)
    match case.verdict:
        case "relay":
            findings.rule(not relayed, f"expected {case.delivery.status}, client got {summary}")
        case "bad-gateway":
            findings.rule(not refused, f"malformed answer relayed: {summary}")
        case "cut":
            findings.rule(not cut, f"a truncated answer looks whole: {summary}")
        case "either":
            gave_up = cut if case.phase == "body" else refused
            findings.rule(not (relayed or gave_up), f"neither relayed nor refused: {summary}")
    if refused and final is not None and not relayed:
        findings.advice(final.status not in (502, 503, 504), f"gateway error is {final.status}")
    if final is not None and relayed:
        _check_delivery(case.delivery, seen, final, findings)
    if sent:
        check_arrival(case.arrival, sent, findings)
    if seen.reused and case.arrival.reuse != "any":
        weight = findings.rule if case.arrival.reuse == "never" else findings.advice
        weight(True, "upstream connection used again with octets of unknown meaning behind it")
    if case.close and relayed and not seen.closed:
        weight = findings.rule if case.close == "must" else findings.advice
        weight(True, "connection not closed after the answer")
    return findings


def _relayed(wanted: Delivery, final: Answer) -> bool:
    body_fits = wanted.body is None or final.body == expand(wanted.body).encode("latin-1")
    return final.complete and final.status == wanted.status and body_fits


def _summary(final: Answer | None) -> str:
    if final is None:
        return "nothing"
    return f"{final.status} {final.framing} {final.body[:30]!r} {'whole' if final.complete else 'cut'}"


def _check_delivery(wanted: Delivery, seen: Observation, final: Answer, findings: Findings) -> None:
    for name, pattern in wanted.headers.items():
        got = b", ".join(final.get(name)).decode("latin-1")
        missing = not final.get(name) or not re.search(pattern, got)
        findings.rule(missing, f"{name} at the client: {got[:60]!r}")
    for name in wanted.absent:
        findings.rule(final.get(name), f"{name} reached the client: {final.get(name)[:2]}")
    for name, lines in wanted.lines.items():
        expected = [line.encode("latin-1") for line in lines]
        findings.rule(final.get(name) != expected, f"{name} lines: {final.get(name)}")
    if wanted.order:
        names = [name.decode() for name, _ in final.headers if name.decode() in wanted.order]
        findings.rule(names != list(wanted.order), f"header order became {names[:8]}")
    if wanted.interims is not None:
        got_interims = tuple(answer.status for answer in seen.interims)
        findings.rule(got_interims != wanted.interims, f"interim answers {got_interims}")
    findings.rule(wanted.framing and final.framing not in wanted.framing, f"framed by {final.framing}")
    if wanted.not_echoed:
        banned = wanted.not_echoed.encode("latin-1")
        findings.rule(banned in final.head, f"{wanted.not_echoed!r} reached the client")
