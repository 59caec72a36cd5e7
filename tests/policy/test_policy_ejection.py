"""Ejection: who is passed over, for how long, and that it never goes so far that nobody is left."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.policy.ejection import MOST_TIMES, Ejection, EjectionSettings, Member

FOR_S = 30.0


class Named(Member):
    """A member that a failing test can name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __repr__(self) -> str:
        return self.name


def scripted(*numbers: float) -> Callable[[], float]:
    """What is drawn, in this order, and nothing behind it."""
    return iter(numbers).__next__


def ejection(
    members: int,
    *,
    failures: int | None = 3,
    for_s: float = FOR_S,
    share: float = 0.5,
    rng: Callable[[], float] = lambda: 0.0,
) -> tuple[Ejection[Named], list[Named]]:
    """One with so many members named a, b, c and so on, and these."""
    found: Ejection[Named] = Ejection(EjectionSettings(failures, for_s, share), rng)
    named = [Named(chr(ord("a") + number)) for number in range(members)]
    found.replace(named, 0.0)
    return found, named


def fail(ejected: Ejection[Named], member: Named, times: int, now: float) -> None:
    for _ in range(times):
        ejected.failed(member, now)


def picked(ejected: Ejection[Named], now: float, times: int = 200) -> set[str]:
    """Whom so many picks meet, with numbers that reach every pair."""
    rng = random.Random(1)
    ejected._rng = rng.random
    return {found.name for _ in range(times) if (found := ejected.pick(now)) is not None}


# -- who is ejected


def test_so_many_failures_in_a_row_eject() -> None:
    addresses, (a, _) = ejection(2)
    fail(addresses, a, 2, 1.0)
    assert (addresses.counts(1.0), a.ejected) == ((2, 0), False)
    fail(addresses, a, 1, 1.0)
    assert (addresses.counts(1.0), a.ejected) == ((1, 1), True)
    assert repr(addresses) == "<Ejection 1 in, 1 out>"


def test_success_between_them_begins_the_row_anew() -> None:
    addresses, (a, _) = ejection(2)
    for _ in range(5):
        fail(addresses, a, 2, 1.0)
        addresses.succeeded(a, 1.0)
    assert (a.failures, a.ejected) == (0, False)


def test_failures_of_others_do_not_count() -> None:
    addresses, members = ejection(4)
    for member in members:
        fail(addresses, member, 2, 1.0)
    assert addresses.counts(1.0) == (4, 0)


def test_one_failure_ejects_where_one_is_enough() -> None:
    addresses, (a, _) = ejection(2, failures=1)
    addresses.failed(a, 1.0)
    assert a.ejected
    assert addresses.pick(1.0 + FOR_S) is not None
    addresses.failed(a, 1.0 + FOR_S)
    assert a.until == 1.0 + FOR_S + 2 * FOR_S


@pytest.mark.parametrize("keys", [{"failures": None}, {"share": 0.0}])
def test_switched_off_it_ejects_nobody(keys: dict[str, Any]) -> None:
    addresses, (a, _) = ejection(2, **keys)
    fail(addresses, a, 1000, 1.0)
    assert addresses.counts(1.0) == (2, 0)
    assert picked(addresses, 1.0) == {"a", "b"}


# -- how many at most


@pytest.mark.parametrize(
    ("members", "share", "most"),
    [
        (1, 0.5, 0),
        (1, 0.99, 0),
        (1, 1.0, 1),
        (2, 0.5, 1),
        (2, 0.49, 0),
        (3, 0.5, 1),
        (3, 1 / 3, 1),
        (3, 0.333, 0),
        (10, 0.3, 3),
        (10, 0.7, 7),
        (25, 0.28, 7),  # 7.000000000000001 in floats
        (100, 0.29, 29),  # 28.999999999999996
        (5, 1.0, 5),
    ],
)
def test_never_more_than_a_share_is_out(members: int, share: float, most: int) -> None:
    addresses, named = ejection(members, share=share)
    for member in named:
        fail(addresses, member, 10, 1.0)
    assert addresses.counts(1.0) == (members - most, most)


def test_whoever_fails_on_is_ejected_when_there_is_room() -> None:
    addresses, (a, b) = ejection(2)
    fail(addresses, a, 3, 0.0)
    fail(addresses, b, 50, 1.0)
    assert not b.ejected
    addresses.failed(b, FOR_S)  # at which a is back
    assert (a.ejected, b.ejected) == (False, True)


def test_where_nobody_is_in_all_are_asked() -> None:
    addresses, named = ejection(3, share=1.0)
    for member in named:
        fail(addresses, member, 3, 1.0)
    assert addresses.counts(1.0) == (0, 3)
    assert picked(addresses, 1.0) == {"a", "b", "c"}


# -- for how long


def test_ejected_one_comes_back_when_its_time_is_over() -> None:
    addresses, (a, _) = ejection(2)
    fail(addresses, a, 3, 1.0)
    before = math.nextafter(1.0 + FOR_S, 0.0)
    assert picked(addresses, before) == {"b"}
    assert addresses.counts(before) == (1, 1)
    assert picked(addresses, 1.0 + FOR_S) == {"a", "b"}
    assert addresses.counts(1.0 + FOR_S) == (2, 0)


@pytest.mark.parametrize("look", ["counts", "pick", "pick_other"])
def test_each_look_takes_back_whose_time_is_over(look: str) -> None:
    addresses, (a, b) = ejection(2, rng=scripted(0.0, 0.0))
    fail(addresses, a, 3, 0.0)
    found = addresses.pick_other([b], FOR_S) if look == "pick_other" else getattr(addresses, look)(FOR_S)
    assert found == {"counts": (2, 0), "pick": a, "pick_other": a}[look]
    assert not a.ejected


def test_first_failure_of_one_that_is_back_ejects_it_again_for_longer_each_time() -> None:
    addresses, (a, _) = ejection(2)
    now, lasted = 5.0, []
    fail(addresses, a, 2, now)
    for _ in range(MOST_TIMES + 3):
        addresses.failed(a, now)
        assert a.ejected
        lasted.append(a.until - now)
        now = a.until
        assert addresses.counts(now) == (2, 0)
    assert lasted == [FOR_S * min(times, MOST_TIMES) for times in range(1, MOST_TIMES + 4)]


def test_whoever_has_proved_itself_for_as_long_as_it_was_out_begins_anew() -> None:
    addresses, (a, _) = ejection(2)
    now = 0.0
    fail(addresses, a, 2, now)
    for _ in range(3):
        addresses.failed(a, now)
        now = a.until
        addresses.counts(now)
    addresses.succeeded(a, math.nextafter(now + 3 * FOR_S, 0.0))
    assert (a.times, a.failures) == (3, 0)
    addresses.succeeded(a, now + 3 * FOR_S)
    assert a.times == 0
    now += 3 * FOR_S
    fail(addresses, a, 2, now)
    assert not a.ejected
    fail(addresses, a, 1, now)
    assert a.until == now + FOR_S


def test_whoever_fails_in_a_row_before_it_has_proved_itself_is_out_for_longer() -> None:
    addresses, (a, _) = ejection(2)
    fail(addresses, a, 3, 0.0)
    now = FOR_S
    addresses.counts(now)
    addresses.succeeded(a, now + 1)
    fail(addresses, a, 2, now + 2)
    assert not a.ejected  # a success has given it all its chances back
    fail(addresses, a, 1, now + 2)
    assert a.until == now + 2 + 2 * FOR_S


# -- what was under way before


def test_failures_of_one_that_is_out_change_nothing() -> None:
    addresses, (a, _) = ejection(2)
    fail(addresses, a, 3, 0.0)
    fail(addresses, a, 50, 1.0)
    assert (a.times, a.until, a.failures) == (1, FOR_S, 2)


def test_success_of_one_that_is_out_gives_it_no_further_chance() -> None:
    """It was asked before it began to fail, or it would not have been asked."""
    addresses, (a, _) = ejection(2)
    fail(addresses, a, 3, 0.0)
    addresses.succeeded(a, 1.0)
    assert addresses.counts(FOR_S) == (2, 0)
    addresses.failed(a, FOR_S)
    assert a.ejected


@pytest.mark.parametrize("then", ["fails", "succeeds"])
def test_whose_time_is_over_is_judged_though_nobody_has_looked_since(then: str) -> None:
    addresses, (a, _) = ejection(2)
    fail(addresses, a, 3, 0.0)
    if then == "fails":
        addresses.failed(a, FOR_S)
        assert (a.ejected, a.times, a.until) == (True, 2, 3 * FOR_S)
    else:
        addresses.succeeded(a, 2 * FOR_S)
        assert (a.ejected, a.times, a.failures) == (False, 0, 0)


def test_one_that_is_no_member_any_more_ejects_nobody() -> None:
    addresses, (a, b, c) = ejection(3, share=1.0)
    addresses.replace([b, c], 0.0)
    fail(addresses, a, 50, 1.0)
    assert (addresses.counts(1.0), a.ejected) == ((2, 0), False)


# -- which is asked


def test_without_members_there_is_none() -> None:
    addresses, _ = ejection(0, rng=scripted())
    assert addresses.pick(0.0) is None
    assert addresses.pick_other([], 0.0) is None
    assert addresses.counts(0.0) == (0, 0)


def test_of_one_nothing_is_drawn() -> None:
    addresses, (a,) = ejection(1, rng=scripted())
    assert addresses.pick(0.0) is a


@pytest.mark.parametrize(
    ("draws", "two"),
    [
        ((0.0, 0.0), "ab"),
        ((0.0, 0.999), "ad"),
        ((0.5, 0.0), "ca"),
        ((0.5, 0.5), "cb"),
        ((0.5, 0.7), "cd"),
        ((math.nextafter(1.0, 0.0), math.nextafter(1.0, 0.0)), "dc"),
    ],
)
def test_less_busy_of_the_two_that_were_drawn_is_asked(draws: tuple[float, float], two: str) -> None:
    for busier in (0, 1):
        addresses, members = ejection(4, rng=scripted(*draws))
        one, other = (next(member for member in members if member.name == name) for name in two)
        (one, other)[busier].busy = 1
        assert addresses.pick(0.0) is (other, one)[busier]


def test_first_of_two_that_are_equally_busy_is_asked() -> None:
    addresses, (_, b, c, _) = ejection(4, rng=scripted(0.5, 0.4))
    b.busy = c.busy = 7
    assert addresses.pick(0.0) is c


def test_every_pair_is_drawn_as_often_as_any_other() -> None:
    """Those that are as busy as the number of their name: who is asked tells how often each pair was drawn."""
    addresses, members = ejection(4, rng=random.Random(3).random)
    for number, member in enumerate(members):
        member.busy = number
    asked = Counter(addresses.pick(0.0) for _ in range(6000))
    for number, member in enumerate(members):
        assert asked[member] == pytest.approx(6000 * (3 - number) / 6, abs=200)


def test_equal_numbers_make_equal_choices() -> None:
    chosen = []
    for _ in range(2):
        addresses, members = ejection(7, failures=2, rng=random.Random(11).random)
        names = []
        for step in range(500):
            found = addresses.pick(step / 4)
            assert found is not None
            names.append(found.name)
            found.busy = (found.busy + step) % 5
            (addresses.failed if step % 3 else addresses.succeeded)(found, step / 4)
        assert any(member.times for member in members)
        chosen.append(names)
    assert chosen[0] == chosen[1]


def test_ejected_one_is_passed_over_even_where_it_is_the_least_busy() -> None:
    addresses, (a, b, c) = ejection(3)
    b.busy = c.busy = 10
    fail(addresses, a, 3, 0.0)
    assert picked(addresses, 1.0) == {"b", "c"}


def test_of_those_that_are_wanted_the_less_busy_of_two_is_asked() -> None:
    addresses, (a, b, c, d) = ejection(4, rng=scripted(0.0, 0.9, 0.4, 0.9))
    a.busy = 1
    assert addresses.pick_where(lambda member: member is not b, 0.0) is d  # of a and d
    assert addresses.pick_where(lambda member: member is not b, 0.0) is c  # of c and d
    assert addresses.pick_where(lambda member: member is b, 0.0) is b
    assert addresses.pick_where(lambda member: False, 0.0) is None


def test_of_those_that_are_wanted_one_that_is_out_is_asked_only_where_all_are() -> None:
    addresses, (a, b, _, d) = ejection(4)
    for member in (a, b):
        fail(addresses, member, 3, 0.0)
    assert addresses.pick_where(lambda member: member in (a, d), 1.0) is d
    assert addresses.pick_where(lambda member: member is a, 1.0) is a
    d.busy = 9
    assert addresses.pick_where(lambda member: member in (a, d), FOR_S) is a


def test_other_one_is_the_least_busy_that_has_not_been_tried() -> None:
    addresses, (a, b, c, d) = ejection(4)
    a.busy, b.busy, c.busy, d.busy = 0, 2, 1, 3
    tried: list[Named] = [a]
    for expected in (c, b, d, None):
        found = addresses.pick_other(tried, 0.0)
        assert found is expected
        if found is not None:
            tried.append(found)


def test_other_one_is_out_only_where_nobody_else_is_left() -> None:
    addresses, (a, b, c, d) = ejection(4)
    for member in (a, b):
        fail(addresses, member, 3, 0.0)
    c.busy = 9
    assert addresses.pick_other([d], 1.0) is c
    b.busy = 1
    assert addresses.pick_other([c, d], 1.0) is a
    assert addresses.pick_other([a, c, d], 1.0) is b


def test_in_order_those_that_are_out_stand_behind_the_others() -> None:
    addresses, (a, b, c, d) = ejection(4)
    assert addresses.in_order() == [a, b, c, d]
    for member in (c, a):
        fail(addresses, member, 3, 0.0)
    assert addresses.in_order() == [b, d, a, c]


# -- who there is


def test_those_that_stay_keep_their_record() -> None:
    addresses, (a, b, c) = ejection(3)
    fail(addresses, a, 3, 0.0)
    fail(addresses, b, 2, 0.0)
    b.busy = 4
    d = Named("d")
    addresses.replace([d, b, a], 1.0)
    assert addresses.members == [d, b, a]
    assert (a.ejected, a.until, a.times, b.failures, b.busy) == (True, FOR_S, 1, 2, 4)
    b.busy = 0
    assert picked(addresses, 1.0) == {"b", "d"}
    assert picked(addresses, FOR_S) == {"a", "b", "d"}
    assert c not in addresses.members


def test_new_one_is_asked_at_once() -> None:
    addresses, (a, _) = ejection(2)
    fail(addresses, a, 3, 0.0)
    addresses.replace([a, c := Named("c")], 1.0)
    assert picked(addresses, 1.0) == {"c"}
    assert c.failures == 0


def test_where_too_many_would_be_out_those_whose_time_ends_first_come_back() -> None:
    addresses, (a, b, c, d) = ejection(4)
    fail(addresses, b, 3, 0.0)
    fail(addresses, a, 3, 5.0)
    addresses.replace([a, b, c], 6.0)
    assert (a.ejected, b.ejected) == (True, False)
    assert b.until == 6.0  # from when on it must prove itself
    assert picked(addresses, 6.0) == {"b", "c"}
    addresses.failed(b, 7.0)  # one failure would do, were there room
    assert not b.ejected
    addresses.replace([a, b, c, d], 8.0)
    addresses.failed(b, 8.0)
    assert b.until == 8.0 + 2 * FOR_S
    addresses.replace([], 9.0)
    assert addresses.counts(9.0) == (0, 0)


def test_last_one_left_is_in() -> None:
    addresses, (a, _) = ejection(2)
    fail(addresses, a, 3, 0.0)
    addresses.replace([a], 1.0)
    assert (addresses.counts(1.0), addresses.pick(1.0)) == ((1, 0), a)


# -- beside a model that works everything out anew each time


@dataclass(eq=False)
class Record:
    """What the model knows of a member."""

    member: Named
    failures: int = 0
    times: int = 0
    until: float = 0.0
    out: bool = False


class EjectionBesideModel(RuleBasedStateMachine):
    """Addresses that come and go, fail and succeed, get busy and idle; time that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.draws: list[float] = []  # which are to come
        self.everyone: list[Record] = []
        self.present: list[Record] = []

    @initialize(
        failures=st.sampled_from([2, 1, 3, None]),
        share=st.sampled_from([0.5, 0.75, 0.3, 1.0, 0.0]),
        count=st.integers(0, 5),
    )
    def begins(self, failures: int | None, share: float, count: int) -> None:
        self.failures, self.share, self.for_s = failures, share, 4.0
        self.tested: Ejection[Named] = Ejection(
            EjectionSettings(failures, self.for_s, share), lambda: self.draws.pop(0)
        )
        self.names = map(str, itertools.count())
        self.present = [self._newcomer() for _ in range(count)]
        self.tested.replace([record.member for record in self.present], self.now)

    def _newcomer(self) -> Record:
        self.everyone.append(Record(Named(next(self.names))))
        return self.everyone[-1]

    # the model

    def _look(self) -> None:
        for record in self.present:
            record.out = record.out and self.now < record.until

    @property
    def _in(self) -> list[Record]:
        return [record for record in self.present if not record.out]

    @property
    def _room(self) -> int:
        return math.floor(round(len(self.present) * self.share, 6))

    # what happens

    @rule(eighths=st.integers(0, 200))
    def time_passes(self, eighths: int) -> None:
        self.now += eighths / 8

    @precondition(lambda self: self.everyone)
    @rule(data=st.data(), times=st.integers(1, 3))
    def one_fails(self, data: st.DataObject, times: int) -> None:
        self._fails(data.draw(st.sampled_from(self.everyone)), times)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def one_fails_as_often_as_it_may(self, data: st.DataObject) -> None:
        self._fails(data.draw(st.sampled_from(self.present)), self.failures or 1)

    @precondition(lambda self: any(record.member.ejected for record in self.present))
    @rule(data=st.data(), fails=st.booleans())
    def call_to_one_that_is_out_ends(self, data: st.DataObject, fails: bool) -> None:
        record = data.draw(st.sampled_from([record for record in self.present if record.member.ejected]))
        if fails:
            self._fails(record, 1)
        else:
            self._succeeds(record)

    @precondition(lambda self: any(record.member.times for record in self.present))
    @rule(data=st.data(), fails=st.booleans(), eighths=st.integers(-1, 1), times=st.integers(0, 3))
    def call_to_one_that_was_out_ends(self, data: st.DataObject, fails: bool, eighths: int, times: int) -> None:
        """At about the end of its time, or when it has proved itself."""
        record = data.draw(st.sampled_from([record for record in self.present if record.member.times]))
        self.now = max(self.now, record.until + times * self.for_s + eighths / 8)
        if fails:
            self._fails(record, 1)
        else:
            self._succeeds(record)

    def _fails(self, record: Record, times: int) -> None:
        for _ in range(times):
            self._look()
            self.tested.failed(record.member, self.now)
            if record.out:
                continue
            record.failures += 1
            if self.failures is None or record.failures < self.failures or record not in self.present:
                continue
            if len(self.present) - len(self._in) < self._room:
                record.out = True
                record.times = min(record.times + 1, MOST_TIMES)
                record.until = self.now + record.times * self.for_s
                record.failures = self.failures - 1

    @precondition(lambda self: self.everyone)
    @rule(data=st.data())
    def one_succeeds(self, data: st.DataObject) -> None:
        self._succeeds(data.draw(st.sampled_from(self.everyone)))

    def _succeeds(self, record: Record) -> None:
        self._look()
        self.tested.succeeded(record.member, self.now)
        if not record.out:
            record.failures = 0
            if self.now >= record.until + record.times * self.for_s:
                record.times = 0

    @precondition(lambda self: self.everyone)
    @rule(data=st.data(), busy=st.integers(0, 3))
    def one_gets_busy(self, data: st.DataObject, busy: int) -> None:
        data.draw(st.sampled_from(self.everyone)).member.busy = busy

    @rule(first=st.integers(0, 5), second=st.integers(0, 4))
    def one_is_picked(self, first: int, second: int) -> None:
        self._look()
        choices = self._in or self.present
        count = len(choices)
        if count < 2:
            assert self.tested.pick(self.now) is (choices[0].member if choices else None)
            return
        first, second = first % count, second % (count - 1)
        self.draws = [(first + 0.5) / count, (second + 0.5) / (count - 1)]
        found = self.tested.pick(self.now)
        assert not self.draws
        one = choices[first].member
        other = [record.member for record in choices if record.member is not one][second]
        assert found is (other if other.busy < one.busy else one)

    @rule(data=st.data())
    def another_is_picked(self, data: st.DataObject) -> None:
        self._look()
        tried = data.draw(st.lists(st.sampled_from(self.everyone), unique=True)) if self.everyone else []
        found = self.tested.pick_other([record.member for record in tried], self.now)
        left = [record.member for record in self._in if record not in tried]
        left = left or [record.member for record in self.present if record not in tried]
        if not left:
            assert found is None
        else:
            assert found in left
            assert found.busy == min(member.busy for member in left)

    @rule(data=st.data())
    def there_are_others(self, data: st.DataObject) -> None:
        stay = data.draw(st.lists(st.sampled_from(self.present), unique=True)) if self.present else []
        before, self.present = self.present, stay + [self._newcomer() for _ in range(data.draw(st.integers(0, 2)))]
        gone = [record for record in before if record not in stay]
        self.everyone = self.present + gone  # whose calls may end yet
        self.tested.replace([record.member for record in self.present], self.now)
        out = sorted((record for record in self.present if record.out), key=lambda record: record.until)
        for record in out[: max(0, len(out) - self._room)]:
            record.out = False
            record.until = self.now

    # what holds

    @invariant()
    def both_tell_the_same(self) -> None:
        if not hasattr(self, "tested"):
            return
        self._look()
        assert self.tested.counts(self.now) == (len(self._in), len(self.present) - len(self._in))
        for record in self.present:
            member = record.member
            told = (member.ejected, member.failures, member.times, member.until)
            assert told == (record.out, record.failures, record.times, record.until)

    @invariant()
    def never_more_than_the_share_is_out(self) -> None:
        assert len(self.present) - len(self._in) <= (self._room if self.present else 0)

    @invariant()
    def nobody_is_out_for_longer_than_the_most(self) -> None:
        for record in self.present:
            if record.member.ejected:
                assert self.now < record.member.until <= self.now + MOST_TIMES * self.for_s


TestEjectionBesideModel = EjectionBesideModel.TestCase
TestEjectionBesideModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
