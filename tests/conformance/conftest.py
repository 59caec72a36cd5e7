"""One sidecar and one upstream for the session; every selected case runs once per mode, all at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .client import Address
from .model import Case, load
from .runner import Options, ProxyUnusable, Result, listen, run
from .sidecar_process import HEAD_TIMEOUT_S, running_sidecar

ALL_CASES = [*load("requests", promises=True), *load("responses", promises=True)]

# The proxy's timeout, the next tick of whatever clock it keeps, and a machine that is busy.
DEADLINE_S = HEAD_TIMEOUT_S + 2.0

MODES = {"whole": Options(deadline_s=DEADLINE_S), "octets": Options(split=1, deadline_s=DEADLINE_S)}


@dataclass
class Bench:
    """The process under test with its upstream, and what the runs so far brought."""

    proxy: Address
    listener: socket.socket
    folder: Path
    cases: list[Case]
    results: dict[str, dict[str, Result] | ProxyUnusable] = field(default_factory=dict)

    def outcomes(self, mode: str) -> dict[str, Result]:
        """Results by case id; the first call of a mode runs its cases.

        Raises:
            ProxyUnusable: at each call for the mode, which is not tried again.
        """
        if mode not in self.results:
            try:
                ran = asyncio.run(run(self.cases, self.proxy, self.listener, MODES[mode]))
                self.results[mode] = {result.case.id: result for result in ran}
            except ProxyUnusable as error:
                self.results[mode] = error
        found = self.results[mode]
        if isinstance(found, ProxyUnusable):
            raise found
        return found


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The sidecar under test; only the cases that this session selected will run."""
    wanted = set()
    for item in request.session.items:
        case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        if isinstance(case, Case):
            wanted.add(case.id)
    folder = tmp_path_factory.mktemp("sidecar")
    with listen(("127.0.0.1", 0)) as listener, running_sidecar(folder, listener.getsockname()) as proxy:
        yield Bench(proxy, listener, folder, [case for case in ALL_CASES if case.id in wanted])
