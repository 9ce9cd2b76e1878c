"""A page in its three forms: HTML, JSON, and CSV where it has rows. All show one document."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import falcon
from falcon.asgi import Request, Response

from console.query import Query
from console.site import Site
from display.texts import spreadsheet_text

Document = dict[str, Any]


class Page:
    """A resource of the console. A subclass returns a document; the rest is here.

    Attributes:
        path: of the HTML; the other forms have `.json` and `.csv` behind it.
        title: of the page.
        template: file of the template; its variables are the document's.
        rows: the document's list that makes the CSV; "" for none.
        columns: of the CSV, names of the rows' fields; `event.type` is a field of a field.
    """

    path: ClassVar[str]
    title: ClassVar[str]
    template: ClassVar[str]
    rows: ClassVar[str] = ""
    columns: ClassVar[Sequence[str]] = ()

    def __init__(self, site: Site) -> None:
        self.site = site

    async def document(self, query: Query) -> Document:
        """Return what the page shows.

        Raises:
            BadQuery: the query is wrong.
            ClientError: the service did not answer, or refused.
        """
        raise NotImplementedError

    async def on_get(self, request: Request, response: Response) -> None:
        """Answer in the form that the path asks for."""
        query = Query(request.params, self.site.zone)
        document = await self.document(query)
        match request.path.removeprefix(self.path):
            case ".json":
                response.content_type = falcon.MEDIA_JSON
                make = partial(json.dumps, document, ensure_ascii=False)
            case ".csv":
                response.content_type = "text/csv; charset=utf-8"
                response.downloadable_as = f"{self.path.strip('/')}.csv"
                make = partial(csv_of, document[self.rows], self.columns)
            case _:
                response.content_type = falcon.MEDIA_HTML
                make = partial(self.site.render, self.template, page=self, query=query, **document)
        response.text = await asyncio.to_thread(make)  # a large page takes a second

    on_head = on_get


class Piece(NamedTuple):
    """A piece of a live part.

    Attributes:
        revision: the part is as of this revision, or complete up to it.
        html: of the piece; "" if there is nothing new.
    """

    revision: int
    html: str


class Outdated(Exception):
    """A page cannot be brought up to date and must be loaded again. The message says why."""


class LivePage(Page):
    """A page of which a part changes while it is open.

    Attributes:
        event: `replace` if each piece takes the place of the one before, `prepend` if it is added.
    """

    event: ClassVar[Literal["replace", "prepend"]]

    def check(self, query: Query) -> None:
        """Raise BadQuery if the query is wrong."""
        raise NotImplementedError

    def live(self, query: Query, after: int | None) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of the live part, and one about every 5 s in any case.

        Args:
            query: one that was checked.
            after: revision that the page shows; None: begin with what comes.

        Raises:
            Outdated: too much has happened since that revision.
            ClientError: the service refuses.
        """
        raise NotImplementedError


def csv_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV by RFC 4180, with a header.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(row, column) for column in columns] for row in rows)
    return text.getvalue()


def _cell(row: Mapping[str, Any], column: str) -> Any:
    value: Any = row
    for name in column.split("."):
        value = value.get(name, "") if isinstance(value, Mapping) else ""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return spreadsheet_text(value) if isinstance(value, str) else value
