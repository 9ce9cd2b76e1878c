"""A connection to the service: its channel, the key, deadlines, pages, errors."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import grpc
from grpc.aio import (
    Channel,
    UnaryStreamCall,
    UnaryUnaryCall,
    insecure_channel,
    secure_channel,
)

from desk.client.errors import ClientError, Failed, Retryable, Unavailable, own_errors
from desk.client.replicas import Replicas, targets_of
from desk.client.security import check_key, with_key
from desk.client.streams import RECONNECT_DELAY, reconnecting
from desk.v1.admin_service_pb2_grpc import AdminServiceStub
from desk.v1.board_service_pb2_grpc import BoardServiceStub
from desk.v1.event_service_pb2_grpc import EventServiceStub
from desk.v1.report_service_pb2_grpc import ReportServiceStub
from desk.v1.session_service_pb2_grpc import SessionServiceStub
from desk.v1.status_pb2_grpc import StatusServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")


class _PageRequest(Protocol):
    page_token: str


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


PageRequest = TypeVar("PageRequest", bound=_PageRequest)
Page = TypeVar("Page", bound=_Page)

TIMEOUT = 10.0
"""Seconds that a unary call may take by default."""

# These methods only read: gRPC itself may repeat them within their deadline.
_RETRIED = {
    "methodConfig": [
        {
            "name": [
                {"service": "desk.v1.SessionService"},
                {"service": "desk.v1.StatusService"},
                {"service": "desk.v1.EventService", "method": "ListRejections"},
                {"service": "desk.v1.EventService", "method": "CountEvents"},
                {"service": "desk.v1.BoardService", "method": "GetBoard"},
                {"service": "desk.v1.ReportService"},
                {"service": "desk.v1.AdminService", "method": "ListForgotten"},
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
    # By default gRPC waits up to two minutes between attempts to connect. The service restarts in
    # one or two seconds.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A record of a 256 KiB body, or a page of 1,000 sessions, stays far below.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.service_config", json.dumps(_RETRIED)),
]


def _channel(target: str, credentials: grpc.ChannelCredentials | None, server_name: str) -> Channel:
    if credentials is None:
        return insecure_channel(target, options=_CHANNEL_OPTIONS)
    name = [("grpc.ssl_target_name_override", server_name)] if server_name else []
    return secure_channel(target, credentials, options=[*_CHANNEL_OPTIONS, *name])


class Connection:
    """A channel to the service, and calls on it; see `Client`."""

    def __init__(
        self,
        target: str,
        *,
        timeout: float = TIMEOUT,
        reconnect_delay: float = RECONNECT_DELAY,
        credentials: grpc.ChannelCredentials | None = None,
        server_name: str = "",
        key: str = "",
    ) -> None:
        """Prepare a connection; nothing is sent yet. Needs a running event loop.

        Args:
            target: `host:port`, or any gRPC name such as `dns:///desk:50051`; several, with commas
                between them, are replicas of one service: calls go to one that can be reached.
            timeout: seconds that a unary call may take.
            reconnect_delay: seconds, at most, before a broken subscription connects again;
                doubles with each attempt up to 10 s.
            credentials: for TLS, such as those of `tls_credentials`; None = plain text.
            server_name: the name in the service's certificate; "" = the one in the target.
            key: the API key; "" = none. `call` and the other methods send it; a stub does not.

        Raises:
            ValueError: one of several targets is empty; the key is malformed, or would be sent in
                plain text to another machine.
        """
        targets = targets_of(target)
        if len(targets) > 1 and "" in targets:
            raise ValueError(f"{target!r} has an empty target")
        for each in targets:
            check_key(key, each, encrypted=credentials is not None)
        self._key = key
        self._timeout = timeout
        self._reconnect_delay = reconnect_delay
        self._replicas = replicas = Replicas(
            [_channel(each, credentials, server_name) for each in targets]
        )
        channel = cast(Channel, replicas)
        self.session_service = SessionServiceStub(channel)
        self.event_service = EventServiceStub(channel)
        self.status_service = StatusServiceStub(channel)
        self.board_service = BoardServiceStub(channel)
        self.report_service = ReportServiceStub(channel)
        self.admin_service = AdminServiceStub(channel)

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
        """Close the connection. Its calls end, and further ones fail, with `Failed`."""
        await self._replicas.close()

    async def call(
        self,
        method: Callable[..., UnaryUnaryCall[Request, Response]],
        request: Request,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (becomes the call's deadline)
    ) -> Response:
        """Make a unary call of one of the stubs. If a replica is not available, ask the next one.

        Args:
            method: e.g. `client.session_service.GetSession`.
            request: the method's request message.
            timeout: seconds; None = the client's `timeout`.
        """
        end = monotonic() + (self._timeout if timeout is None else timeout)
        for others in reversed(range(len(self._replicas))):
            replica = self._replicas.current
            try:
                return await self._call(method, request, end - monotonic())
            except Retryable as error:
                self._replicas.leave(replica)
                if not others or not isinstance(error, Unavailable) or monotonic() >= end:
                    raise
        raise AssertionError("a client has a target")

    async def _call(
        self,
        method: Callable[..., UnaryUnaryCall[Request, Response]],
        request: Request,
        seconds: float,
    ) -> Response:
        with own_errors():
            answer: Response | None = await with_key(method, self._key)(request, timeout=seconds)
        if answer is None:  # gRPC logs the reason
            raise Failed("the answer cannot be decoded")
        return answer

    async def _pages(
        self, method: Callable[..., UnaryUnaryCall[PageRequest, Page]], request: PageRequest
    ) -> AsyncIterator[Page]:
        while True:
            page = await self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            if page.next_page_token == request.page_token:
                raise Failed("the service has sent one page token twice")
            request.page_token = page.next_page_token

    def _stream(
        self,
        method: Callable[..., UnaryStreamCall[Request, Response]],
        request: Callable[[], Request],
        *,
        is_temporary: Callable[[ClientError], bool] = lambda error: False,
        silence: float,
        give_up_after: float | None,
    ) -> AsyncGenerator[tuple[Response, bool], None]:
        """Yield the messages of `reconnecting`. After a break another replica is called."""
        open_stream = self._replicas.hopping(with_key(method, self._key))
        return reconnecting(
            lambda: open_stream(request()),
            is_temporary=is_temporary,
            silence=silence,
            reconnect_delay=self._reconnect_delay,
            give_up_after=give_up_after,
        )
