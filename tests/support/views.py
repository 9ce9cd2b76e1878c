"""Views of given journals, and what a reader finds in them."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from desk.v1.event_pb2 import SessionRecord
from desk.v1.session_pb2 import Session
from journal.entry import Entry
from journal.forgetting import MAX_FORGOTTEN
from journal.port import JournalReader
from service.follower import Follower
from service.history import LIMITS, FoldLimits, HistoryEntry
from service.positions import ORDINAL_BITS
from service.projection import BOUNDS, BatchBounds, Projection
from service.session import SessionKey
from service.view import store
from service.view.bounds import Bounds
from service.view.errors import ViewError
from service.view.reader import EVERYTHING, Reader
from service.view.rows import SavedSession
from service.view.writer import ViewWriter
from tests.support.callbacks import NOON, body, entries, life
from tests.support.waiting import eventually

JOURNAL = "0" * 32

MEMORY = Path("/dev/shm")
"""A file system that never waits for a disk, where there is one."""

SOON = 0.02
"""Seconds after which an idle follower notices that it is to stop."""

Rows = list[tuple[Any, ...]]


def fixed_journal() -> list[Entry]:
    """Nine entries of one session: in order and late, malformed and of unknown type."""
    bodies = [
        *life("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", MsgKey="k"),
        body("Human.AgentSendMsg", NOON + 50_000, AgentId="ann", MsgBody=every_element()),
        body("TransferToHumanSuccess", NOON + 40_000, AgentId="ann"),
        body("Brand.New", NOON + 60_000),
        b"not json",
        body("SatisfactionSelected", NOON + 70_000, SatisfactionSelected=3),
        body("SessionEnd", NOON + 65_000),
    ]
    return entries(bodies)


def every_element() -> list[dict[str, object]]:
    return [
        {"MsgType": "TIMTextElem", "MsgContent": {"Text": "Halo, ada yang bisa dibantu?"}},
        {"MsgType": "TIMFaceElem", "MsgContent": {"Index": 2**70, "Data": "x"}},
        {"MsgType": "TIMLocationElem", "MsgContent": {"Latitude": 10**300, "Longitude": 2}},
        {"MsgType": "TIMRelayElem", "MsgContent": {"Title": "bundle"}},
    ]


@contextmanager
def following(journal: JournalReader, folder: Path, **bounds: float) -> Iterator[None]:
    """Run a follower in a thread."""
    stop = threading.Event()
    follower = Follower(journal, folder, idle=SOON, **bounds)
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def read(folder: Path, sql: str) -> Rows:
    """Read this version's view as another process would."""
    with closing(store.open_reader(store.locate(folder))) as db:
        return list(db.execute(sql))


def applied(folder: Path) -> int:
    """Return the applied revision; -1 while there is no view."""
    try:
        return int(read(folder, "SELECT applied_revision FROM progress")[0][0])
    except (ViewError, apsw.Error, IndexError):
        return -1


def follow(journal: JournalReader, folder: Path, revision: int) -> None:
    """Follow a journal until the view has a revision."""
    with following(journal, folder):
        eventually(lambda: applied(folder) == revision)


def digest(folder: Path) -> str:
    [(made,)] = read(folder, "SELECT lower(hex(digest)) FROM progress")
    return str(made)


def records(folder: Path) -> list[SessionRecord]:
    with closing(Reader(store.locate(folder))) as reader:
        rows = reader.feed(EVERYTHING, 0, enough=Bounds().size).rows
    return [SessionRecord.FromString(row[1]) for row in rows]


def project(folder: Path, journal: list[Entry]) -> ViewWriter:
    """Apply a journal to a new view in one batch."""
    writer = ViewWriter(folder)
    Projection(writer, JOURNAL).apply(journal, head=len(journal), behind_since=None)
    return writer


class CountingWriter(ViewWriter):
    """Counts what is read back from the view."""

    sessions_read = 0
    histories_read = 0

    def load_session(self, key: SessionKey) -> SavedSession | None:
        self.sessions_read += 1
        return super().load_session(key)

    def load_history(self, first_revision: int) -> list[HistoryEntry]:
        self.histories_read += 1
        return super().load_history(first_revision)


@contextmanager
def connected(folder: Path) -> Iterator[tuple[ViewWriter, apsw.Connection]]:
    """Open a view for writing, with its connection, which can be made to fail."""
    opened: list[apsw.Connection] = []
    apsw.connection_hooks.append(opened.append)
    try:
        writer = ViewWriter(folder)
    finally:
        apsw.connection_hooks.remove(opened.append)
    with closing(writer):
        yield writer, opened[0]


class View(NamedTuple):
    """A view as a reader finds it."""

    path: Path
    digest: bytes

    def rows(self, sql: str) -> Rows:
        return read(self.path.parent, sql)

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
        sql = f"SELECT position >> {ORDINAL_BITS}, session FROM feed WHERE session NOT NULL"
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
    batches: list[list[Entry]],
    *,
    reopen: bool = False,
    limits: FoldLimits = LIMITS,
    bounds: BatchBounds = BOUNDS,
) -> Iterator[View]:
    """Apply these batches to a new view, in the hands of a new process each if asked."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        for part in [[batch] for batch in batches] if reopen else [batches]:
            writer = ViewWriter(Path(folder))
            try:
                projection = Projection(writer, JOURNAL, limits=limits, bounds=bounds)
                for batch in part:
                    apply_all(projection, batch)
            finally:
                writer.close()
        yield View(writer.path, projection.progress.digest)


def apply_all(projection: Projection, journal: list[Entry]) -> int:
    """Apply entries, of which a batch may take a part only; return the number of batches."""
    head = journal[-1].revision
    most = len(journal) * MAX_FORGOTTEN
    for batches in range(most):
        rest = [each for each in journal if each.revision > projection.progress.applied_revision]
        if not rest:
            return batches
        projection.apply(rest, head=head, behind_since=None)
    assert projection.progress.applied_revision == head
    return most
