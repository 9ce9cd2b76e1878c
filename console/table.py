"""The transition table, and what this service's callbacks have made of it."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from callback.catalogue import State
from console.diagram import diagram_of
from console.page import Document, LivePage, Piece
from console.query import Query
from console.transitions import TABLE, event_of, state_of
from desk.client import ClientError, Retryable
from desk.v1.event_service_pb2 import CountEventsRequest
from display.documents import as_json

EVERY = 1.0
"""Seconds between two looks at the numbers, while a page is open."""

Place = tuple[str, str]
"""An event and the state that it finds."""


class Table(LivePage):
    """The transition table."""

    path = "/table"
    title = "Table"
    template = "table.html"
    event = "replace"
    rows = "transitions"
    columns = ("row", "event", "sources", "possible", "to", "guard", "taken", "refused")

    async def document(self, query: Query) -> Document:
        """Return every row; with its numbers, if the service answers."""
        try:
            counted = await self._counted(query)
        except ClientError as error:
            unknown = [{**row, "taken": None, "refused": None} for row in TABLE]
            counted = _document(unknown, Counter(), problem=error.detail)
        return {**counted, "chosen": query.text("row")}

    def check(self, query: Query) -> None:
        query.numbers("app"), query.text("row")

    async def live(self, query: Query, after: int | None) -> AsyncGenerator[Piece, None]:
        """Yield the table after each change of its numbers."""
        shown: Document = {}
        while True:
            with suppress(Retryable):
                document, html = await self._counted(query), ""
                if document != shown:
                    shown, chosen = document, query.text("row")
                    html = self.site.render("table_live.html", chosen=chosen, **document)
                yield Piece(document["revision"], html)
            await asyncio.sleep(EVERY)

    async def _counted(self, query: Query) -> Document:
        client = self.site.client
        request = CountEventsRequest(sdk_app_ids=query.numbers("app"))
        found = await client.call(client.event_service.CountEvents, request)
        answer = as_json(found)
        taken, refused, beside = _sorted(answer["counts"])
        rows = [{**row, "taken": _sum(taken, row), "refused": _sum(refused, row)} for row in TABLE]
        return _document(rows, taken, beside=beside, revision=answer["header"]["revision"])


def _document(
    rows: list[dict[str, Any]],
    taken: Counter[Place],
    *,
    beside: dict[str, int] | None = None,
    revision: int | None = None,
    problem: str = "",
) -> Document:
    return {
        "states": [state.value for state in State],
        "transitions": rows,
        "beside": beside or {},
        "diagram": diagram_of(taken),
        "revision": revision,
        "problem": problem,
    }


def _sorted(
    counts: list[dict[str, Any]],
) -> tuple[Counter[Place], Counter[Place], dict[str, int]]:
    """Return what the table has taken and refused, and what it was not asked about."""
    taken: Counter[Place] = Counter()
    refused: Counter[Place] = Counter()
    beside = {"malformed": 0, "unrecognised": 0, "session too long": 0}
    for count in counts:
        number, event = count["events"], event_of(count["type"])
        is_rejected = count["verdict"] == "VERDICT_REJECTED"
        if count["rejection_reason"] == "REJECTION_REASON_SESSION_TOO_LONG":
            beside["session too long"] += number
        elif event:
            column = refused if is_rejected else taken
            column[event, state_of(count["state_before"])] += number
        else:
            beside["malformed" if is_rejected else "unrecognised"] += number
    return taken, refused, beside


def _sum(numbers: Counter[Place], row: dict[str, Any]) -> int:
    return sum(numbers[row["event"], source] for source in row["sources"])
