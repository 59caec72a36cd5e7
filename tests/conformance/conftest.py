"""One sidecar and one upstream for the session; every selected case runs once per mode, all at once."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .model import Case, load
from .runner import Options, ProxyUnusable, Result, listen, run
from .sidecar_process import TIMEOUT_S, Ports, running_sidecar

ALL_CASES = [*load("requests", promises=True), *load("responses", promises=True)]

# The proxy's timeout and a machine that is busy. Only a failure takes as long as any of these.
PATIENT = Options(patience_s=20.0, close_grace_s=10.0, deadline_s=TIMEOUT_S + 16.0)

MODES = {"whole": PATIENT, "octets": dataclasses.replace(PATIENT, split=1)}


@dataclass
class Bench:
    """The process under test with its upstream, and what the runs so far brought."""

    ports: Ports
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
                options = dataclasses.replace(MODES[mode], impatient=self.ports.impatient)
                ran = asyncio.run(run(self.cases, self.ports.patient, self.listener, options))
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
    with listen(("127.0.0.1", 0)) as listener, running_sidecar(folder, listener.getsockname()) as ports:
        yield Bench(ports, listener, folder, [case for case in ALL_CASES if case.id in wanted])
