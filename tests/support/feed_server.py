"""A small real implementation of desk.v1 in memory, with streams that break on request."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from desk.client import Client
from desk.v1 import event_service_pb2_grpc, session_service_pb2_grpc, status_pb2_grpc
from desk.v1.event_pb2 import Event, SessionRecord
from desk.v1.event_service_pb2 import (
    CaughtUp,
    RecordBatch,
    SessionBatch,
    SubscribeRequest,
    SubscribeResponse,
)
from desk.v1.session_pb2 import Session
from desk.v1.session_service_pb2 import (
    BatchGetSessionsResponse,
    ExplainSessionResponse,
    GetSessionResponse,
    ListSessionsResponse,
)
from desk.v1.status_pb2 import GetStatusResponse, ResponseHeader

JOURNAL_ID = "0" * 31 + "1"


def records(*sizes: int) -> list[SessionRecord]:
    """A feed: as many revisions as sizes, each of that many records."""
    return [
        SessionRecord(revision=revision, ordinal=ordinal, event=Event(revision=revision))
        for revision, size in enumerate(sizes, 1)
        for ordinal in range(size)
    ]


@dataclass
class Break:
    """An end of a stream: after so many messages, with a status; None = silence."""

    after: int
    code: grpc.StatusCode | None = grpc.StatusCode.UNAVAILABLE
    reason: str = "SHUTTING_DOWN"


@dataclass
class FeedServer(
    event_service_pb2_grpc.EventServiceServicer,
    session_service_pb2_grpc.SessionServiceServicer,
    status_pb2_grpc.StatusServiceServicer,
):
    """A server of the messages that it is given.

    Attributes:
        feed: all records.
        batch: revisions per message, at most; a revision of more records than `part` is split.
        breaks: ends of the first streams, one each; later streams stay open.
        sessions: for `sessions_first` (one per message), Get, BatchGet and List (two per page).
        stories: for ExplainSession, by session id.
        ahead: how far the journal is ahead of the view.
        digest: of the feed.
        signs: signs of life of the follower so far, in seconds; each GetStatus sees another.
        silent: the follower gives none.
        requests: the Subscribe requests so far.
        left: set whenever a stream is over.
    """

    feed: Sequence[SessionRecord] = ()
    batch: int = 2
    part: int = 2
    breaks: list[Break] = field(default_factory=list)
    sessions: Sequence[Session] = ()
    stories: dict[str, list[SessionRecord]] = field(default_factory=dict)
    ahead: int = 0
    digest: str = ""
    signs: int = 0
    silent: bool = False
    requests: list[SubscribeRequest] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def Subscribe(  # noqa: N802
        self, request: SubscribeRequest, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[SubscribeResponse]:
        copy = SubscribeRequest()
        copy.CopyFrom(request)
        self.requests.append(copy)
        end = self.breaks.pop(0) if self.breaks else None
        try:
            for number, message in enumerate(self._messages(request)):
                if end and number == end.after:
                    break
                yield message
            if end and end.code:
                await fail(context, end.code, end.reason)
            elif end is None or end.code is None:
                await asyncio.Event().wait()
        finally:
            self.left.set()

    def _messages(self, request: SubscribeRequest) -> Iterable[SubscribeResponse]:
        after, head = request.after_revision, self.head
        if request.sessions_first:
            for place, session in enumerate(self.sessions, 1):
                complete = place == len(self.sessions)
                batch = SessionBatch(sessions=[session], complete=complete)
                yield SubscribeResponse(header=_header(head), sessions=batch)
        elif not request.HasField("after_revision"):
            yield SubscribeResponse(header=_header(head), caught_up=CaughtUp())
        else:
            yield from self._record_messages(after)
            yield SubscribeResponse(header=_header(max(after, head)), caught_up=CaughtUp())

    def _record_messages(self, after: int) -> Iterable[SubscribeResponse]:
        waiting: list[SessionRecord] = []
        fresh = [record for record in self.feed if record.revision > after]
        for revision, group in groupby(fresh, lambda record: record.revision):
            own = list(group)
            if len(own) > self.part:
                yield from _message(waiting)
                waiting = []
                yield from _parts(revision, own, self.part)
                continue
            waiting += own
            if len({record.revision for record in waiting}) == self.batch:
                yield from _message(waiting)
                waiting = []
        yield from _message(waiting)

    @property
    def head(self) -> int:
        return self.feed[-1].revision if self.feed else 0

    async def GetStatus(self, request: Any, context: Any) -> GetStatusResponse:  # noqa: N802
        self.signs += not self.silent
        return GetStatusResponse(
            header=_header(self.head),
            head_revision=self.head + self.ahead,
            feed_digest=self.digest,
            follower_seen_at=Timestamp(seconds=self.signs),
        )

    async def GetSession(self, request: Any, context: Any) -> GetSessionResponse:  # noqa: N802
        for session in self.sessions:
            if session.session_id == request.session_id:
                return GetSessionResponse(header=_header(self.head), session=session)
        await fail(context, grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        raise AssertionError

    async def BatchGetSessions(  # noqa: N802
        self, request: Any, context: Any
    ) -> BatchGetSessionsResponse:
        names = {key.session_id for key in request.keys}
        found = [session for session in self.sessions if session.session_id in names]
        return BatchGetSessionsResponse(header=_header(self.head), sessions=found)

    async def ExplainSession(self, request: Any, context: Any) -> ExplainSessionResponse:  # noqa: N802
        if request.session_id not in self.stories:
            await fail(context, grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        records = self.stories[request.session_id]
        return ExplainSessionResponse(header=_header(self.head), records=records)

    async def ListSessions(self, request: Any, context: Any) -> ListSessionsResponse:  # noqa: N802
        start = int(request.page_token or 0)
        more = start + 2 < len(self.sessions)
        return ListSessionsResponse(
            header=_header(self.head),
            sessions=self.sessions[start : start + 2],
            next_page_token=str(start + 2) if more else "",
        )


async def fail(context: Any, code: grpc.StatusCode, reason: str) -> None:
    """End a call as the service does: with a google.rpc.Status."""
    status = status_pb2.Status(code=getattr(code_pb2, code.name), message="as told")
    if reason:
        info, packed = error_details_pb2.ErrorInfo(domain="desk.v1", reason=reason), any_pb2.Any()
        packed.Pack(info)
        status.details.append(packed)
    if code is grpc.StatusCode.OK:
        return
    await context.abort_with_status(rpc_status.to_status(status))


def _header(revision: int) -> ResponseHeader:
    return ResponseHeader(journal_id=JOURNAL_ID, revision=revision)


def _message(batch: list[SessionRecord]) -> Iterable[SubscribeResponse]:
    if batch:
        header = _header(batch[-1].revision)
        yield SubscribeResponse(header=header, records=RecordBatch(records=batch))


def _parts(revision: int, own: list[SessionRecord], size: int) -> Iterable[SubscribeResponse]:
    for start in range(0, len(own), size):
        last = start + size >= len(own)
        header = _header(revision if last else revision - 1)
        yield SubscribeResponse(
            header=header, records=RecordBatch(records=own[start : start + size])
        )


@asynccontextmanager
async def serving(feed_server: FeedServer, *, port: int = 0) -> AsyncIterator[int]:
    """Serve on an ephemeral loopback port, or on `port`; the port."""
    server = aio.server()
    event_service_pb2_grpc.add_EventServiceServicer_to_server(feed_server, server)
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(feed_server, server)
    status_pb2_grpc.add_StatusServiceServicer_to_server(feed_server, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


@asynccontextmanager
async def connected(feed_server: FeedServer) -> AsyncIterator[Client]:
    """A client of a running `feed_server`."""
    async with (
        serving(feed_server) as port,
        Client(f"127.0.0.1:{port}", reconnect_delay=0.002) as client,
    ):
        yield client
