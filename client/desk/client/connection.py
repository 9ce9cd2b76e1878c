"""A connection to the service: the channel, the everyday questions, and `subscribe`."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from grpc.aio import AioRpcError, UnaryUnaryCall, insecure_channel, secure_channel

from desk.client.errors import translate
from desk.client.subscription import SILENCE, Update, follow
from desk.v1.event_pb2 import EventFilter
from desk.v1.event_service_pb2 import SubscribeRequest
from desk.v1.event_service_pb2_grpc import EventServiceStub
from desk.v1.session_pb2 import Session, SessionFilter, SessionState
from desk.v1.session_service_pb2 import (
    GetSessionRequest,
    ListSessionsRequest,
    WaitForStateRequest,
)
from desk.v1.session_service_pb2_grpc import SessionServiceStub
from desk.v1.status_pb2 import GetStatusRequest, GetStatusResponse
from desk.v1.status_pb2_grpc import StatusServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")

TIMEOUT = 10.0
"""Seconds that a unary call may take by default."""

# All unary methods only read: gRPC itself may repeat them within their deadline.
_RETRIED = {
    "methodConfig": [
        {
            "name": [
                {"service": "desk.v1.SessionService"},
                {"service": "desk.v1.StatusService"},
                {"service": "desk.v1.EventService", "method": "ListRejections"},
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

_CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    # The service is on the same network; http_proxy in the environment is for the way out of it.
    ("grpc.enable_http_proxy", 0),
    # Notices a dead connection in the midst of a call. A server with default settings allows two
    # pings before it has sent anything, so not more often; on a stream its Checkpoints clear them.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC's own default is to wait up to two minutes between attempts to connect.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # A record of a 256 KiB body, or a page of 1,000 sessions, stays far below.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.service_config", json.dumps(_RETRIED)),
]


class Client:
    """A client of the desk.v1 API, to be used as an asynchronous context manager.

    Read where you left off, and remember how far you came:

        >>> async def copy_feed(target, store):
        ...     journal_id, revision = store.position()  # ("", 0) at the very first start
        ...     async with Client(target) as client:
        ...         updates = client.subscribe(after_revision=revision, journal_id=journal_id)
        ...         async with contextlib.aclosing(updates):
        ...             async for update in updates:
        ...                 store.save(update.records, update.journal_id, update.revision)
        ...                 if update.caught_up:
        ...                     break

    `save` should write the records and the position in one transaction: then each record has
    its effect exactly once, whatever dies when. Where that cannot be, write the position last;
    the records after it come again, and (`revision`, `ordinal`) tells those known already.

    Attributes:
        session_service, event_service, status_service: the generated stubs, for what has no
            method here; wrap their calls in `call` for this package's errors.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = TIMEOUT,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Prepare a connection; nothing is sent yet. Needs a running event loop.

        Args:
            target: `host:port`, or any gRPC name such as `dns:///desk:50051`.
            timeout: seconds that a unary call may take.
            credentials: for TLS, e.g. `grpc.ssl_channel_credentials()`; None = plain text.
        """
        self._timeout = timeout
        self._channel = (
            secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
            if credentials
            else insecure_channel(target, options=_CHANNEL_OPTIONS)
        )
        self.session_service = SessionServiceStub(self._channel)
        self.event_service = EventServiceStub(self._channel)
        self.status_service = StatusServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls that are under way are cancelled."""
        await self._channel.close()

    async def call(
        self,
        method: Callable[..., UnaryUnaryCall[Request, Response]],
        request: Request,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (becomes the call's deadline)
    ) -> Response:
        """Make a unary call of one of the stubs.

        Args:
            method: e.g. `client.session_service.ExplainSession`.
            request: its request.
            timeout: seconds; None = that of the client.

        Raises:
            ClientError: one of `desk.client.errors`; all methods of this class raise these.
        """
        try:
            return await method(request, timeout=timeout or self._timeout)
        except AioRpcError as error:
            raise translate(error) from None

    async def status(self) -> GetStatusResponse:
        """Where the service stands."""
        return await self.call(self.status_service.GetStatus, GetStatusRequest())

    async def get_session(
        self,
        session_id: str,
        *,
        sdk_app_id: int = 0,
        min_revision: int = 0,
        as_of_revision: int = 0,
    ) -> Session:
        """One session, now or as it was.

        Args:
            session_id: Desk's id.
            sdk_app_id: the app; 0 = the only configured one.
            min_revision: wait until the service is at least that fresh.
            as_of_revision: as it was at that revision, inclusive; 0 = now.

        Raises:
            NotFound: it has not begun.
            OutOfRange: `as_of_revision` is no longer kept, or not there yet.
            TimedOut: `min_revision` was not reached in time.
        """
        request = GetSessionRequest(
            sdk_app_id=sdk_app_id,
            session_id=session_id,
            min_revision=min_revision,
            as_of_revision=as_of_revision,
        )
        return (await self.call(self.session_service.GetSession, request)).session

    async def list_sessions(
        self,
        session_filter: SessionFilter | None = None,
        *,
        order_by: str = "",
        page_size: int = 0,
        min_revision: int = 0,
    ) -> AsyncIterator[Session]:
        """Every session that the filter selects, page after page.

        Args:
            session_filter: which ones; None = all.
            order_by: as in ListSessionsRequest, e.g. `ended_at desc`; "" = newest first.
            page_size: sessions per call, 1 to 1,000; 0 = 100.
            min_revision: wait until the service is at least that fresh.
        """
        request = ListSessionsRequest(
            filter=session_filter, order_by=order_by, page_size=page_size, min_revision=min_revision
        )
        while True:
            page = await self.call(self.session_service.ListSessions, request)
            for session in page.sessions:
                yield session
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def wait_for_state(
        self,
        session_id: str,
        states: Iterable[SessionState.ValueType],
        *,
        sdk_app_id: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109 (becomes the call's deadline)
    ) -> Session:
        """The session, as soon as it is in one of `states`; it need not have begun.

        Raises:
            TimedOut: it was not within `timeout` seconds (None = the client's).
        """
        request = WaitForStateRequest(
            sdk_app_id=sdk_app_id, session_id=session_id, states=list(states)
        )
        answer = await self.call(self.session_service.WaitForState, request, timeout=timeout)
        return answer.session

    def subscribe(
        self,
        *,
        after_revision: int | None = None,
        journal_id: str = "",
        event_filter: EventFilter | None = None,
        include_session: bool = False,
        sessions_first: bool = False,
        max_batch: int = 0,
        silence: float = SILENCE,
        give_up_after: float | None = None,
    ) -> AsyncGenerator[Update, None]:
        """The feed: each record once, in order, without gaps, across any number of reconnects.

        Endless; leave it with `break` inside `contextlib.aclosing`, or by cancelling the task:
        the call on the service is then cancelled too.

        Args:
            after_revision: exclusive; 0 = all that is kept; None = from now on.
            journal_id: the journal that `after_revision` counts in; "" = not checked.
            event_filter: which records; None = all that were accepted or not recognised.
            include_session: put the session after its revision into each record.
            sessions_first: first the sessions as they are now, then what changes. Not together
                with `after_revision`.
            max_batch: records per update, at most 1,000; 0 = 500.
            silence: seconds without a message after which to connect again.
            give_up_after: seconds without a message after which to raise; None = never.

        Raises:
            OutOfRange: records after the position are no longer kept, or the service has not
                come that far.
            JournalMismatch: the service has another journal.
            InvalidRequest, Denied, Failed: the service will never answer this.
            Retryable: nothing came for `give_up_after` seconds.
        """
        request = SubscribeRequest(
            after_revision=after_revision,
            journal_id=journal_id,
            filter=event_filter,
            include_session=include_session,
            sessions_first=sessions_first,
            max_batch=max_batch,
        )
        return follow(
            request, self.event_service.Subscribe, silence=silence, give_up_after=give_up_after
        )
