"""The follower's gauges, read when a page of metrics is made, by the thread that makes it.

Only the follower has them: each rpc worker would report the same sessions once more.
"""

import math
import time
from contextlib import closing
from pathlib import Path

from journal.errors import JournalError
from journal.port import JournalReader
from metrics.definitions import (
    APPLIED_REVISION,
    BUILD_PROGRESS,
    DAMAGED_ENTRIES,
    DUPLICATES,
    FORGOTTEN_ENTRIES,
    FORGOTTEN_OLDEST,
    LAG_ENTRIES,
    LAG_SECONDS,
    LONGEST_WAIT,
    SESSIONS,
)
from service import records
from service.projection import Projection
from service.view.bounds import Row
from service.view.reader import Reader

MOST_COUNTED = 1_000_000
"""Entries to delete that are counted: the page waits 0.2 s for a process."""

_STATES = {number: state.name.lower() for state, number in records.STATES.items()}


def read_gauges(projection: Projection, journal: JournalReader, view: Path) -> None:
    """Read the gauges from a projection, its journal, and the file of its view from now on."""
    _read_progress(projection, journal)
    _read_view(projection, view)


def _read_progress(projection: Projection, journal: JournalReader) -> None:
    def lag() -> int:
        return max(0, journal.head() - projection.progress.applied_revision)

    def lag_seconds() -> float:
        try:
            waiting = journal.read(projection.progress.applied_revision, limit=1)
        except JournalError:
            return math.inf
        return _seconds_since(waiting[0].received_at) if waiting else 0.0

    def built() -> float:
        progress = projection.progress
        return 1.0 if progress.complete else progress.applied_revision / max(1, journal.head())

    APPLIED_REVISION.read_number(lambda: projection.progress.applied_revision)
    LAG_ENTRIES.read_number(lag)
    LAG_SECONDS.read_number(lag_seconds)
    BUILD_PROGRESS.read_number(built)
    DAMAGED_ENTRIES.read_number(lambda: projection.progress.damaged)
    DUPLICATES.read = lambda: {("fold",): projection.progress.repetitions}


def _read_view(projection: Projection, view: Path) -> None:
    def counts() -> list[Row]:
        if not projection.progress.complete:  # the sessions of an hour long past
            return []
        with closing(Reader(view)) as reader:
            return reader.session_counts()

    def left_to_delete(limit: int) -> tuple[int, int | None]:
        with closing(Reader(view)) as reader:
            return reader.left_to_delete(limit)

    FORGOTTEN_ENTRIES.read_number(lambda: left_to_delete(MOST_COUNTED)[0])
    FORGOTTEN_OLDEST.read_number(lambda: _seconds_since(left_to_delete(0)[1]))
    SESSIONS.read = lambda: {
        (str(app), _STATES[state]): number for app, state, number, _ in counts()
    }
    LONGEST_WAIT.read = lambda: {
        (str(app),): _seconds_since(queued_since) for app, _, _, queued_since in counts()
    }


def _seconds_since(time_ms: int | None) -> float:
    return max(0.0, time.time() - time_ms / 1000) if time_ms else 0.0
