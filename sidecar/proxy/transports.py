"""What both sides of the wire, and tunnels, ask of a transport beyond what asyncio offers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from typing import Final

WRITE_BUFFER_HIGH: Final = 65_536
"""Octets that may wait in a transport before the other side is paused."""

_NO_LINGER: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a reset."""


def unsent(transport: asyncio.WriteTransport) -> int:
    """Octets written to `transport` that the peer's kernel has not acknowledged, ours and the kernel's together.

    A stalled peer and a slow one differ in whether this number moves.
    """
    size = transport.get_write_buffer_size()
    try:
        packed = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, AttributeError, ValueError):
        return size
    return size + int(struct.unpack("i", packed)[0])


def make_close_a_reset(transport: asyncio.BaseTransport) -> None:
    """Let the end of a connection, whenever it comes, be RST and not FIN."""
    with contextlib.suppress(OSError, AttributeError):  # no socket any more; a Unix one knows no RST
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
