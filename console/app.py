"""The console as a Falcon application for ASGI."""

from importlib.resources import files
from typing import Any

import falcon
from falcon.asgi import App, Request, Response

from console.board import Board, options_of
from console.events import Feed, Rejections
from console.health import Health
from console.live import Live, TooManyListeners
from console.page import Page
from console.protection import LIVE, Access
from console.query import BadQuery, Query
from console.reports import Reports
from console.sessions import OneSession, Sessions
from console.site import Site
from console.subscribers import Subscribers
from console.table import Table

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Static files that are served, by ending."""

FOREVER = "public, max-age=31536000, immutable"


def create_app(site: Site, access: Access) -> App[Any, Any]:
    """Return the application.

    Args:
        site: what all pages share.
        access: decides who may see them.
    """
    app = App(middleware=[access], cors_enable=False)
    app.req_options.keep_blank_qs_values = False
    app.add_route("/", Start())
    for kind in (Sessions, OneSession, Rejections, Reports, Subscribers, Health):
        _add(app, kind(site))
    board, feed, table = Board(site), Feed(site), Table(site)
    for page, event in ((board, "replace"), (feed, "prepend"), (table, "replace")):
        _add(app, page)
        app.add_route(f"{page.path}/live", LivePart(Live(page.live, event)))
    app.add_route("/static/{version}/{name}", Static())
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


class LivePart:
    """Sends the live part of a page as server-sent events."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def on_get(self, request: Request, response: Response) -> None:
        """Send events until the browser leaves."""
        query = Query(request.params)
        try:
            query.event_filter(), options_of(query), query.text("row")  # before a stream begins
        except BadQuery as error:
            raise falcon.HTTPBadRequest(description=str(error)) from None
        response.set_header("X-Accel-Buffering", "no")  # nginx passes events on at once
        try:
            response.sse = self._live.listen(query.encoded())
        except TooManyListeners:
            raise falcon.HTTPServiceUnavailable(retry_after=10) from None


class Static:
    """Serves style and scripts, under a name that changes with them."""

    def __init__(self) -> None:
        folder = files("console").joinpath("static")
        self._files = {
            file.name: (TYPES[f".{file.name.rpartition('.')[2]}"], file.read_bytes())
            for file in folder.iterdir()
            if f".{file.name.rpartition('.')[2]}" in TYPES
        }

    async def on_get(self, request: Request, response: Response, version: str, name: str) -> None:
        """Send a file."""
        if name not in self._files:
            raise falcon.HTTPNotFound
        response.content_type, response.data = self._files[name]
        response.set_header("Cache-Control", FOREVER)


class Alive:
    """Says that the process runs."""

    async def on_get(self, request: Request, response: Response) -> None:
        """Answer."""
        response.content_type = falcon.MEDIA_TEXT
        response.text = "ok\n"
