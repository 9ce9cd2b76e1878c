"""Configuration files that a running process follows: read whole, and again when they change.

Changes are found by the files' metadata. A file may be written in place or replaced, and a path may
lead through links that change.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

PERIOD = 1.0
"""Seconds between two looks."""

SETTLED = 0.2
"""Seconds without a further change after which a file counts as written: a copy from another
machine empties the file first, and a part of it may be valid."""

MAX_BYTES = 1024 * 1024
"""Bytes of one file."""

Version = tuple[tuple[int, int, int, int] | None, ...]

T = TypeVar("T")

_log = structlog.get_logger()


class FileProblem(ValueError):
    """A file cannot be used; the message is one line and shows no secret."""


class Unreadable(FileProblem):
    """A file cannot be read now. It may be readable later although its metadata stay."""


def read_file(path: Path, *, most: int = MAX_BYTES) -> bytes:
    """Return the content of a file.

    Raises:
        FileProblem: it cannot be read, or is larger than `most` bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from None
    if len(content) > most:
        raise FileProblem(f"{path} is larger than {most} bytes")
    return content


def version_of(paths: Sequence[Path]) -> Version:
    """Return a value that changes when one of the files is written, replaced or removed."""
    return tuple(map(_version, paths))


def _version(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # Not the time of modification: copies with the times of the original do not change it, and a
    # change of the permissions makes a file readable.
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


class Changes:
    """A look for changes of some files.

    Args:
        paths: the files; they need not exist.
        period: seconds between two looks; 0: at each call, and without waiting until files settle.
    """

    def __init__(self, *paths: Path, period: float = PERIOD) -> None:
        self._paths = paths
        self._period = period
        self._version = version_of(paths)
        self._looked_at = time.monotonic()
        self._requested = False

    def request(self) -> None:
        """Make the next look find a change, without waiting. May be called by any thread."""
        self._requested = True

    def found(self) -> bool:
        """Return True if a file has changed since the last look; False within the period."""
        now = time.monotonic()
        if not self._requested and now < self._looked_at + self._period:
            return False
        self._looked_at = now
        version = version_of(self._paths)
        if self._period and not self._requested and _is_fresh(version):
            return False
        before, self._version = self._version, version
        requested, self._requested = self._requested, False
        return requested or before != version


def _is_fresh(version: Version) -> bool:
    now = time.time_ns()
    return any(file and 0 <= now - file[-1] < SETTLED * 1e9 for file in version)


class Followed(Generic[T]):
    """A value that follows the files it is read from. For one thread at a time, but for `reload`.

    Attributes:
        value: in force. It stays when the files cannot be used, and the log says why.

    Args:
        name: begins the name of the log event.
        read: reads the files; raises FileProblem.
        paths: the files.
        value: in force until `refresh` has read the files; by default they are read at once.
        period: seconds between two looks.

    Raises:
        FileProblem: the files cannot be used, and there is no value.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], T],
        paths: Sequence[Path],
        *,
        value: T | None = None,
        period: float = PERIOD,
    ) -> None:
        self._event = f"{name}_not_reloaded"
        self._read = read
        self._changes = Changes(*paths, period=period)
        self._problem: FileProblem | None = None
        if value is not None and paths:
            self._changes.request()
        self.value = read() if value is None else value

    def reload(self) -> None:
        """Make the next `refresh` read the files. May be called by any thread."""
        self._changes.request()

    def refresh(self) -> bool:
        """Read the files if they have changed; return True if the value is another now."""
        changed = self._changes.found()
        if not changed and not isinstance(self._problem, Unreadable):
            return False
        try:
            found = self._read()
        except FileProblem as problem:
            if changed or str(problem) != str(self._problem):
                _log.error(self._event, problem=str(problem), still="what was read before")
            self._problem = problem
            return False
        self._problem = None
        if found == self.value:
            return False
        self.value = found
        return True
