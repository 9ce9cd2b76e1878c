"""Sleeps until another process may have committed to a SQLite database in WAL mode.

A commit writes the WAL, syncs it, and only then shows itself to readers. The kernel tells of the
write (inotify), so whoever waits is asleep in quiet times, and looks often for a while after it.
Knows nothing of what is in the database.
"""

import threading
import time
from contextlib import suppress
from pathlib import Path

import structlog
from inotify_simple import INotify, flags

SOON = 0.001
"""Seconds between two looks just after a write. The longer ago it was, the longer."""

QUIET = 0.25
"""Seconds between two looks in quiet times: not every file system tells of writes."""

BLIND = 0.02
"""The same, where the kernel does not tell at all: a user may have 128 inotify instances."""

log = structlog.get_logger()


class WalWatch(threading.local):
    """Watches the database at a path, for each thread by itself."""

    def __init__(self, path: Path) -> None:
        self._wal = f"{path}-wal"
        self._written = time.monotonic()
        self._kernel: INotify | None = None
        try:
            self._kernel = INotify()
        except OSError as error:
            log.warning("inotify_not_available", error=str(error))

    def sleep(self, most: float) -> None:
        """Return after a write, or when it is time to look again; after `most` seconds at most."""
        since = time.monotonic() - self._written
        pause = max(min(max(since / 2, SOON), QUIET if self._kernel else BLIND, most), 0.0)
        if self._kernel is None:
            time.sleep(pause)
            return
        with suppress(OSError):  # it is not there yet
            self._kernel.add_watch(self._wal, flags.MODIFY)  # again: it may be another file by now
        if self._kernel.read(timeout=pause * 1000):
            self._written = time.monotonic()
