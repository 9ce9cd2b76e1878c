"""desk.v1.StatusService: where this worker and its view stand."""

import platform
import time
from importlib.metadata import version
from typing import Any

import apsw
import google.protobuf
import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from desk.v1 import status_pb2_grpc
from desk.v1.status_pb2 import ComponentVersion, GetStatusRequest, GetStatusResponse, ResponseHeader
from service.records import duration, timestamp
from service.rpc.errors import refusing
from service.rpc.feed import Feed
from service.rpc.requests import Apps
from service.view.readers import Readers
from service.view.store import lock_path


class StatusService(status_pb2_grpc.StatusServiceServicer):
    """Answers from the view's row of progress and from what the worker knows of itself."""

    def __init__(self, readers: Readers, feed: Feed, apps: Apps) -> None:
        self._readers = readers
        self._feed = feed
        self._own_facts = GetStatusResponse(
            service_version=version("desk-sessions"),
            component_versions=_versions(),
            started_at=timestamp(_now()),
            sdk_app_ids=apps.ids,
        )

    @refusing
    async def GetStatus(self, _request: GetStatusRequest, _context: Any) -> GetStatusResponse:  # noqa: N802
        """Answer at once."""
        progress = self._readers.inline.progress()
        head = max(progress.head_revision, progress.applied_revision)
        behind = 0 if progress.behind_since is None else max(0, _now() - progress.behind_since)
        status = GetStatusResponse(
            header=ResponseHeader(
                journal_id=progress.journal_id, revision=progress.applied_revision
            ),
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
        "apsw": apsw.apsw_version(),
        "sqlite": apsw.sqlite_lib_version(),
    }
    return [ComponentVersion(name=name, version=found) for name, found in versions.items()]
