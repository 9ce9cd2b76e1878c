"""Changes of configuration files, found by their metadata.

A file may be written in place or replaced, and a path may lead through links that change.
"""

import time
from collections.abc import Sequence
from pathlib import Path

PERIOD = 1.0
"""Seconds between two looks."""

Version = tuple[tuple[int, int, int, int] | None, ...]


def version_of(paths: Sequence[Path]) -> Version:
    """Return a value that changes when one of the files is written, replaced or removed."""
    return tuple(map(_version, paths))


def _version(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Changes:
    """A look for changes of some files.

    Args:
        paths: the files; they need not exist.
        period: seconds between two looks.
    """

    def __init__(self, *paths: Path, period: float = PERIOD) -> None:
        self._paths = paths
        self._period = period
        self._version = version_of(paths)
        self._looked_at = time.monotonic()
        self._requested = False

    def request(self) -> None:
        """Have the next look find a change, at once. May be called by any thread."""
        self._requested = True

    def found(self) -> bool:
        """Return True if a file has changed since the last look; False within the period."""
        now = time.monotonic()
        if not self._requested and now < self._looked_at + self._period:
            return False
        self._looked_at = now
        before, self._version = self._version, version_of(self._paths)
        requested, self._requested = self._requested, False
        return requested or before != self._version
