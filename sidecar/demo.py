"""A dependency to play with: tell it by request to be slow, to fail or to hang up."""

from __future__ import annotations

import asyncio
import math

import uvloop
from aiohttp import web

from sidecar.app import App, serve
from sidecar.config import Config, TcpAddress
from sidecar.errors import StartError
from sidecar.telemetry.sink import LogSink

_LONGEST_S = 60.0

_INVITATION = """
The demo dependency listens on {upstream}, the sidecar in front of it on {listen}. Try:

  curl -i  {url}/hello              # answered by the dependency, through the sidecar
  curl -i '{url}/slow?seconds=10'   # too slow: the sidecar answers 504 and says which timeout
  curl -i  {url}/hangup             # no answer at all: 502, in words

and see the circuit open and close (each line shows where it stands, as Prometheus would see it):

{circuit}

Ctrl-C drains and stops both.
"""


_CIRCUIT = (
    ("state() {{ curl -s {metrics}/metrics | grep '^circuit_breaker_state.* 1'; }}", ""),
    ("state", "closed"),
    ("for i in {fails}; do curl -s -o /dev/null {url}/fail; done; state", "open: {count} failures in a row"),
    ("curl -i {url}/hello; state", "refused: CIRCUIT_OPEN"),
    ("sleep {wait}; state", "half_open: it tries again"),
    ("for i in {goods}; do curl -s -o /dev/null {url}/hello; done; state", "closed again"),
)
"""What opens and closes the circuit, with what each line shows."""


def demo_application() -> web.Application:
    """The demo dependency: /hello, /slow?seconds=S, /fail?status=N, /hangup, /echo; any other path says hello."""

    async def hello(request: web.Request) -> web.Response:
        return web.json_response({"hello": "from the demo dependency", "path": request.raw_path})

    async def slow(request: web.Request) -> web.Response:
        seconds = _number(request, "seconds", 3.0)
        await asyncio.sleep(min(max(seconds, 0.0), _LONGEST_S))
        return web.json_response({"slept_seconds": seconds})

    async def fail(request: web.Request) -> web.Response:
        status = int(_number(request, "status", 503))
        if not 200 <= status <= 599:
            raise web.HTTPBadRequest(text="status must be from 200 to 599\n")
        return web.json_response({"failed": "as you asked"}, status=status)

    async def hangup(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": request.content_type})
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response

    application = web.Application()
    application.router.add_get("/slow", slow)
    application.router.add_route("*", "/fail", fail)
    application.router.add_route("*", "/hangup", hangup)
    application.router.add_post("/echo", echo)
    application.router.add_route("*", "/{path:.*}", hello)
    return application


def run_demo(config: Config, sink: LogSink | None = None) -> int:
    """Run the demo dependency and a sidecar in front of it, until told to stop.

    Args:
        sink: where lines about requests go.
        config: one with a shared port and a dependency named demo, whose upstream is where the demo listens and whose
            prefix the printed lines use.

    Raises:
        StartError: the configuration is not fit for that, or an address is taken.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, sink))


async def _serve(config: Config, sink: LogSink | None) -> int:
    demo = config.dependencies.get("demo")
    origins = [str(each) for each in demo.upstream] if demo else []
    if demo is None or not origins[0].startswith("http://") or origins[1:] or not isinstance(config.listen, TcpAddress):
        raise StartError("the demo needs a shared TCP port and a dependency named demo with one http:// upstream")
    runner = web.AppRunner(demo_application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, demo.upstream[0].host, demo.upstream[0].port).start()
        except OSError as error:
            raise StartError(f"the demo dependency cannot listen on {origins[0]}: {error.strerror}") from error
        url = f"http://{config.listen}{(demo.prefix or '').rstrip('/')}"
        print(_invitation(config, url), flush=True)
        return await serve(App(config, sink))
    finally:
        await runner.cleanup()


def _invitation(config: Config, url: str) -> str:
    """What to try, with the thresholds that the configuration really has."""
    demo = config.dependencies["demo"]
    breaker = demo.circuit_breaker
    failures = breaker.consecutive_failures or 1
    values = {
        "url": url,
        "metrics": f"http://{config.metrics.listen}",
        "fails": " ".join(map(str, range(1, failures + 1))),
        "count": failures,
        "wait": math.ceil(breaker.open_for * 1.1),  # the longest that its jitter makes of it
        "goods": " ".join(map(str, range(1, breaker.half_open.successes + 1))),
    }
    lines = [(command.format(**values), shows.format(**values)) for command, shows in _CIRCUIT]
    width = max(len(command) for command, shows in lines if shows)
    circuit = "\n".join(f"  {command:{width}}  # {shows}" if shows else f"  {command}" for command, shows in lines)
    return _INVITATION.format(upstream=demo.upstream[0], listen=config.listen, url=url, circuit=circuit)


def _number(request: web.Request, name: str, default: float) -> float:
    try:
        number = float(request.query.get(name, default))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise web.HTTPBadRequest(text=f"{name} must be a number\n")
    return number
