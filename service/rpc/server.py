"""Runs one rpc worker: waits for the view, binds, serves, drains.

The worker opens one view file for its life, read-only. Knows nothing of journal or follower.
"""

import asyncio
import gc
import resource
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import structlog
from desk.v1 import event_service_pb2, session_service_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from service.rpc.calls import Handler
from service.rpc.event_service import EventService
from service.rpc.feed import Feed, ViewReplaced
from service.rpc.health import Health
from service.rpc.limits import AllPlaces, Limits
from service.rpc.requests import Apps
from service.rpc.session_service import SessionService
from service.rpc.status_service import JournalBacklog, StatusService
from service.rpc.watch import Watch
from service.view.errors import ViewError
from service.view.reader import Reader
from service.view.readers import Readers

GRACE = 3.0
"""Seconds that calls have to end once the server drains."""

GUARD = 2.0
"""Seconds between two looks whether the view was replaced."""

VIEW_POLL = 0.1
"""Seconds between two looks for a view that is not complete yet."""

REFUSING = 2_000
"""Calls beyond the limits that can be refused at the same time, each with a reason of ours."""

MAX_CONNECTIONS = 12_000
RESERVED_DESCRIPTORS = 100
"""Descriptors that connections leave for the view, the logs and what Python opens for a moment."""

_MINUTE = 60_000
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", 1024 * 1024),
    ("grpc.max_concurrent_streams", 1_000),
    # When everybody reconnects at once, gRPC sheds what is above 1,000 by default, as CANCELLED.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 30_000),
    # Connections that say nothing, or ask nothing any more, leave their place to others.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", _MINUTE),
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
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
SERVICES = tuple(service.full_name for service in _DESCRIPTORS)

OnReady = Callable[[int], None]

_log = structlog.get_logger()


async def serve(
    view_path: Path,
    address: str,
    *,
    sdk_app_ids: Sequence[int],
    journal_backlog: JournalBacklog,
    stop: asyncio.Event,
    on_ready: OnReady,
    limits: Limits = Limits(),  # noqa: B008 -- frozen
) -> None:
    """Serve a view until `stop` is set, then drain and return.

    Args:
        view_path: the view's file; waited for until it is there and complete.
        address: `host:port`; port 0 picks a free one. Several workers may share one port.
        sdk_app_ids: the configured apps.
        journal_backlog: asks the journal how far it is ahead of a revision; called in a thread, and
            given up after a second.
        stop: set it to have the worker drain; also ends the waiting.
        on_ready: called with the port once calls are answered; again if the view was replaced.
        limits: calls that may be open at once.

    Raises:
        RuntimeError: the address cannot be bound.
    """
    while await _view_is_complete(view_path, stop):
        readers = Readers(view_path)
        gc.callbacks.append(_freeze_survivors)
        try:
            worker = _Worker(readers, Apps(sdk_app_ids), journal_backlog, limits)
            await _serve(worker, address, stop, on_ready)
        except ViewReplaced:
            # The follower has started anew: with another journal, or because the file was damaged.
            _log.warning("rpc_view_replaced")
        finally:
            gc.callbacks.remove(_freeze_survivors)
            readers.close()


def _freeze_survivors(phase: str, info: dict[str, int]) -> None:
    """Let a full garbage collection walk through each object once.

    It would stop a worker with thousands of streams for a quarter of a second, again and again.
    What a call leaves behind in cycles is young, and streams end without any.
    """
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


async def _view_is_complete(path: Path, stop: asyncio.Event) -> bool:
    while not stop.is_set():
        if _is_complete(path):
            return True
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), VIEW_POLL)
    return False


def _is_complete(path: Path) -> bool:
    """Return True if the view has its tables and its first row, and had caught up once."""
    try:
        reader = Reader(path)
    except ViewError:
        return False
    try:
        return bool(reader.progress().complete)
    except ViewError:
        return False
    finally:
        reader.close()


async def _serve(worker: "_Worker", address: str, stop: asyncio.Event, on_ready: OnReady) -> None:
    port = worker.server.add_insecure_port(address)
    tasks = [asyncio.create_task(work) for work in worker.background()]
    stopped: asyncio.Task[Any] = asyncio.create_task(stop.wait())
    try:
        await worker.start()
        _log.info("rpc_serving", port=port)
        on_ready(port)
        await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        await worker.drain()
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await worker.close()


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
        with suppress(ViewError):
            if readers.inline.progress().journal_id != feed.journal_id:
                raise ViewReplaced


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


class _Worker:
    """The parts of a worker over one opened view."""

    def __init__(
        self, readers: Readers, apps: Apps, journal_backlog: JournalBacklog, limits: Limits
    ) -> None:
        self._readers = readers
        self._watch = Watch(readers.path)
        self._places = AllPlaces(limits)
        self._feed = Feed(readers.inline, self._watch, self._places)
        self._health = Health(("", *SERVICES))
        self._status = StatusService(readers, self._feed, apps, journal_backlog)
        options = (*OPTIONS, ("grpc.max_allowed_incoming_connections", affordable_connections()))
        self.server = grpc.aio.server(
            options=options, maximum_concurrent_rpcs=limits.total() + REFUSING
        )
        self._add(_DESCRIPTORS[0], SessionService(readers, self._feed, apps))
        self._add(_DESCRIPTORS[1], EventService(readers, self._feed))
        self._add(_DESCRIPTORS[2], self._status)
        self._add(_HEALTH, self._health)
        names = (*SERVICES, _HEALTH.full_name, _REFLECTION.full_name)
        self._add(_REFLECTION, reflection.aio.ReflectionServicer(names))

    async def start(self) -> None:
        """Answer calls."""
        await self._health.serve()
        await self.server.start()

    def background(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Make the coroutines that run beside the server; when one ends, the worker ends."""
        return (self._feed.run(), self._feed.announce(), _guard(self._readers, self._feed))

    async def drain(self) -> None:
        """End the streams first: `stop` alone would let them sleep until the grace is over."""
        _log.info("rpc_draining", subscribers=self._feed.subscribers)
        await self._health.enter_graceful_shutdown()
        self._feed.drain()
        await self.server.stop(GRACE)

    async def close(self) -> None:
        """Let go of everything but the view."""
        self._watch.close()
        await self.server.stop(None)
        self._status.close()

    def _add(self, service: Any, servicer: object) -> None:
        """Register a servicer, as generated code does, but with our way in for its calls."""
        self.server.add_registered_method_handlers(
            service.full_name,
            {
                method.name: Handler(
                    method, getattr(servicer, method.name), self._places
                ).registered()
                for method in service.methods
            },
        )


def affordable_connections() -> int:
    """Connections that the limit on descriptors allows, with a reserve for the rest."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MAX_CONNECTIONS, max(descriptors - RESERVED_DESCRIPTORS, descriptors // 2))
