"""Engines of the journal and its companions (eraser, snapshots), chosen by the settings.

A function imports the engine that it opens, so that no process loads what it does not use.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from command.settings import Settings
from command.settings_journal import JournalSettings
from storage.sizes import size_of_database

if TYPE_CHECKING:
    from journal.backlog import Backlog
    from journal.entry import NewEntry
    from journal.jetstream import JetStreamOptions, JetStreamReader
    from journal.jetstream_copy import JetStreamTarget
    from journal.jetstream_objects import ObjectStore
    from journal.port import Eraser, JournalReader, JournalWriter
    from journal.sqlite import SqliteReader
    from service.snapshots.stored import Snapshots

JOURNAL_FILE = "journal.db"

COPYING_FILE = "journal.db.copying"
"""A journal that `desk journal copy` has not finished."""


def open_writer(settings: Settings) -> "JournalWriter":
    if settings.is_on_nats:
        return _open_spooled(settings)
    from journal.errors import Unavailable
    from journal.sqlite import SqliteWriter

    path = settings.data_dir / JOURNAL_FILE
    if not path.exists() and (reason := _left_of_a_journal(settings.data_dir)):
        raise Unavailable(reason)
    return SqliteWriter(path)


def _left_of_a_journal(directory: Path) -> str:
    """Return the reason for which a directory without a journal must not get a new one, or ""."""
    copying = directory / COPYING_FILE
    if copying.exists():
        return f"{copying} is not whole: run `desk journal copy` again, or delete it"
    # The old view may be all that is left of the old journal, and a new journal would replace it.
    if _has_views(directory):
        return (
            f"{directory / JOURNAL_FILE} is gone, and a view of it is there: run `desk journal "
            "restore --from-view`, or delete the views to begin with an empty journal"
        )
    return ""


def _has_views(directory: Path) -> bool:
    return any(directory.glob("view-*.db"))


def _open_spooled(settings: Settings) -> "JournalWriter":
    from journal.jetstream import JetStreamWriter
    from journal.spool import SpooledWriter

    def open_remote(journal_id: str) -> JetStreamWriter:
        is_new = not journal_id and not _has_views(settings.data_dir)
        return JetStreamWriter(_jetstream(settings), may_create=is_new)

    if settings.spool == "off":
        return open_remote("")
    folder = settings.data_dir / settings.spool
    return SpooledWriter(open_remote, folder, max_bytes=settings.spool_max_bytes)


def notice_of(journal: "JournalWriter | None") -> str:
    from journal.spool import SpooledWriter

    return journal.notice() if isinstance(journal, SpooledWriter) else ""


def open_reader(settings: Settings) -> "JournalReader":
    return open_stream(settings) if settings.is_on_nats else open_file(settings.data_dir)


def open_stream(settings: JournalSettings) -> "JetStreamReader":
    """Open the journal on NATS for reading."""
    from journal.jetstream import JetStreamReader

    return JetStreamReader(_jetstream(settings))


def open_stream_target(
    settings: JournalSettings, journal_id: str, *, first: int
) -> "JetStreamTarget":
    """Open the journal on NATS, or make it, as the target of a copy."""
    from journal.jetstream_copy import JetStreamTarget

    return JetStreamTarget(_jetstream(settings), journal_id, first=first)


def open_eraser(settings: Settings) -> "Eraser":
    """Open the journal to forget sessions, beside its writers."""
    if settings.is_on_nats:
        from journal.jetstream_eraser import JetStreamEraser

        return JetStreamEraser(_jetstream(settings))
    from journal.sqlite_eraser import SqliteEraser

    return SqliteEraser(settings.data_dir / JOURNAL_FILE)


def append_forget_entry(settings: Settings, entry: "NewEntry") -> int:
    """Append a FORGET entry to the journal, and return its revision."""
    with closing(open_eraser(settings)) as eraser:
        return eraser.forget(entry)


def open_snapshots(
    settings: JournalSettings, journal: "JournalReader", data_dir: Path
) -> "Snapshots":
    """Open the snapshots of the views of a journal on NATS."""
    from service.snapshots.stored import Snapshots

    return Snapshots(open_object_store(settings), journal, data_dir)


def open_object_store(settings: JournalSettings) -> "ObjectStore":
    """Open the object store beside a journal on NATS."""
    from journal.jetstream_objects import ObjectStore

    options = _jetstream(settings)
    return ObjectStore(options.access, options.stream)


def _jetstream(settings: JournalSettings) -> "JetStreamOptions":
    from journal.jetstream import JetStreamOptions
    from journal.jetstream_access import Access
    from journal.jetstream_stream import StreamOptions

    access = Access(
        servers=settings.nats_servers,
        creds=settings.nats_creds,
        nkey=settings.nats_nkey,
        user=settings.nats_user,
        password_file=settings.nats_password_file,
        tls_ca=settings.nats_tls_ca,
        tls_cert=settings.nats_tls_cert,
        tls_key=settings.nats_tls_key,
    )
    stream = StreamOptions(
        name=settings.nats_stream,
        replicas=settings.nats_replicas,
        max_bytes=settings.nats_max_bytes,
    )
    return JetStreamOptions(access=access, stream=stream)


def open_file(data_dir: Path) -> "SqliteReader":
    """Open the journal in a directory for reading."""
    from journal.sqlite import SqliteReader

    return SqliteReader(data_dir / JOURNAL_FILE)


def journal_figures(settings: Settings) -> tuple["Backlog", Callable[[], tuple[int, int]]]:
    """Return functions for the backlog after a revision, and for the bytes of database and WAL."""
    from journal.backlog import Backlog

    if not settings.is_on_nats:
        path = settings.data_dir / JOURNAL_FILE
        return Backlog(lambda: open_file(settings.data_dir)), lambda: size_of_database(path)
    streams: list[JetStreamReader] = []

    def open_() -> "JetStreamReader":
        streams[:] = [open_stream(settings)]
        return streams[0]

    return Backlog(open_), lambda: (sum(each.bytes for each in streams), 0)
