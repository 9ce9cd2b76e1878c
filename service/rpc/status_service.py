"""desk.v1.StatusService: the state of this worker, its view and the journal."""

import asyncio
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import chain

import google.protobuf
import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from desk.v1.status_pb2 import (
    AppCallbacks,
    ComponentVersion,
    DiskUsage,
    GatewayStatus,
    GetStatusRequest,
    GetStatusResponse,
    ListSubscribersRequest,
    ListSubscribersResponse,
    OutcomeCount,
    Retention,
    Scrub,
)
from metrics.report import AppReport, GatewayReport, RetentionReport, ScrubReport, load
from service.positions import complete_revision
from service.records import duration, timestamp
from service.rpc.calls import Call
from service.rpc.errors import log_error
from service.rpc.keys import Apps
from service.rpc.live_feed import LiveFeed
from service.rpc.options import WorkerOptions
from service.rpc.readiness import Readiness
from service.rpc.responses import header, header_of
from service.rpc.subscribers import furthest_behind
from service.view.progress import Progress
from service.view.readers import Readers
from service.view.store import last_seen, sqlite_versions
from storage.sizes import size_of_database

MAX_SUBSCRIBERS = 1_000
"""Streams that one answer lists."""

MOST_COUNTED = 5_000
"""Entries to delete that are counted."""


class StatusService:
    """Answers from the view's progress, the journal's head, and the worker itself."""

    def __init__(
        self,
        readers: Readers,
        feed: LiveFeed,
        apps: Apps,
        options: WorkerOptions,
        readiness: Readiness,
    ) -> None:
        self._readers = readers
        self._readiness = readiness
        self._options = options
        self._journal_thread = ThreadPoolExecutor(1, "journal")
        self._turn = asyncio.Semaphore()
        self._feed = feed
        self._of_worker = GetStatusResponse(
            service_version=version("desk-sessions"),
            component_versions=_versions(),
            started_at=timestamp(_now()),
            sdk_app_ids=apps.ids,
            worker=options.workers.name,
            workers=options.workers.number,
        )

    async def GetStatus(self, _request: GetStatusRequest, _call: Call) -> GetStatusResponse:
        """Answer at once, or within `backlog_seconds` if the journal hangs."""
        reason = self._readiness.reason  # read first: the progress then has the problem it names
        progress = self._readers.inline.progress()
        head, waiting_since = await self._backlog(progress)
        head = max(head, progress.applied_revision)
        to_delete, since = self._readers.inline.left_to_delete(MOST_COUNTED)
        behind = 0 if waiting_since is None else max(0, _now() - waiting_since)
        status = GetStatusResponse(
            header=header_of(progress),
            head_revision=head,
            oldest_revision=progress.oldest_revision,
            lag=head - progress.applied_revision,
            lag_time=duration(behind),
            fingerprint=progress.fingerprint,
            feed_digest=progress.digest.hex(),
            subscribers=self._feed.subscribers,
            follower_seen_at=self._follower_seen_at(),
            damaged_entries=progress.damaged,
            follower_problem=progress.problem,
            silent_processes=self._options.silent_processes(),
            not_serving_reason=reason,
            scrub=_scrub(load(self._readers.path.parent, ScrubReport), progress.journal_id),
            entries_to_delete=to_delete,
            forgotten_since=timestamp(since) if since else None,
            retention=_retention(load(self._readers.path.parent, RetentionReport)),
            gateway=_gateway(load(self._readers.path.parent, GatewayReport)),
            disk_usage=self._disk_usage(),
        )
        status.MergeFrom(self._of_worker)
        return status

    async def ListSubscribers(
        self, _request: ListSubscribersRequest, _call: Call
    ) -> ListSubscribersResponse:
        """Answer from the streams of this worker and of those that tell theirs in time."""
        workers = self._options.workers
        own, others = streams_of(self._feed, workers.name), await workers.ask()
        streams = chain(*(each.subscribers for each in (own, *others)))
        return ListSubscribersResponse(
            header=own.header,
            subscribers=sorted(streams, key=furthest_behind)[:MAX_SUBSCRIBERS],
            total=sum(each.total for each in (own, *others)),
            worker=own.worker,
            workers=workers.number,
            missing_workers=max(0, workers.number - 1 - len(others)),
        )

    async def _backlog(self, progress: Progress) -> tuple[int, int | None]:
        """Return the journal's head and the first time not applied; or those saved last."""
        try:
            async with asyncio.timeout(self._feed.limits.backlog_seconds):
                return await self._ask_journal(progress.applied_revision)
        except Exception as error:  # the journal's errors; rpc does not import them
            log_error("warning", "journal_not_readable", "GetStatus", error)
            return progress.head_revision, progress.behind_since

    async def _ask_journal(self, applied_revision: int) -> tuple[int, int | None]:
        await self._turn.acquire()  # no queue builds up while the journal hangs
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(
            self._journal_thread, self._options.journal_backlog, applied_revision
        )
        asked.add_done_callback(self._note_end)
        return await asyncio.shield(asked)

    def _note_end(self, asked: "asyncio.Future[tuple[int, int | None]]") -> None:
        self._turn.release()
        if not asked.cancelled():
            asked.exception()  # whoever asked may have given up

    def close(self) -> None:
        self._journal_thread.shutdown(wait=False, cancel_futures=True)

    def _disk_usage(self) -> DiskUsage:
        journal, journal_wal = self._options.journal_size()
        view, view_wal = size_of_database(self._readers.path)
        return DiskUsage(
            journal_bytes=journal,
            journal_wal_bytes=journal_wal,
            view_bytes=view,
            view_wal_bytes=view_wal,
        )

    def _follower_seen_at(self) -> Timestamp | None:
        seen = last_seen(self._readers.path)
        return timestamp(int(seen * 1000)) if seen else None


def streams_of(feed: LiveFeed, worker: str) -> ListSubscribersResponse:
    """Return the streams of a worker."""
    head = feed.announced_position
    return ListSubscribersResponse(
        header=header(feed.journal_id, complete_revision(head)),
        subscribers=feed.places.described(head, feed.received_after, worker, MAX_SUBSCRIBERS),
        total=len(feed.places),
        worker=worker,
    )


def _gateway(report: GatewayReport | None) -> GatewayStatus | None:
    if report is None:
        return None
    return GatewayStatus(
        started_at=timestamp(report.started_at),
        reported_at=timestamp(report.reported_at),
        apps=map(_app, report.apps),
    )


def _scrub(report: ScrubReport | None, journal_id: str) -> Scrub | None:
    if report is None or report.journal_id != journal_id:
        return None
    return Scrub(
        revision=report.revision,
        completed_at=timestamp(report.completed_at) if report.completed_at else None,
        differences=report.shown,
        first_difference=report.first_difference,
    )


def _retention(report: RetentionReport | None) -> Retention | None:
    if report is None or not report.keep:
        return None
    return Retention(
        keep=duration(1000 * report.keep),
        completed_at=timestamp(report.completed_at) if report.completed_at else None,
        sessions=report.sessions,
        malformed=report.malformed,
        problem=report.problem,
    )


def _app(app: AppReport) -> AppCallbacks:
    return AppCallbacks(
        sdk_app_id=app.sdk_app_id,
        signatures_checked=app.signatures_checked,
        last_callback_at=timestamp(app.last_callback_at) if app.last_callback_at else None,
        outcomes=[OutcomeCount(outcome=name, number=n) for name, n in app.outcomes.items()],
    )


def _now() -> int:
    return time.time_ns() // 1_000_000


def _versions() -> list[ComponentVersion]:
    versions = {
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
        "protobuf": google.protobuf.__version__,
        **sqlite_versions(),
    }
    return [ComponentVersion(name=name, version=found) for name, found in versions.items()]
