"""A watch for commits of other processes to a SQLite database in WAL mode.

A commit writes the WAL, syncs it, and only then is visible to readers. The kernel reports the write
(inotify), so a reader sleeps in quiet times, and looks often for a while after a write. Knows
nothing of the database's content.
"""

import time
from contextlib import suppress
from pathlib import Path

import structlog
from inotify_simple import INotify, flags

SOON = 0.001
"""Seconds between two looks just after a write. They grow with the time since the write."""

SLOW_SYNC = 0.5
"""Seconds after a write in which a slow disk may still be syncing it."""

QUIET = 0.25
"""Seconds between two looks in quiet times: not every file system reports writes."""

BLIND = 0.02
"""Seconds between two looks within `SLOW_SYNC`, and without inotify: a user may have 128 inotify
instances, and a limited number of watches."""

log = structlog.get_logger()


class WalWatch:
    """A watch on the WAL of the database at a path. For one thread at a time."""

    def __init__(self, path: Path, *, quiet: float = QUIET, slow_sync: float = SLOW_SYNC) -> None:
        self._wal = f"{path}-wal"
        self._quiet = quiet
        self._slow_sync = slow_sync
        self._written = time.monotonic()
        self._kernel: INotify | None = None
        self._blind = False

    def sleep(self, most: float) -> None:
        """Return after a write, or when it is time to look again; after `most` seconds at most."""
        kernel = self._watching()
        since = time.monotonic() - self._written
        if since < self._slow_sync:
            pause = min(max(since / 2, SOON), BLIND)
        else:
            pause = self._quiet if kernel else BLIND
        pause = max(min(pause, most), 0.0)
        if kernel is None:
            time.sleep(pause)
        elif kernel.read(timeout=pause * 1000):
            self._written = time.monotonic()

    def close(self) -> None:
        if self._kernel:
            self._kernel.close()
            self._kernel = None

    def _watching(self) -> INotify | None:
        if self._blind:
            return None
        try:
            self._kernel = self._kernel or INotify()
            with suppress(FileNotFoundError):  # it is not there yet
                self._kernel.add_watch(self._wal, flags.MODIFY)  # it may be another file by now
        except OSError as error:
            log.warning("inotify_not_available", error=str(error))
            self._blind = True
            self.close()
        return self._kernel
