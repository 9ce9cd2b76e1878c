"""Locks of the view's files: one follower writes a view, one process builds it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from journal.errors import InUse
from service.view import store
from storage.lock import FileLock


def lock(path: Path) -> FileLock:
    """Take the right to write the view at `path`, without waiting.

    Raises:
        InUse: another process has it.
    """
    try:
        return FileLock(store.lock_path(path))
    except BlockingIOError:
        raise InUse(f"another follower is writing {path}; stop it first") from None


@contextmanager
def building(data_dir: Path) -> Iterator[None]:
    """Mark this version's view as being built apart from the service, which waits for that.

    Raises:
        InUse: another build is under way.
    """
    if is_being_built(data_dir):
        raise InUse(f"{store.locate(data_dir)} is being built by another process")
    mark = lock(_build_mark(data_dir))
    try:
        yield
    finally:
        mark.release()


def is_being_built(data_dir: Path) -> bool:
    """Return True if this version's view is being built apart from the service."""
    mark = _build_mark(data_dir)
    if store.lock_path(mark).exists():
        try:
            lock(mark).release()
        except InUse:
            return True
    return False


def _build_mark(data_dir: Path) -> Path:
    return Path(f"{store.locate(data_dir)}.build")


def discard(path: Path) -> bool:
    """Delete the view of another version; return False if its follower is running."""
    try:
        held = lock(path)
    except InUse:
        return False
    store.delete(path)  # but not its lock file: another process may have opened it
    held.release()
    return True
