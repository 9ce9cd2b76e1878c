"""A page in its three forms: HTML, JSON, and CSV where it has rows. All show one document."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import falcon
from falcon.asgi import Request, Response

from console.query import BadQuery, Query
from console.site import Site
from desk.client import ClientError, Denied, InvalidRequest, NotFound, OutOfRange, Retryable
from display.texts import spreadsheet_text

Document = dict[str, Any]

_STATUSES: dict[type[Exception], int] = {
    BadQuery: 400,
    InvalidRequest: 400,
    Denied: 403,
    NotFound: 404,
    OutOfRange: 404,
    Retryable: 503,
    ClientError: 502,
}


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
        form = request.path.removeprefix(self.path)
        try:
            document = await self.document(query)
        except (BadQuery, ClientError) as error:
            self._fail(response, form, query, error)
            return
        if form == ".json":
            _put_json(response, document)
        elif form == ".csv":
            response.content_type = "text/csv; charset=utf-8"
            response.downloadable_as = f"{self.path.strip('/')}.csv"
            response.text = csv_of(document[self.rows], self.columns)
        else:
            response.content_type = falcon.MEDIA_HTML
            response.text = self.site.render(self.template, page=self, query=query, **document)

    def _fail(
        self, response: Response, form: str, query: Query, error: BadQuery | ClientError
    ) -> None:
        response.status = next(
            status for kind, status in _STATUSES.items() if isinstance(error, kind)
        )
        message = error.detail if isinstance(error, ClientError) else str(error)
        reason = getattr(error, "reason", "") or type(error).__name__
        if form:
            _put_json(response, {"error": {"reason": reason, "message": message}})
        else:
            response.content_type = falcon.MEDIA_HTML
            response.text = self.site.render(
                "problem.html", page=self, query=query, message=message, reason=reason
            )


def _put_json(response: Response, document: Mapping[str, Any]) -> None:
    response.content_type = falcon.MEDIA_JSON
    response.text = json.dumps(document, ensure_ascii=False)


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
    return spreadsheet_text(value) if isinstance(value, str) else value
