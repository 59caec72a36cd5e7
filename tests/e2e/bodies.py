"""What holds of large bodies on every wire: exact both ways, and whoever is slow holds the other side back.

Each takes a sidecar whose prefix `/plain` leads to the upstream, whichever of the two wires speaks TLS.
"""

from __future__ import annotations

import hashlib
import random
import threading

from .harness import IN_BETWEEN, MB, Background, Flood, Message, Sidecar, Upstream, Wire, answer, get, post, steady


def both_ways_are_exact_with_a_slow_reader(sidecar: Sidecar, upstream: Upstream) -> None:
    body = random.Random(4).randbytes(8 * MB)

    def reply(wire: Wire, request: Message) -> None:
        wire.send(answer(request.body))

    with upstream.replying(reply), sidecar.connect(receive_buffer=4096) as wire:
        with Background(lambda: wire.send(post("/plain/x", body))):
            head = wire.head()
        assert head.get(b"content-length") == b"%d" % len(body)
        digest = hashlib.sha256()
        for _ in range(len(body) // 8000):
            digest.update(wire.exactly(8000))
        assert digest.digest() == hashlib.sha256(body).digest()


def slow_client_holds_the_upstream_back(sidecar: Sidecar, upstream: Upstream, *, buffered: int, memory: int) -> None:
    """At most `buffered` octets beyond the kernel's, and `memory` octets of the sidecar's own."""
    flood = Flood()

    def script(wire: Wire) -> None:
        wire.request()
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % flood.size)
        flood(wire)
        wire.await_end()

    before = sidecar.rss()
    with upstream.play(script), sidecar.connect(receive_buffer=4096) as wire:
        wire.send(get("/plain/big"))
        wire.head()
        assert steady(lambda: flood.sent) < IN_BETWEEN + buffered
        assert sidecar.rss() - before < memory
        left = flood.size
        while left:
            left -= len(wire.more())


def slow_upstream_holds_the_application_back(
    sidecar: Sidecar, upstream: Upstream, *, buffered: int, memory: int
) -> None:
    """The same, the other way."""
    flood = Flood()
    go_on = threading.Event()

    def script(wire: Wire) -> None:
        wire.head()
        assert go_on.wait(60)
        left = flood.size
        while left:
            left -= len(wire.more())
        wire.send(answer(b"at last"))

    before = sidecar.rss()
    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/upload", f"Content-Length: {flood.size}", method="POST"))
        with Background(lambda: flood(wire)):
            assert steady(lambda: flood.sent) < IN_BETWEEN + buffered
            assert sidecar.rss() - before < memory
            go_on.set()
        assert wire.response().body == b"at last"
        assert sidecar.rss() - before < memory
