"""One upstream and one sidecar for each module, and the proof that a test has left nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .harness import Sidecar, Upstream, eventually, get


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def settled(sidecar: Sidecar, upstream: Upstream) -> Iterator[None]:
    """Whatever the test did: the next clean request succeeds, and no descriptor is left.

    The module's `sidecar` has a dependency with the prefix /plain at `upstream`.
    """
    upstream.hang_up()
    eventually(lambda: sidecar.established() == 0, "no connection is left from before")
    before = sidecar.fds()
    yield
    upstream.hang_up()
    assert sidecar.ask(get("/plain/clean")).body == b"GET /clean"
    upstream.hang_up()
    eventually(lambda: sidecar.established() == 0, "every connection is gone")
    eventually(lambda: sidecar.fds() <= before, "every descriptor is given back")
