"""The read-only listener: GET and HEAD only, changes nothing, ever.

`/livez` answers 200 as long as the loop turns; a blocked loop shows by not answering. `/readyz` is 503 until every
listener is bound and again while the sidecar drains; a dependency that is down does not make the sidecar unready,
for then Kubernetes would take the application's pod out of service for a fault that lies elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web


def health_application(readiness: Callable[[], str | None]) -> web.Application:
    """The application behind `metrics.listen`.

    Args:
        readiness: returns None when ready, else in words why not.
    """

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = readiness()
        if reason is None:
            return web.Response(text="ready\n")
        return web.Response(status=503, text=f"not ready: {reason}\n")

    application = web.Application()
    application.router.add_get("/livez", livez)
    application.router.add_get("/readyz", readyz)
    return application
