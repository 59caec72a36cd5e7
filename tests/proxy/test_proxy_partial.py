"""Heads that come in several reads."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.partial import PartialHead

_HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@given(st.lists(st.integers(0, len(_HEAD) + 9), max_size=8))
def test_every_split_finds_the_same_end(cuts: list[int]) -> None:
    stream = _HEAD + b"rest\r\n\r\nx"
    places = [0, *sorted(cuts), len(stream)]
    partial = PartialHead()
    before = 0
    for start, end in itertools.pairwise(places):
        used = partial.add(stream[start:end])
        if used >= 0:
            assert before + used == len(_HEAD)
            assert partial.data == _HEAD
            return
        before += end - start
        assert before < len(_HEAD)
        assert partial.data == stream[:before]
    raise AssertionError("the end was not found")
