"""desk.v1.StatusService: where this worker and its view stand."""

import asyncio
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import google.protobuf
import grpc
from desk.v1.status_pb2 import ComponentVersion, GetStatusRequest, GetStatusResponse
from google.protobuf.timestamp_pb2 import Timestamp

from service.records import duration, timestamp
from service.rpc.calls import Call
from service.rpc.errors import throttled
from service.rpc.feed import Feed
from service.rpc.frames import header_of
from service.rpc.requests import Apps
from service.view.progress import Progress
from service.view.readers import Readers
from service.view.store import lock_path, sqlite_versions

BACKLOG_WITHIN = 1.0
"""Seconds that the journal has to say where its head is."""

JournalBacklog = Callable[[int], tuple[int, int | None]]
"""Given a revision: the journal's head, and the time (ms) at which the first entry after that
revision was received; None if there is none."""


class StatusService:
    """Answers from the view's row of progress, the journal's head, and what the worker knows."""

    def __init__(
        self, readers: Readers, feed: Feed, apps: Apps, journal_backlog: JournalBacklog
    ) -> None:
        self._readers = readers
        self._journal_backlog = journal_backlog
        self._journal_thread = ThreadPoolExecutor(1, "journal")
        self._turn = asyncio.Semaphore()
        self._feed = feed
        self._own_facts = GetStatusResponse(
            service_version=version("desk-sessions"),
            component_versions=_versions(),
            started_at=timestamp(_now()),
            sdk_app_ids=apps.ids,
        )

    async def GetStatus(self, _request: GetStatusRequest, _call: Call) -> GetStatusResponse:  # noqa: N802
        """Answer at once, or within `BACKLOG_WITHIN` if the journal hangs."""
        progress = self._readers.inline.progress()
        head, waiting_since = await self._backlog(progress)
        head = max(head, progress.applied_revision)
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
        )
        status.MergeFrom(self._own_facts)
        return status

    async def _backlog(self, progress: Progress) -> tuple[int, int | None]:
        """The journal's head and the age of what is not applied; or else as last seen."""
        try:
            async with asyncio.timeout(BACKLOG_WITHIN):
                return await self._ask_journal(progress.applied_revision)
        except Exception as error:  # the journal's own; rpc does not know them
            throttled.log("warning", "journal_not_readable", method="GetStatus", error=error)
            return progress.head_revision, progress.behind_since

    async def _ask_journal(self, applied_revision: int) -> tuple[int, int | None]:
        await self._turn.acquire()  # while the journal hangs, nothing piles up for the thread
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._journal_thread, self._journal_backlog, applied_revision)
        asked.add_done_callback(lambda _: self._turn.release())
        return await asyncio.shield(asked)

    def close(self) -> None:
        """Let go of the thread."""
        self._journal_thread.shutdown(wait=False, cancel_futures=True)

    def _follower_seen_at(self) -> Timestamp | None:
        try:
            seen = lock_path(self._readers.path).stat().st_mtime_ns
        except OSError:
            return None
        return timestamp(seen // 1_000_000)


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
