"""Whom the last descriptors are kept for."""

from __future__ import annotations

import asyncio
import os
import resource

import pytest

from sidecar.runtime.descriptors import none_left_for_dependency, too_few_for_application, too_few_for_dependency
from tests.proxy.transcript import Clock, StageLoop, StageTransport


def _transport(descriptor: int) -> StageTransport:
    return StageTransport(StageLoop(Clock()), None, descriptor)


@pytest.mark.parametrize(
    ("limit", "application", "dependency"),
    [
        (1024, 1024 - 64, 1024 - 32),
        (256, 256 - 64, 256 - 32),
        (64, 48, 56),
        (resource.RLIM_INFINITY, (1 << 30) - 64, (1 << 30) - 32),
    ],
)
def test_application_is_turned_away_first_and_dependencies_next(
    monkeypatch: pytest.MonkeyPatch, limit: int, application: int, dependency: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert [too_few_for_application(_transport(number)) for number in (application - 1, application)] == [False, True]
    assert [too_few_for_dependency(_transport(number)) for number in (dependency - 1, dependency)] == [False, True]


def test_transport_without_a_socket_takes_no_descriptor() -> None:
    assert not too_few_for_application(asyncio.Transport())
    assert not too_few_for_dependency(asyncio.Transport())


def test_connection_is_not_begun_on_a_descriptor_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as next_one:
        lowest = next_one.fileno()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, 1 << 20))
    assert not none_left_for_dependency()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (lowest, lowest))
    assert none_left_for_dependency()


def test_connection_is_not_begun_without_any_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", fails)
    assert none_left_for_dependency()
