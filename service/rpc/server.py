"""Runs one rpc worker: waits for the view, binds, serves, drains.

The worker opens one view file for its life, read-only. Knows nothing of journal or follower.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from desk.v1 import event_service_pb2, session_service_pb2, status_pb2
from service.rpc.event_service import EventService
from service.rpc.feed import MAX_SUBSCRIBERS, Feed, ViewReplaced
from service.rpc.requests import Apps
from service.rpc.session_service import SessionService
from service.rpc.status_service import StatusService
from service.rpc.waiters import MAX_WAITERS
from service.rpc.watch import Watch
from service.view.reader import Reader
from service.view.readers import Readers

GRACE = 3.0
"""Seconds that calls have to end once the server drains."""

GUARD = 2.0
"""Seconds between two looks whether the view was replaced."""

VIEW_POLL = 0.1
"""Seconds between two looks for a view that is not complete yet."""

MAX_UNARY = 1_000
"""Calls at work at once, beyond streams and waiters; more get RESOURCE_EXHAUSTED from gRPC."""

_MINUTE = 60_000
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", 1024 * 1024),
    ("grpc.max_concurrent_streams", 1_000),
    # When everybody reconnects at once, gRPC sheds what is above 1,000 by default, as CANCELLED.
    ("grpc.server.max_pending_requests", 2 * MAX_SUBSCRIBERS),
    ("grpc.server.max_pending_requests_hard_limit", 3 * MAX_SUBSCRIBERS),
    # A client that vanished without a word is noticed within 50 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients commonly ping every 20-30 s; gRPC's default is to hang up on more than one in 5 min.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # gRPC adds 10 % of jitter. Streams end themselves within the grace, with a last checkpoint.
    ("grpc.max_connection_age_ms", 30 * _MINUTE),
    ("grpc.max_connection_age_grace_ms", 35 * _MINUTE),
)

_DESCRIPTORS = (
    session_service_pb2.DESCRIPTOR.services_by_name["SessionService"],
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
    status_pb2.DESCRIPTOR.services_by_name["StatusService"],
)
SERVICES = tuple(service.full_name for service in _DESCRIPTORS)

_log = structlog.get_logger()


async def serve(
    view_path: Path,
    address: str,
    *,
    sdk_app_ids: Sequence[int],
    stop: asyncio.Event,
    on_ready: Callable[[int], None],
) -> None:
    """Serve a view until `stop` is set, then drain and return.

    Args:
        view_path: the view's file; waited for until it is there and complete.
        address: `host:port`; port 0 picks a free one. Several workers may share one port.
        sdk_app_ids: the configured apps.
        stop: set it to have the worker drain; also ends the waiting.
        on_ready: called with the port once calls are answered; again if the view was replaced.

    Raises:
        RuntimeError: the address cannot be bound.
    """
    while await _view_is_complete(view_path, stop):
        readers = Readers(view_path)
        try:
            await _serve(readers, address, Apps(sdk_app_ids), stop, on_ready)
        except ViewReplaced:
            # The follower has started anew: with another journal, or because the file was damaged.
            _log.warning("rpc_view_replaced")
        finally:
            readers.close()


async def _view_is_complete(path: Path, stop: asyncio.Event) -> bool:
    while not stop.is_set():
        if _is_complete(path):
            return True
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), VIEW_POLL)
    return False


def _is_complete(path: Path) -> bool:
    """Whether the view is there, has its tables and its first row, and had caught up once."""
    try:
        reader = Reader(path)
    except apsw.CantOpenError:
        return False
    try:
        return bool(reader.progress().complete)
    except apsw.Error:
        return False
    finally:
        reader.close()


async def _serve(
    readers: Readers,
    address: str,
    apps: Apps,
    stop: asyncio.Event,
    on_ready: Callable[[int], None],
) -> None:
    watch = Watch(readers.path)
    feed = Feed(readers.inline, watch)
    health = HealthServicer()
    server = _server(readers, feed, apps, health)
    port = server.add_insecure_port(address)
    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(feed.run()),
        asyncio.create_task(_guard(readers, feed)),
    ]
    stopped = asyncio.create_task(stop.wait())
    try:
        await server.start()
        await _say(health, health_pb2.HealthCheckResponse.SERVING)
        _log.info("rpc_serving", port=port)
        on_ready(port)
        await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        await _drain(server, feed, health)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        watch.close()
        await server.stop(None)


async def _guard(readers: Readers, feed: Feed) -> None:
    """Watch whether the view is still the one that was opened.

    Raises:
        ViewReplaced: it is not.
    """
    opened = _inode(readers.path)
    while True:
        await asyncio.sleep(GUARD)
        if _inode(readers.path) != opened:
            raise ViewReplaced
        with suppress(apsw.Error):
            if readers.inline.progress().journal_id != feed.journal_id:
                raise ViewReplaced


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def _server(readers: Readers, feed: Feed, apps: Apps, health: HealthServicer) -> grpc.aio.Server:
    server = grpc.aio.server(
        options=OPTIONS, maximum_concurrent_rpcs=MAX_SUBSCRIBERS + MAX_WAITERS + MAX_UNARY
    )
    servicers = (
        SessionService(readers, feed, apps),
        EventService(readers, feed),
        StatusService(readers, feed, apps),
    )
    for service, servicer in zip(_DESCRIPTORS, servicers, strict=True):
        server.add_registered_method_handlers(service.full_name, _handlers(service, servicer))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    return server


def _handlers(service: ServiceDescriptor, servicer: object) -> dict[str, Any]:
    """What the generated registration makes, but methods may answer with serialised messages."""
    return {
        method.name: _handler(method, getattr(servicer, method.name)) for method in service.methods
    }


def _handler(method: MethodDescriptor, answer: Any) -> Any:
    kind: Any = (
        grpc.unary_stream_rpc_method_handler
        if method.server_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    request: Any = GetMessageClass(method.input_type)
    return kind(answer, request_deserializer=request.FromString, response_serializer=_serialised)


def _serialised(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


async def _say(health: HealthServicer, status: Any) -> None:
    for name in ("", *SERVICES):
        await health.set(name, status)


async def _drain(server: grpc.aio.Server, feed: Feed, health: HealthServicer) -> None:
    """End the streams first: `stop` alone would let them sleep until the grace is over."""
    _log.info("rpc_draining", subscribers=feed.subscribers, waiters=len(feed.waiters))
    await _say(health, health_pb2.HealthCheckResponse.NOT_SERVING)
    feed.drain()
    await server.stop(GRACE)
