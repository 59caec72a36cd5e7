"""What a judge found, and the verdict that follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from .answers import Answer
from .model import Case
from .strict_request import Request


class Weight(IntEnum):
    """How much a finding weighs."""

    ADVICE = 1
    """A SHOULD: a warning whatever the case's level."""
    RULE = 2
    """The case's own expectation: fails or warns by the case's level."""
    SAFETY = 3
    """Smuggling, crossed answers, ambiguous octets, hangs: fails always."""


@dataclass
class Observation:
    """Everything that was seen of one case, from both of its sides."""

    finals: list[Answer]
    interims: list[Answer]
    garbage: bytes = b""
    closed: bool = False
    reset: bool = False
    cut_off: bool = False
    """The proxy closed while the client still wrote, which can cost the client the answer."""
    elapsed_s: float = 0.0
    timed_out: bool = False
    """The client's patience ended before the awaited answers came."""
    overstayed: bool = False
    """A case that may wait was still waiting when the proxy's own deadline had passed."""
    requests: list[Request] = field(default_factory=list)
    disturbances: list[str] = field(default_factory=list)
    canary: str = ""
    """Why the clean request after the case failed; empty when it did not."""
    reused: bool = False
    """Another request followed on the upstream connection."""


@dataclass
class Findings:
    """A growing list of findings with the verdict over them."""

    case: Case
    items: list[tuple[Weight, str]] = field(default_factory=list)

    def safety(self, condition: object, text: str) -> None:
        """Record `text` when `condition` holds: the case fails."""
        if condition:
            self.items.append((Weight.SAFETY, text))

    def rule(self, condition: object, text: str) -> None:
        """Record `text` when `condition` holds: the case fails, or warns when its level is should."""
        if condition:
            self.items.append((Weight.RULE, text))

    def advice(self, condition: object, text: str) -> None:
        """Record `text` when `condition` holds: the case warns."""
        if condition:
            self.items.append((Weight.ADVICE, text))

    @property
    def verdict(self) -> str:
        """PASS, WARN or FAIL."""
        heaviest = max((weight for weight, _ in self.items), default=None)
        if heaviest is None:
            return "PASS"
        if heaviest is Weight.SAFETY or (heaviest is Weight.RULE and self.case.level == "must"):
            return "FAIL"
        return "WARN"

    @property
    def reasons(self) -> list[str]:
        """Texts, the heaviest first."""
        return [text for _, text in sorted(self.items, key=lambda item: -item[0])]


def common_safety(case: Case, seen: Observation, findings: Findings) -> None:
    """What must hold for every case, whatever it is about."""
    findings.safety(seen.canary, f"canary: {seen.canary}")
    for text in seen.disturbances[:2]:
        findings.safety(True, f"left a poisoned upstream connection: {text}")
    findings.safety(seen.garbage and not case.bytes_ok, f"client got no HTTP: {seen.garbage[:40]!r}")
    for answer in seen.finals + seen.interims:
        findings.safety(answer.faults, f"ambiguous answer to the client: {'; '.join(answer.faults[:2])}")
        findings.advice(answer.remarks, "; ".join(answer.remarks[:2]))
    for request in seen.requests:
        findings.safety(
            request.complete and request.errors,
            f"ambiguous octets sent upstream: {'; '.join(request.errors[:2])}",
        )
        findings.safety(
            request.complete and request.method and not case.sends_method(request.method),
            f"the client sent no {request.method[:30]!r}",
        )
        findings.advice(request.remarks, f"sent upstream: {'; '.join(sorted(set(request.remarks))[:2])}")
    if case.old_client:
        findings.rule(seen.interims, "1xx sent to an HTTP/1.0 client")
        coded = any(answer.get("transfer-encoding") for answer in seen.finals)
        findings.safety(coded, "Transfer-Encoding sent to an HTTP/1.0 client")
    findings.safety(seen.overstayed, f"nothing for {seen.elapsed_s:.1f} s, past the proxy's own deadline")
    open_halves = [r for r in seen.requests if not (r.complete or r.aborted)]
    findings.advice(open_halves, "half a request left open upstream")
