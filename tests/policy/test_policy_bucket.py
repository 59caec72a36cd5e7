"""The token bucket: never more than it should give, and all of it."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.policy.bucket import TokenBucket, bucket_size

A_MINUTE = 1 / 60
RATES = [A_MINUTE, 0.5, 1.0, 3.0, 49.0, 1000 / 7, 100_000.0]  # 1 / 49 × 49 is less than 1 in floats
CLOCKS = [0.0, 12_345.678, 1e7]  # just booted, this morning, a hundred days ago

# Of a token: what floats make of sums. A clock of a hundred days has steps of 2 ns.
FUZZ = 1e-3


def drain(bucket: TokenBucket, now: float) -> int:
    taken = 0
    while bucket.take(now):
        taken += 1
        assert taken <= bucket.burst + 1
    return taken


# -- two laws, whatever the arrivals


@given(
    rate=st.sampled_from(RATES),
    burst=st.sampled_from([1.0, 1.5, 2.0, 5.0]),
    begin=st.sampled_from(CLOCKS),
    gaps=st.lists(st.one_of(st.just(0.0), st.floats(0, 0.5), st.floats(0, 8)), max_size=60),
)
def test_over_any_span_it_gives_at_most_rate_times_time_and_burst(
    rate: float, burst: float, begin: float, gaps: list[float]
) -> None:
    """Gaps in intervals between two tokens."""
    bucket, now, given_at = TokenBucket(rate, burst, begin), begin, []
    for gap in gaps:
        now += gap / rate
        if bucket.take(now):
            given_at.append(now)
    for first, start in enumerate(given_at):
        for last in range(first, len(given_at)):
            assert last - first + 1 <= rate * (given_at[last] - start) + burst + FUZZ


@given(
    rate=st.sampled_from(RATES),
    burst=st.sampled_from([1.25, 2.0, 5.0]),
    begin=st.sampled_from(CLOCKS),
    gaps=st.lists(st.floats(0, 1), min_size=1, max_size=60),
)
def test_under_pressure_it_gives_all_of_it(rate: float, burst: float, begin: float, gaps: list[float]) -> None:
    """Pressure: there is always somebody who takes what there is before it overflows."""
    bucket, now = TokenBucket(rate, burst, begin), begin
    given_away = drain(bucket, now)
    assert given_away == int(burst)
    for gap in gaps:
        now += gap * (burst - 1) / rate
        given_away += drain(bucket, now)
        due = rate * (now - begin) + burst
        assert given_away in (math.floor(due - FUZZ), math.floor(due + FUZZ))


@pytest.mark.parametrize("begin", CLOCKS)
def test_hundred_thousand_a_second_are_neither_more_nor_fewer_after_a_hundred_days(begin: float) -> None:
    """Kept as a moment instead of a count, the same bucket gives six in 100,000 too many at the last of the clocks."""
    bucket = TokenBucket(100_000.0, 100.0, begin)
    given_away = sum(bucket.take(begin + step * 5e-6) for step in range(400_001))
    assert abs(given_away - (2 * 100_000 + 100)) <= 1


@pytest.mark.parametrize("begin", CLOCKS)
def test_one_a_minute_is_one_a_minute_for_a_day(begin: float) -> None:
    bucket = TokenBucket(A_MINUTE, 1.0, begin)
    given_at = [second for second in range(86_401) if bucket.take(begin + second)]
    assert given_at == list(range(0, 86_401, 60))


@pytest.mark.parametrize("rate", RATES)
def test_fractions_add_up_to_whole_tokens(rate: float) -> None:
    """Refused in small steps, the token is there when its interval is over, not a step later."""
    bucket = TokenBucket(rate, 1.0, 0.0)
    assert bucket.take(0.0)
    for step in range(1, 60):
        assert not bucket.take(step / 60 / rate)
    assert bucket.take(1 / rate)


# -- in words


def test_thirty_a_minute_admits_its_first_request_and_the_next_two_seconds_later() -> None:
    rate, burst = bucket_size(30 / 60, None)
    bucket = TokenBucket(rate, burst, 100.0)
    assert bucket.take(100.0)
    assert not bucket.take(101.9)
    assert bucket.take(102.0)


def test_burst_defaults_to_a_second_s_worth_and_at_least_one() -> None:
    assert bucket_size(100.0, None) == (100.0, 100.0)
    assert bucket_size(0.5, None) == (0.5, 1.0)
    assert bucket_size(100.0, 250.0) == (100.0, 250.0)


def test_share_divides_rate_and_burst_but_leaves_a_whole_token() -> None:
    assert bucket_size(120.0, 60.0, 12) == (10.0, 5.0)
    assert bucket_size(120.0, 6.0, 12) == (10.0, 1.0)
    assert bucket_size(6.0, None, 12) == (0.5, 1.0)


def test_idle_bucket_holds_no_more_than_its_burst() -> None:
    bucket = TokenBucket(10.0, 5.0, 0.0)
    assert drain(bucket, 1e6) == 5


def test_refusal_takes_nothing() -> None:
    bucket = TokenBucket(1.0, 1.0, 0.0)
    assert bucket.take(0.0)
    for _ in range(1000):
        assert not bucket.take(0.5)
    assert bucket.tokens(0.5) == 0.5
    assert bucket.take(1.0)


def test_wait_is_exact_and_zero_when_a_token_is_there() -> None:
    bucket = TokenBucket(4.0, 1.0, 0.0)
    assert bucket.wait(0.0) == 0.0
    bucket.take(0.0)
    assert bucket.wait(0.0) == 0.25
    assert bucket.wait(0.125) == 0.125
    assert bucket.wait(0.25) == 0.0


@given(st.sampled_from(RATES), st.floats(0, 3))
def test_wait_agrees_with_take(rate: float, gap: float) -> None:
    bucket = TokenBucket(rate, 2.0, 0.0)
    drain(bucket, 0.0)
    now = gap / rate
    wait = bucket.wait(now)
    assert bucket.take(now) == (wait == 0.0)
    assert bucket.take(now + wait + 1e-6 / rate) or wait == 0.0


def test_token_given_back_can_be_taken_again() -> None:
    bucket = TokenBucket(1.0, 3.0, 0.0)
    assert drain(bucket, 0.0) == 3
    bucket.give_back()
    assert drain(bucket, 0.0) == 1


def test_tokens_given_back_never_exceed_the_burst() -> None:
    bucket = TokenBucket(1.0, 3.0, 0.0)
    bucket.give_back()
    assert bucket.tokens(0.0) == 3
    assert drain(bucket, 0.0) == 3


def test_time_that_goes_back_refills_nothing_twice() -> None:
    bucket = TokenBucket(1.0, 2.0, 0.0)
    assert bucket.take(10.0)
    assert drain(bucket, 5.0) == 1
    assert drain(bucket, 10.0) == 0
    assert drain(bucket, 11.0) == 1


def test_resizing_keeps_the_tokens_that_fit() -> None:
    bucket = TokenBucket(10.0, 10.0, 0.0)
    for _ in range(4):
        bucket.take(0.0)
    bucket.resize(1.0, 20.0, 0.0)
    assert (bucket.tokens(0.0), bucket.rate, bucket.burst) == (6.0, 1.0, 20.0)
    assert bucket.tokens(2.0) == 8.0
    bucket.resize(1.0, 3.0, 2.0)
    assert bucket.tokens(2.0) == 3.0
    assert drain(bucket, 2.0) == 3


def test_reading_changes_nothing() -> None:
    bucket = TokenBucket(1.0, 2.0, 0.0)
    drain(bucket, 0.0)
    for now in (1e6, 0.0):
        bucket.tokens(now)
        bucket.wait(now)
        repr(bucket)
    assert not bucket.take(0.0)
    assert repr(bucket) == "<TokenBucket rate=1/s burst=2>"


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.5)])
def test_bucket_that_could_never_give_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="a bucket needs"):
        TokenBucket(rate, burst, 0.0)
    with pytest.raises(ValueError, match="a bucket needs"):
        TokenBucket(1.0, 1.0, 0.0).resize(rate, burst, 0.0)


# -- against exact arithmetic


class BucketMachine(RuleBasedStateMachine):
    """The bucket beside fractions that round nothing. Where a token is there but for rounding, either may be right."""

    @initialize(
        rate=st.sampled_from(RATES), burst=st.sampled_from([1.0, 1.5, 4.0, 1000.0]), begin=st.sampled_from(CLOCKS)
    )
    def begin(self, rate: float, burst: float, begin: float) -> None:
        self.now = begin
        self.bucket = TokenBucket(rate, burst, begin)
        self.tokens, self.rate, self.burst = Fraction(burst), Fraction(rate), Fraction(burst)

    @rule(intervals=st.one_of(st.just(1.0), st.floats(0, 1), st.floats(0, 20), st.just(5000.0)))
    def time_passes(self, intervals: float) -> None:
        before, self.now = self.now, self.now + intervals / self.bucket.rate
        elapsed = Fraction(self.now) - Fraction(before)
        self.tokens = min(self.burst, self.tokens + elapsed * self.rate)

    @rule(times=st.integers(1, 5))
    def somebody_takes(self, times: int) -> None:
        for _ in range(times):
            taken = self.bucket.take(self.now)
            if abs(self.tokens - 1) > Fraction(1, 1_000_000):
                assert taken == (self.tokens >= 1)
            self.tokens -= int(taken)

    @rule()
    def somebody_takes_and_gives_back(self) -> None:
        if self.bucket.take(self.now):
            self.bucket.give_back()

    @rule(rate=st.sampled_from(RATES), burst=st.sampled_from([1.0, 2.5, 100.0]))
    def it_is_resized(self, rate: float, burst: float) -> None:
        self.bucket.resize(rate, burst, self.now)
        self.rate, self.burst = Fraction(rate), Fraction(burst)
        self.tokens = min(self.tokens, self.burst)

    @invariant()
    def both_hold_the_same(self) -> None:
        tokens = self.bucket.tokens(self.now)
        assert 0 <= tokens <= self.bucket.burst
        assert abs(Fraction(tokens) - self.tokens) < Fraction(1, 1_000_000)
        wait = self.bucket.wait(self.now)
        assert wait == pytest.approx(float(max(0, 1 - self.tokens) / self.rate), abs=1e-6 / self.bucket.rate)


TestBucketAgainstFractions = BucketMachine.TestCase
TestBucketAgainstFractions.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
