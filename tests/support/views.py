"""Views of given journals, and what a reader finds in them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from desk.v1.event_pb2 import SessionRecord
from desk.v1.session_pb2 import Session

from journal.entry import Entry
from service.history import Limits
from service.projection import Projection
from service.view import store
from service.view.writer import ViewWriter

JOURNAL = "0" * 32

Rows = list[tuple[Any, ...]]


class View(NamedTuple):
    """A view as a reader finds it."""

    path: Path
    digest: bytes

    def rows(self, sql: str) -> Rows:
        db = store.open_reader(self.path)
        try:
            return list(db.execute(sql))
        finally:
            db.close()

    def records(self) -> list[SessionRecord]:
        """The feed, each record with its event, without sessions."""
        sql = "SELECT event_revision, record, event_at FROM feed ORDER BY position"
        events: dict[int, bytes] = {}
        return [
            SessionRecord.FromString(record[:at] + events.setdefault(revision, record[at:]))
            for revision, record, at in self.rows(sql)
        ]

    def snapshots(self) -> dict[int, Session]:
        """By revision, the session after it, if it had begun."""
        sql = f"SELECT position >> {store.POSITION_BITS}, session FROM feed WHERE session NOT NULL"
        return {revision: Session.FromString(blob) for revision, blob in self.rows(sql)}

    def sessions(self) -> dict[str, Session]:
        """All sessions by their ids."""
        rows = self.rows("SELECT session_id, session FROM sessions")
        return {session_id: Session.FromString(blob) for session_id, blob in rows}

    def everything(self) -> list[object]:
        """All that the view promises; not the fold's own state."""
        columns = self.rows("SELECT name FROM pragma_table_info('sessions') WHERE name != 'fold'")
        promised = ", ".join(name for (name,) in columns)
        return [
            self.rows("SELECT * FROM feed ORDER BY position"),
            self.rows(f"SELECT {promised} FROM sessions ORDER BY number"),
            self.rows("SELECT * FROM session_keys ORDER BY 1, 2"),
            self.rows("SELECT * FROM rejections ORDER BY position"),
            self.digest,
        ]


@contextmanager
def view(
    batches: list[list[Entry]], *, reopen: bool = False, limits: Limits | None = None
) -> Iterator[View]:
    """Apply these batches to a new view, in the hands of a new process each if asked."""
    with tempfile.TemporaryDirectory() as folder:
        for part in [[batch] for batch in batches] if reopen else [batches]:
            writer = ViewWriter(Path(folder))
            try:
                projection = projected(writer, limits)
                for batch in part:
                    apply(projection, batch)
            finally:
                writer.close()
        yield View(writer.path, projection.progress.digest)


def projected(writer: ViewWriter, limits: Limits | None) -> Projection:
    if limits is None:
        return Projection(writer, JOURNAL)
    return Projection(writer, JOURNAL, limits=limits)


def apply(projection: Projection, batch: list[Entry]) -> None:
    """Apply a whole batch, of which a projection may take a part at a time."""
    head = batch[-1].revision
    for _ in batch:
        rest = [each for each in batch if each.revision > projection.progress.applied_revision]
        if not rest:
            break
        projection.apply(rest, head=head, behind_since=None)
    assert projection.progress.applied_revision == head
