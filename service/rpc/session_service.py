"""desk.v1.SessionService: questions about sessions."""

import asyncio
import math
import time

from desk.v1 import session_pb2
from desk.v1 import session_service_pb2 as pb
from desk.v1.session_pb2 import Session
from service.rpc import reads, requests, responses
from service.rpc.calls import Call
from service.rpc.checks import MAX_PAGE, MAX_VALUES, checking
from service.rpc.errors import CallRefused, ErrorReason, forgotten, quoted
from service.rpc.explanation import Explanations
from service.rpc.keys import Apps
from service.rpc.live_feed import LiveFeed
from service.rpc.page_tokens import PageTokens
from service.rpc.revisions import await_revision
from service.rpc.waiters import Seen, StateWaiter
from service.session import SessionKey
from service.view import index_pages
from service.view.readers import Readers


class SessionService:
    """Answers from the view; sessions are sent as the bytes that are stored."""

    def __init__(self, readers: Readers, feed: LiveFeed, apps: Apps) -> None:
        self._readers = readers
        self._feed = feed
        self._apps = apps
        self._limits = feed.limits
        self._explanations = Explanations(self._limits.explained)

    async def GetSession(self, request: pb.GetSessionRequest, call: Call) -> bytes:
        """Return one session, now or as it was before."""
        key = self._apps.key(request.sdk_app_id, request.session_id)
        with checking() as check:
            check.not_negative("min_revision", request.min_revision)
            revision = check.not_negative("as_of_revision", request.as_of_revision)
            time = requests.as_of_time(check, request)
        await await_revision(self._feed, self._readers.inline, request.min_revision, call)
        when = ""
        if revision:
            when = f"revision {revision}"
            read = self._readers.questions.run(call.caller, reads.as_of, key, revision)
            found = await read
        elif time is not None:
            when = "that time"
            found = await self._readers.heavy.run(call.caller, reads.at_time, key, time)
        else:
            found = self._readers.inline.now(*key)
        if found.session is None:
            raise self._not_found(key, revision, when, call)
        header = responses.header(found.journal_id, found.revision)
        return responses.answer(header, [found.session], pb.GetSessionResponse())

    async def BatchGetSessions(self, request: pb.BatchGetSessionsRequest, call: Call) -> bytes:
        """Return many sessions as of one revision."""
        keys = self._apps.keys(request.keys)
        batch = await self._readers.questions.run(
            call.caller, reads.batch, keys, self._limits.batch_bytes
        )
        rest = pb.BatchGetSessionsResponse(
            missing=map(_message, batch.missing), remaining=map(_message, batch.remaining)
        )
        return responses.answer(responses.header_of(batch.progress), batch.sessions, rest)

    async def ListSessions(self, request: pb.ListSessionsRequest, call: Call) -> bytes:
        """Return a page of the sessions that a filter selects."""
        with checking() as check:
            selection = requests.session_selection(check, request.filter)
            order = requests.order(check, request.order_by)
            size = check.page_size(request.page_size)
            check.not_negative("min_revision", request.min_revision)
        tokens = PageTokens("ListSessions", self._feed.journal_id, selection, order, numbers=2)
        place = tokens.place(request.page_token)
        after = (place[0], place[1]) if place else None
        await await_revision(self._feed, self._readers.inline, request.min_revision, call)
        progress, page = await self._readers.questions.run(
            call.caller, reads.in_snapshot, index_pages.page, selection, order, after, size
        )
        rest = pb.ListSessionsResponse(next_page_token=tokens.token(page.following))
        return responses.answer(responses.header_of(progress), page.sessions, rest)

    async def CountSessions(
        self, request: pb.CountSessionsRequest, call: Call
    ) -> pb.CountSessionsResponse:
        """Count the sessions that a filter selects."""
        with checking() as check:
            selection = requests.session_selection(check, request.filter)
            if request.group_by not in pb.CountGroup.values():
                check.wrong("group_by", "is not known")
        end = time.monotonic() + call.time_left(math.inf)
        return await self._readers.heavy.run(
            call.caller,
            reads.count,
            selection,
            request.group_by,
            end,
            self._limits.count_seconds,
        )

    async def ExplainSession(
        self, request: pb.ExplainSessionRequest, call: Call
    ) -> pb.ExplainSessionResponse:
        """Return every callback of a session in time order."""
        key = self._apps.key(request.sdk_app_id, request.session_id)
        with checking() as check:
            size = check.page_size(request.page_size, default=MAX_PAGE)
        tokens = PageTokens("ExplainSession", self._feed.journal_id, key, numbers=2)
        place = tokens.place(request.page_token) or (0, 0)
        # The first page may have come from a replica that is ahead of this one.
        await await_revision(self._feed, self._readers.inline, place[0], call)
        response, following = await self._readers.heavy.run(
            call.caller, self._explanations.page, key, place, size
        )
        response.next_page_token = tokens.token(following)
        return response

    async def WaitForState(
        self, request: pb.WaitForStateRequest, call: Call
    ) -> pb.WaitForStateResponse:
        """Return as soon as a session is in one of the states."""
        key = self._apps.key(request.sdk_app_id, request.session_id)
        states = requests.wanted_states(request.states)
        with self._feed.following(), self._feed.waiters.state(key, states) as waiter:
            seen = self._now(key, waiter)
            if seen is None:
                self._check_not_forgotten(key)
                seen = await _next(waiter, call.time_left(self._limits.state_seconds))
        header = responses.header(self._feed.journal_id, seen.revision)
        return pb.WaitForStateResponse(header=header, session=seen.session)

    def _not_found(self, key: SessionKey, revision: int, when: str, call: Call) -> CallRefused:
        if key[0] not in self._apps.ids:
            visible = [
                app for app in self._apps.ids if call.grant.apps is None or app in call.grant.apps
            ]
            choice = ", ".join(map(str, visible[:MAX_VALUES]))
            sentence = f"no session {quoted(key[1])}: app {key[0]} is not configured"
            return CallRefused(ErrorReason.SESSION_NOT_FOUND, f"{sentence}; here: {choice}")
        return reads.not_found(self._readers.inline, key, revision, when)

    def _check_not_forgotten(self, key: SessionKey) -> None:
        reader = self._readers.inline
        if (revision := reader.forgotten_at(*key)) and reader.session(*key) is None:
            raise forgotten(*key, revision)

    def _now(self, key: SessionKey, waiter: StateWaiter) -> Seen | None:
        """Return the session if it is in a wanted state; else set where the waiter begins."""
        now = self._readers.inline.now(*key)
        waiter.after = now.revision
        session = Session.FromString(now.session) if now.session else None
        return Seen(waiter.after, session) if session and session.state in waiter.states else None


async def _next(waiter: StateWaiter, seconds: float) -> Seen:
    try:
        return await asyncio.wait_for(waiter.seen, seconds)
    except TimeoutError:
        raise CallRefused(
            ErrorReason.STATE_NOT_REACHED, "the session was in none of the states in time"
        ) from None


def _message(key: SessionKey) -> session_pb2.SessionKey:
    return session_pb2.SessionKey(sdk_app_id=key[0], session_id=key[1])
