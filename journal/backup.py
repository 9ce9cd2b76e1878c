"""Backup and restore of a journal's file. Each copy is read back and verified.

A backup is a journal's file in one piece, without a WAL. Knows nothing of views and settings.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import uuid4

import apsw
from msgspec.structs import astuple, replace

from journal import sqlite_format
from journal.copying import Source, compare, copy_entries
from journal.damage import Damage, ReportProgress, damages, faults
from journal.entry import MAX_INTEGER, Entry, Kind, validate
from journal.errors import JournalError, Unreadable
from journal.forgetting import forget_list_of
from journal.sqlite_copy import FileTarget
from journal.sqlite_file import connect_to_read, map_errors, open_read_only
from journal.sqlite_page import COLUMNS, HEAD
from storage.files import sync
from storage.lock import FileLock

STEP = 1_000
"""Pages (4 KiB) copied between two reports."""

PARTIAL = ".partial"
"""End of the name of a file that is not complete."""

CHUNK = 4 * 1024 * 1024
"""Bytes of a stream read at once."""

SUMMARY = "SELECT count(*), ifnull(max(revision), 0), ifnull(max(received_at), 0) FROM entries"
INSERT = f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
APPEND = f"{INSERT} ON CONFLICT (id) DO NOTHING"
SET_OLDEST = "UPDATE header SET oldest_revision = ?"
SET_ID = "UPDATE header SET journal_id = ?"
LOST = """
SELECT count(*) FILTER (WHERE kind != 2), min(revision) FILTER (WHERE kind != 2),
       max(revision) FILTER (WHERE kind != 2), min(received_at) FILTER (WHERE kind != 2),
       count(*) FILTER (WHERE kind = 2)
FROM entries WHERE id NOT IN (SELECT id FROM kept.entries)
"""


class NoRoom(JournalError):
    """The disk has too little room for a copy."""


class Content(NamedTuple):
    """The content of a journal's file.

    Attributes:
        entries: their number.
        head: the highest revision; 0 if there is none.
        newest: `received_at` (ms) of the entry received last; 0 if there is none.
        damages: entries that are there, but not as they were appended.
    """

    entries: int
    head: int
    newest: int
    damages: list[Damage]


class Loss(NamedTuple):
    """Entries of the present journal that a backup lacks.

    Attributes:
        entries: number of callbacks.
        first: the lowest revision of these.
        last: the highest one.
        since: the time (ms) at which the first of these was received.
        forgotten: number of FORGET entries: what they list comes back.
    """

    entries: int
    first: int
    last: int
    since: int
    forgotten: int


def back_up(target: Path, make: Callable[[Path], Content]) -> Content:
    """Make a backup under a temporary name, and rename it to a file that does not exist yet.

    Raises:
        FileExistsError: the target exists, or a log that SQLite would apply to it.
    """
    for file in (str(target), f"{target}-wal", f"{target}-journal"):
        if os.path.lexists(file):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), file)
    with temporary(target.parent) as copy:
        content = make(copy)
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.replace(copy, target)
        sync(target.parent)
    return content


def copy_verified(journal: Path, copy: Path, report: ReportProgress) -> Content:
    """Copy a journal, which may be in use, to an empty file, and verify the copy.

    The copy is taken within one read transaction: commits meanwhile do not make it start again.

    Raises:
        NoRoom: the copy would not fit.
        JournalError: the journal cannot be read, or the copy is damaged.
    """
    with map_errors(journal), closing(connect_to_read(journal, "")) as source:
        require_room(copy.parent, source.pragma("page_count") * source.pragma("page_size"))
        copy_database(source, copy, report)
    sync(copy)
    return verify(copy, report, name=str(journal))


def copy_stream(source: Source, copy: Path, report: ReportProgress) -> Content:
    """Copy a journal on NATS, which may be in use, to an empty file, and verify the copy.

    Raises:
        JournalError: the journal cannot be read, or the copy is damaged.
    """
    with closing(FileTarget(copy, source.id, oldest=source.oldest())) as target:
        copy_entries(source, target, report)
        compare(source, target, report, may_have_forgotten=True)
    return verify(copy, report, name=str(copy))


def verify(path: Path, report: ReportProgress, *, name: str) -> Content:
    """Read all of a journal's file that nobody writes. It is called `name` in errors.

    Raises:
        Unreadable: it is no journal, or its structure is damaged.
    """
    with map_errors(name), closing(open_read_only(path)) as connection:
        sqlite_format.version(connection, name)
        report("checking the file", 0, 0)
        if found := faults(connection):
            raise Unreadable(f"{name} is damaged: {found[0]}")
        count, head, newest = connection.execute(SUMMARY).get
        return Content(count, head, newest, list(damages(connection, report)))


@contextmanager
def temporary(directory: Path, name: str = "journal") -> Iterator[Path]:
    """Give an empty file for its owner only; delete it in the end, and those of killed processes.

    It is locked as long as it is in use.
    """
    delete_abandoned(directory, name)
    descriptor, path = tempfile.mkstemp(prefix=f"{name}-", suffix=PARTIAL, dir=directory)
    os.close(descriptor)
    lock = FileLock(Path(path))
    try:
        yield Path(path)
    finally:
        _delete(Path(path))
        lock.release()


def delete_abandoned(directory: Path, name: str) -> None:
    """Delete the temporary files of processes that were killed."""
    for abandoned in directory.glob(f"{name}-*{PARTIAL}"):
        with suppress(OSError):
            lock = FileLock(abandoned)
            _delete(abandoned)
            lock.release()


def _delete(file: Path) -> None:
    """Delete a database and the files of SQLite beside it, as far as they are there."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def receive(stream: BinaryIO, size: int, copy: Path, report: ReportProgress) -> None:
    """Write a stream to a file; `size` is its length in bytes, 0 if that is not known."""
    require_room(copy.parent, size)
    done = 0
    with copy.open("wb") as file:
        while chunk := stream.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            report("copying", done, size)
        file.flush()
        os.fsync(file.fileno())


def write_new(copy: Path, entries: Iterable[Entry], *, oldest: int = 1) -> None:
    """Make an empty file a new journal of entries, which keep their revisions.

    Raises:
        ValueError: an entry is none that could be appended, or not in order.
    """
    with map_errors(copy), closing(apsw.Connection(str(copy))) as connection:
        connection.pragma("synchronous", "off")  # it is synced as a whole, in the end
        sqlite_format.create(connection)
        with connection:
            connection.execute(SET_OLDEST, (oldest,))
            try:
                connection.executemany(INSERT, map(astuple, _valid(entries)))
            except apsw.ConstraintError as error:
                raise ValueError("two entries have the same id") from error
    sync(copy)


def _valid(entries: Iterable[Entry]) -> Iterator[Entry]:
    before = 0
    for entry in entries:
        validate(entry)
        if not before < entry.revision <= MAX_INTEGER:
            raise ValueError(f"revision {entry.revision} must be greater than the one before it")
        before = entry.revision
        yield entry


def make_another(copy: Path, *, name: str) -> None:
    """Migrate a copy to this version, and give it the id of a new journal."""
    with map_errors(name), closing(apsw.Connection(str(copy))) as connection:
        found = sqlite_format.version(connection, name)
        # The file of a journal that was stopped has WAL.
        connection.pragma("journal_mode", "delete")
        sqlite_format.migrate(connection, found, name)
        connection.execute(SET_ID, (uuid4().hex,))


def forget_again(copy: Path, entries: Iterable[Entry]) -> int:
    """Append to a copy the FORGET entries that it lacks; return their number.

    Each is as it was but for its revision. What it lists beyond that is not forgotten by it.

    Raises:
        ValueError: an entry is no FORGET entry, or damaged.
    """
    with map_errors(copy), closing(apsw.Connection(str(copy))) as connection, connection:
        before = head = int(connection.execute(HEAD).get)
        for entry in entries:
            forget_list_of(entry)
            connection.execute(APPEND, astuple(replace(entry, revision=head + 1, kind=Kind.FORGET)))
            head += connection.changes()
    return head - before


def loss(journal: Path, copy: Path) -> Loss:
    """Return the entries of a journal that a copy lacks. Nobody may write the journal.

    Raises:
        JournalError: the journal cannot be read.
    """
    with map_errors(journal), closing(connect_to_read(journal, "")) as connection:
        connection.execute("ATTACH ? AS kept", (str(copy),))
        row = connection.execute(LOST).get
    return Loss._make(number or 0 for number in row)


def put_in_place(copy: Path, journal: Path) -> None:
    """Replace a journal that nobody uses by a copy. After a crash the one or the other is there."""
    wal, shm = Path(f"{journal}-wal"), Path(f"{journal}-shm")
    if journal.exists() and wal.exists():
        # Its last commits are in the WAL, and the next line but one deletes that.
        with suppress(apsw.Error), closing(apsw.Connection(str(journal))) as old:
            old.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    for file in (wal, shm):
        file.unlink(missing_ok=True)
    os.replace(copy, journal)
    sync(journal.parent)


def copy_database(source: apsw.Connection, path: Path, report: ReportProgress) -> None:
    """Copy a database to an empty file within one read transaction; it is not synced."""
    with closing(apsw.Connection(str(path))) as copy:
        copy.pragma("journal_mode", "off")
        copy.pragma("synchronous", "off")  # it is synced as a whole, in the end
        source.execute("BEGIN")
        source.execute("SELECT 1 FROM sqlite_schema")  # the transaction begins with a read
        with copy.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(STEP)
                report("copying", backup.page_count - backup.remaining, backup.page_count)
        source.execute("COMMIT")
        copy.pragma("journal_mode", "delete")


def require_room(directory: Path, size: int) -> None:
    room = os.statvfs(directory)
    free = room.f_bavail * room.f_frsize
    if size > free:
        raise NoRoom(f"{directory} has {free:,} bytes free, and {size:,} are needed")
