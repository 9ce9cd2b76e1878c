"""Methods about sessions: one, many, their counts, and the explanation of one."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from datetime import datetime

from desk.client.answers import Explanation, FoundSession, FoundSessions, SessionCounts
from desk.client.connection import Connection
from desk.client.errors import Failed, JournalMismatch
from desk.v1.event_pb2 import SessionRecord
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

BATCH = 1_000
"""Keys in one call of BatchGetSessions, at most."""


class SessionMethods(Connection):
    """Methods of `SessionService`."""

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
            InvalidRequest: both `as_of_revision` and `as_of_time` are given.
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
    ) -> AsyncGenerator[Session, None]:
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
