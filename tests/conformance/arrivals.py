"""Checks on what reached the upstream."""

from __future__ import annotations

import re

from .findings import Findings
from .grammar import values
from .model import Arrival, expand
from .strict_request import Request


def check_arrival(wanted: Arrival, requests: list[Request], findings: Findings) -> None:
    """Hold the first request to `wanted`; `absent` and the like look at all of them."""
    first = requests[0]
    target = re.sub(r"^https?://[^/?]+", "", first.target.decode("latin-1"), flags=re.IGNORECASE)
    for name, expected, got in (
        ("method", wanted.method, first.method.decode("latin-1")),
        ("version", wanted.version, first.version.decode("latin-1")),
        ("target", wanted.target, target),
        ("body", wanted.body, first.body.decode("latin-1")),
    ):
        findings.rule(expected is not None and expand(expected) != got, f"{name} became {got[:80]!r}")
    if wanted.target_matches is not None:
        # Either form of the target will do: RFC 9112 section 3.2.2 lets a gateway send both.
        fits = any(re.search(wanted.target_matches, form) for form in (target, first.target.decode("latin-1")))
        findings.rule(not fits, f"target became {first.target[:80]!r}")
    _check_headers(wanted, first, findings)
    _check_host(wanted, first, findings)
    _check_trailers(wanted, first, findings)
    findings.rule(wanted.at_most is not None and len(requests) > wanted.at_most, f"sent upstream {len(requests)} times")


def _check_headers(wanted: Arrival, first: Request, findings: Findings) -> None:
    for name, pattern in wanted.headers.items():
        got = first.get(name)
        joined = b", ".join(got).decode("latin-1")
        findings.rule(not got or not re.search(pattern, joined), f"{name} upstream: {joined[:60]!r}")
    for name in wanted.absent:
        findings.rule(first.get(name), f"{name} reached the upstream: {first.get(name)[:2]}")
    for name, only in wanted.only.items():
        findings.rule(any(v != only.encode() for v in first.get(name)), f"{name} upstream: {first.get(name)}")
    for name, banned in wanted.without.items():
        findings.safety(banned.encode() in first.get(name), f"{name}: {banned} reached the upstream")
    for name, lines in wanted.lines.items():
        findings.rule(first.get(name) != [line.encode("latin-1") for line in lines], f"{name} lines: {first.get(name)}")
    for name, members in wanted.members.items():
        # RFC 9110 section 5.3: lines of one name may be joined with commas, their order may not change.
        got = [part.strip() for value in first.get(name) for part in value.split(b",")]
        findings.rule(got != [member.encode("latin-1") for member in members], f"{name} members: {got[:5]}")
    if wanted.order:
        names = [name.decode() for name, _ in first.headers if name.decode() in wanted.order]
        findings.rule(names != list(wanted.order), f"header order became {names[:8]}")
    if wanted.te_announced and first.get("te"):
        options = b",".join(first.get("connection")).lower()
        findings.advice(b"te" not in options, "TE sent without Connection: te")


def _check_host(wanted: Arrival, first: Request, findings: Findings) -> None:
    hosts = [host.decode("latin-1") for host in first.get("host")]
    if wanted.host_without is not None:
        findings.rule(any(wanted.host_without in host for host in hosts), f"Host upstream: {hosts}")
    if wanted.host_agrees:
        authority = re.match(r"https?://([^/?]+)", first.target.decode("latin-1"), re.IGNORECASE)
        findings.safety(authority and hosts and authority[1] != hosts[0], "absolute target and Host disagree upstream")


def _check_trailers(wanted: Arrival, first: Request, findings: Findings) -> None:
    for name, pattern in wanted.trailers.items():
        got = b", ".join(values(first.trailers, name.encode())).decode("latin-1")
        findings.rule(not re.search(pattern, got), f"trailer {name} upstream: {got!r}")
    for name in wanted.no_trailers:
        findings.rule(values(first.trailers, name.encode()), f"trailer {name} reached the upstream")
