"""A reverse proxy of aiohttp's own server and client: what most people would write first.

It streams both bodies, strips hop-by-hop headers and pools its upstream connections. It has no policies.
Run as `python -m benchmarks.aiohttp_proxy LISTEN_PORT UPSTREAM_PORT [CA_FILE SERVER_NAME]`; with a CA the upstream
speaks TLS.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys

import uvloop
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

# RFC 9110 section 7.6.1, with the older names that it still lists.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers without the hop-by-hop ones and those that Connection names."""
    named = {token.strip().lower() for value in headers.getall("Connection", ()) for token in value.split(",")}
    drop = _HOP_BY_HOP | named
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in drop)


class Proxy:
    """The handler of a `web.Server`."""

    def __init__(self, session: ClientSession, base: str, server_name: str | None) -> None:
        self._session = session
        self._base = base
        self._server_name = server_name

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forwards one request and streams the answer back."""
        try:
            upstream = await self._session.request(
                request.method,
                URL(self._base + request.raw_path, encoded=True),
                headers=_end_to_end(request.headers),
                data=request.content if request.body_exists else None,
                allow_redirects=False,
                server_hostname=self._server_name,
            )
        except ClientError as error:
            return web.Response(status=502, text=str(error))
        async with upstream:
            answer = web.StreamResponse(
                status=upstream.status, reason=upstream.reason, headers=_end_to_end(upstream.headers)
            )
            await answer.prepare(request)
            async for chunk in upstream.content.iter_any():
                await answer.write(chunk)
            await answer.write_eof()
            return answer


async def serve(port: int, upstream_port: int, ca_file: str | None = None, server_name: str | None = None) -> None:
    """Serves on the loopback until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    session = ClientSession(
        connector=TCPConnector(
            limit=0,
            keepalive_timeout=600,
            ssl=True if ca_file is None else ssl.create_default_context(cafile=ca_file),
        ),
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(total=None, sock_connect=1, sock_read=60),
        # The answer's bytes are the client's business.
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
    )
    base = f"{'http' if ca_file is None else 'https'}://127.0.0.1:{upstream_port}"
    async with session:
        server = web.Server(Proxy(session, base, server_name).handle, access_log=None)
        runner = web.ServerRunner(server)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, shutdown_timeout=0.5, backlog=1024).start()
        await stop.wait()
        await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
