"""A connection of the application before its TLS handshake is over.

It counts as a connection from the beginning, and has as long as a head may take. Nothing can be answered to whoever
does not get through it, so failures are counted, and told in the log now and then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from sidecar.proxy.downstream import DownstreamConnection
from sidecar.proxy.tls import SHUTDOWN_S, TlsContext

if TYPE_CHECKING:
    from sidecar.proxy.listener import Listener


class Handshake:
    """The TLS handshake of one accepted connection; an asyncio protocol by its methods.

    Args:
        listener: that accepted it.
        tls: how the listener identifies itself.
    """

    __slots__ = ("_begun", "_early", "_ended", "_hello", "_listener", "_task", "_tls", "_transport")

    def __init__(self, listener: Listener, tls: TlsContext) -> None:
        self._listener = listener
        self._tls = tls
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._begun = False
        self._hello = b""  # what came before TLS could read it: not encrypted
        self._early = b""  # what came with the last of the handshake: encrypted
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._listener.admit_handshake(self, transport):
            self._transport.abort()
            return
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        listener = self._listener
        try:
            transport = await self._start_tls()
            if transport.is_closing():
                raise ConnectionResetError
        except OSError as error:  # of TLS, of the connection, and of time
            self._task = None
            self.close()
            listener.on_handshake_failed(error)
            return
        except Exception:
            self._task = None
            self.close()
            raise
        self._task = None
        listener.on_handshake_over(self)
        connection = DownstreamConnection(listener)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._early:
            connection.data_received(self._early)
        if self._ended:
            connection.eof_received()

    async def _start_tls(self) -> Any:
        loop: Any = asyncio.get_running_loop()  # whose types ask for a subclass of asyncio.Protocol
        transport = self._transport
        assert transport is not None
        if transport.is_closing():
            raise ConnectionResetError
        self._begun = True
        if self._hello:
            loop.call_soon(self._hand_hello_over)  # before it begins, and before the connection is read again
        return await loop.start_tls(
            transport,
            self,
            self._tls.context,
            server_side=True,
            ssl_handshake_timeout=self._listener.settings.head_timeout,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )

    def _hand_hello_over(self) -> None:
        """Show TLS, which is a buffered protocol, what has been read already."""
        transport: Any = self._transport
        layer = transport.get_protocol()
        hello, self._hello = self._hello, b""
        while hello:
            room = layer.get_buffer(len(hello))
            size = min(len(room), len(hello))
            room[:size] = hello[:size]
            layer.buffer_updated(size)
            hello = hello[size:]

    def data_received(self, data: bytes) -> None:
        if self._begun:
            self._early += data
        else:  # uvloop reads a new connection before the task runs that begins TLS on it
            self._hello += data

    def eof_received(self) -> None:
        self._ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Either `start_tls` has failed as well, or its transport says that it is closed."""

    def pause_writing(self) -> None:
        """Nothing is written here."""

    def resume_writing(self) -> None:
        """Nothing is written here."""

    def close(self) -> None:
        """End the connection at once."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()  # which may not have run yet, so nothing is left to it
        if self._transport is not None:
            self._transport.abort()
        self._listener.on_handshake_over(self)
