"""The admission of one dependency on a clock moved by hand, with a diary of what it tells whoever waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sidecar.config import Dependency as Settings
from sidecar.config import load_text
from sidecar.policy.queue import Lack
from sidecar.policy.states import Outcome, Permit, State, Transition
from sidecar.runtime.deadlines import TICK_S, Deadlines
from sidecar.runtime.dependency import Dependency
from tests.proxy.transcript import Clock, StageLoop


def settings_of(**keys: Any) -> Settings:
    """What the configuration makes of `keys` of a dependency."""
    document = {"dependencies": {"payments": {"upstream": "http://payments", **keys}}}
    return load_text(json.dumps(document), "door", {}).config.dependencies["payments"]


class Caller:
    """Whoever wants in; `told` has what became of it, and of all others."""

    def __init__(self, door: Door, name: str) -> None:
        self._door = door
        self._name = name
        self.permit: Permit | None = None

    def on_admitted(self, permit: Permit, now: float) -> None:
        self.permit = permit
        self._door.told.append((self._name, "in"))

    def on_turned_away(self, lack: Lack | None, now: float) -> None:
        self._door.told.append((self._name, "circuit" if lack is None else lack.value))


class Door:
    """The dependency, its clock and its loop.

    Attributes:
        told: names of callers that have waited, and "in" or what they have waited for in vain.
        transitions: when, of which candidate (None: the enforced circuit), and where to.
    """

    def __init__(self, **keys: Any) -> None:
        self.clock = Clock()
        self.loop = StageLoop(self.clock)
        self.deadlines = Deadlines(self.clock)
        self.began = self.deadlines.now
        self.told: list[tuple[str, str]] = []
        self.transitions: list[tuple[float, str | None, State]] = []
        self.dependency = Dependency(
            settings_of(**keys), self.deadlines, rng=lambda: 0.5, on_transition=self._note_transition
        )
        self.admission = self.dependency.admission
        self.gate = self.admission.gate

    def _note_transition(self, _: object, candidate: str | None, transition: Transition, __: object) -> None:
        self.transitions.append((self.deadlines.now - self.began, candidate, transition.state))

    @property
    def now(self) -> float:
        return self.deadlines.read()

    @property
    def states(self) -> list[State]:
        """Where the enforced circuit has come to, one after another."""
        return [state for _, candidate, state in self.transitions if candidate is None]

    def do(self, step: Callable[..., Any], *args: Any) -> Any:
        with self.loop.running():
            return step(*args)

    def enters(self) -> Permit | None:
        return self.do(self.admission.enter, self.now)

    def gets_in(self) -> Permit:
        permit = self.enters()
        assert permit is not None, f"{self.gate!r} refuses"
        return permit

    def waits(self, name: str) -> Caller:
        """One who does not get in stands in the queue."""
        caller = Caller(self, name)
        assert self.enters() is None
        assert self.do(self.admission.wait, caller, self.now), "there is room"
        return caller

    def leaves(self, permit: Permit, outcome: Outcome = Outcome.SUCCESS) -> None:
        self.do(self.admission.leave, permit, outcome, self.now)

    def calls(self, *outcomes: Outcome) -> None:
        """Calls one after another, each at once over."""
        for outcome in outcomes:
            self.leaves(self.gets_in(), outcome)

    def passes(self, seconds: float) -> None:
        """Let time pass, tick by tick and timer by timer."""
        end = self.clock.seconds + seconds
        while self.clock.seconds < end:
            timer = min((timer.when() for timer in self.loop.timers), default=end)
            self.clock.seconds = min(end, self.clock.seconds + TICK_S, max(timer, self.clock.seconds))
            self.loop.ring()
            self.do(self.deadlines.advance)

    def closes(self) -> None:
        """The sidecar stops: nothing of this door is left on the loop or in the wheel."""
        self.do(self.admission.close)
        assert self.loop.timers == []
        assert self.deadlines.watched == 0
