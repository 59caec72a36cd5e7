"""Other settings on live traffic: what they would have refused, without refusing anything.

A candidate is a gate without a queue that sees every call which was really made. It admits or refuses in its own name;
a call that it would have refused does not count for it, as if it had never been made. So on traffic that neither the
enforced policies nor the candidate refuse, its verdicts are those it would give if it were enforced. Two things it
cannot know, and says so. What the enforced policies refused it never saw: `unobserved` counts that. And whatever it
would have refused was made all the same, so the dependency bore a load that it would have been spared.
"""

from __future__ import annotations

from typing import Final

from sidecar.policy.classify import Classifier, End
from sidecar.policy.gate import Gate
from sidecar.policy.queue import Lack
from sidecar.policy.states import Permit

REASONS: Final = ("CIRCUIT_OPEN", "RATE_LIMITED", "CONCURRENCY_LIMITED")
"""Why a candidate would have refused a call; the codes of the refusals that it would have led to."""


class Candidate:
    """One alternative, beside what is enforced.

    Args:
        name: as configured; "shadow" for policies in the mode of that name.
        gate: its own.
        classifier: what is a failure in its eyes.

    Attributes:
        refused: how many calls it would have refused, in the order of `REASONS`.
        unobserved: how many calls the enforced policies refused, so that it never saw them.
    """

    __slots__ = ("classifier", "gate", "name", "refused", "unobserved")

    def __init__(self, name: str, gate: Gate[None], classifier: Classifier) -> None:
        self.name = name
        self.gate = gate
        self.classifier = classifier
        self.refused = [0] * len(REASONS)
        self.unobserved = 0

    def __repr__(self) -> str:
        return f"<Candidate {self.name} {self.gate!r} refused={self.refused} unobserved={self.unobserved}>"

    def enter(self, now: float) -> Permit | None:
        """A call is made. None when this candidate would have refused it."""
        permit = self.gate.enter(now)
        if permit is None:
            lack = self.gate.lack
            self.refused[0 if lack is None else 1 if lack is Lack.TOKEN else 2] += 1
        return permit

    def leave(self, permit: Permit, end: End, status: int, waited_s: float, now: float) -> None:
        """A call that it would have let in has ended; the arguments are those of `Classifier.outcome`."""
        self.gate.leave(permit, self.classifier.outcome(end, status, waited_s), now)
