"""pybreaker beside our own breaker: its states and its listeners, for whoever knows those.

It decides nothing and sees no call. At each transition it is put into the state that ours has come to, and tells its
listeners, so that a `pybreaker.CircuitBreakerListener` written for another program works here as well.
"""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from sidecar.policy.states import State

if TYPE_CHECKING:
    import pybreaker

log = logging.getLogger("sidecar.circuit")

_STATES = {
    State.CLOSED: "closed",
    State.OPEN: "open",
    State.HALF_OPEN: "half-open",
    State.FORCED_OPEN: "open",
    State.FORCED_CLOSED: "closed",
    State.DISABLED: "closed",
}
"""Our states in pybreaker's words, of which there are three."""


class Mirror:
    """The pybreaker of one dependency.

    Args:
        name: of the dependency, which is the name of the breaker too.

    Attributes:
        breaker: to hang listeners on (`add_listener`). To call through it, or to change its state, would be pointless.
    """

    __slots__ = ("breaker",)

    def __init__(self, name: str) -> None:
        self.breaker: pybreaker.CircuitBreaker = _pybreaker().CircuitBreaker(fail_max=sys.maxsize, name=name)

    def follow(self, state: State) -> None:
        """Our breaker has come to `state`. Told twice of the same, pybreaker would notify twice."""
        word = _STATES[state]
        breaker = self.breaker
        if breaker.current_state == word:
            return
        # pybreaker takes a state only when every listener has returned from being told of it, and what one raises
        # would end the request that brought the transition. So it moves alone, and they are told one by one.
        listeners, before = breaker.listeners, breaker.state
        for listener in listeners:
            breaker.remove_listener(listener)
        self._move(word)
        breaker.add_listeners(*listeners)
        for listener in listeners:
            try:
                listener.state_change(breaker, before, breaker.state)
            except Exception:  # somebody else's code; whatever it raises
                log.exception("a listener on the circuit of %s failed", breaker.name)

    def _move(self, word: str) -> None:
        breaker = self.breaker
        if word == "open":
            breaker.open()
        elif word == "half-open":
            breaker.half_open()
        else:
            breaker.close()


def _pybreaker() -> ModuleType:
    """pybreaker, without the Redis client that it would import where there is one: 25 MiB for a storage not used."""
    if "pybreaker" not in sys.modules and "redis" not in sys.modules:
        sys.modules["redis"] = None  # type: ignore[assignment]
        try:
            return importlib.import_module("pybreaker")
        finally:
            del sys.modules["redis"]
    return importlib.import_module("pybreaker")
