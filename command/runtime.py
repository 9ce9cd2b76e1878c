"""The runtime folder of a supervisor and its children. It is deleted in the end.

Has the sockets of metrics and rpc workers, a file that names the children without a sign of life,
and a lock.
"""

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.lock import FileLock

_PREFIX = "desk-"
_LOCK = "supervisor.lock"
_SILENT = "silent"


@contextmanager
def runtime_folder() -> Iterator[Path]:
    """Make a folder for this supervisor; delete it in the end, and those of killed supervisors."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        _delete_abandoned(path)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        lock = FileLock(folder / f"{_LOCK}.new")
        os.replace(folder / f"{_LOCK}.new", folder / _LOCK)  # no other supervisor sees it unlocked
        try:
            yield folder
        finally:
            lock.release()


def _delete_abandoned(path: Path) -> None:
    """Delete the folder of a lock that nobody holds, if it is this user's."""
    with suppress(OSError):
        if path.parent.lstat().st_uid != os.geteuid():
            return
        lock = FileLock(path)
        try:
            for file in path.parent.iterdir():
                file.unlink()
            path.parent.rmdir()
        finally:
            lock.release()


def write_silent(runtime: Path, names: Collection[str]) -> None:
    """Note which processes give no sign of life. On a full disk, leave the note as it is."""
    new = runtime / f"{_SILENT}.new"
    with suppress(OSError):
        new.write_text("\n".join(sorted(names)))
        os.replace(new, runtime / _SILENT)


def read_silent(runtime: Path) -> list[str]:
    """Return the names of the processes that give no sign of life."""
    try:
        return (runtime / _SILENT).read_text().split()
    except OSError:
        return []
