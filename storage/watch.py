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

SLOW_SYNC = 0.5
"""Seconds after a write in which a slow disk may still be syncing it."""

QUIET = 0.25
"""Seconds between two looks in quiet times: not every file system tells of writes."""

BLIND = 0.02
"""The same within `SLOW_SYNC`, and where the kernel does not tell at all: a user may have 128
inotify instances, and so many watches."""

log = structlog.get_logger()


class WalWatch(threading.local):
    """Watches the database at a path, for each thread by itself, from its first sleep on."""

    def __init__(self, path: Path) -> None:
        self._wal = f"{path}-wal"
        self._written = time.monotonic()
        self._kernel: INotify | None = None
        self._blind = False

    def sleep(self, most: float) -> None:
        """Return after a write, or when it is time to look again; after `most` seconds at most."""
        kernel = self._watching()
        since = time.monotonic() - self._written
        if since < SLOW_SYNC:
            pause = min(max(since / 2, SOON), BLIND)
        else:
            pause = QUIET if kernel else BLIND
        pause = max(min(pause, most), 0.0)
        if kernel is None:
            time.sleep(pause)
        elif kernel.read(timeout=pause * 1000):
            self._written = time.monotonic()

    def close(self) -> None:
        """Watch no more, in this thread."""
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
