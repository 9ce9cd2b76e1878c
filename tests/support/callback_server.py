"""A real HTTP server that answers callbacks as it is told to."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OK = {"ActionStatus": "OK", "ErrorCode": 0, "ErrorInfo": ""}


def ok() -> web.Response:
    return web.json_response(OK)


def busy() -> web.Response:
    return web.json_response(
        {"ActionStatus": "FAIL", "ErrorCode": 1, "ErrorInfo": "busy"},
        status=503,
        headers={"Retry-After": "0"},
    )


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    """Serve on an ephemeral loopback port; the URL."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
