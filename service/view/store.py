"""The view's files: names, fingerprint, connections.

A view's name has a fingerprint of everything that decides its content, so that a new version
builds its own view beside the old one.
"""

from contextlib import suppress
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path

import apsw

from callback.catalogue import BEGIN_HEAD_START, EventType
from callback.decoder import MAX_AHEAD, MAX_BRACKETS, MAX_NAME, MIN_EVENT_TIME
from desk.v1 import event_pb2, session_pb2
from service.history import LIMITS, FoldLimits
from service.session import MAX_AGENTS, MAX_STAYS, Core, Facts, Session, Stay
from service.view.errors import sqlite_errors

FOLD_VERSION = 4
"""Raise it when the same callbacks give other sessions, verdicts or records, and neither the
transition table nor the schema has changed. A test with a known digest goes red then."""

BUSY_TIMEOUT = 5_000
"""Milliseconds to wait for a lock of SQLite; in WAL mode waits are rare."""

PAGE = 8 * 1024
"""Bytes of a page, twice SQLite's default: six or seven rows of the feed fill it, and less of it
stays empty."""

CHECKPOINT_PAGES = 2_000
"""Pages in the WAL that start a checkpoint. More pages than SQLite's default, because a page that
changed in many transactions is then written to the database once."""

CACHE_KIB = 32 * 1024
"""Pages that the writer keeps in memory, KiB."""

WAL_KEPT = 64 * 1024 * 1024
"""Bytes of the WAL that are kept for reuse once all of it is in the database."""

SCHEMA = files("service.view").joinpath("schema.sql").read_text()


BOUNDS = (
    BEGIN_HEAD_START,
    MIN_EVENT_TIME,
    MAX_AHEAD,
    MAX_BRACKETS,
    MAX_NAME,
    MAX_AGENTS,
    MAX_STAYS,
)
"""Bounds of single callbacks and sessions that decide what a view contains."""


@cache
def fingerprint(limits: FoldLimits = LIMITS, bounds: tuple[int, ...] = BOUNDS) -> str:
    """Return a hash of catalogue, limits, formats, messages and fold version: 12 hex digits.

    Equal fingerprints make equal views of equal journals.
    """
    digest = blake2b(digest_size=6)
    for part in (
        str(FOLD_VERSION),
        str([(event.name, event.row) for event in EventType]),
        str(bounds),
        str(tuple(limits)),
        str([kind.__struct_fields__ for kind in (Facts, Core, Session, Stay)]),
        SCHEMA,
    ):
        digest.update(part.encode())
    for module in (event_pb2, session_pb2):
        digest.update(module.DESCRIPTOR.serialized_pb)
    return digest.hexdigest()


def locate(data_dir: Path) -> Path:
    """Return the path of this version's view; it may not exist yet."""
    return data_dir / f"view-{fingerprint()}.db"


def lock_path(path: Path) -> Path:
    """Return the path of the writer's lock file; its time shows that the writer works."""
    return Path(f"{path}.lock")


def partial(path: Path, size: int) -> Path:
    """Return the path of a view of `size` bytes that is being loaded."""
    return Path(f"{path}.{size}.partial")


def partials(path: Path) -> list[Path]:
    """List the files of a view that is being loaded, or was when its process died."""
    return list(path.parent.glob(f"{path.name}.*.partial*"))


def loaded(path: Path) -> tuple[int, int] | None:
    """Return the loaded and the total bytes of a view; None if none is being loaded."""
    for each in path.parent.glob(f"{path.name}.*.partial"):
        with suppress(OSError, ValueError):
            return each.stat().st_size, int(each.suffixes[-2][1:])
    return None


def others(data_dir: Path) -> list[Path]:
    """List the files of other versions' views."""
    return sorted(set(data_dir.glob("view-*.db")) - {locate(data_dir)})


def last_used(path: Path) -> float:
    """Return the Unix time in seconds at which a view was last written, or its follower alive."""
    return max(each.stat().st_mtime for each in (path, lock_path(path)) if each.exists())


def last_seen(path: Path) -> float | None:
    """Return the Unix time in seconds of the follower's last sign of life; None: none was seen."""
    try:
        return lock_path(path).stat().st_mtime
    except OSError:
        return None


@sqlite_errors()
def open_reader(path: Path) -> apsw.Connection:
    """Open a view for reading.

    Raises:
        ViewUnavailable: there is none yet.
    """
    connection = apsw.Connection(
        f"{path.absolute().as_uri()}?mode=ro",
        flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
    )
    return _set_up(connection)


@sqlite_errors()
def open_writer(path: Path) -> apsw.Connection:
    """Open a view for writing, for one thread at a time; create it if there is none."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_NOMUTEX
    connection = _set_up(apsw.Connection(str(path), flags))
    path.chmod(0o600)
    # One by one: apsw stops at the first row that a statement returns.
    connection.pragma("page_size", PAGE)  # of a new file
    connection.pragma("journal_mode", "wal")
    # NORMAL: after a power cut the view may be behind, never wrong; the journal has the rest.
    connection.pragma("synchronous", "normal")
    connection.pragma("cache_size", -CACHE_KIB)
    connection.pragma("journal_size_limit", WAL_KEPT)
    # What is forgotten must not stay in pages that are free, nor in free parts of others.
    connection.pragma("secure_delete", True)
    # Statement journals stay in memory: a file would cost as much as the statement.
    connection.pragma("temp_store", "memory")
    connection.wal_autocheckpoint(CHECKPOINT_PAGES)
    with connection:
        if not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
            connection.execute(SCHEMA)
    return connection


def sqlite_versions() -> dict[str, str]:
    """Return the versions of apsw and of the SQLite in it."""
    return {"apsw": apsw.apsw_version(), "sqlite": apsw.sqlite_lib_version()}


def _set_up(connection: apsw.Connection) -> apsw.Connection:
    connection.set_busy_timeout(BUSY_TIMEOUT)
    # A plan depends on the statement alone. Otherwise SQLite also looks at the values, and plans
    # some joins again at each call.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    return connection


def delete(path: Path) -> None:
    """Delete the files of a view, as far as they are there."""
    for suffix in ("-wal", "-shm", ""):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
