"""The last descriptors are kept for those who need them more.

The kernel gives the lowest free number, so the number of a new descriptor says how many are left, without counting.
A crowd of clients must neither keep the read-only port from answering nor the requests under way from reaching their
dependency: new connections of the application are turned away first, new ones to a dependency next.
"""

from __future__ import annotations

import asyncio
import os
import resource
from typing import Final

_RESERVE: Final = 64
"""Descriptors kept back; of a small limit, a quarter."""


def too_few_for_application(transport: asyncio.BaseTransport) -> bool:
    """Whether a new connection of the application takes a descriptor that is kept for all others."""
    limit, reserve = _limit_and_reserve()
    return _descriptor(transport) >= limit - reserve


def too_few_for_dependency(transport: asyncio.BaseTransport) -> bool:
    """Whether a new connection to a dependency takes a descriptor that is kept for the read-only port."""
    limit, reserve = _limit_and_reserve()
    return _descriptor(transport) >= limit - reserve // 2


def none_left_for_dependency() -> bool:
    """Whether the next descriptor is one that is kept for the read-only port: asked before a connection is begun.

    Connections that are being made have descriptors already, and a crowd of them must not take the last ones even for
    a moment: what the kernel cannot hand to a listener, uvloop resets.
    """
    try:
        probe = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    os.close(probe)
    limit, reserve = _limit_and_reserve()
    return probe >= limit - reserve // 2


def _descriptor(transport: asyncio.BaseTransport) -> int:
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())


def _limit_and_reserve() -> tuple[int, int]:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # anew each time: it may be changed from outside
    if limit == resource.RLIM_INFINITY:
        limit = 1 << 30
    return limit, min(_RESERVE, limit // 4)
