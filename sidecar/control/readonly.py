"""The read-only listener: GET and HEAD only, changes nothing, ever.

`/livez` answers 200 as long as the loop turns; a blocked loop shows by not answering. `/readyz` is 503 until every
listener is bound and again while the sidecar drains; a dependency that is down does not make the sidecar unready,
for then Kubernetes would take the application's pod out of service for a fault that lies elsewhere. `/metrics` is what
Prometheus scrapes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

Render = Callable[[str], Awaitable[tuple[bytes, str]]]
"""From the value of Accept to an exposition and its content type."""


def readonly_application(readiness: Callable[[], str | None], render: Render) -> web.Application:
    """The application behind `metrics.listen`.

    Args:
        readiness: returns None when ready, else in words why not.
        render: makes the exposition.
    """

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = readiness()
        if reason is None:
            return web.Response(text="ready\n")
        return web.Response(status=503, text=f"not ready: {reason}\n")

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = await render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    application = web.Application()
    application.router.add_get("/livez", livez)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/metrics", metrics)
    return application
