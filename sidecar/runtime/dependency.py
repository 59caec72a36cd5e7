"""A dependency: its settings, turned once into what a request needs, its policies, and what is counted of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from sidecar.config import Dependency as Settings
from sidecar.config import Metrics
from sidecar.counters import CANDIDATE_STATES, Counters
from sidecar.errors import Fallback, Refusal
from sidecar.policy.gate import Gate
from sidecar.policy.slots import Slots
from sidecar.policy.states import State, Transition
from sidecar.runtime import policies
from sidecar.runtime.admission import Admission, Waiter
from sidecar.runtime.deadlines import Deadlines
from sidecar.runtime.mirror import Mirror
from sidecar.runtime.trips import TripRecord, Trips
from sidecar.runtime.vitals import Vitals

OPEN_STATES = (State.OPEN, State.FORCED_OPEN)


class RequestLog(Protocol):
    """Who writes down that a request has ended."""

    def wants(self, status: int, rejected: bool, duration_s: float) -> bool:
        """Whether it writes this one down; asked for every request."""

    def write(
        self,
        dependency: str,
        method: bytes,
        target: bytes,
        status: int,
        code: str | None,
        attempts: int,
        duration_s: float,
        waited_s: float,
        trace_id: str | None,
        octets: list[int] | None = None,
    ) -> None:
        """Write it down; `octets` are those that a tunnel has relayed, to the dependency and to the application."""


class RefusalMemo(NamedTuple):
    """A refusal of the circuit that can be given again.

    Attributes:
        refusal: itself.
        generation: of the circuit when it was made.
        made_at: when, process time in seconds.
    """

    refusal: Refusal
    generation: int
    made_at: float


OnTransition = Callable[["Dependency", str | None, Transition, TripRecord | None], None]
"""Told of each transition: whose, of which candidate (None: the enforced circuit), and what it leaves behind when it
opens the enforced one."""


class Dependency:
    """One dependency of the application.

    Args:
        settings: its configuration.
        deadlines: the process's clock and wheel.
        vitals: of the process, for trip records.
        buckets_s: bounds of the histograms, in seconds; None for those that the configuration has by default.
        rng: uniform random numbers from 0 to 1, for jitter and ramps.
        on_transition: told of each transition of its circuit and of its candidates'.
        log: told of each request that has ended, if anybody is.
        fallback: what is answered in place of a refusal, made from the settings.

    Attributes:
        name: the key in the configuration.
        settings: the configuration itself.
        host_line: the Host field line that replaces the application's, led by CRLF; None keeps the application's.
        prefix: what a path must begin with to lose `strip` octets.
        strip: how many octets of the path a route by prefix takes away.
        max_body: octets of request body, or None for no limit.
        first_byte_s, idle_s, total_s, tunnel_s: timeouts in seconds.
        admission: who gets in.
        classifier: what the end of an attempt says.
        retry: when to try again; None for never.
        budget: of the retries.
        tunnels: those that stand or are being set up; a limit of 0 is none at all.
        counters: what has happened.
        trips: what each opening of the circuit has left behind.
        mirror: its circuit as a pybreaker.
        refusal_memo: the last refusal of its circuit; `proxy.refusals` keeps it.
    """

    __slots__ = (
        # as configured
        "first_byte_s",
        "host_line",
        "idle_s",
        "max_body",
        "max_response_head",
        "name",
        "prefix",
        "settings",
        "strip",
        "total_s",
        "tunnel_s",
        # policies
        "_on_transition",
        "_open_since",
        "admission",
        "budget",
        "classifier",
        "retry",
        "rng",
        "tunnels",
        # what they leave
        "counters",
        "fallback",
        "log",
        "mirror",
        "refusal_memo",
        "trips",
    )

    def __init__(
        self,
        settings: Settings,
        deadlines: Deadlines,
        vitals: Vitals | None = None,
        buckets_s: Sequence[float] | None = None,
        rng: Callable[[], float] = random.random,
        on_transition: OnTransition | None = None,
        log: RequestLog | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        self.settings = settings
        self.name = settings.name
        authority = settings.upstream[0].authority.encode("ascii")
        self.host_line: bytes | None = None if settings.preserve_host else b"\r\nHost: " + authority
        self.prefix = (settings.prefix or "").rstrip("/").encode("ascii")
        self.strip = len(self.prefix) if settings.strip_prefix else 0
        self.max_body: int | None = settings.max_body
        self.max_response_head: int = settings.max_response_head
        self.first_byte_s: float = settings.timeout.first_byte
        self.idle_s: float = settings.timeout.idle
        self.total_s: float = settings.timeout.total
        self.tunnel_s: float = settings.timeout.tunnel

        now = deadlines.read()
        self.rng = rng
        self._on_transition = on_transition
        self._open_since = now
        self.counters = Counters(Metrics().buckets if buckets_s is None else buckets_s)
        self.trips = Trips(self.name, (vitals or Vitals(deadlines)).read)
        self.mirror = Mirror(self.name)
        self.log = log
        self.classifier = policies.classifier(settings.circuit_breaker)
        self.retry = policies.retry_settings(settings.retry)
        self.budget = policies.retry_budget(settings.retry, now)
        self.tunnels = Slots(settings.max_tunnels)
        self.fallback = fallback
        self.refusal_memo: RefusalMemo | None = None
        gate: Gate[Waiter] = policies.enforced_gate(settings, now, rng, self._moved)
        candidates = policies.candidates(settings, now, rng, self._candidate_moved)
        self.admission = Admission(gate, candidates, deadlines)

    def __repr__(self) -> str:
        return f"<Dependency {self.name}>"

    def open_s(self, now: float) -> float:
        """For how many seconds the circuit has been open or forced open, in all."""
        is_open = self.admission.gate.breaker.state in OPEN_STATES
        return self.counters.open_s + (max(0.0, now - self._open_since) if is_open else 0.0)

    def fallback_for(self, code: str, method: bytes) -> Fallback | None:
        """What is answered in place of a refusal with `code`; None for the refusal itself."""
        keys = self.settings.fallback
        if method == b"CONNECT":  # whose client would take any 2xx for its tunnel
            return None
        if code not in keys.on or method.decode("ascii") not in keys.methods:
            return None
        return self.fallback

    def _moved(self, transition: Transition) -> None:
        counters = self.counters
        counters.transitions[transition.origin, transition.state, transition.reason] += 1
        self.mirror.follow(transition.state)
        record = None
        if transition.origin in OPEN_STATES:
            counters.open_s += transition.at - self._open_since
        if transition.state in OPEN_STATES:
            self._open_since = transition.at
            record = self.trips.note_trip(transition, self.admission.gate.breaker.settings)
        if self._on_transition is not None:
            self._on_transition(self, None, transition, record)
        if transition.state in OPEN_STATES:
            self.admission.flush(transition.at)

    def _candidate_moved(self, candidate: str) -> Callable[[Transition], None]:
        counts = self.counters.candidate_transitions.setdefault(candidate, dict.fromkeys(CANDIDATE_STATES, 0))

        def moved(transition: Transition) -> None:
            counts[transition.state] += 1
            if self._on_transition is not None:
                self._on_transition(self, candidate, transition, None)

        return moved
