"""A gigabyte each way: at constant memory, and octet for octet."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

from .harness import Background, Sidecar, Upstream, Wire, get

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("settled")]

MB = 1_000_000
SIZE = 1_000 * MB


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Sidecar]:
    timeout = {"connect": "20s", "first_byte": "10m", "idle": "60s", "total": "10m"}
    plain: dict[str, Any] = {"upstream": upstream.url, "prefix": "/plain", "timeout": timeout}
    with Sidecar(tmp_path_factory.mktemp("long"), {"plain": plain}) as sidecar:
        yield sidecar


def pieces(size: int) -> Iterator[bytes]:
    """`size` octets in pieces of uneven length, the same each time and none like the one before it."""
    rng = random.Random(0)
    block = rng.randbytes(1 << 20)
    while size:
        start = rng.randrange(1 << 19)
        piece = block[start : start + min(size, rng.randrange(1, 1 << 19))]
        size -= len(piece)
        yield piece


def digest_of(octets: Iterator[bytes]) -> str:
    digest = hashlib.blake2b()
    for piece in octets:
        digest.update(piece)
    return digest.hexdigest()


def send(wire: Wire, framing: str) -> None:
    for piece in pieces(SIZE):
        wire.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
    if framing == "chunked":
        wire.send(b"0\r\n\r\n")


def received(wire: Wire, framing: str) -> Iterator[bytes]:
    if framing == "chunked":
        yield from iter(wire.chunk, b"")
        assert wire.until(b"\r\n") == b""
        return
    left = SIZE
    while left:
        octets = wire.more()
        left -= len(octets)
        assert left >= 0
        yield octets


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_gigabyte_each_way_at_constant_memory(sidecar: Sidecar, upstream: Upstream, framing: str) -> None:
    """The upload and its echo at the same time, so that every buffer there is gets used."""
    line = "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {SIZE}"
    peak = 0

    def watched(octets: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal peak
        for number, piece in enumerate(octets):
            if number % 100 == 0:
                peak = max(peak, sidecar.rss())
            yield piece

    def script(wire: Wire) -> None:
        wire.head()
        wire.send(f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode())
        for piece in received(wire, framing):
            wire.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
        if framing == "chunked":
            wire.send(b"0\r\n\r\n")
        wire.await_end()

    before = sidecar.rss()
    with upstream.play(script), sidecar.connect() as wire:
        wire.send(get("/plain/both", line, method="POST"))
        with Background(lambda: send(wire, framing)):
            wire.head()
            digest = digest_of(watched(received(wire, framing)))

    assert digest == digest_of(pieces(SIZE))
    assert peak - before < 5 * MB
