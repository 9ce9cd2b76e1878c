"""The board: who waits now, and the service of today."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration

from console.page import Document, LivePage, Piece
from console.query import Query
from console.targets import cards_of, check_bounds
from desk.client import FoundBoard
from desk.v1.board_service_pb2 import BoardOptions
from desk.v1.figures_pb2 import Thresholds
from display.documents import as_json


class Board(LivePage):
    """The board: five cards, the queue, the agents."""

    path = "/board"
    title = "Board"
    template = "board.html"
    event = "replace"
    rows = "groups"
    columns = (
        "sdk_app_id", "channel_type", "figures.waiting", "figures.longest_waiting_since",
        "figures.unanswered", "figures.longest_unanswered_since", "figures.today.offered",
        "figures.today.answered", "figures.today.abandoned", "figures.today.short_abandons",
        "figures.today.sent_back", "figures.today.service_level",
        "figures.today.abandonment_rate", "figures.today.speed_of_answer.mean_seconds",
        "figures.today.speed_of_answer.p90_seconds",
    )  # fmt: skip

    async def document(self, query: Query) -> Document:
        """Return the board now."""
        return self._document(await self.site.client.get_board(options_of(query)), query)

    def check(self, query: Query) -> None:
        options_of(query)
        check_bounds(query)

    async def live(self, query: Query, after: int | None) -> AsyncGenerator[Piece, None]:
        """Yield the board after each change."""
        async with aclosing(self.site.client.watch_board(options_of(query))) as boards:
            async for found in boards:
                document = self._document(found, query)
                html = self.site.render("board_live.html", query=query, **document)
                yield Piece(found.revision, html)

    def _document(self, found: FoundBoard, query: Query) -> Document:
        board = as_json(found.board)
        now = datetime.now(UTC)
        return {
            **board,
            "revision": found.revision,
            "as_of": now.isoformat(timespec="milliseconds"),
            "cards": cards_of(board, query, now),
            "depth": self.site.depth.rows(options_of(query)),
        }


def options_of(query: Query) -> BoardOptions:
    """Return the options of the board that a query asks for."""
    return BoardOptions(
        sdk_app_ids=query.numbers("app"),
        channel_types=query.texts("channel"),
        max_listed=query.number("rows", most=200),
        thresholds=thresholds_of(query),
    )


def thresholds_of(query: Query) -> Thresholds:
    """Return the thresholds of a query. A threshold that is not given is that of the service."""
    seconds = {
        name: Duration(seconds=query.number(parameter, most=86_400))
        for name, parameter in (("answer_within", "within"), ("short_abandon", "short"))
        if query.text(parameter)
    }
    return Thresholds(answer_percent=query.number("percent", most=100), **seconds)
