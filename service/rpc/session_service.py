"""desk.v1.SessionService: questions about sessions."""

import asyncio
import math
import time
from typing import NamedTuple

from desk.v1.session_pb2 import Session, SessionKey
from desk.v1.session_service_pb2 import (
    BatchGetSessionsRequest,
    BatchGetSessionsResponse,
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
from service.rpc.calls import Call
from service.rpc.errors import Reason, Refused
from service.rpc.feed import Feed
from service.rpc.requests import DEFAULT_PAGE, MAX_PAGE, Apps
from service.rpc.waiters import Seen, StateWaiter
from service.view import index_pages
from service.view.index_pages import Order, Page, Place
from service.view.progress import Progress
from service.view.reader import FRAMING, Reader
from service.view.readers import Readers
from service.view.selection import SessionSelection

MAX_KEYS = 1_000
"""Keys in one BatchGetSessions."""

BATCH_BYTES = 2 * 1024 * 1024
"""Bytes of sessions in one BatchGetSessionsResponse, about."""

STATE_WAIT = 60.0
"""Seconds to wait for a state where the call has no deadline."""

Key = tuple[int, str]


class Batch(NamedTuple):
    """The sessions of the first keys, as many as fit into a message, and the keys without one."""

    progress: Progress
    sessions: list[bytes]
    missing: list[Key]
    looked_for: int


class SessionService:
    """Answers from the view; what is stored serialised is answered as bytes."""

    def __init__(self, readers: Readers, feed: Feed, apps: Apps) -> None:
        self._readers = readers
        self._feed = feed
        self._apps = apps
        self._explanations = explanation.Explanations()

    async def GetSession(self, request: GetSessionRequest, call: Call) -> bytes:  # noqa: N802
        """Return one session, now or as of a revision."""
        key = self._apps.key(request.sdk_app_id, request.session_id)
        check = requests.Check()
        check.not_negative("min_revision", request.min_revision)
        check.not_negative("as_of_revision", request.as_of_revision)
        check.done()
        await self._fresh(request.min_revision, call)
        if revision := request.as_of_revision:
            found = await self._readers.questions.run(call.caller, explanation.as_of, key, revision)
        else:
            found = self._readers.inline.now(*key)
        if found.session is None:
            raise self._not_found(key, revision)
        header = ResponseHeader(journal_id=found.journal_id, revision=found.revision)
        return frames.session(header, found.session)

    async def BatchGetSessions(  # noqa: N802
        self, request: BatchGetSessionsRequest, call: Call
    ) -> bytes:
        """Return many sessions as of one revision."""
        check = requests.Check()
        if not 1 <= len(request.keys) <= MAX_KEYS:
            check.wrong("keys", f"must have 1 to {MAX_KEYS} elements")
        check.done()
        keys = self._apps.keys(request.keys)
        batch = await self._readers.questions.run(call.caller, _batch, keys)
        # Messages of protobuf are joined by appending one to the other.
        rest = BatchGetSessionsResponse(remaining=map(_key_message, keys[batch.looked_for :]))
        missing = map(_key_message, batch.missing)
        return frames.batch(frames.header_of(batch.progress), batch.sessions, missing) + (
            rest.SerializeToString()
        )

    async def ListSessions(self, request: ListSessionsRequest, call: Call) -> bytes:  # noqa: N802
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
        await self._fresh(request.min_revision, call)
        progress, page = await self._readers.questions.run(
            call.caller, _page, selection, order, after, size
        )
        following = pages.token(page.following, request=bound_to) if page.following else ""
        return frames.page(frames.header_of(progress), page.sessions, following)

    async def CountSessions(  # noqa: N802
        self, request: CountSessionsRequest, call: Call
    ) -> CountSessionsResponse:
        """Count the sessions that a filter selects."""
        check = requests.Check()
        selection = requests.session_selection(check, request.filter)
        grouping = counts.grouping(check, request.group_by)
        check.done()
        end = time.monotonic() + freshness.time_left(call, math.inf)
        return await self._readers.heavy.run(call.caller, counts.count, selection, grouping, end)

    async def ExplainSession(  # noqa: N802
        self, request: ExplainSessionRequest, call: Call
    ) -> bytes:
        """Return every callback of a session in time order."""
        key = self._apps.key(request.sdk_app_id, request.session_id)
        check = requests.Check()
        size = check.size("page_size", request.page_size, default=MAX_PAGE, most=MAX_PAGE)
        check.done()
        bound_to = ("ExplainSession", self._feed.journal_id, key)
        places = pages.places(request.page_token, request=bound_to, count=2)
        answer, following = await self._readers.heavy.run(
            call.caller, self._explanations.answer, key, places or (0, 0), size
        )
        token = pages.token(following, request=bound_to) if following else ""
        # Messages of protobuf are joined by appending one to the other.
        return answer + ExplainSessionResponse(next_page_token=token).SerializeToString()

    async def WaitForState(  # noqa: N802
        self, request: WaitForStateRequest, call: Call
    ) -> WaitForStateResponse:
        """Return as soon as a session is in one of the states."""
        key = self._apps.key(request.sdk_app_id, request.session_id)
        states = requests.wanted_states(request.states)
        with self._feed.interest(), self._feed.waiters.state(key, states) as waiter:
            seen = self._now(key, waiter)
            if seen is None:
                seen = await self._next(waiter, freshness.time_left(call, STATE_WAIT))
        header = ResponseHeader(journal_id=self._feed.journal_id, revision=seen.revision)
        return WaitForStateResponse(header=header, session=seen.session)

    def _not_found(self, key: Key, revision: int) -> Refused:
        if key[0] not in self._apps.ids:
            return Refused(Reason.SESSION_NOT_FOUND, f"app {key[0]} is not configured here")
        return explanation.not_found(self._readers.inline, key, revision)

    async def _fresh(self, min_revision: int, call: Call) -> None:
        if min_revision:
            await freshness.await_revision(self._feed, self._readers.inline, min_revision, call)

    def _now(self, key: Key, waiter: StateWaiter) -> Seen | None:
        """The session if it is in one of the states already; else what comes after will tell."""
        now = self._readers.inline.now(*key)
        waiter.after = now.revision
        session = Session.FromString(now.session) if now.session else None
        return Seen(waiter.after, session) if session and session.state in waiter.states else None

    async def _next(self, waiter: StateWaiter, seconds: float) -> Seen:
        try:
            return await asyncio.wait_for(waiter.seen, seconds)
        except TimeoutError:
            raise Refused(
                Reason.STATE_NOT_REACHED, "the session was in none of the states in time"
            ) from None


def _key_message(key: Key) -> SessionKey:
    app, name = key
    return SessionKey(sdk_app_id=app, session_id=name)


def _batch(reader: Reader, keys: list[Key]) -> Batch:
    sessions: list[bytes] = []
    missing: list[Key] = []
    size = 0
    with reader.snapshot() as progress:
        for number, key in enumerate(keys):
            session = reader.session(*key)
            size += len(session or b"") + FRAMING
            if sessions and size > BATCH_BYTES:
                return Batch(progress, sessions, missing, number)
            if session is None:
                missing.append(key)
            else:
                sessions.append(session)
    return Batch(progress, sessions, missing, len(keys))


def _page(
    reader: Reader, selection: SessionSelection, order: Order, after: Place | None, size: int
) -> tuple[Progress, Page]:
    with reader.snapshot() as progress:
        return progress, index_pages.page(reader, selection, order, after, size)
