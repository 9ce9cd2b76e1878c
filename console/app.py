"""The console as a Falcon application for ASGI."""

from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import falcon
from falcon.asgi import App, Request, Response

from console.events import Rejections
from console.health import Health
from console.live import Live, TooManyListeners
from console.page import Page
from console.problems import Problems
from console.protection import LIVE, Access
from console.query import BadQuery, Query
from console.reports import Reports
from console.sessions import OneSession, Sessions
from console.site import Site
from console.subscribers import Subscribers
from desk.client import ClientError

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Static files that are served, by ending."""

FOREVER = "public, max-age=31536000, immutable"


def create_app(site: Site, access: Access, lives: Iterable[Live]) -> App[Any, Any]:
    """Return the application.

    Args:
        site: what all pages share.
        access: decides who may see them.
        lives: live parts, whose pages are added with them.
    """
    app = App(middleware=[access])
    app.req_options.keep_blank_qs_values = False
    problems = Problems(site)
    app.set_error_serializer(problems.explain)
    for error in (BadQuery, ClientError):
        app.add_error_handler(error, problems.refuse)
    app.add_route("/", Start())
    for kind in (Sessions, OneSession, Rejections, Reports, Subscribers, Health):
        _add(app, kind(site))
    for live in lives:
        _add(app, live.page)
        app.add_route(f"{live.page.path}/live", LivePart(live))
    app.add_route("/static/{version}/{name}", Static(site.assets))
    app.add_route(LIVE, Alive())
    return app


def _add(app: App[Any, Any], page: Page) -> None:
    forms = ["", ".json", *([".csv"] if page.rows else [])]
    for form in forms:
        app.add_route(f"{page.path}{form}", page)


class Start:
    """Sends the browser to the board."""

    async def on_get(self, request: Request, response: Response) -> None:
        raise falcon.HTTPFound("/board")

    on_head = on_get


class LivePart:
    """Sends the live part of a page as server-sent events."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def on_get(self, request: Request, response: Response) -> None:
        """Send events until the browser leaves."""
        query = Query(request.params, self._live.page.site.zone)
        after = query.number("after") if query.text("after") else None
        query = query.without("after")
        self._live.page.check(query)
        response.set_header("X-Accel-Buffering", "no")  # nginx passes events on at once
        response.content_type = "text/event-stream"
        try:
            response.stream = self._live.listen(query, after)
        except TooManyListeners as error:
            raise falcon.HTTPServiceUnavailable(description=str(error), retry_after=10) from None

    on_head = on_get


class Static:
    """Serves style and scripts, under a name that changes with them."""

    def __init__(self, version: str) -> None:
        self._version = version
        folder = files("console").joinpath("static")
        self._files = {
            file.name: (TYPES[f".{file.name.rpartition('.')[2]}"], file.read_bytes())
            for file in folder.iterdir()
            if f".{file.name.rpartition('.')[2]}" in TYPES
        }

    async def on_get(self, request: Request, response: Response, version: str, name: str) -> None:
        """Send a file. Browsers keep it if it is the version that they ask for."""
        if name not in self._files:
            raise falcon.HTTPNotFound
        response.content_type, response.data = self._files[name]
        if version == self._version:
            response.set_header("Cache-Control", FOREVER)

    on_head = on_get


class Alive:
    """Says that the process runs."""

    async def on_get(self, request: Request, response: Response) -> None:
        response.content_type = falcon.MEDIA_TEXT
        response.text = "ok\n"

    on_head = on_get
