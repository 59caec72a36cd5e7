"""The response side of a connection of the application: how each response is framed on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sidecar.proxy.chunked import encode_chunk, encode_end
from sidecar.proxy.framing import RequestHead, ResponseHead
from sidecar.proxy.headers import response_for_downstream

if TYPE_CHECKING:
    from sidecar.proxy.downstream import DownstreamConnection

Trailers = Sequence[tuple[bytes, bytes]]


class Responder:
    """Writes the upstream's responses to one connection of the application, one after another.

    Args:
        downstream: the connection.

    Attributes:
        begun: the final head of the present response is out.
        until_close: the end of the connection is all that will tell the application where that response ends.
    """

    __slots__ = ("_chunked", "_downstream", "begun", "until_close")

    def __init__(self, downstream: DownstreamConnection) -> None:
        self._downstream = downstream
        self._chunked = False
        self.begun = False
        self.until_close = False

    def expect(self) -> None:
        """A request begins; nothing of its response is out yet."""
        self.begun = False
        self._chunked = False
        self.until_close = False

    def interim(self, request: RequestHead, head: ResponseHead) -> None:
        """Pass a 1xx head on, but never to HTTP/1.0 (RFC 9110 section 15.2)."""
        if request.http11:
            self._downstream.write(response_for_downstream(head, chunked=False, connection=None))

    def begin(
        self,
        request: RequestHead,
        head: ResponseHead,
        body: bytes,
        done: bool,
        *,
        persists: bool,
        bodiless: bool,
        trailers: Trailers = (),
    ) -> None:
        """Send the final head, with the body octets that are there.

        Args:
            request: that is answered.
            head: as the upstream sent it.
            body: not framed.
            done: that is all of the body.
            persists: the connection may serve another request behind this response, as far as the request goes.
            bodiless: there is no body, whatever the head says.
            trailers: behind the body, where it is `done`.
        """
        downstream = self._downstream
        self.begun = True
        framed = bodiless or head.content_length is not None
        chunked = self._chunked = not framed and request.http11
        if not framed and not chunked:
            persists = False  # HTTP/1.0: the end of the body is the end of the connection
            self.until_close = True
        downstream.keep_alive = persists
        connection = (None if persists else False) if request.http11 else (True if persists else None)
        octets = response_for_downstream(head, chunked, connection)
        if chunked:
            if body:
                octets += encode_chunk(body)
            if done:
                octets += encode_end(list(trailers))
            downstream.write(octets)
        else:
            downstream.write(octets + body if body else octets)

    def go_on(self, body: bytes) -> None:
        """Send more of the body."""
        self._downstream.write(encode_chunk(body) if self._chunked else body)

    def end(self, trailers: Trailers) -> None:
        """The body has ended as it should."""
        if self._chunked:
            self._downstream.write(encode_end(list(trailers)))
