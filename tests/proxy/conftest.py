"""A conversation for a test, with a look at what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.proxy.transcript import Conversation


@pytest.fixture
def converse() -> Iterator[Callable[..., Conversation]]:
    """Makes conversations, and ends each behind the test: none may leave anything."""
    made: list[Conversation] = []

    def make(**keys: object) -> Conversation:
        conversation = Conversation(**keys)  # type: ignore[arg-type]
        made.append(conversation)
        return conversation

    yield make
    for conversation in made:
        conversation.leaves_nothing()
