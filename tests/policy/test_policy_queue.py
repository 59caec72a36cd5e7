"""The queue for tokens and slots, and what both are taken for."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.policy.bucket import TokenBucket
from sidecar.policy.queue import Lack, WaitQueue, lack, take
from sidecar.policy.slots import Slots

NEVER = float("inf")


def full(limit: int = 1) -> Slots:
    slots = Slots(limit)
    while slots.take():
        pass
    return slots


def empty(rate: float = 1.0) -> TokenBucket:
    bucket = TokenBucket(rate, 1.0, 0.0)
    bucket.take(0.0)
    return bucket


def queue_of(*waiters: str, limit: int = 10, max_wait_s: float = 5.0) -> WaitQueue[str]:
    queue: WaitQueue[str] = WaitQueue(limit, max_wait_s)
    for waiter in waiters:
        assert queue.join(waiter, Lack.SLOT, 0.0)
    return queue


# -- token and slot together


def test_token_and_slot_are_taken_together() -> None:
    bucket, slots = TokenBucket(1.0, 2.0, 0.0), Slots(2)
    assert take(bucket, slots, 0.0) is None
    assert (bucket.tokens(0.0), slots.in_use) == (1.0, 1)


def test_missing_slot_costs_no_token() -> None:
    bucket, slots = TokenBucket(1.0, 2.0, 0.0), full()
    assert take(bucket, slots, 0.0) is Lack.SLOT
    assert (bucket.tokens(0.0), slots.in_use) == (2.0, 1)


def test_missing_token_holds_no_slot() -> None:
    bucket, slots = empty(), Slots(2)
    assert take(bucket, slots, 0.0) is Lack.TOKEN
    assert slots.in_use == 0


def test_where_both_are_missing_it_is_the_token() -> None:
    assert take(empty(), full(), 0.0) is Lack.TOKEN
    assert lack(empty(), full(), 0.0) is Lack.TOKEN


@pytest.mark.parametrize("function", [lack, take])
def test_what_is_not_configured_is_never_missing(function: object) -> None:
    assert function(None, None, 0.0) is None
    assert function(None, full(), 0.0) is Lack.SLOT
    assert function(empty(), None, 0.0) is Lack.TOKEN
    assert function(TokenBucket(1.0, 1.0, 0.0), None, 0.0) is None
    assert function(None, Slots(1), 0.0) is None


def test_asking_what_is_missing_takes_nothing() -> None:
    bucket, slots = TokenBucket(1.0, 1.0, 0.0), Slots(1)
    for _ in range(10):
        assert lack(bucket, slots, 0.0) is None
    assert (bucket.tokens(0.0), slots.in_use) == (1.0, 0)


# -- order


def test_waiters_are_served_in_order_of_arrival() -> None:
    queue, slots = queue_of("a", "b", "c"), Slots(2)
    assert [queue.serve(None, slots, 1.0) for _ in range(3)] == ["a", "b", None]
    slots.release()
    assert queue.serve(None, slots, 1.0) == "c"
    assert slots.in_use == 2


def test_serving_takes_both_for_the_first_or_neither() -> None:
    queue, bucket, slots = queue_of("a"), empty(), Slots(1)
    assert queue.serve(bucket, slots, 0.5) is None
    assert (slots.in_use, len(queue)) == (0, 1)
    assert queue.serve(bucket, slots, 1.0) == "a"
    assert (slots.in_use, bucket.tokens(1.0)) == (1, 0.0)


def test_serving_an_empty_queue_takes_nothing() -> None:
    queue, bucket, slots = queue_of(), TokenBucket(1.0, 1.0, 0.0), Slots(1)
    assert queue.serve(bucket, slots, 0.0) is None
    assert (bucket.tokens(0.0), slots.in_use) == (1.0, 0)


def test_one_that_leaves_from_the_middle_is_passed_over() -> None:
    queue, slots = queue_of("a", "b", "c"), Slots(3)
    assert queue.leave("b")
    assert [queue.serve(None, slots, 1.0) for _ in range(3)] == ["a", "c", None]
    assert slots.in_use == 2


def test_leaving_twice_or_after_being_served_is_harmless() -> None:
    queue = queue_of("a", "b")
    assert queue.serve(None, None, 0.0) == "a"
    assert not queue.leave("a")
    assert queue.leave("b")
    assert not queue.leave("b")
    assert len(queue) == 0


def test_one_who_left_and_came_back_stands_at_the_end() -> None:
    queue = queue_of("a", "b")
    queue.leave("a")
    assert queue.join("a", Lack.SLOT, 1.0)
    assert [queue.serve(None, None, 1.0) for _ in range(2)] == ["b", "a"]


def test_standing_in_the_queue_twice_is_a_defect() -> None:
    queue = queue_of("a")
    with pytest.raises(AssertionError, match="once"):
        queue.join("a", Lack.SLOT, 0.0)


# -- limits


def test_full_queue_takes_nobody_until_one_has_left() -> None:
    queue = queue_of("a", "b", limit=2)
    assert not queue.join("c", Lack.SLOT, 0.0)
    assert "c" not in queue
    queue.leave("a")
    assert queue.join("c", Lack.SLOT, 0.0)


@pytest.mark.parametrize(("limit", "max_wait_s"), [(0, 5.0), (10, 0.0)])
def test_without_a_limit_or_a_wait_there_is_no_queue(limit: int, max_wait_s: float) -> None:
    assert not WaitQueue[str](limit, max_wait_s).join("a", Lack.SLOT, 0.0)


def test_those_who_waited_too_long_go_the_longest_first() -> None:
    queue = queue_of("a", "b")
    queue.join("c", Lack.SLOT, 1.0)
    slots = full()
    assert queue.next_expiry() == 5.0
    assert queue.expire(None, slots, 4.9) == []
    assert queue.expire(None, slots, 5.0) == ["a", "b"]
    assert queue.next_expiry() == 6.0
    assert queue.serve(None, Slots(1), 5.0) == "c"
    assert queue.next_expiry() == NEVER


def test_opening_flushes_the_whole_queue_in_order() -> None:
    queue = queue_of("a", "b", "c")
    assert queue.flush() == ["a", "b", "c"]
    assert len(queue) == 0
    assert queue.flush() == []
    assert queue.join("a", Lack.TOKEN, 0.0)


# -- what was waited for


def test_whoever_waits_in_vain_for_a_slot_is_told_so() -> None:
    queue, slots = queue_of("a"), full()
    queue.serve(None, slots, 1.0)
    assert queue.expire(None, slots, 5.0) == ["a"]
    assert queue.waits_for is Lack.SLOT


def test_whoever_waits_in_vain_for_a_token_is_told_so() -> None:
    queue: WaitQueue[str] = WaitQueue(10, 5.0)
    queue.join("a", Lack.TOKEN, 0.0)
    assert queue.waits_for is Lack.TOKEN
    assert queue.expire(empty(0.01), Slots(1), 5.0) == ["a"]
    assert queue.waits_for is Lack.TOKEN


def test_what_is_waited_for_is_what_the_first_lacks_now_and_not_what_it_lacked_on_arrival() -> None:
    queue, bucket, slots = queue_of("a", "b"), empty(0.01), full()
    slots.release()
    assert queue.serve(bucket, slots, 1.0) is None
    assert queue.waits_for is Lack.TOKEN
    assert queue.expire(bucket, full(), 5.0) == ["a", "b"]
    assert queue.waits_for is Lack.TOKEN


def test_what_is_waited_for_is_looked_at_once_more_when_the_wait_is_over() -> None:
    queue = queue_of("a")
    assert queue.expire(empty(0.01), Slots(1), 5.0) == ["a"]
    assert queue.waits_for is Lack.TOKEN


def test_joining_others_does_not_change_what_the_first_lacks() -> None:
    queue = queue_of("a")
    queue.join("b", Lack.TOKEN, 0.0)
    assert queue.waits_for is Lack.SLOT


# -- when to look again


def test_next_token_is_when_the_first_may_have_it() -> None:
    bucket = empty(0.5)
    assert queue_of("a").next_token(bucket, 0.0) == 2.0
    assert queue_of("a").next_token(bucket, 1.0) == 2.0


def test_no_token_is_waited_for_where_it_is_not_what_is_missing() -> None:
    assert queue_of().next_token(empty(), 0.0) == NEVER
    assert queue_of("a").next_token(None, 0.0) == NEVER
    assert queue_of("a").next_token(TokenBucket(1.0, 1.0, 0.0), 0.0) == NEVER


def test_waiting_time_counts_from_arrival() -> None:
    queue = queue_of("a")
    queue.join("b", Lack.SLOT, 2.0)
    assert (queue.waited_s("a", 3.0), queue.waited_s("b", 3.0), queue.waited_s("c", 3.0)) == (3.0, 1.0, 0.0)


def test_repr_shows_how_many_wait_for_what() -> None:
    assert repr(queue_of("a", "b")) == "<WaitQueue 2/10 for a slot>"


# -- against a list


class QueueMachine(RuleBasedStateMachine):
    """A dependency's queue, bucket and slots beside one list of requests and what is true of each.

    Times are eighths of a second and rates powers of two, so tokens are exact.
    """

    @initialize(
        limit=st.integers(0, 4),
        max_wait=st.sampled_from([0.5, 4.0]),
        rate=st.sampled_from([None, 0.25, 2.0]),
        burst=st.sampled_from([1.0, 3.0]),
        slots=st.sampled_from([None, 1, 3]),
    )
    def begin(self, limit: int, max_wait: float, rate: float | None, burst: float, slots: int | None) -> None:
        self.now = 1024.0
        self.queue: WaitQueue[int] = WaitQueue(limit, max_wait)
        self.bucket = None if rate is None else TokenBucket(rate, burst, self.now)
        self.slots = None if slots is None else Slots(slots)
        self.tokens = burst
        self.came = 0
        self.waiting: list[tuple[int, float]] = []  # who, since when
        self.served: list[int] = []
        self.running: list[int] = []

    def _missing(self) -> Lack | None:
        if self.bucket is not None and self.tokens < 1:
            return Lack.TOKEN
        if self.slots is not None and len(self.running) >= self.slots.limit:
            return Lack.SLOT
        return None

    def _run(self, who: int) -> None:
        self.tokens -= 1
        self.running.append(who)
        self.served.append(who)

    def _serve_all(self) -> None:
        while True:
            expected = self.waiting[0][0] if self.waiting and self._missing() is None else None
            assert self.queue.serve(self.bucket, self.slots, self.now) == expected
            if expected is None:
                break
            self.waiting.pop(0)
            self._run(expected)

    @rule()
    def one_comes(self) -> None:
        self.came += 1
        who, missing = self.came, self._missing()
        assert lack(self.bucket, self.slots, self.now) is missing
        if not self.waiting:
            assert take(self.bucket, self.slots, self.now) is missing
            if missing is None:
                self._run(who)
                return
        joined = self.queue.join(who, missing or Lack.SLOT, self.now)
        assert joined == (len(self.waiting) < self.queue.limit)
        if joined:
            self.waiting.append((who, self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def one_ends(self, data: st.DataObject) -> None:
        self.running.remove(data.draw(st.sampled_from(self.running)))
        if self.slots is not None:
            self.slots.release()
        self._serve_all()

    @precondition(lambda self: self.came)
    @rule(data=st.data())
    def one_leaves(self, data: st.DataObject) -> None:
        who = data.draw(st.integers(1, self.came))
        standing = [waiter for waiter, _ in self.waiting]
        assert self.queue.leave(who) == (who in standing)
        self.waiting = [entry for entry in self.waiting if entry[0] != who]
        self._serve_all()

    @rule(eighths=st.sampled_from([1, 2, 4, 8, 33]))
    def time_passes(self, eighths: int) -> None:
        self.now += eighths / 8
        if self.bucket is not None:
            self.tokens = min(self.bucket.burst, self.tokens + eighths / 8 * self.bucket.rate)
        self._serve_all()
        late = [who for who, since in self.waiting if self.now - since >= self.queue.max_wait_s]
        assert self.queue.expire(self.bucket, self.slots, self.now) == late
        if late:
            assert self.queue.waits_for is self._missing()
        self.waiting = [entry for entry in self.waiting if entry[0] not in late]

    @rule()
    def the_circuit_opens(self) -> None:
        assert self.queue.flush() == [who for who, _ in self.waiting]
        self.waiting = []

    @invariant()
    def they_agree(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert all(self.queue.waited_s(who, self.now) == self.now - since for who, since in self.waiting)
        if self.slots is not None:
            assert self.slots.in_use == len(self.running) <= self.slots.limit
        if self.bucket is not None:
            assert self.bucket.tokens(self.now) == self.tokens

    @invariant()
    def nobody_overtakes(self) -> None:
        assert self.served == sorted(self.served)

    @invariant()
    def nobody_waits_for_what_is_there(self) -> None:
        if self.waiting:
            assert self._missing() is not None

    @invariant()
    def it_knows_when_to_look_again(self) -> None:
        expiry = self.waiting[0][1] + self.queue.max_wait_s if self.waiting else NEVER
        assert self.queue.next_expiry() == expiry
        token = NEVER
        if self.waiting and self._missing() is Lack.TOKEN:
            assert self.bucket is not None
            token = self.now + (1 - self.tokens) / self.bucket.rate
        assert self.queue.next_token(self.bucket, self.now) == token


TestQueueAgainstAList = QueueMachine.TestCase
TestQueueAgainstAList.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
