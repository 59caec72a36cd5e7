"""Why a policy refused a request, in words: which policy, its setting, its present value, and when to come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.errors import CircuitOpen, ConcurrencyLimited, RateLimited, Refusal
from sidecar.policy.queue import Lack
from sidecar.policy.states import BreakerSettings, Reason, State, Transition
from sidecar.runtime.deadlines import TICK_S
from sidecar.runtime.dependency import RefusalMemo

if TYPE_CHECKING:
    from sidecar.runtime.dependency import Dependency

_SLOT_S: Final = 1.0
"""When to come back for a slot: nobody knows when one will be free, so this is the least that Retry-After can say."""


def turned_away(dependency: Dependency, lack: Lack | None, waited_s: float | None, now: float) -> Refusal:
    """The refusal for a request that did not get in.

    Args:
        dependency: which.
        lack: what it lacked; None where the circuit refused it.
        waited_s: how long it stood in the queue, in seconds; None where it never did.
        now: present process time in seconds.
    """
    if lack is None:
        return _circuit_open_once_a_tick(dependency, now)
    if lack is Lack.TOKEN:
        return _rate_limited(dependency, waited_s, now)
    return _concurrency_limited(dependency, waited_s)


def no_tunnel_left(name: str, limit: int) -> Refusal:
    """The refusal for a tunnel too many."""
    return ConcurrencyLimited(
        f"{limit} tunnels to {name} stand or are being set up, and no more may (max_tunnels); "
        "when one ends is not known",
        _SLOT_S,
    )


def _rate_limited(dependency: Dependency, waited_s: float | None, now: float) -> Refusal:
    bucket = dependency.admission.gate.bucket
    assert bucket is not None, "a token is lacked only where there is a bucket"
    wait_s = bucket.wait(now)
    keys = dependency.settings.rate_limit
    share = f", this replica's share of 1/{keys.share}" if keys.share != 1 else ""
    return RateLimited(
        f"{dependency.name} is limited to {_rate(bucket.rate)} with bursts of {bucket.burst:g} "
        f"(rate_limit.rate{share}); {_queue(dependency, waited_s)}the next token comes in {wait_s:.3f} s",
        wait_s,
    )


def _concurrency_limited(dependency: Dependency, waited_s: float | None) -> Refusal:
    slots = dependency.admission.gate.slots
    assert slots is not None, "a slot is lacked only where they are counted"
    return ConcurrencyLimited(
        f"{slots.in_use} requests to {dependency.name} are under way and {slots.limit} may be (concurrency.limit); "
        f"{_queue(dependency, waited_s)}when one ends is not known",
        _SLOT_S,
    )


def _queue(dependency: Dependency, waited_s: float | None) -> str:
    queue = dependency.admission.gate.queue
    if waited_s is not None:
        return f"it waited {waited_s:.3f} s in the queue in vain (queue.max_wait {queue.max_wait_s:g} s); "
    if queue.limit and queue.max_wait_s and len(queue) >= queue.limit:  # what never waits has found room
        return f"all {queue.limit} places in the queue are taken (queue.limit); "
    return ""


def _rate(per_s: float) -> str:
    return f"{per_s:g} requests a second" if per_s >= 1 else f"{per_s * 60:g} requests a minute"


def _circuit_open_once_a_tick(dependency: Dependency, now: float) -> Refusal:
    """The refusal of the circuit, the same for all requests of a tick of the coarse clock.

    Under an open circuit a refusal should cost next to nothing, and what it says does not change in a few milliseconds.
    """
    memo = dependency.refusal_memo
    generation = dependency.admission.gate.breaker.generation
    if memo is not None and memo.generation == generation and memo.made_at <= now < memo.made_at + TICK_S:
        return memo.refusal
    refusal = _circuit_open(dependency, now)
    dependency.refusal_memo = RefusalMemo(refusal, generation, now)
    return refusal


def _circuit_open(dependency: Dependency, now: float) -> Refusal:
    breaker = dependency.admission.gate.breaker
    name, wait_s = dependency.name, breaker.retry_after(now)
    if breaker.state is State.FORCED_OPEN:
        what = f"the circuit of {name} is held open by hand"
        when = "until somebody says otherwise" if breaker.until == float("inf") else f"for {wait_s:.3f} s more"
        return CircuitOpen(f"{what} {when}", wait_s)
    if breaker.state is State.HALF_OPEN:
        trials = breaker.settings.trials
        return CircuitOpen(
            f"the circuit of {name} is half-open: all of its {trials} trials (half_open.trials) are under way; "
            "it closes or opens when they have ended",
            wait_s,
        )
    if breaker.state is State.OPEN:
        return CircuitOpen(
            f"the circuit of {name} has been open for {now - breaker.since:.3f} s{_cause(dependency)}; "
            f"it probes in {wait_s:.3f} s",
            wait_s,
        )
    share = breaker.ramp_share(now)
    return CircuitOpen(
        f"the circuit of {name} has closed and lets traffic back slowly, {share:.0%} of it at present "
        f"(half_open.ramp); all of it in {(1.0 - share) * breaker.settings.ramp_s:.3f} s",
        wait_s,
    )


def _cause(dependency: Dependency) -> str:
    """What opened the circuit, led by a comma; nothing where no record is there."""
    records = dependency.trips.records
    if not records:
        return ""
    return f", because of {cause(records[-1].transition, records[-1].thresholds)}"


def cause(transition: Transition, settings: BreakerSettings) -> str:
    """Why a circuit opened, with the values that were compared."""
    counts = transition.counts
    if transition.reason is Reason.CONSECUTIVE_FAILURES:
        return f"{transition.consecutive} failures in a row (consecutive_failures: {settings.consecutive_failures})"
    if transition.reason is Reason.FAILURE_RATE and settings.failure_rate is not None:
        rule = settings.failure_rate
        shown, where = (counts, "") if rule.broken_by(counts.calls, counts.failures) else (transition.newest, " lately")
        limit = f"(failure_rate.threshold: {_share(rule.threshold)})"
        return f"{shown.failures} failures in {shown.calls} calls{where} {limit}"
    if transition.reason is Reason.SLOW_CALLS and settings.slow_calls is not None:
        return (
            f"{counts.slow} slow calls in {counts.timed} (slow_calls.threshold: "
            f"{_share(settings.slow_calls.threshold)}, slower_than: {settings.slower_than_s or 0.0:g} s)"
        )
    if transition.reason is Reason.TRIALS_SLOW and settings.slow_calls is not None:
        return (
            "trials that succeeded, but were as slow as what had opened it (slow_calls.threshold: "
            f"{_share(settings.slow_calls.threshold)}, slower_than: {settings.slower_than_s or 0.0:g} s)"
        )
    if transition.reason is Reason.TRIAL_FAILED:
        return "a trial that failed while it was half-open"
    return str(transition.reason.value).replace("_", " ")


def _share(ratio: float) -> str:
    """A ratio as the YAML has it."""
    return f"{ratio * 100:.6g}%"
