"""The lag of the view, measured at the journal, which works while the follower hangs."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc

from desk.v1.status_pb2 import GetStatusRequest, GetStatusResponse
from desk.v1.status_pb2_grpc import StatusServiceStub
from journal.sqlite import SqliteReader

ASK_WITHIN = 5.0


class Lag(NamedTuple):
    """One measurement.

    Attributes:
        ms: age of the first callback that the view lacks; 0 if it lacks none.
        status: the answer of GetStatus.
    """

    ms: int
    status: GetStatusResponse


class Gauge:
    """Measures the lag of a running service at its journal."""

    def __init__(self, channel: grpc.Channel, journal: SqliteReader) -> None:
        self._status = StatusServiceStub(channel)
        self._journal = journal

    def look(self) -> Lag:
        """Measure the lag. Raises `grpc.RpcError` or `JournalError` if that is not possible."""
        status = self._status.GetStatus(GetStatusRequest(), timeout=ASK_WITHIN)
        missing = self._journal.read(status.header.revision, limit=1)
        now = time.time_ns() // 1_000_000
        return Lag(now - missing[0].received_at if missing else 0, status)


@contextmanager
def gauge(target: str, data_dir: Path) -> Iterator[Gauge]:
    """Yield a gauge for the service at `target`, whose journal is in `data_dir`."""
    with (
        grpc.insecure_channel(target) as channel,
        closing(SqliteReader(data_dir / "journal.db")) as journal,
    ):
        yield Gauge(channel, journal)
