"""desk.v1.SessionService: questions about sessions."""

import asyncio
from typing import Any

from desk.v1 import session_service_pb2_grpc
from desk.v1.session_pb2 import Session, SessionKey
from desk.v1.session_service_pb2 import (
    BatchGetSessionsRequest,
    BatchGetSessionsResponse,
    GetSessionRequest,
    GetSessionResponse,
    WaitForStateRequest,
    WaitForStateResponse,
)
from desk.v1.status_pb2 import ResponseHeader
from service.rpc import freshness, requests
from service.rpc.errors import Reason, Refused, refusing
from service.rpc.feed import Feed
from service.rpc.requests import Apps
from service.rpc.stream import check_kept
from service.rpc.waiters import Seen, StateWaiter
from service.view.reader import Progress, Reader
from service.view.readers import Readers

MAX_KEYS = 1_000
"""Keys in one BatchGetSessions."""

STATE_WAIT = 60.0
"""Seconds to wait for a state where the call has no deadline."""

Key = tuple[int, str]


class SessionService(session_service_pb2_grpc.SessionServiceServicer):
    """Answers from the view."""

    def __init__(self, readers: Readers, feed: Feed, apps: Apps) -> None:
        self._readers = readers
        self._feed = feed
        self._apps = apps

    @refusing
    async def GetSession(self, request: GetSessionRequest, context: Any) -> GetSessionResponse:  # noqa: N802
        """Return one session, now or as of a revision."""
        key = self._apps.key(request.sdk_app_id, request.session_id)
        check = requests.Check()
        check.not_negative("min_revision", request.min_revision)
        check.not_negative("as_of_revision", request.as_of_revision)
        check.done()
        reader = self._readers.inline
        await freshness.await_revision(self._feed, reader, request.min_revision, context)
        with reader.snapshot() as progress:
            blob = reader.session(*key)
            if request.as_of_revision:
                _check_readable(request.as_of_revision, progress)
                blob = _as_of(reader, key, blob, request.as_of_revision)
        if blob is None:
            raise Refused(Reason.SESSION_NOT_FOUND, "the session has not begun by then")
        return GetSessionResponse(
            header=ResponseHeader(
                journal_id=progress.journal_id,
                revision=request.as_of_revision or progress.applied_revision,
            ),
            session=Session.FromString(blob),
        )

    @refusing
    async def BatchGetSessions(  # noqa: N802
        self, request: BatchGetSessionsRequest, _context: Any
    ) -> BatchGetSessionsResponse:
        """Return many sessions as of one revision."""
        check = requests.Check()
        if not 1 <= len(request.keys) <= MAX_KEYS:
            check.wrong("keys", f"must have 1 to {MAX_KEYS} elements")
        check.done()
        keys = self._apps.keys(request.keys)
        progress, blobs = await self._readers.run(_batch, keys)
        return BatchGetSessionsResponse(
            header=_header(progress),
            sessions=[Session.FromString(blob) for blob in blobs if blob is not None],
            missing=[
                SessionKey(sdk_app_id=app, session_id=name)
                for (app, name), blob in zip(keys, blobs, strict=True)
                if blob is None
            ],
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

    def _now(self, key: Key, waiter: StateWaiter) -> Seen | None:
        """The session if it is in one of the states already; else what comes after will tell."""
        with self._readers.inline.snapshot() as progress:
            blob = self._readers.inline.session(*key)
        waiter.after = progress.applied_revision
        session = Session.FromString(blob) if blob else None
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


def _check_readable(revision: int, progress: Progress) -> None:
    """An earlier state can be told from the oldest kept revision on, up to the applied one."""
    check_kept(revision, progress.oldest_revision)
    if revision > progress.applied_revision:
        raise freshness.in_future(revision, progress.applied_revision)


def _as_of(reader: Reader, key: Key, now: bytes | None, revision: int) -> bytes | None:
    if now is None or Session.FromString(now).revision <= revision:
        return now
    return reader.session_as_of(*key, revision)
