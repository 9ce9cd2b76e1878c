"""One rpc worker: waits for the view, binds, serves, drains.

Opens one view file, read-only, until it is replaced. Knows nothing of journal or follower.
"""

import asyncio
import gc
import resource
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from desk.v1 import (
    admin_service_pb2,
    board_service_pb2,
    event_service_pb2,
    report_service_pb2,
    session_service_pb2,
    status_pb2,
)
from metrics.definitions import CERTIFICATE_NOT_AFTER, SERVING, STREAMS_OPEN
from service.rpc.admin_service import AdminService
from service.rpc.board_service import BoardService
from service.rpc.calls import Handler
from service.rpc.commit_watch import CommitWatch
from service.rpc.event_service import EventService
from service.rpc.grants import Grants
from service.rpc.health import Health
from service.rpc.keys import Apps
from service.rpc.limits import Quotas
from service.rpc.live_feed import LiveFeed, ViewReplaced
from service.rpc.not_ready import NotReady
from service.rpc.options import WorkerOptions
from service.rpc.readiness import Readiness
from service.rpc.report_service import ReportService
from service.rpc.session_service import SessionService
from service.rpc.status_service import StatusService, streams_of
from service.rpc.tls import Tls
from service.view.errors import ViewError
from service.view.reader import Reader
from service.view.readers import Readers
from storage.files import DatabaseFiles

VIEW_POLL = 0.1
"""Seconds between two checks for a view that is not complete yet."""

BUILT_WITHIN = 1.0
"""Seconds to wait for a view before calls are refused: most often it is there, or small."""

REFUSABLE = 2_000
"""Calls beyond the limits that may be open at once, to be refused with a reason of ours."""

MAX_CONNECTIONS = 12_000
RESERVED_DESCRIPTORS = 100
"""Descriptors that connections leave for the view, the logs and short-lived files."""

_MINUTE = 60_000
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", 1024 * 1024),
    ("grpc.max_concurrent_streams", 1_000),
    # When all clients reconnect at once, gRPC sheds calls above 1,000 by default, as CANCELLED.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 30_000),
    # Connections without calls leave their place to others, as those without a handshake do.
    ("grpc.max_connection_idle_ms", _MINUTE),
    # A client that vanished is noticed within 50 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients commonly ping every 20-30 s; gRPC's default is to hang up on more than one in 5 min.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # gRPC adds 10 % of jitter. Streams end themselves within the grace, with a last checkpoint.
    ("grpc.max_connection_age_ms", 30 * _MINUTE),
    ("grpc.max_connection_age_grace_ms", 35 * _MINUTE),
)

_DESCRIPTORS: tuple[Any, ...] = (
    session_service_pb2.DESCRIPTOR.services_by_name["SessionService"],
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
    status_pb2.DESCRIPTOR.services_by_name["StatusService"],
    board_service_pb2.DESCRIPTOR.services_by_name["BoardService"],
    report_service_pb2.DESCRIPTOR.services_by_name["ReportService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)
SERVICES: tuple[str, ...] = tuple(each.full_name for each in _DESCRIPTORS[:6])

_log = structlog.get_logger()


async def serve(
    view_path: Path,
    address: str,
    options: WorkerOptions,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[int], None],
) -> None:
    """Serve a view until `stop` is set, then drain and return.

    Args:
        view_path: the view's file. Until it is there and complete, calls are refused with how far
            it has come, and health is NOT_SERVING.
        address: `host:port`; port 0 picks a free one. Several workers may share one port.
        options: of the worker.
        stop: ends serving, and the wait for the view.
        on_ready: called with the port once calls are answered; again if the view was replaced.

    Raises:
        RuntimeError: the address cannot be bound.
    """
    while not stop.is_set():
        if not await _is_complete(view_path, stop, within=BUILT_WITHIN) and not stop.is_set():
            async with _refusing(view_path, address, options) as port:
                address = f"{address.rpartition(':')[0]}:{port}"  # the same one, if any would do
                await _is_complete(view_path, stop)
        if stop.is_set():
            return
        readers = Readers(view_path)
        gc.callbacks.append(_freeze_survivors)
        try:
            await _serve(readers, address, options, stop, on_ready)
        except ViewReplaced:
            # The follower has started anew: with another journal, or because the file was damaged.
            _log.warning("rpc_view_replaced")
        finally:
            gc.callbacks.remove(_freeze_survivors)
            readers.close()


def _freeze_survivors(phase: str, info: dict[str, int]) -> None:
    """Exclude the survivors of a full garbage collection from the next ones.

    Each would stop a worker with thousands of streams for too long. Garbage in cycles
    comes from unary calls and is young; streams leave none.
    """
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


async def _is_complete(path: Path, stop: asyncio.Event, *, within: float = inf) -> bool:
    """Wait for a view that has caught up once; return False if stopped or late."""
    end = asyncio.get_running_loop().time() + within
    while not stop.is_set():
        with suppress(ViewError), closing(Reader(path)) as reader:
            if reader.progress().complete:
                return True
        if asyncio.get_running_loop().time() >= end:
            return False
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), VIEW_POLL)
    return False


@asynccontextmanager
async def _refusing(view: Path, address: str, options: WorkerOptions) -> AsyncIterator[int]:
    """Answer every call with how far the view has come; gives the port."""
    health, grants = Health(("", *SERVICES)), _grants(options)
    await health.report(serving=False)
    servicers = (*[NotReady(view)] * len(SERVICES), health)
    server = _server(Quotas(options.limits), grants, servicers)
    port = _bind(server, address, options.tls)
    await server.start()
    _log.info("rpc_waiting_for_view", port=port)
    following = asyncio.create_task(grants.follow())
    try:
        yield port
    finally:
        following.cancel()
        await health.enter_graceful_shutdown()
        await server.stop(None)


async def _serve(
    readers: Readers,
    address: str,
    options: WorkerOptions,
    stop: asyncio.Event,
    on_ready: Callable[[int], None],
) -> None:
    quotas, grants, health = Quotas(options.limits), _grants(options), Health(("", *SERVICES))
    readiness = Readiness(readers.path, options.limits.lag_seconds, options.silent_processes)
    with closing(CommitWatch(readers.path)) as watch:
        feed = LiveFeed(readers.inline, watch, quotas)
        with _servicers(readers, feed, readiness, options) as servicers:
            server = _server(quotas, grants, (*servicers, health))
            port = _bind(server, address, options.tls)
            _read_gauges(feed, readiness, options.tls)
            work = [feed.run(), feed.announce(), _guard(readers, feed, health, readiness)]
            if grants.clients:
                work.append(grants.follow())
            if options.workers.folder:
                work.append(options.workers.answer(partial(streams_of, feed, options.workers.name)))
            tasks: list[asyncio.Task[Any]] = list(map(asyncio.create_task, [*work, stop.wait()]))
            try:
                await health.report(serving=readiness.update(readers.inline.progress()))
                await server.start()
                _log.info("rpc_serving", port=port)
                on_ready(port)
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                await _drain(server, feed, health)
                for task in tasks:
                    if task.done():
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await server.stop(None)


def _grants(options: WorkerOptions) -> Grants:
    return Grants(options.clients, options.sdk_app_ids, encrypted=options.tls is not None)


@contextmanager
def _servicers(
    readers: Readers, feed: LiveFeed, readiness: Readiness, options: WorkerOptions
) -> Iterator[Sequence[object]]:
    """Make the servicers of `SERVICES`, in that order."""
    apps = Apps(options.sdk_app_ids)
    with (
        closing(StatusService(readers, feed, apps, options, readiness)) as status,
        closing(AdminService(readers, feed, apps, options.forget)) as admin,
    ):
        yield (
            SessionService(readers, feed, apps),
            EventService(readers, feed),
            status,
            BoardService(readers, feed, options.centre),
            ReportService(readers, feed, options.centre),
            admin,
        )


def _read_gauges(feed: LiveFeed, readiness: Readiness, tls: Tls | None) -> None:
    """Read the gauges of a worker from these objects from now on."""
    STREAMS_OPEN.read_number(lambda: feed.subscribers)
    SERVING.read_number(lambda: not readiness.reason)
    CERTIFICATE_NOT_AFTER.read_number(lambda: tls.ends_at if tls else None)


def _bind(server: grpc.aio.Server, address: str, tls: Tls | None) -> int:
    if tls is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, tls.credentials())


async def _drain(server: grpc.aio.Server, feed: LiveFeed, health: Health) -> None:
    """End the streams, then the server: its `stop` would leave them asleep for the grace."""
    _log.info("rpc_draining", subscribers=feed.subscribers)
    await health.enter_graceful_shutdown()
    feed.drain()
    await server.stop(feed.limits.grace_seconds)


def _server(quotas: Quotas, grants: Grants, servicers: Sequence[object]) -> grpc.aio.Server:
    """Make a server of servicers, in the order of `_DESCRIPTORS`, and of reflection."""
    limits = quotas.limits
    options = {
        "grpc.max_allowed_incoming_connections": affordable_connections(),
        "grpc.server_handshake_timeout_ms": round(limits.handshake_seconds * 1000),
    }
    server = grpc.aio.server(
        options=(*OPTIONS, *options.items()),
        maximum_concurrent_rpcs=limits.calls() + REFUSABLE,
    )
    names = [each.full_name for each in _DESCRIPTORS]
    servicers = (*servicers, reflection.aio.ReflectionServicer(names))
    for service, servicer in zip(_DESCRIPTORS, servicers, strict=True):
        # As generated code does, but with our handlers.
        handlers = {
            method.name: Handler(
                method, getattr(servicer, method.name), quotas, grants
            ).registered()
            for method in service.methods
        }
        server.add_registered_method_handlers(service.full_name, handlers)
    return server


async def _guard(readers: Readers, feed: LiveFeed, health: Health, readiness: Readiness) -> None:
    """Check again and again that the view is the one that was opened, and that it is kept up.

    Streams end when it no longer is, and now and then until it is again: their clients find a
    replica that is kept up, and one that came here by chance does not stay.

    Raises:
        ViewReplaced: it is not.
    """
    opened = DatabaseFiles.at(readers.path)
    while True:
        await asyncio.sleep(feed.limits.guard_seconds)
        if opened.replaced_by(DatabaseFiles.at(readers.path)):
            raise ViewReplaced
        progress = None
        with suppress(ViewError):
            progress = readers.inline.progress()
        if progress and progress.journal_id != feed.journal_id:
            raise ViewReplaced
        was_ready = not readiness.reason
        await health.report(serving=readiness.update(progress))
        if was_ready and readiness.reason:
            _log.warning("rpc_not_serving", reason=readiness.reason)
        stale = asyncio.get_running_loop().time() - feed.ended > feed.limits.stale_seconds
        if readiness.reason and (was_ready or stale):
            feed.end_streams()


def affordable_connections() -> int:
    """Return the connections that the limit on descriptors allows, with a reserve."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, max(descriptors - RESERVED_DESCRIPTORS, descriptors // 2))
