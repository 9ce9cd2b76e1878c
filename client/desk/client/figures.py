"""Methods about the figures of the contact centre: the live board, and reports."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import datetime

from desk.client.answers import FoundBoard, FoundReport
from desk.client.connection import Connection
from desk.client.streams import SILENCE
from desk.v1.board_service_pb2 import (
    BoardOptions,
    GetBoardRequest,
    GetBoardResponse,
    WatchBoardRequest,
    WatchBoardResponse,
)
from desk.v1.figures_pb2 import Thresholds
from desk.v1.report_service_pb2 import GetReportRequest, IntervalLength, ReportGroup


class FigureMethods(Connection):
    """Methods of `BoardService` and `ReportService`."""

    async def get_board(
        self, options: BoardOptions | None = None, *, min_revision: int = 0
    ) -> FoundBoard:
        """Return the live board: who waits now, and the service of today.

        Args:
            options: None = all apps and channels, and the thresholds of the service.
            min_revision: wait until the service has reached this revision; 0 = do not wait.

        Raises:
            TimedOut: `min_revision` was not reached in time.
            TooMany: more sessions are open, or were offered today, than a board can have.
        """
        request = GetBoardRequest(options=options, min_revision=min_revision)
        answer = await self.call(self.board_service.GetBoard, request)
        return _found(answer)

    async def watch_board(
        self,
        options: BoardOptions | None = None,
        *,
        silence: float = SILENCE,
        give_up_after: float | None = None,
    ) -> AsyncGenerator[FoundBoard, None]:
        """Yield the live board at once and after each change, across any reconnects.

        Endless: leave it as you leave `subscribe`. A board comes at most once a second, and the
        same board comes again as a sign of life. After a reconnect a replica that lags may send a
        board of an earlier revision.

        Args:
            options: None = all apps and channels, and the thresholds of the service.
            silence: seconds without a message after which to connect again.
            give_up_after: seconds without a message after which to raise; None = never.

        Raises:
            InvalidRequest, Denied, Failed: the service refuses the request for good.
            Retryable: nothing came for `give_up_after` seconds.
        """
        request = WatchBoardRequest(options=options)
        responses = self._stream(
            self.board_service.WatchBoard,
            lambda: request,
            silence=silence,
            give_up_after=give_up_after,
        )
        async with aclosing(responses):
            async for response, _ in responses:
                yield _found(response)

    async def get_report(
        self,
        start: datetime,
        end: datetime,
        *,
        interval: IntervalLength.ValueType = IntervalLength.INTERVAL_LENGTH_UNSPECIFIED,
        group_by: Iterable[ReportGroup.ValueType] = (),
        sdk_app_ids: Iterable[int] = (),
        channel_types: Iterable[str] = (),
        agent_ids: Iterable[str] = (),
        thresholds: Thresholds | None = None,
        min_revision: int = 0,
        since_revision: int = 0,
    ) -> FoundReport:
        """Return the figures of a range of time, by interval and group.

        Args:
            start: inclusive, with a time zone. Moved back to the begin of its interval.
            end: exclusive, with a time zone. Moved on to the end of its interval.
            interval: length of the intervals; by default the whole range is one.
            group_by: properties, each at most once; none = one row an interval.
            sdk_app_ids: none = all.
            channel_types: none = all.
            agent_ids: none = all.
            thresholds: None = those of the service.
            min_revision: wait until the service has reached this revision; 0 = do not wait.
            since_revision: revision of an earlier report, after which changes are told; 0 = none.

        Raises:
            TimedOut: `min_revision` or `since_revision` was not reached in time.
            TooMany: the report takes more than 10 s, or has too many rows.
        """
        request = GetReportRequest(
            interval=interval,
            group_by=list(group_by),
            sdk_app_ids=list(sdk_app_ids),
            channel_types=list(channel_types),
            agent_ids=list(agent_ids),
            thresholds=thresholds,
            min_revision=min_revision,
            since_revision=since_revision,
        )
        request.range.start_time.FromDatetime(start)
        request.range.end_time.FromDatetime(end)
        answer = await self.call(self.report_service.GetReport, request)
        return FoundReport(
            intervals=answer.intervals,
            total=answer.total if answer.HasField("total") else None,
            thresholds=answer.thresholds,
            time_zone=answer.time_zone,
            revision=answer.header.revision,
            journal_id=answer.header.journal_id,
        )


def _found(answer: GetBoardResponse | WatchBoardResponse) -> FoundBoard:
    return FoundBoard(
        board=answer.board,
        revision=answer.header.revision,
        journal_id=answer.header.journal_id,
    )
