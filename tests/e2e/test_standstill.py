"""The process stands still for longer than every timeout: that is nobody's failure."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from .harness import Sidecar, Upstream, Wire, answer, eventually, get

pytestmark = pytest.mark.usefixtures("settled")

TIMEOUT_S = 1.5
STANDSTILL_S = 1.8


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Sidecar]:
    each = f"{TIMEOUT_S:g}s"
    timeout = dict.fromkeys(("connect", "first_byte", "idle", "total"), each)
    dependency = {"upstream": upstream.url, "prefix": "/plain", "timeout": timeout}
    dependency["pool"] = {"idle_timeout": each, "max_connections": 6}
    listener = dict.fromkeys(("head_timeout", "body_timeout", "keepalive_timeout"), each)
    with Sidecar(tmp_path_factory.mktemp("standstill"), {"plain": dependency}, listener=listener) as sidecar:
        yield sidecar


def test_standstill_fails_nothing_that_is_under_way(sidecar: Sidecar, upstream: Upstream) -> None:
    go_on = threading.Event()
    stopped = threading.Event()
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    def script(wire: Wire) -> None:
        while True:
            head = wire.head()
            upstream.requests.append(head)
            if head.target == b"/streaming":
                wire.send(chunked + b"5\r\nhello\r\n")
                assert go_on.wait(60)
                wire.send(b"5\r\nworld\r\n0\r\n\r\n")
            elif head.target == b"/uploading":
                wire.send(answer(wire.exactly(10)))
            elif head.target == b"/meanwhile":
                assert stopped.wait(60)
                wire.send(answer(b"while it stood still"))
            elif head.target == b"/never":
                wire.await_end()
            elif head.target == b"/later":
                assert go_on.wait(60)
                wire.send(answer(b"afterwards"))
            else:
                wire.send(answer(head.target))

    with upstream.play(script), contextlib.ExitStack() as stack:
        names = ("later", "meanwhile", "streaming", "uploading", "arriving", "idle", "never", "sixth", "queued")
        wires = {name: stack.enter_context(sidecar.connect()) for name in names}
        wires["idle"].send(get("/plain/idle"))
        assert wires["idle"].response().status == 200
        for name in ("later", "meanwhile", "streaming", "never"):
            wires[name].send(get(f"/plain/{name}"))
        wires["uploading"].send(get("/plain/uploading", "Content-Length: 10", method="POST") + b"hello")
        wires["streaming"].until(b"hello\r\n")
        wires["sixth"].send(get("/plain/later"))
        eventually(lambda: len(upstream.requests) == 7, "all six connections are in use")
        wires["queued"].send(get("/plain/queued"))
        wires["arriving"].send(b"GET /plain/arriving HTTP/1.1\r\nHo")
        sidecar.turn()

        with sidecar.standing_still():  # for longer than any of its timeouts; the others go on
            stopped.set()
            time.sleep(STANDSTILL_S)  # what is tested, no wait for something to happen
        wires["uploading"].send(b"world")
        wires["arriving"].send(b"st: any.test\r\n\r\n")
        wires["idle"].send(get("/plain/idle"))
        go_on.set()
        bodies = {name: wire.response().body for name, wire in wires.items() if name not in ("streaming", "never")}
        streamed = [wires["streaming"].chunk(), wires["streaming"].chunk()]

        assert bodies == {
            "later": b"afterwards",
            "meanwhile": b"while it stood still",
            "uploading": b"helloworld",
            "arriving": b"/arriving",
            "idle": b"/idle",
            "sixth": b"afterwards",
            "queued": b"/queued",
        }
        assert streamed == [b"world", b""]
        assert wires["never"].response().error == "DOWNSTREAM_TIMEOUT", "what is overdue after all, is"
