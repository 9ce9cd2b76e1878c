"""The client of the API: its methods, and `subscribe`."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from datetime import datetime

from desk.client.answers import (
    Explanation,
    FoundBoard,
    FoundReport,
    FoundSession,
    FoundSessions,
    SessionCounts,
)
from desk.client.boards import follow_board
from desk.client.connection import Connection
from desk.client.errors import Failed, JournalMismatch, own_errors
from desk.client.security import with_key
from desk.client.subscription import SILENCE, Update, follow, read
from desk.v1.admin_service_pb2 import (
    ForgetRequest,
    ForgetResponse,
    ListForgottenRequest,
    SessionIds,
)
from desk.v1.board_service_pb2 import BoardOptions, GetBoardRequest, WatchBoardRequest
from desk.v1.event_pb2 import EventFilter, Forgotten, RejectionReason, SessionRecord
from desk.v1.event_service_pb2 import ListRejectionsRequest, SubscribeRequest
from desk.v1.figures_pb2 import Thresholds
from desk.v1.report_service_pb2 import GetReportRequest, IntervalLength, ReportGroup
from desk.v1.session_pb2 import Session, SessionFilter, SessionKey, SessionState
from desk.v1.session_service_pb2 import (
    BatchGetSessionsRequest,
    BatchGetSessionsResponse,
    CountGroup,
    CountSessionsRequest,
    ExplainSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
    WaitForStateRequest,
)
from desk.v1.status_pb2 import GetStatusRequest, GetStatusResponse

BATCH = 1_000
"""Keys in one call of BatchGetSessions, at most."""

STEP_SILENCE = 90.0
"""Seconds without a message after which a Forget has failed: a step takes up to 60 s."""


class Client(Connection):
    """A client of the desk.v1 API, to be used as an asynchronous context manager.

    Resume where you stopped, and store your position:

        >>> async def copy_feed(target, store):
        ...     journal_id, revision = store.position()  # ("", 0) at the very first start
        ...     async with Client(target) as client:
        ...         updates = client.subscribe(after_revision=revision, journal_id=journal_id)
        ...         async with contextlib.aclosing(updates):
        ...             async for update in updates:
        ...                 store.save(update.records, update.journal_id, update.revision)
        ...                 if update.caught_up:
        ...                     break

    `save` should write the records and the position in one transaction: then each record takes
    effect exactly once. If that is impossible, write the position last; after a crash some
    records come again, and (`revision`, `ordinal`) tells which you have handled.

    All methods raise subclasses of `ClientError`. Those that an argument or the answer explains
    are listed; any call may also raise `Unavailable`, `TimedOut`, `TooMany` (`Retryable`) or
    `InvalidRequest`, `Denied` (`Failed`).

    Attributes:
        session_service, event_service, status_service, admin_service, board_service,
            report_service: the generated stubs. Wrap their unary calls in `call` for this
            package's errors.
    """

    async def status(self) -> GetStatusResponse:
        """Return the position and the health of the service."""
        return await self.call(self.status_service.GetStatus, GetStatusRequest())

    async def get_session(
        self,
        session_id: str,
        *,
        sdk_app_id: int = 0,
        min_revision: int = 0,
        as_of_revision: int = 0,
        as_of_time: datetime | None = None,
    ) -> FoundSession:
        """Return one session, now or as it was before.

        Args:
            session_id: Desk's id.
            sdk_app_id: the app; 0 = the only configured one.
            min_revision: wait until the service has reached this revision; 0 = do not wait.
            as_of_revision: the session at this revision, inclusive; 0 = now.
            as_of_time: the session after all callbacks received by this time, which has a time
                zone; None = now.

        Raises:
            NotFound: the session has not begun, or had not then.
            OutOfRange: `as_of_revision` is no longer kept, or not reached yet.
            TimedOut: `min_revision` was not reached in time.
        """
        request = GetSessionRequest(
            sdk_app_id=sdk_app_id,
            session_id=session_id,
            min_revision=min_revision,
            as_of_revision=as_of_revision,
        )
        if as_of_time is not None:
            request.as_of_time.FromDatetime(as_of_time)
        answer = await self.call(self.session_service.GetSession, request)
        return FoundSession(
            session=answer.session,
            revision=answer.header.revision,
            journal_id=answer.header.journal_id,
        )

    async def batch_get_sessions(self, keys: Iterable[SessionKey]) -> FoundSessions:
        """Return many sessions.

        One call answers up to 1,000 keys or about 2 MiB, as of one revision. Further calls
        follow until all keys are answered; `revision` is then the lowest of theirs.

        Args:
            keys: at least one; repeated keys are answered once.

        Raises:
            JournalMismatch: the journal changed between two calls.
        """
        waiting = list({(key.sdk_app_id, key.session_id): key for key in keys}.values())
        answers: list[BatchGetSessionsResponse] = []
        while waiting or not answers:
            request = BatchGetSessionsRequest(keys=waiting[:BATCH])
            answers.append(await self.call(self.session_service.BatchGetSessions, request))
            remaining = answers[-1].remaining
            if 0 < len(request.keys) <= len(remaining):
                raise Failed("the service answered for none of the keys")
            waiting[:BATCH] = remaining
        (journal_id, *others) = {answer.header.journal_id for answer in answers}
        if others:
            raise JournalMismatch("the journal changed between two calls")
        return FoundSessions(
            sessions=[session for answer in answers for session in answer.sessions],
            missing=[key for answer in answers for key in answer.missing],
            revision=min(answer.header.revision for answer in answers),
            journal_id=journal_id,
        )

    async def list_sessions(
        self,
        session_filter: SessionFilter | None = None,
        *,
        order_by: str = "",
        page_size: int = 0,
        min_revision: int = 0,
    ) -> AsyncIterator[Session]:
        """Yield every session that the filter selects, page after page.

        Args:
            session_filter: None = all sessions.
            order_by: as in ListSessionsRequest, e.g. `state_since`; "" = newest first.
            page_size: sessions per call, 1 to 1,000; 0 = 100.
            min_revision: wait until the service has reached this revision; 0 = do not wait.

        Raises:
            TimedOut: `min_revision` was not reached in time.
        """
        request = ListSessionsRequest(
            filter=session_filter, order_by=order_by, page_size=page_size, min_revision=min_revision
        )
        async for page in self._pages(self.session_service.ListSessions, request):
            for session in page.sessions:
                yield session

    async def count_sessions(
        self,
        session_filter: SessionFilter | None = None,
        *,
        group_by: CountGroup.ValueType = CountGroup.COUNT_GROUP_UNSPECIFIED,
    ) -> SessionCounts:
        """Count the sessions that the filter selects, with their waiting and handling times.

        Args:
            session_filter: None = all sessions.
            group_by: by default one group of all.

        Raises:
            TooMany: counting takes more than 10 s (`TOO_MANY_SESSIONS`): narrow the filter.
        """
        request = CountSessionsRequest(filter=session_filter, group_by=group_by)
        answer = await self.call(self.session_service.CountSessions, request)
        return SessionCounts(
            groups=answer.groups,
            other_sessions=answer.other_sessions,
            revision=answer.header.revision,
            journal_id=answer.header.journal_id,
        )

    async def explain_session(
        self,
        session_id: str,
        *,
        sdk_app_id: int = 0,
        page_size: int = 0,
        omit_raw_body: bool = False,
        omit_message: bool = False,
    ) -> Explanation:
        """Return every callback of a session in time order, each with its verdict and reason.

        Args:
            session_id: Desk's id. The session need not have begun.
            sdk_app_id: the app; 0 = the only configured one.
            page_size: records per call, 1 to 1,000; 0 = 1,000.
            omit_raw_body: leave `Event.raw_body` out of the records.
            omit_message: leave `Event.message` out of the records.

        Raises:
            NotFound: no callback names the session.
        """
        request = ExplainSessionRequest(
            sdk_app_id=sdk_app_id,
            session_id=session_id,
            page_size=page_size,
            omit_raw_body=omit_raw_body,
            omit_message=omit_message,
        )
        pages = self._pages(self.session_service.ExplainSession, request)
        first = await anext(pages)

        async def records() -> AsyncIterator[SessionRecord]:
            for record in first.records:
                yield record
            async for page in pages:
                for record in page.records:
                    yield record

        return Explanation(
            session=first.session if first.HasField("session") else None,
            records=records(),
            revision=first.header.revision,
            journal_id=first.header.journal_id,
        )

    async def list_rejections(
        self,
        event_filter: EventFilter | None = None,
        *,
        reasons: Iterable[RejectionReason.ValueType] = (),
        page_size: int = 0,
        omit_raw_body: bool = False,
        omit_message: bool = False,
    ) -> AsyncIterator[SessionRecord]:
        """Yield the callbacks that stand rejected now, newest first, page after page.

        Args:
            event_filter: None = all; its `verdicts` must be empty.
            reasons: any of these is enough; none = all.
            page_size: records per call, 1 to 1,000; 0 = 100.
            omit_raw_body: leave `Event.raw_body` out of the records.
            omit_message: leave `Event.message` out of the records.
        """
        request = ListRejectionsRequest(
            filter=event_filter,
            reasons=list(reasons),
            page_size=page_size,
            omit_raw_body=omit_raw_body,
            omit_message=omit_message,
        )
        async for page in self._pages(self.event_service.ListRejections, request):
            for record in page.records:
                yield record

    async def wait_for_state(
        self,
        session_id: str,
        states: Iterable[SessionState.ValueType],
        *,
        sdk_app_id: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109 (becomes the call's deadline)
    ) -> Session:
        """Return the session as soon as it is in one of the states.

        Args:
            session_id: Desk's id. The session need not have begun.
            states: any of these is enough.
            sdk_app_id: the app; 0 = the only configured one.
            timeout: seconds; None = the client's `timeout`.

        Raises:
            TimedOut: the session was in none of the states within `timeout`.
        """
        request = WaitForStateRequest(
            sdk_app_id=sdk_app_id, session_id=session_id, states=list(states)
        )
        answer = await self.call(self.session_service.WaitForState, request, timeout=timeout)
        return answer.session

    async def forget(
        self,
        *,
        session_ids: Iterable[str] = (),
        client_user_id: str = "",
        agent_id: str = "",
        silent_before: datetime | None = None,
        malformed_before: datetime | None = None,
        sdk_app_id: int = 0,
        dry_run: bool = False,
    ) -> AsyncGenerator[ForgetResponse, None]:
        """Erase sessions or malformed callbacks for good, and yield the totals after each step.

        Give one of the first five arguments. The last message is `complete`. What a step has done
        stays done: after an error, call again to go on.

        Args:
            session_ids: these sessions, at most 1,000.
            client_user_id: the sessions of this user.
            agent_id: the sessions in which this agent took part.
            silent_before: the sessions without an event or a callback since this time, which has a
                time zone.
            malformed_before: the malformed callbacks that were received before this time, likewise.
            sdk_app_id: the app; 0 = the only configured one.
            dry_run: count only.
        """
        request = ForgetRequest(sdk_app_id=sdk_app_id, dry_run=dry_run)
        if ids := list(session_ids):
            request.sessions.CopyFrom(SessionIds(session_ids=ids))
        if client_user_id:
            request.client_user_id = client_user_id
        if agent_id:
            request.agent_id = agent_id
        if silent_before:
            request.silent_before.FromDatetime(silent_before)
        if malformed_before:
            request.malformed_before.FromDatetime(malformed_before)
        with own_errors():
            call = with_key(self.admin_service.Forget, self._key)(request)
        try:
            complete = False
            while not complete:
                answer: ForgetResponse = await read(call, STEP_SILENCE)
                yield answer
                complete = answer.complete
        finally:
            call.cancel()

    async def list_forgotten(
        self, *, sdk_app_ids: Iterable[int] = (), after_revision: int = 0, page_size: int = 0
    ) -> AsyncIterator[Forgotten]:
        """Yield the FORGET entries that were applied, in the order of their revisions.

        Args:
            sdk_app_ids: of these apps; none = of all.
            after_revision: exclusive; 0 = all that are kept.
            page_size: entries per call, 1 to 1,000; 0 = 100.
        """
        request = ListForgottenRequest(
            sdk_app_ids=list(sdk_app_ids), after_revision=after_revision, page_size=page_size
        )
        async for page in self._pages(self.admin_service.ListForgotten, request):
            for forgotten in page.forgotten:
                yield forgotten

    def subscribe(
        self,
        *,
        after_revision: int | None = None,
        journal_id: str = "",
        event_filter: EventFilter | None = None,
        include_session: bool = False,
        sessions_first: bool = False,
        max_batch: int = 0,
        omit_raw_body: bool = False,
        omit_message: bool = False,
        skip_forgotten: bool = False,
        silence: float = SILENCE,
        give_up_after: float | None = None,
    ) -> AsyncGenerator[Update, None]:
        """Yield the feed: each record once, in order, without gaps, across any reconnects.

        Endless. Leave it with `break` inside `contextlib.aclosing`, or by cancelling the task:
        this cancels the call on the service, too.

        Args:
            after_revision: exclusive; 0 = everything that is kept; None = from now on.
            journal_id: the journal that `after_revision` counts in; "" = not checked.
            event_filter: None = all records that were accepted or not recognised.
            include_session: put the session after its revision into each record.
            sessions_first: first the sessions as they are now, then their changes. Not together
                with `after_revision`.
            max_batch: records per update, at most 1,000; 0 = 500.
            omit_raw_body: leave `Event.raw_body` out of the records.
            omit_message: leave `Event.message` out of the records.
            skip_forgotten: resume anywhere, although records of forgotten sessions are missing.
            silence: seconds without a message after which to connect again.
            give_up_after: seconds without a message after which to raise; None = never.

        Raises:
            OutOfRange: the records after the position are no longer kept, or the service has not
                reached it.
            JournalMismatch: the service has another journal.
            InvalidRequest, Denied, Failed: the service refuses the request for good.
            Retryable: nothing came for `give_up_after` seconds.
        """
        request = SubscribeRequest(
            after_revision=after_revision,
            journal_id=journal_id,
            filter=event_filter,
            include_session=include_session,
            sessions_first=sessions_first,
            max_batch=max_batch,
            omit_raw_body=omit_raw_body,
            omit_message=omit_message,
            skip_forgotten=skip_forgotten,
        )
        return follow(
            request,
            self._replicas.hopping(with_key(self.event_service.Subscribe, self._key)),
            silence=silence,
            reconnect_delay=self._reconnect_delay,
            give_up_after=give_up_after,
        )

    async def get_board(
        self, options: BoardOptions | None = None, *, min_revision: int = 0
    ) -> FoundBoard:
        """Return the live board: who waits now, and the service of today.

        Args:
            options: None = all apps and channels, and the thresholds of the service.
            min_revision: wait until the service has reached this revision; 0 = do not wait.

        Raises:
            TooMany: more sessions are open or of today than a board can have.
        """
        request = GetBoardRequest(options=options, min_revision=min_revision)
        answer = await self.call(self.board_service.GetBoard, request)
        return FoundBoard(
            board=answer.board,
            revision=answer.header.revision,
            journal_id=answer.header.journal_id,
        )

    def watch_board(
        self,
        options: BoardOptions | None = None,
        *,
        silence: float = SILENCE,
        give_up_after: float | None = None,
    ) -> AsyncGenerator[FoundBoard, None]:
        """Yield the live board at once and after each change, across any reconnects.

        Endless; to be left as `subscribe`. At most one a second; the same board may come again.

        Args:
            options: None = all apps and channels, and the thresholds of the service.
            silence: seconds without a message after which to connect again.
            give_up_after: seconds without a message after which to raise; None = never.

        Raises:
            InvalidRequest, Denied, Failed: the service refuses the request for good.
            Retryable: nothing came for `give_up_after` seconds.
        """
        return follow_board(
            WatchBoardRequest(options=options),
            self._replicas.hopping(with_key(self.board_service.WatchBoard, self._key)),
            silence=silence,
            reconnect_delay=self._reconnect_delay,
            give_up_after=give_up_after,
        )

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
        """Return the figures of a time, by interval and group.

        Args:
            start: inclusive, with a time zone.
            end: exclusive, with a time zone.
            interval: by default the whole time is one.
            group_by: none = one row an interval.
            sdk_app_ids: none = all.
            channel_types: none = all.
            agent_ids: none = all.
            thresholds: None = those of the service.
            min_revision: wait until the service has reached this revision; 0 = do not wait.
            since_revision: of an earlier report, to learn which intervals have changed; 0 = none.

        Raises:
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
            thresholds=answer.thresholds,
            time_zone=answer.time_zone,
            revision=answer.header.revision,
            journal_id=answer.header.journal_id,
        )
