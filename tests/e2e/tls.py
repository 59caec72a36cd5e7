"""The harness with TLS in between: connections, servers, and a sidecar that is spoken to by it.

Over memory and not over `ssl.SSLSocket`: two threads may use one connection, one each way, which OpenSSL does not
allow by itself; and what TLS says beside the stream is seen, above all whether it was ended (close_notify) or cut.
"""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

from .certificates import Pair
from .harness import Address, Ended, Script, Sidecar, Upstream, Wire, connected

_PIECE = 1 << 16


def server_context(pair: Pair, folder: Path, *, client_ca: bytes | None = None) -> ssl.SSLContext:
    """A server that shows `pair`, and wants a client certificate by `client_ca` where that is given.

    Args:
        pair: what it shows.
        folder: for a file that is needed for a moment.
        client_ca: authorities in PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    show(context, pair, folder)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca.decode())
    return context


def client_context(ca: bytes, pair: Pair | None = None, folder: Path | None = None) -> ssl.SSLContext:
    """A client that trusts `ca` alone, and shows `pair` where that is given."""
    context = ssl.create_default_context(cadata=ca.decode())
    if pair is not None:
        assert folder is not None
        show(context, pair, folder)
    return context


def show(context: ssl.SSLContext, pair: Pair, folder: Path) -> None:
    """From the next connection on, show `pair`."""
    file = folder / "shown.pem"
    file.write_bytes(pair.together)
    context.load_cert_chain(file)
    file.unlink()


class TlsWire(Wire):
    """A connected socket that speaks octets over TLS.

    Args:
        sock: connected.
        peer: what to call the other side in messages.
        context: the terms.
        server_side: whether the peer has connected to us.
        server_hostname: whom a client wants to speak to.

    Attributes:
        notified: whether the peer has said that its stream is whole (close_notify).
        alert: what it has said went wrong, in OpenSSL's words.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        super().__init__(sock, peer)
        self.notified = False
        self.alert: str | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._turn = threading.Lock()  # of one thread with OpenSSL
        self._sending = threading.Lock()  # so that records leave in the order in which they were made

    def handshake(self) -> None:
        """Agree with the peer. Raises `ssl.SSLError`, or `Ended` where the peer has left without an alert."""
        while True:
            try:
                with self._turn:
                    self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._take_in()
            except ssl.SSLError as error:
                self.alert = error.reason
                self._flush()
                raise
            else:
                self._flush()
                return

    def send(self, octets: bytes) -> None:
        view = memoryview(octets)
        for start in range(0, len(view), _PIECE):
            with self._sending:
                self.sock.sendall(self.record(view[start : start + _PIECE]))

    def record(self, octets: bytes | memoryview) -> bytes:
        """What `send` would send, for who sends it himself."""
        with self._turn:
            self.tls.write(octets)
            return self._outgoing.read()

    def finish(self) -> None:
        """close_notify and FIN: nothing more will be sent, and what was sent is whole."""
        self.notify()
        super().finish()

    def notify(self) -> None:
        """close_notify, and the connection left as it is."""
        with self._turn:
            try:
                self.tls.unwrap()
            except ssl.SSLError:  # the peer's own has not come yet, or never will
                pass
        self._flush()

    def _receive(self) -> bytes:
        while True:
            try:
                with self._turn:
                    octets = self.tls.read(1 << 18)
            except ssl.SSLWantReadError:
                if self._sending.acquire(blocking=False):  # else whoever sends takes it along
                    self._sending.release()
                    self._flush()
                try:
                    self._take_in()
                except Ended:
                    return b""
            except ssl.SSLError as error:
                self.alert = error.reason
                raise
            else:
                self.notified = self.notified or not octets
                return octets

    def _take_in(self) -> None:
        octets = super()._receive()
        if not octets:
            raise Ended(b"", reset=False)
        with self._turn:
            self._incoming.write(octets)

    def _flush(self) -> None:
        with self._sending:
            with self._turn:
                records = self._outgoing.read()
            if records:
                self.sock.sendall(records)


def connect_tls(
    address: Address,
    context: ssl.SSLContext,
    name: str = "localhost",
    *,
    receive_buffer: int | None = None,
) -> TlsWire:
    """A connection to `address` on which the handshake is over; the exceptions are those of `handshake`.

    Args:
        address: where to.
        context: whom to trust, and what to show.
        name: of the server.
        receive_buffer: octets that the kernel may hold for us; the default is the kernel's.
    """
    sock = connected(address, receive_buffer=receive_buffer)
    wire = TlsWire(sock, "sidecar", context, server_hostname=name)
    try:
        wire.handshake()
    except BaseException:
        wire.close()
        raise
    return wire


class TlsUpstream(Upstream):
    """An upstream that speaks TLS.

    Args:
        context: what new connections get; may be replaced at any time.
        options: those of `Upstream`.

    Attributes:
        failed: handshakes that came to nothing, in OpenSSL's words.
        names: the server names that clients have asked for, None where one named none.
    """

    scheme = "https"

    def __init__(self, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.failed: list[str] = []
        self.names: list[str | None] = []
        self.context = context

    @property
    def context(self) -> ssl.SSLContext:
        return self._context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        context.sni_callback = lambda tls, name, _: self.names.append(name)
        self._context = context

    def _wire(self, sock: socket.socket) -> Wire:
        return TlsWire(sock, "sidecar", self._context, server_side=True)

    def _run(self, wire: Wire, script: Script) -> None:
        super()._run(wire, script)
        if isinstance(wire, TlsWire) and wire.alert is not None:
            self.failed.append(wire.alert)


class TlsSidecar(Sidecar):
    """A sidecar whose shared port speaks TLS.

    Args:
        client: the terms of the connections to it.
        options: those of `Sidecar`.
    """

    def __init__(self, client: ssl.SSLContext, *options: Any, **settings: Any) -> None:
        super().__init__(*options, **settings)
        self.client = client

    def connect(self, *, receive_buffer: int | None = None) -> TlsWire:
        """A connection to the shared port, over TLS."""
        return connect_tls(self.address, self.client, receive_buffer=receive_buffer)
