"""From a FORGET entry to the last byte: the view forgets, the journal's entries are deleted."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Thread

import apsw
import pytest
from structlog.testing import capture_logs

from journal.entry import NewEntry
from journal.errors import Unavailable
from journal.forgetting import forget_entry
from journal.memory import MemoryJournal
from journal.port import Eraser
from journal.sqlite import SqliteWriter
from journal.sqlite_eraser import SqliteEraser
from service.erasure import Erasure
from service.follower import Follower
from service.view import store
from service.view.locks import lock
from service.view.reader import Reader
from tests.support.callbacks import APP, NOON, body
from tests.support.files import files_with
from tests.support.journals import append
from tests.support.rpc import World
from tests.support.views import digest
from tests.support.waiting import eventually

MARK = "MARKED01"


class Forgetting(World):
    """A journal in a file, a follower, and the deletion of what it forgets."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SqliteWriter(folder / "journal.db"))
        self.eraser: Eraser = SqliteEraser(folder / "journal.db")

    def start(self) -> Erasure:
        erasure = self.prepare()
        erasure.start(self._stop)
        return erasure

    def prepare(self) -> Erasure:
        """Follow the journal; make what would delete the entries, if it were started."""
        self._stop = Event()
        follower = Follower(self.journal, self.folder, idle=0.02)
        self._thread = Thread(target=follower.run, args=(self._stop,))
        self._thread.start()
        note = follower.note_deleted
        return Erasure(lambda: self.eraser, self.folder, note, pause=0.02, retry=0.05)

    def converse(self, session: str, text: str, count: int = 30) -> None:
        for number in range(count):
            event = "SessionBegin" if number == 0 else "ChatBot.UserSendMsg"
            message = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": f"{text} {number}"}}]
            self.append(
                body(
                    event,
                    NOON + number,
                    SessionId=session,
                    ClientUserId=f"user {text}",
                    MsgKey=f"{text}-{number}",
                    MsgBody=message,
                )
            )

    def forget(self, *sessions: str) -> int:
        return self.eraser.forget(forget_entry(APP, NOON, session_ids=sessions))

    def append_entry(self, entry: NewEntry) -> None:
        self.journal.append(entry, timeout=60)

    def left(self) -> list[int]:
        with closing(Reader(self.view)) as reader:
            return reader.entries_to_delete(1)

    def wait_until_deleted(self) -> None:
        self.wait()
        eventually(lambda: not self.left())


class Other(MemoryJournal):
    """Another journal, which stays open."""

    def close(self) -> None:
        """It is used again."""


class Counting(Other):
    """An eraser that counts the sweeps, of which the first ones fail."""

    def __init__(self, eraser: Eraser, failures: int = 0) -> None:
        super().__init__()
        self._eraser = eraser
        self._failures = failures
        self._id = eraser.id
        self.sweeps = 0

    def delete(self, revisions: Sequence[int]) -> None:
        self._eraser.delete(revisions)

    def sweep(self) -> None:
        self.sweeps += 1
        if self.sweeps <= self._failures:
            raise Unavailable("a reader is in the way")
        self._eraser.sweep()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Forgetting]:
    world = Forgetting(tmp_path)
    yield world
    world.close()


@contextmanager
def locked(view: Path) -> Iterator[None]:
    """Lock a view as its follower does."""
    held = lock(view)
    yield
    held.release()


def checkpoint(database: Path) -> None:
    """Move what is in the WAL to the database."""
    with closing(apsw.Connection(str(database))) as connection:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute("SELECT 1 FROM sqlite_schema")
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


def test_the_texts_of_a_forgotten_session_are_in_no_file(world: Forgetting) -> None:
    world.start()
    for number in range(4):
        world.converse(f"kept {number}", "others")
        world.converse(f"gone {number}", MARK)
    world.wait()
    checkpoint(world.folder / "journal.db")
    assert {"journal.db", f"{world.view.name}-wal"} <= set(files_with(MARK.encode(), world.folder))
    world.forget(*(f"gone {number}" for number in range(4)))
    world.wait_until_deleted()
    eventually(lambda: not files_with(MARK.encode(), world.folder))
    assert files_with(b"others", world.folder)
    assert len(world.journal.read(0, limit=1000)) == 4 * 30 + 1


def test_a_view_that_is_built_after_the_deletion_equals_the_one_that_saw_it(
    world: Forgetting,
) -> None:
    world.start()
    for number in range(3):
        world.converse(f"session {number}", "text")
    world.wait()
    world.forget("session 1")
    world.converse("session 1", "later", count=3)
    world.wait_until_deleted()
    before = digest(world.folder)
    world.stop_following()
    for file in world.folder.glob("view-*"):
        file.unlink()
    world.start()
    world.wait()
    assert digest(world.folder) == before


def test_files_that_nobody_uses_are_deleted_with_the_entries(world: Forgetting) -> None:
    abandoned = [
        world.folder / name
        for name in (
            "view-000000000000.db",
            "view-000000000000.db-wal",
            "snapshot-x.partial",
            "snapshot-x.partial-journal",
            "journal-y.partial",
            f"{world.view.name}.100.partial",
        )
    ]
    in_use = world.folder / "view-111111111111.db"
    for file in [*abandoned, in_use]:
        file.write_text(MARK)
    with locked(in_use):
        world.start()
        world.converse("gone", MARK)
        world.wait()
        world.forget("gone")
        world.wait_until_deleted()
    assert [file.name for file in abandoned if file.exists()] == []
    assert in_use.exists()


def test_a_journal_that_was_replaced_is_not_touched(world: Forgetting) -> None:
    other = Other()
    revisions = [append(other, name).revision for name in range(5)]
    world.eraser = other
    erasure = world.start()
    world.converse("gone", "text", count=3)
    world.append_entry(forget_entry(APP, NOON, session_ids=["gone"]))
    world.wait()
    assert world.left()
    assert erasure.step() == 0
    assert [entry.revision for entry in other.read(0, limit=9)] == revisions


def test_what_cannot_be_swept_now_is_swept_later(world: Forgetting) -> None:
    world.eraser = Counting(world.eraser, failures=2)
    world.start()
    world.converse("gone", MARK)
    world.wait()
    world.append_entry(forget_entry(APP, NOON, session_ids=["gone"]))
    world.wait_until_deleted()
    eventually(lambda: not files_with(MARK.encode(), world.folder))


def test_the_files_are_swept_once_for_all_that_is_listed(tmp_path: Path) -> None:
    world = Forgetting(tmp_path)
    world.journal.close()
    world.journal = journal = Other()
    world.eraser = eraser = Counting(journal)
    for number in range(12):
        world.converse(f"gone {number}", "text", count=500)
    for number in range(12):
        world.append_entry(forget_entry(APP, NOON, session_ids=[f"gone {number}"]))
    erasure = world.prepare()
    world.wait()
    assert erasure.step() == 6_000
    assert (eraser.sweeps, world.left()) == (1, [])
    assert len(journal.read(0, limit=9_999)) == 12
    world.close()


def test_nothing_is_deleted_twice_while_the_view_is_being_read(world: Forgetting) -> None:
    world.eraser = eraser = Counting(world.eraser)
    erasure = world.prepare()
    world.converse("gone", MARK)
    world.wait()
    with closing(store.open_reader(world.view)) as reader, capture_logs() as logs:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM feed").get == 30
        world.append_entry(forget_entry(APP, NOON, session_ids=["gone"]))
        world.wait()
        working = Thread(target=erasure.step)
        working.start()
        eventually(lambda: eraser.sweeps)
        assert len(world.journal.read(0, limit=99)) == 1
        assert world.left()
        assert working.is_alive(), "it has to wait for the view"
        eventually(lambda: "entries_not_deleted" in [line["event"] for line in logs])
    working.join(60)
    assert (eraser.sweeps, world.left()) == (1, [])


def test_what_is_forgotten_while_entries_are_deleted_is_deleted_next(world: Forgetting) -> None:
    erasure = world.prepare()
    for number in range(2):
        world.converse(f"gone {number}", MARK)
    world.wait()
    for number in range(2):
        world.forget(f"gone {number}")
        world.wait()
        assert erasure.step() == 30
        assert erasure.step() == 0
    assert files_with(MARK.encode(), world.folder) == []


def test_a_view_without_its_first_transaction_has_nothing_to_delete(tmp_path: Path) -> None:
    store.open_writer(store.locate(tmp_path)).close()
    assert Erasure(Other, tmp_path, lambda _: Event()).step() == 0


@pytest.mark.tools
def test_the_deletion_survives_kills_at_any_time(world: Forgetting, tmp_path: Path) -> None:
    chance = random.Random(7)
    for number in range(40):
        world.converse(f"kept {number}", "others")
        world.converse(f"gone {number}", MARK, count=40)
    command = [sys.executable, "-m", "tests.support.erase", str(tmp_path)]
    for first in range(0, 40, 5):
        process = subprocess.Popen(command)
        world.converse(f"meanwhile {first}", "others", count=5)
        world.forget(*(f"gone {number}" for number in range(first, first + 5)))
        time.sleep(chance.uniform(0.4, 1.6))  # any time is as good
        process.kill()
        process.wait()
    process = subprocess.Popen(command)
    world.wait_until_deleted()
    eventually(lambda: not files_with(MARK.encode(), tmp_path))
    process.terminate()
    process.wait(60)
    assert len(world.journal.read(0, limit=9999)) == 40 * 30 + 8 * 5 + 8
    lived = digest(tmp_path)
    for file in tmp_path.glob("view-*"):
        file.unlink()
    world.start()
    world.wait()
    assert digest(tmp_path) == lived
