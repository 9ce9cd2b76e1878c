"""desk.v1.BoardService: the live board."""

import random
from time import monotonic

from desk.v1 import board_service_pb2 as pb
from service.board import BoardSelection
from service.rpc import requests
from service.rpc.calls import Call
from service.rpc.checks import Check, checking
from service.rpc.errors import shutting_down
from service.rpc.live_board import Centre, LiveBoard, ViewSums
from service.rpc.live_feed import LiveFeed
from service.rpc.revisions import await_revision
from service.view.readers import Readers


class BoardService:
    """Answers from the board of this worker."""

    def __init__(self, readers: Readers, feed: LiveFeed, centre: Centre) -> None:
        self._readers = readers
        self._feed = feed
        self._centre = centre
        self._board = LiveBoard(readers.boards, ViewSums(centre, feed.limits.board_sessions))

    async def GetBoard(self, request: pb.GetBoardRequest, call: Call) -> bytes:
        with checking() as check:
            selection = self._selection(check, request.options)
            check.not_negative("min_revision", request.min_revision)
        await await_revision(self._feed, self._readers.inline, request.min_revision, call)
        return (await self._board.show(call.caller, selection, not_before=monotonic())).response

    async def WatchBoard(self, request: pb.WatchBoardRequest, call: Call) -> None:
        """Stream the board: at once, and after each change."""
        with checking() as check:
            selection = self._selection(check, request.options)
        limits, begun = self._feed.limits, monotonic()
        end = begun + random.uniform(*limits.stream_seconds)  # noqa: S311
        silence = random.uniform(*limits.checkpoint_seconds)  # noqa: S311
        board, due, unread = b"", begun, self._feed.quotas.stream_bytes
        tick = self._tick()
        while self._is_open(begun) and monotonic() < end:
            shown = await self._board.show(call.caller, selection, not_before=tick)
            if shown.board != board or monotonic() >= due:
                board, due = shown.board, monotonic() + silence
                async with unread.sending(call.caller, len(shown.response)):
                    await call.write(shown.response)
            tick = max(tick + limits.board_seconds, self._tick())
            if self._is_open(begun):  # nothing is awaited between this and the sleep
                await self._feed.sleep(tick - monotonic())
        raise shutting_down()

    def _tick(self) -> float:
        """Return the last tick of the clock. All streams share the boards made at ticks."""
        every = self._feed.limits.board_seconds
        return monotonic() // every * every

    def _is_open(self, begun: float) -> bool:
        return not self._feed.draining and self._feed.ended < begun

    def _selection(self, check: Check, asked: pb.BoardOptions) -> BoardSelection:
        return BoardSelection(
            frozenset(check.apps("options.sdk_app_ids", asked.sdk_app_ids)),
            frozenset(check.names("options.channel_types", asked.channel_types)),
            requests.thresholds(
                check, "options.thresholds", asked.thresholds, self._centre.thresholds
            ),
            check.size(
                "options.max_listed",
                asked.max_listed,
                default=requests.DEFAULT_LISTED,
                most=requests.MAX_LISTED,
            ),
        )
