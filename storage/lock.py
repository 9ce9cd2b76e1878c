"""A lock for the only writer of a file. The kernel releases it when the process ends."""

import fcntl
import os
from pathlib import Path


class FileLock:
    """An exclusive lock, held from construction to `release`.

    It locks a file beside the one that it protects. That file is never removed: a process that
    waits with the removed file open would lock another file than the next one.
    """

    def __init__(self, path: Path) -> None:
        """Lock `path`, without waiting; make the file if there is none.

        Raises:
            BlockingIOError: another process holds the lock.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise

    def touch(self) -> None:
        """Set the file's modification time to now."""
        os.utime(self._descriptor)

    def release(self) -> None:
        os.close(self._descriptor)
