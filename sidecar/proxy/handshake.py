"""A connection of the application before its TLS handshake is over.

It counts as a connection from the beginning, and has as long as a head may take. Nothing can be answered to whoever
does not get through it, so failures are counted, and told in the log now and then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from sidecar.proxy.downstream import DownstreamConnection
from sidecar.proxy.tls import TlsContext

if TYPE_CHECKING:
    from sidecar.proxy.listener import Listener

_SHUTDOWN_S: Final = 2.0
"""How long a client may take to agree to the end of a connection; see `downstream`."""


def _feed(transport: asyncio.Transport, octets: bytes) -> None:
    """Give the protocol of a transport, which is TLS by now, octets that came before it was."""
    protocol = cast("asyncio.BufferedProtocol", transport.get_protocol())
    while octets:
        buffer = memoryview(protocol.get_buffer(len(octets)))
        size = min(len(buffer), len(octets))
        buffer[:size] = octets[:size]
        octets = octets[size:]
        protocol.buffer_updated(size)


class Handshake:
    """The TLS handshake of one accepted connection; an asyncio protocol by its methods.

    Args:
        listener: that accepted it.
        tls: how the listener identifies itself.
    """

    __slots__ = ("_early", "_ended", "_listener", "_task", "_tls", "_transport")

    def __init__(self, listener: Listener, tls: TlsContext) -> None:
        self._listener = listener
        self._tls = tls
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._early = b""  # what came with the last of the handshake
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._listener.admit_handshake(self, transport):
            self._transport.abort()
            return
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop: Any = asyncio.get_running_loop()  # whose types ask for a subclass of asyncio.Protocol
        listener = self._listener
        raw = self._transport
        assert raw is not None, "it has been made"
        upgrade: asyncio.Task[Any] = loop.create_task(
            loop.start_tls(
                raw,
                self,
                self._tls.context,
                server_side=True,
                ssl_handshake_timeout=listener.settings.head_timeout,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        )
        try:
            # The loop reads from the moment on when a connection is made, so the beginning of the handshake may come
            # before TLS has taken over: in two turns it has, and is not read before it is given that.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            early, self._early = self._early, b""
            _feed(raw, early)
            transport = await upgrade
        except OSError as error:  # of TLS, of the connection, and of time
            self.close()
            listener.on_handshake_failed(error)
            return
        finally:
            upgrade.cancel()
            self._task = None
            listener.on_handshake_over(self)
        connection = DownstreamConnection(listener)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._early:
            connection.data_received(self._early)
        if self._ended:
            connection.eof_received()

    def data_received(self, data: bytes) -> None:
        """Octets of the handshake before TLS has taken over, or of the first request behind it."""
        self._early += data

    def eof_received(self) -> None:
        self._ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Either `start_tls` has failed as well, or what came of it notices in its turn."""

    def pause_writing(self) -> None:
        """Nothing is written here."""

    def resume_writing(self) -> None:
        """Nothing is written here."""

    def close(self) -> None:
        """End the connection at once."""
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.abort()
