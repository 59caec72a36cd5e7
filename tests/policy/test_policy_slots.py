"""The concurrency limit."""

from __future__ import annotations

import pytest

from sidecar.policy.slots import Slots


def test_slots_are_given_up_to_the_limit_and_not_beyond() -> None:
    slots = Slots(3)
    assert [slots.take() for _ in range(5)] == [True, True, True, False, False]
    assert slots.in_use == 3
    assert not slots.free


def test_released_slot_is_given_again() -> None:
    slots = Slots(1)
    assert slots.take()
    slots.release()
    assert slots.free
    assert slots.take()
    assert not slots.take()


def test_lowered_limit_gives_nothing_until_enough_are_back() -> None:
    slots = Slots(3)
    for _ in range(3):
        slots.take()
    slots.limit = 1
    for _ in range(2):
        slots.release()
        assert not slots.take()
    slots.release()
    assert slots.take()


def test_releasing_what_nobody_holds_is_a_defect() -> None:
    slots = Slots(1)
    with pytest.raises(AssertionError, match="nobody held"):
        slots.release()


def test_repr_shows_use_and_limit() -> None:
    slots = Slots(8)
    slots.take()
    assert repr(slots) == "<Slots 1/8>"
