"""Hold an HTTP/1.1 reverse proxy to the corpus.

    python -m tests.conformance.runner --proxy 127.0.0.1:8080 --upstream 127.0.0.1:9000

The runner is the upstream: it listens on --upstream, where the proxy's only backend must point. The
proxy must route `Host: sidecar.test` and any path there. Cases run concurrently; each is followed by a
clean canary request while its own connection is still open, and is judged when all have ended, so that
a request that reaches the upstream late still counts. Exit status 1 when a case fails, 2 when the proxy
cannot be used at all.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .client import Address, Conversation
from .findings import Findings, Observation
from .judge_request import judge_request, was_refused
from .judge_response import judge_response
from .model import Case, load, selected
from .upstream import Recorder


@dataclass(frozen=True)
class Options:
    """How a run goes about it."""

    split: int = 0
    """Octets per write, on the client's side and on the upstream's; 0 writes in one piece."""
    width: int = 24
    """Cases in flight. Those that wait for the proxy's own timeouts come on top: they cost nothing."""
    patience_s: float = 5.0
    """Silence longer than this is a hang."""
    close_grace_s: float = 1.5
    """How long a connection that must end may take to, after its answer; one that should is given 1.5 s at most."""
    deadline_s: float | None = None
    """The proxy's own longest timeout for an unfinished request; None lets such a request wait for ever."""
    linger_s: float = 0.1
    """How long the upstream listens on after the last case, for what the proxy sends by itself."""
    idle_s: float = 1.2
    """How long an unfinished request is watched when there is no deadline."""
    impatient: Address | None = None
    """Another port of the proxy, with the short timeouts that unfinished requests are there for."""


@dataclass
class Result:
    """A case with what was seen and what the judge found."""

    case: Case
    seen: Observation
    findings: Findings

    @property
    def failed(self) -> bool:
        """Whether the proxy broke a rule."""
        return self.findings.verdict == "FAIL"

    def __str__(self) -> str:
        statuses = ",".join(str(answer.status) for answer in self.seen.finals[:6])
        client = statuses or ("closed" if self.seen.closed else "silent")
        parsed = sum(request.complete for request in self.seen.requests)
        reasons = "; ".join(self.findings.reasons) or "as it should be"
        case = self.case
        return (
            f"{self.findings.verdict:4} {case.id:28} {case.verdict:11} client {client}, upstream {parsed}"
            f"/{len(self.seen.requests)}: {reasons} [{case.rfc}: {case.why}]"
        )


class ProxyUnusable(RuntimeError):
    """Not even a clean request passes; the text says what came instead."""


def listen(address: Address) -> socket.socket:
    """A listening socket for the upstream; port 0 lets the kernel choose."""
    return socket.create_server(address, backlog=1024)


async def run(
    cases: Sequence[Case], proxy: Address, listener: socket.socket, options: Options = Options()
) -> list[Result]:
    """Run cases against the proxy and judge them.

    Args:
        cases: of both kinds, mixed as one likes.
        proxy: address of the proxy under test.
        listener: socket of the upstream that the proxy forwards to.
        options: see `Options`.

    Raises:
        ProxyUnusable: the first clean request did not come through, or the last one and no case says why.
    """
    async with Recorder(listener, cases, options.split) as recorder:
        if fault := await _canary(proxy, "start", options.patience_s):
            raise ProxyUnusable(fault)
        crowd = asyncio.Semaphore(options.width)

        async def one(case: Case) -> Observation:
            if case.may_wait:
                return await _observe(case, proxy, recorder, options)
            async with crowd:
                return await _observe(case, proxy, recorder, options)

        # Those that wait go first, or the run would end with a pause as long as the proxy's timeout.
        patient_first = sorted(cases, key=lambda case: not case.may_wait)
        observations = await asyncio.gather(*map(one, patient_first))
        # Once per run rather than per case: requests that come late are charged to their cases all the same.
        await asyncio.sleep(options.linger_s)
        await recorder.settled(timeout_s=1.0)
        fault = await _canary(proxy, "end", options.patience_s)
        seen = {case.id: observation for case, observation in zip(patient_first, observations, strict=True)}
        _charge_poisoners(seen)
        results = [_judge(case, seen[case.id], recorder) for case in cases]
    if fault and not any(result.failed for result in results):
        raise ProxyUnusable(f"after the last case: {fault}")
    return results


async def _observe(case: Case, proxy: Address, recorder: Recorder, options: Options) -> Observation:
    recorder.running.add(case.id)
    address = options.impatient if case.may_wait and options.impatient is not None else proxy
    try:
        async with Conversation(address, _methods(case)) as talk:
            talk.start_sending(case.steps, split=options.split, half_close=case.half_close)
            enough, overstayed = await _await_outcome(case, talk, options)
            elapsed_s = talk.elapsed_s
            # The connection stays open: a smuggled request would be read from it only now.
            canary = talk.refused_connection or await _canary(proxy, case.id, options.patience_s)
            received = talk.received
            return Observation(
                finals=received.finals,
                interims=received.interims,
                garbage=received.garbage,
                closed=talk.ended,
                reset=talk.reset,
                cut_off=talk.cut_off,
                elapsed_s=elapsed_s,
                timed_out=not enough,
                overstayed=overstayed,
                canary=canary,
            )
    finally:
        recorder.running.discard(case.id)


async def _await_outcome(case: Case, talk: Conversation, options: Options) -> tuple[bool, bool]:
    """Wait for answers, then for the end where it matters; (answered or ended, overstayed)."""
    wanted = case.requests if case.verdict in ("forward", "either", "relay") else 1

    def answered(talk: Conversation) -> bool:
        received = talk.received
        refused = any(a.complete and a.status >= 400 for a in received.finals) and wanted > 1
        return talk.ended or received.complete >= wanted or bool(received.garbage) or refused

    if case.may_wait:
        watch_s = options.idle_s if options.deadline_s is None else options.deadline_s
        enough = await talk.until(answered, watch_s)
        overstayed = not enough and options.deadline_s is not None
    else:
        enough, overstayed = await talk.until(answered, options.patience_s), False
    refused = any(status >= 400 for status in talk.received.statuses)
    if enough and (case.awaits_close or (refused and wanted > 1)):
        gave_up = any(status >= 500 for status in talk.received.statuses)
        must_end = case.close == "must" or (case.verdict == "cut" and not gave_up)
        grace_s = options.close_grace_s if must_end else min(options.close_grace_s, 1.5)
        await talk.until(lambda talk: talk.ended, grace_s)
    return enough or talk.ended, overstayed


async def _canary(proxy: Address, mark: str, patience_s: float) -> str:
    """Send a clean request on a connection of its own; empty when its own answer came back."""
    target = f"/canary/{mark}"
    head = f"GET {target} HTTP/1.1\r\nHost: sidecar.test\r\nConnection: close\r\n\r\n"
    async with Conversation(proxy) as talk:
        if talk.refused_connection:
            return f"proxy gone ({talk.refused_connection})"
        talk.start_sending([head])
        await talk.until(lambda talk: talk.received.complete > 0, patience_s)
        received = talk.received
        if received.statuses != [200] or not received.complete:
            return f"answered {received.statuses}, received {talk.buffer[:80]!r}"
        if received.finals[0].body != target.encode():
            return f"got another's answer: {received.finals[0].body[:60]!r}"
        return ""


def _methods(case: Case) -> tuple[str, ...]:
    """Methods of the case's requests, as far as they change how an answer is read."""
    first = case.steps[0] if case.steps else ""
    return case.methods or (("HEAD",) if isinstance(first, str) and first.startswith("HEAD ") else ())


def _charge_poisoners(seen: Mapping[str, Observation]) -> None:
    """An unasked-for answer names its case in its body; whoever received it was the victim, not the cause."""
    for victim, observation in seen.items():
        texts = [observation.canary.encode(), *(answer.body for answer in observation.finals)]
        for culprit in re.findall(rb"poison:([a-z0-9-]+)", b" ".join(texts)):
            if culprit.decode() in seen:
                seen[culprit.decode()].disturbances.append(f"its unasked-for answer went to {victim}")


def _judge(case: Case, seen: Observation, recorder: Recorder) -> Result:
    seen.requests = recorder.of(case.id)
    seen.disturbances += recorder.disturbances(case.id)
    seen.reused = any(recorder.reused(request) for request in seen.requests)
    judge = judge_request if case.answer is None else judge_response
    findings = judge(case, seen)
    for request, suspects in recorder.strays:
        findings.safety(case.id in suspects, f"of no case, yet sent upstream: {request.raw[:60]!r}")
    return Result(case, seen, findings)


def report(results: Sequence[Result]) -> str:
    """Failures and warnings in full, then counts by category."""
    lines = [str(result) for result in results if result.findings.verdict != "PASS"]
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        table[result.case.category][result.findings.verdict] += 1
        table["all"][result.findings.verdict] += 1
    lines.append(f"\n{'category':20}{'PASS':>6}{'WARN':>6}{'FAIL':>6}")
    rows = sorted(table, key=lambda name: (name == "all", name))
    verdicts = ("PASS", "WARN", "FAIL")
    lines += [f"{name:20}" + "".join(f"{table[name][verdict]:6}" for verdict in verdicts) for name in rows]
    preferred = [result for result in results if result.case.prefer == "refuse"]
    if preferred:
        refused = sum(was_refused(result.seen) for result in preferred)
        lines.append(f"strictness: {refused} of {len(preferred)} better-refused cases were refused")
    return "\n".join(lines)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="runner", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--proxy", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--upstream", type=_address, default=("127.0.0.1", 9000), metavar="HOST:PORT")
    parser.add_argument("--kind", choices=("requests", "responses", "both"), default="both")
    parser.add_argument("--only", metavar="REGEX", help="of ids or categories")
    parser.add_argument("--split", type=int, default=0, metavar="N", help="write N octets at a time")
    parser.add_argument("--promises", action="store_true", help="judge what this sidecar promises, too")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="when unfinished requests must end")
    parser.add_argument("--width", type=int, default=Options.width, help="cases in flight")
    parser.add_argument("-v", "--verbose", action="store_true", help="print passed cases, too")
    args = parser.parse_args(argv)
    cases = [
        case
        for kind in ("requests", "responses")
        if args.kind in (kind, "both")
        for case in selected(load(kind, promises=args.promises), args.only)
    ]
    options = Options(split=args.split, width=args.width, deadline_s=args.deadline)
    started = time.monotonic()
    with listen(args.upstream) as listener:
        try:
            results = asyncio.run(run(cases, args.proxy, listener, options))
        except ProxyUnusable as error:
            print(f"proxy not usable: {error}", file=sys.stderr)
            return 2
    if args.verbose:
        print("\n".join(str(result) for result in results if result.findings.verdict == "PASS"))
    print(report(results))
    print(f"{len(results)} cases in {time.monotonic() - started:.1f} s")
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
