"""A sink for tests: it keeps what it is given."""

from __future__ import annotations

import json
from typing import Any

import pytest


class Lines:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.written.append(line)

    @property
    def documents(self) -> list[dict[str, Any]]:
        for line in self.written:
            assert line.endswith(b"\n")
            assert all(32 <= octet < 127 for octet in line[:-1])
        return [json.loads(line) for line in self.written]

    @property
    def only(self) -> dict[str, Any]:
        (document,) = self.documents
        return document


@pytest.fixture
def lines() -> Lines:
    return Lines()
