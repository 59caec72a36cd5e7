"""pybreaker beside our breaker: its listeners hear of every transition once, and decide nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pybreaker
import pytest

from sidecar.app import App
from sidecar.config import load_text
from sidecar.policy.classify import End
from sidecar.policy.states import Outcome, State
from sidecar.runtime.mirror import Mirror
from tests.e2e.harness import PATIENCE_S, ROOT
from tests.runtime.door import Door

FAILURE, SUCCESS = Outcome.FAILURE, Outcome.SUCCESS
BRITTLE = {"consecutive_failures": 1, "half_open": {"trials": 1, "successes": 1}}


class Diary(pybreaker.CircuitBreakerListener):
    """A listener as somebody else would write it."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str, str]] = []

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self.changes.append((cb.name, old_state.name, new_state.name))

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("no call goes through it")

    @property
    def states(self) -> list[str]:
        return [state for _, _, state in self.changes]


class Faulty(pybreaker.CircuitBreakerListener):
    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        raise RuntimeError("the pager is unreachable")


@pytest.fixture
def listened() -> tuple[Door, Diary]:
    door, diary = Door(circuit_breaker=BRITTLE), Diary()
    door.dependency.mirror.breaker.add_listener(diary)
    return door, diary


def test_listener_hears_of_each_transition_once(listened: tuple[Door, Diary]) -> None:
    door, diary = listened
    door.calls(FAILURE)
    door.passes(31)
    door.calls(SUCCESS)
    assert diary.changes == [
        ("payments", "closed", "open"),
        ("payments", "open", "half-open"),
        ("payments", "half-open", "closed"),
    ]
    for _ in range(100):
        door.calls(SUCCESS)
    assert len(diary.changes) == 3


def test_forced_states_are_open_and_closed_to_it(listened: tuple[Door, Diary]) -> None:
    door, diary = listened
    for state in (State.FORCED_CLOSED, State.FORCED_OPEN, State.FORCED_CLOSED, State.FORCED_OPEN):
        door.do(door.gate.breaker.force, state, door.now)
    door.do(door.gate.breaker.release, door.now)
    assert diary.states == ["open", "closed", "open", "closed"]


def test_open_circuit_that_is_forced_open_does_not_open_again(listened: tuple[Door, Diary]) -> None:
    door, diary = listened
    door.calls(FAILURE)
    door.do(door.gate.breaker.force, State.FORCED_OPEN, door.now)
    assert diary.states == ["open"]


def test_it_never_moves_by_itself(listened: tuple[Door, Diary]) -> None:
    door, diary = listened
    door.calls(FAILURE)
    assert door.dependency.mirror.breaker.current_state == "open"
    door.passes(29)
    assert door.dependency.mirror.breaker.current_state == "open"
    assert diary.states == ["open"]


def test_candidates_are_not_mirrored() -> None:
    door, diary = Door(circuit_breaker=BRITTLE | {"mode": "shadow"}), Diary()
    door.dependency.mirror.breaker.add_listener(diary)
    permit = door.gets_in()
    observed = door.do(door.admission.observe, door.now)
    door.do(door.admission.end_observed, observed, End.RESET, 0, 0.0, door.now)
    door.leaves(permit, FAILURE)
    assert [(name, state) for _, name, state in door.transitions] == [("shadow", State.OPEN)]
    assert diary.changes == []


@pytest.mark.parametrize("state", State)
def test_each_state_of_ours_is_one_of_its_three(state: State) -> None:
    mirror = Mirror("payments")
    mirror.follow(state)
    expected = {"open": "open", "forced_open": "open", "half_open": "half-open"}.get(state.value, "closed")
    assert mirror.breaker.current_state == expected


def test_listener_that_fails_fails_no_request(listened: tuple[Door, Diary], caplog: pytest.LogCaptureFixture) -> None:
    door, before = listened
    faulty, behind = Faulty(), Diary()
    breaker = door.dependency.mirror.breaker
    breaker.add_listeners(faulty, behind)
    with caplog.at_level(logging.ERROR):
        door.calls(FAILURE)
    assert "pager is unreachable" in caplog.text
    assert "a listener on the circuit of payments failed" in caplog.messages
    door.passes(31)
    door.calls(SUCCESS)
    assert door.states == [State.OPEN, State.HALF_OPEN, State.CLOSED]
    assert before.states == behind.states == ["open", "half-open", "closed"]
    assert breaker.listeners == (before, faulty, behind)


def test_app_hands_out_the_breaker_of_a_dependency() -> None:
    config = load_text("dependencies: {a: {upstream: 'http://a'}, b: {upstream: 'http://b'}}", environ={}).config
    app, diary = App(config), Diary()
    app.circuit("b").add_listener(diary)
    assert (app.circuit("a").name, app.circuit("b").name) == ("a", "b")
    assert app.circuit("b").listeners == (diary,)
    with pytest.raises(KeyError):
        app.circuit("c")


def test_redis_is_imported_by_nothing_even_where_it_is_installed(tmp_path: Path) -> None:
    """And stays importable for whoever wants it."""
    package = tmp_path / "redis"
    package.mkdir()
    (package / "__init__.py").write_text("print('redis imported')\nclass Redis: ...\n")
    (package / "exceptions.py").write_text("class RedisError(Exception): ...\n")
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from sidecar.app import App
from sidecar.config import load_text
keys = "upstream: 'http://a', rate_limit: {{rate: 1/second}}, retry: {{attempts: 2}}"
app = App(load_text("dependencies: {{a: {{" + keys + "}}}}", environ={{}}).config)
assert app.circuit("a").current_state == "closed"
assert "pybreaker" in sys.modules and "redis" not in sys.modules
print("nothing so far")
import redis
print(redis.Redis.__name__)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["nothing so far", "redis imported", "Redis"]


def test_redis_that_is_there_already_is_left_alone() -> None:
    script = """
import sys, types
sys.modules["redis"] = theirs = types.ModuleType("redis")
exceptions = types.ModuleType("redis.exceptions")
exceptions.RedisError = theirs.RedisError = Exception
theirs.Redis = object
sys.modules["redis.exceptions"] = exceptions
from sidecar.runtime.mirror import Mirror
Mirror("a")
assert sys.modules["redis"] is theirs
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, "")
