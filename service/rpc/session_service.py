"""desk.v1.SessionService: questions about sessions."""

import asyncio
from typing import Any

from desk.v1.session_pb2 import Session, SessionKey
from desk.v1.session_service_pb2 import (
    BatchGetSessionsRequest,
    CountSessionsRequest,
    CountSessionsResponse,
    ExplainSessionRequest,
    ExplainSessionResponse,
    GetSessionRequest,
    ListSessionsRequest,
    WaitForStateRequest,
    WaitForStateResponse,
)
from desk.v1.status_pb2 import ResponseHeader
from service.rpc import counts, explanation, frames, freshness, pages, requests
from service.rpc.errors import Reason, Refused, refusing
from service.rpc.feed import Feed
from service.rpc.requests import DEFAULT_PAGE, MAX_PAGE, Apps
from service.rpc.waiters import Seen, StateWaiter
from service.view import walks
from service.view.reader import Progress, Reader
from service.view.readers import Readers
from service.view.selection import SessionSelection
from service.view.walks import Order, Page, Place

MAX_KEYS = 1_000
"""Keys in one BatchGetSessions."""

STATE_WAIT = 60.0
"""Seconds to wait for a state where the call has no deadline."""

Key = tuple[int, str]


class SessionService:
    """Answers from the view; what is stored serialised is answered as bytes."""

    def __init__(self, readers: Readers, feed: Feed, apps: Apps) -> None:
        self._readers = readers
        self._feed = feed
        self._apps = apps
        # What reads all of something must not take all threads from the rest.
        self._heavy = asyncio.Semaphore(2)
        self._explanations = explanation.Explanations()

    @refusing
    async def GetSession(self, request: GetSessionRequest, context: Any) -> bytes:  # noqa: N802
        """Return one session, now or as of a revision."""
        key = self._apps.key(request.sdk_app_id, request.session_id)
        check = requests.Check()
        check.not_negative("min_revision", request.min_revision)
        check.not_negative("as_of_revision", request.as_of_revision)
        check.done()
        await self._fresh(request.min_revision, context)
        reader, revision = self._readers.inline, request.as_of_revision
        found = explanation.as_of(reader, key, revision) if revision else reader.now(*key)
        if found.session is None:
            raise Refused(Reason.SESSION_NOT_FOUND, "the session has not begun by then")
        header = ResponseHeader(journal_id=found.journal_id, revision=found.revision)
        return frames.session(header, found.session)

    @refusing
    async def BatchGetSessions(  # noqa: N802
        self, request: BatchGetSessionsRequest, _context: Any
    ) -> bytes:
        """Return many sessions as of one revision."""
        check = requests.Check()
        if not 1 <= len(request.keys) <= MAX_KEYS:
            check.wrong("keys", f"must have 1 to {MAX_KEYS} elements")
        check.done()
        keys = self._apps.keys(request.keys)
        progress, blobs = await self._readers.run(_batch, keys)
        missing = [
            SessionKey(sdk_app_id=app, session_id=name)
            for (app, name), blob in zip(keys, blobs, strict=True)
            if blob is None
        ]
        return frames.batch(_header(progress), list(filter(None, blobs)), missing)

    @refusing
    async def ListSessions(self, request: ListSessionsRequest, context: Any) -> bytes:  # noqa: N802
        """Return a page of the sessions that a filter selects."""
        check = requests.Check()
        selection = requests.session_selection(check, request.filter)
        order = requests.order(check, request.order_by)
        size = check.size("page_size", request.page_size, default=DEFAULT_PAGE, most=MAX_PAGE)
        check.not_negative("min_revision", request.min_revision)
        check.done()
        bound_to = ("ListSessions", self._feed.journal_id, selection, order)
        places = pages.places(request.page_token, request=bound_to, count=2)
        after = (places[0], places[1]) if places else None
        await self._fresh(request.min_revision, context)
        progress, page = await self._readers.run(_page, selection, order, after, size)
        following = pages.token(page.following, request=bound_to) if page.following else ""
        return frames.page(_header(progress), page.sessions, following)

    @refusing
    async def CountSessions(  # noqa: N802
        self, request: CountSessionsRequest, context: Any
    ) -> CountSessionsResponse:
        """Count the sessions that a filter selects."""
        check = requests.Check()
        selection = requests.session_selection(check, request.filter)
        grouping = counts.grouping(check, request.group_by)
        check.done()
        async with self._heavy:
            seconds = freshness.time_left(context, counts.COUNT_SECONDS)
            return await self._readers.run(counts.count, selection, grouping, seconds)

    @refusing
    async def ExplainSession(  # noqa: N802
        self, request: ExplainSessionRequest, _context: Any
    ) -> ExplainSessionResponse:
        """Return every callback of a session in time order."""
        key = self._apps.key(request.sdk_app_id, request.session_id)
        check = requests.Check()
        size = check.size("page_size", request.page_size, default=MAX_PAGE, most=MAX_PAGE)
        check.done()
        bound_to = ("ExplainSession", self._feed.journal_id, key)
        places = pages.places(request.page_token, request=bound_to, count=2)
        async with self._heavy:
            page = await self._readers.run(self._explanations.page, key, places or (0, 0), size)
        return ExplainSessionResponse(
            header=ResponseHeader(journal_id=page.journal_id, revision=page.revision),
            session=Session.FromString(page.session) if page.session else None,
            records=page.records,
            next_page_token=pages.token((page.revision, page.end), request=bound_to)
            if page.end
            else "",
        )

    @refusing
    async def WaitForState(  # noqa: N802
        self, request: WaitForStateRequest, context: Any
    ) -> WaitForStateResponse:
        """Return as soon as a session is in one of the states."""
        key = self._apps.key(request.sdk_app_id, request.session_id)
        states = requests.wanted_states(request.states)
        with self._feed.interest(), self._feed.waiters.state(key, states) as waiter:
            seen = self._now(key, waiter)
            if seen is None:
                seen = await self._next(waiter, freshness.time_left(context, STATE_WAIT))
        header = ResponseHeader(journal_id=self._feed.journal_id, revision=seen.revision)
        return WaitForStateResponse(header=header, session=seen.session)

    async def _fresh(self, min_revision: int, context: Any) -> None:
        if min_revision:
            await freshness.await_revision(self._feed, self._readers.inline, min_revision, context)

    def _now(self, key: Key, waiter: StateWaiter) -> Seen | None:
        """The session if it is in one of the states already; else what comes after will tell."""
        now = self._readers.inline.now(*key)
        waiter.after = now.revision
        session = Session.FromString(now.session) if now.session else None
        return Seen(waiter.after, session) if session and waiter.wants(session) else None

    async def _next(self, waiter: StateWaiter, seconds: float) -> Seen:
        try:
            return await asyncio.wait_for(waiter.seen, seconds)
        except TimeoutError:
            raise Refused(
                Reason.STATE_NOT_REACHED, "the session was in none of the states in time"
            ) from None


def _header(progress: Progress) -> ResponseHeader:
    return ResponseHeader(journal_id=progress.journal_id, revision=progress.applied_revision)


def _batch(reader: Reader, keys: list[Key]) -> tuple[Progress, list[bytes | None]]:
    with reader.snapshot() as progress:
        return progress, [reader.session(*key) for key in keys]


def _page(
    reader: Reader, selection: SessionSelection, order: Order, after: Place | None, size: int
) -> tuple[Progress, Page]:
    with reader.snapshot() as progress:
        return progress, walks.page(reader, selection, order, after, size)
