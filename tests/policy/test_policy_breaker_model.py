"""The breaker against a model that remembers everything and works everything out anew each time.

The model shares no code with the breaker: it keeps lists of what happened with the time at which it did, and filters
them. All times are eighths of a second, which floats add without rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.policy.breaker import CircuitBreaker
from sidecar.policy.states import BreakerSettings, Outcome, Permit, RateRule, State

BUCKET_S = 1.0  # of a window of 10 s


@dataclass(eq=False)
class Call:
    """One admitted call and all that happened to it."""

    generation: int
    trial: bool
    admitted: float
    sent: float | None = None
    head: float | None = None
    late: bool = False
    noticed: bool = False  # as hanging
    lease: bool = True
    judged: bool = False
    over: bool = False


@dataclass
class Model:
    """What a breaker should do."""

    s: dict[str, Any]
    now: float
    state: str = "closed"
    since: float = 0.0
    until: float | None = None
    moves: list[tuple[str, str]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outcomes: list[tuple[float, bool]] = field(default_factory=list)  # (when, failed), since last cleared
    speeds: list[tuple[float, bool]] = field(default_factory=list)  # (when, slow)
    everything: list[bool] = field(default_factory=list)  # failed, since last cleared
    opened: int = 0
    ramp: float | None = None

    # -- derived

    @property
    def generation(self) -> int:
        return len(self.moves)

    @property
    def mine(self) -> list[Call]:
        return [call for call in self.calls if call.generation == self.generation]

    @property
    def out(self) -> list[Call]:
        return [call for call in self.mine if call.trial and call.lease and not call.over]

    @property
    def timed(self) -> bool:
        return self.s["slow"] is not None

    @property
    def hanging(self) -> list[Call]:
        if not self.timed:
            return []
        return [
            call
            for call in self.mine
            if not call.trial
            and not call.over
            and call.head is None
            and call.sent is not None
            and call.sent + self.s["slower_than"] <= self.now
        ]

    @property
    def run(self) -> int:
        backwards = self.everything[::-1]
        return backwards.index(False) if False in backwards else len(backwards)

    def last(self, events: list[tuple[float, bool]], buckets: int) -> list[bool]:
        size = self.s["window_calls"]
        if size is not None:
            return [bad for _, bad in events[-size:]] if buckets == 10 else []
        return [bad for at, bad in events if at // BUCKET_S > self.now // BUCKET_S - buckets]

    # -- what happens

    def tick(self) -> None:
        if self.state == "open" and self.now >= self.until:
            self.move("half_open")
        elif self.state.startswith("forced") and self.until is not None and self.now >= self.until:
            self.opened = 0
            self.move("closed")
        if self.state == "half_open":
            for call in self.out:
                if call.admitted + self.s["max_wait"] <= self.now and self.state == "half_open":
                    call.lease = False
                    if call.head is not None:
                        self.judge_trial(call, failed=False)
        new = [call for call in self.hanging if not call.noticed]
        for call in new:
            call.noticed = True
        if new:
            self.judge()

    def admits(self) -> bool:
        if self.state in ("open", "forced_open"):
            return False
        if self.state == "half_open":
            return len(self.out) < self.s["trials"]
        if self.ramp is not None and self.now - self.ramp < self.s["ramp"]:
            return (self.now - self.ramp) / self.s["ramp"] > 0.5  # the random number is always one half
        return True

    def admit(self) -> Call:
        call = Call(self.generation, self.state == "half_open", self.now)
        self.calls.append(call)
        return call

    def answer(self, call: Call) -> None:
        if call.head is not None:
            return
        hung = call in self.hanging
        call.head = self.now
        if not self.timed:
            return
        call.late = hung or (call.sent is not None and self.now - call.sent >= self.s["slower_than"])
        if call.generation == self.generation and not call.trial:
            self.speeds.append((self.now, call.late))
            if call.late:
                self.judge()

    def end(self, call: Call, outcome: str) -> None:
        if call.generation == self.generation and outcome != "ignored":
            self.answer(call)
        call.over = True
        if call.generation != self.generation or outcome == "ignored":
            return
        failed = outcome == "failure"
        if call.trial:
            if not call.judged:
                self.judge_trial(call, failed)
            return
        self.outcomes.append((self.now, failed))
        self.everything.append(failed)
        if failed:
            self.judge()

    def judge_trial(self, call: Call, failed: bool) -> None:
        call.judged = True
        good = [trial for trial in self.mine if trial.trial and trial.judged]
        if failed:
            self.open()
        elif len(good) >= self.s["successes"]:
            late = sum(trial.late for trial in good)
            if self.timed and late and late / len(good) >= self.s["slow"][0]:
                self.open()
            else:
                self.move("closed")

    def judge(self) -> None:
        if self.state != "closed":
            return
        hung = [True] * len(self.hanging)

        def broken(rule: tuple[float, int] | None, events: list[tuple[float, bool]], more: list[bool]) -> bool:
            if rule is None:
                return False
            threshold, least = rule
            if self.s["window_calls"] is not None:
                least = min(least, self.s["window_calls"])
            return any(
                len(seen) >= least and sum(seen) / len(seen) >= threshold
                for seen in (self.last(events, 10) + more, self.last(events, 2) + more)
                if seen
            )

        rate = self.s["rate"]
        quiet = rate is None or len(self.last(self.outcomes, 10)) < min(rate[1], self.s["window_calls"] or rate[1])
        if (
            broken(rate, self.outcomes, [])
            or broken(self.s["slow"], self.speeds, hung)
            or (quiet and self.s["consecutive"] is not None and self.run >= self.s["consecutive"])
        ):
            self.open()

    def open(self) -> None:
        if self.state == "closed":
            size = self.s["window_calls"]
            whole = len(self.outcomes) >= size if size is not None else self.now - self.since >= 10 * BUCKET_S
            if whole or self.now - self.since >= self.s["max_open_for"]:
                self.opened = 0
        length = self.s["open_for"]
        for _ in range(self.opened):
            length = min(length * 2, self.s["max_open_for"])
        self.opened += 1
        self.move("open", self.now + length)

    def move(self, state: str, until: float | None = None) -> None:
        self.moves.append((self.state, state))
        self.ramp = self.now if (self.state, state) == ("half_open", "closed") and self.s["ramp"] else None
        self.state, self.since, self.until = state, self.now, until
        self.everything = []
        if state.endswith("closed"):
            self.outcomes, self.speeds = [], []


class BreakerMachine(RuleBasedStateMachine):
    """Both hear the same; they must be in the same state, with the same numbers."""

    @initialize(
        s=st.fixed_dictionaries(
            {
                "window_calls": st.sampled_from([None, None, 4, 8]),
                "consecutive": st.sampled_from([None, 3]),
                "rate": st.sampled_from([None, (0.5, 6), (0.75, 4)]),
                "slow": st.sampled_from([None, (0.5, 3), (1.0, 2)]),
                "slower_than": st.just(1.0),
                "trials": st.integers(1, 3),
                "successes": st.integers(1, 3),
                "max_wait": st.sampled_from([0.5, 4.0]),
                "open_for": st.just(3.0),
                "max_open_for": st.sampled_from([10.0, 25.0]),
                "ramp": st.sampled_from([0.0, 0.0, 4.0]),
            }
        ),
        begin=st.sampled_from([0.0, 4096.125, 2.0**30]),
    )
    def begin(self, s: dict[str, Any], begin: float) -> None:
        self.told: list[tuple[str, str]] = []
        self.model = Model(s, begin, since=begin)
        self.breaker = CircuitBreaker(
            BreakerSettings(
                consecutive_failures=s["consecutive"],
                failure_rate=None if s["rate"] is None else RateRule(*s["rate"]),
                slow_calls=None if s["slow"] is None else RateRule(*s["slow"]),
                slower_than_s=None if s["slow"] is None else s["slower_than"],
                window_s=None if s["window_calls"] else 10 * BUCKET_S,
                window_calls=s["window_calls"],
                open_for_s=s["open_for"],
                max_open_for_s=s["max_open_for"],
                trials=s["trials"],
                successes=s["successes"],
                max_wait_s=s["max_wait"],
                ramp_s=s["ramp"],
            ),
            begin,
            lambda: 0.5,
            lambda transition: self.told.append((transition.origin.value, transition.state.value)),
        )
        self.pairs: list[tuple[Call, Permit]] = []

    @property
    def now(self) -> float:
        return self.model.now

    def _admit(self) -> tuple[Call, Permit] | None:
        expected = self.model.admits()
        permit = self.breaker.admit(self.now)
        assert (permit is not None) == expected
        if permit is None:
            return None
        pair = self.model.admit(), permit
        assert permit.trial == pair[0].trial
        self.pairs.append(pair)
        return pair

    def _send(self, call: Call, permit: Permit) -> None:
        self.breaker.sent(permit, self.now)
        if call.head is None and not call.noticed:
            call.sent = self.now

    def _end(self, at: int, outcome: str) -> None:
        call, permit = self.pairs.pop(at)
        self.breaker.record(permit, Outcome(outcome), self.now)
        self.model.end(call, outcome)

    @rule(eighths=st.sampled_from([1, 1, 2, 4, 8, 8, 9, 24, 48, 80, 100, 400]))
    def time_passes(self, eighths: int) -> None:
        self.model.now += eighths / 8
        self.breaker.advance(self.now)
        self.model.tick()

    @rule(eighths=st.sampled_from([1, 4, 8, 24, 80]))
    def time_passes_and_only_the_next_call_notices(self, eighths: int) -> None:
        self.model.now += eighths / 8
        self.model.tick()
        expected = self.model.state in ("open", "forced_open") or (
            self.model.state == "half_open" and not self.model.admits()
        )
        assert self.breaker.refuses(self.now) == expected

    @rule(sent=st.booleans())
    def a_call_comes(self, sent: bool) -> None:
        pair = self._admit()
        if pair is not None and sent:
            self._send(*pair)

    @rule(outcomes=st.lists(st.sampled_from(["success", "failure", "failure", "ignored"]), min_size=1, max_size=8))
    def calls_come_and_end(self, outcomes: list[str]) -> None:
        for outcome in outcomes:
            pair = self._admit()
            if pair is not None:
                self._send(*pair)
                self._end(len(self.pairs) - 1, outcome)

    @precondition(lambda self: any(call.sent is None for call, _ in self.pairs))
    @rule(data=st.data())
    def a_request_is_whole(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from([pair for pair in self.pairs if pair[0].sent is None]))
        self._send(*pair)

    @precondition(lambda self: any(call.sent is not None and call.head is None for call, _ in self.pairs))
    @rule(data=st.data())
    def a_request_is_sent_again(self, data: st.DataObject) -> None:
        owed = [pair for pair in self.pairs if pair[0].sent is not None and pair[0].head is None]
        self._send(*data.draw(st.sampled_from(owed)))

    @precondition(lambda self: any(call.head is None for call, _ in self.pairs))
    @rule(data=st.data())
    def a_head_comes(self, data: st.DataObject) -> None:
        call, permit = data.draw(st.sampled_from([pair for pair in self.pairs if pair[0].head is None]))
        self.breaker.answered(permit, self.now)
        self.model.answer(call)

    @precondition(lambda self: self.pairs)
    @rule(data=st.data(), outcome=st.sampled_from(["success", "success", "failure", "ignored"]))
    def a_call_ends(self, data: st.DataObject, outcome: str) -> None:
        self._end(data.draw(st.integers(0, len(self.pairs) - 1)), outcome)

    @rule(state=st.sampled_from(["forced_open", "forced_closed"]), for_s=st.sampled_from([2.0, 20.0]))
    def somebody_forces(self, state: str, for_s: float) -> None:
        self.breaker.force(State(state), self.now, for_s)
        if self.model.state == state:
            self.model.until = self.now + for_s
        else:
            self.model.move(state, self.now + for_s)

    @rule()
    def somebody_releases(self) -> None:
        self.breaker.release(self.now)
        if self.model.state.startswith("forced"):
            self.model.opened = 0
            self.model.move("closed")

    @invariant()
    def they_agree(self) -> None:
        model, view = self.model, self.breaker.view(self.now)
        assert view.state.value == model.state
        assert self.told == model.moves
        assert (view.since, view.until, view.generation) == (model.since, model.until, model.generation)
        assert view.trials == len(model.out) <= model.s["trials"]
        assert view.consecutive == model.run
        assert view.overdue == len(model.hanging)
        hung = [True] * len(model.hanging)
        calls, speeds = model.last(model.outcomes, 10), model.last(model.speeds, 10) + hung
        assert view.counts == (len(calls), sum(calls), sum(speeds), len(speeds))

    @invariant()
    def the_next_event_is_never_late(self) -> None:
        model = self.model
        times = [] if model.until is None else [model.until]
        times += [call.admitted + model.s["max_wait"] for call in model.out]
        if model.timed:
            waiting = [call for call in model.mine if not (call.trial or call.over or call.noticed)]
            times += [
                call.sent + model.s["slower_than"] for call in waiting if call.sent is not None and call.head is None
            ]
        assert self.breaker.next_event() <= min(times, default=float("inf"))


TestBreakerAgainstItsModel = BreakerMachine.TestCase
TestBreakerAgainstItsModel.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
