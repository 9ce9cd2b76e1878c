"""The follower: lives with its journal, survives its own death, replaces what is out of date."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from structlog.testing import capture_logs

from journal.entry import Entry, Kind, NewEntry
from journal.errors import Damaged, OtherJournal
from journal.forgetting import forget_entry
from journal.memory import MemoryJournal
from journal.port import Journal
from journal.sqlite import SqliteReader, SqliteWriter
from service.follower import KEEP_VIEWS, MOST_SKIPPED, Follower
from service.projection import Projection
from service.view import store
from service.view.errors import ViewUnavailable
from service.view.locks import lock
from service.view.writer import ViewWriter
from tests.support.callbacks import APP, NOON, SESSION, body, entry, life
from tests.support.files import files_with
from tests.support.sparse_journal import SparseJournal
from tests.support.views import SOON, applied, following
from tests.support.waiting import eventually

LIFE = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "TransferToHumanSuccess")


def append(journal: Journal, bodies: list[bytes], *, kind: Kind = Kind.CALLBACK) -> list[int]:
    revisions = []
    for each in bodies:
        made = entry(1, each)
        new = NewEntry(
            id=made.id, sdk_app_id=made.sdk_app_id, received_at=NOON, body=each, kind=kind
        )
        revisions.append(journal.append(new, timeout=60).revision)
    return revisions


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """Read the rows that a reader of the view sees now; none if there is no view yet."""
    try:
        db = store.open_reader(store.locate(folder))
    except ViewUnavailable:
        return []
    try:
        return list(db.execute(sql))
    except apsw.Error:  # no tables yet, damaged, or being replaced
        return []
    finally:
        db.close()


def progress(folder: Path) -> tuple[Any, ...]:
    """Applied revision, its entry's id, the oldest revision, and since when it is behind."""
    columns = "applied_revision, applied_id, oldest_revision, behind_since"
    return next(iter(rows(folder, f"SELECT {columns} FROM progress")), ())


def lines(logs: Sequence[Mapping[str, Any]], *events: str) -> list[Mapping[str, Any]]:
    return [line for line in logs if line["event"] in events]


def content(folder: Path) -> list[list[tuple[Any, ...]]]:
    return [
        rows(folder, "SELECT * FROM feed ORDER BY position"),
        rows(folder, "SELECT * FROM sessions ORDER BY number"),
        rows(folder, "SELECT * FROM session_keys ORDER BY 1, 2"),
        rows(folder, "SELECT digest FROM progress"),
    ]


def test_an_empty_journal_makes_a_complete_view(tmp_path: Path) -> None:
    with following(MemoryJournal(), tmp_path):
        eventually(lambda: rows(tmp_path, "SELECT complete FROM progress") == [(1,)])


def test_new_entries_are_in_the_view_soon(tmp_path: Path) -> None:
    journal = MemoryJournal()
    with following(journal, tmp_path):
        for count, each in enumerate(life(*LIFE), 1):
            append(journal, [each])
            eventually(lambda expected=count: applied(tmp_path) == expected)


def test_a_stopped_follower_goes_on_where_it_stood(tmp_path: Path) -> None:
    journal = MemoryJournal()
    first, second = life(*LIFE), life(*LIFE, session_id="another")
    append(journal, first)
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 4)
    append(journal, second)
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 8)
    assert rows(tmp_path, "SELECT number FROM sessions ORDER BY 1") == [(1,), (5,)]


@pytest.mark.parametrize("other_length", [1, 20])
def test_a_view_of_another_journal_is_emptied_and_built_anew(
    tmp_path: Path, other_length: int
) -> None:
    other = MemoryJournal()
    append(other, [body("SessionBegin", NOON, session_id=f"o{n}") for n in range(other_length)])
    with following(other, tmp_path):
        eventually(lambda: applied(tmp_path) == other_length)
    journal = MemoryJournal()
    append(journal, life(*LIFE))
    with following(journal, tmp_path):
        eventually(lambda: rows(tmp_path, "SELECT journal_id FROM progress") == [(journal.id,)])
        eventually(lambda: applied(tmp_path) == 4)
    assert len(rows(tmp_path, "SELECT 1 FROM sessions")) == 1


def problem(folder: Path) -> str:
    return next((row[0] for row in rows(folder, "SELECT problem FROM progress")), "")


def test_another_journal_stops_a_follower_that_may_not_start_over(tmp_path: Path) -> None:
    other, journal = MemoryJournal(), MemoryJournal()
    append(other, life(*LIFE))
    with following(other, tmp_path):
        eventually(lambda: applied(tmp_path) == 4)
    append(journal, [body("SessionBegin", NOON, session_id="new")])
    with following(journal, tmp_path, may_start_over=False):
        eventually(lambda: "JOURNAL_DIVERGED: the journal is another one" in problem(tmp_path))
    assert applied(tmp_path) == 4
    with following(other, tmp_path, may_start_over=False):
        eventually(lambda: problem(tmp_path) == "")


class ReplacedJournal(MemoryJournal):
    """A journal in whose place another one stands."""

    def read(self, after: int, *, limit: int) -> list[Entry]:
        raise OtherJournal("it holds another journal now")


def test_a_journal_that_is_replaced_stops_the_follower(tmp_path: Path) -> None:
    with following(ReplacedJournal(), tmp_path):
        eventually(lambda: "JOURNAL_DIVERGED: it holds another" in problem(tmp_path))


def test_a_journal_shorter_than_its_view_stops_the_follower_and_keeps_the_view(
    tmp_path: Path,
) -> None:
    journal = MemoryJournal()
    append(journal, life(*LIFE))
    writer = ViewWriter(tmp_path)
    Projection(writer, journal.id).apply(
        [entry(n, body("SessionBegin", NOON, session_id=f"s{n}")) for n in range(1, 9)],
        head=8,
        behind_since=None,
    )
    writer.close()
    with following(journal, tmp_path):
        eventually(lambda: "the journal ends at revision 4, this view at 8" in problem(tmp_path))
    assert len(rows(tmp_path, "SELECT 1 FROM sessions")) == 8


class Forgetful(MemoryJournal):
    """A journal whose answers come from an older state, as often as told."""

    def __init__(self) -> None:
        super().__init__()
        self.old_answers = 0

    def read(self, after: int, *, limit: int) -> list[Entry]:
        return [] if self.old_answers else super().read(after, limit=limit)

    def head(self) -> int:
        self.old_answers, before = max(0, self.old_answers - 1), self.old_answers
        return 0 if before else super().head()


def test_a_server_that_is_behind_for_a_moment_stops_nobody(tmp_path: Path) -> None:
    journal = Forgetful()
    append(journal, life(*LIFE))
    with capture_logs() as logs, following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 4)
        journal.old_answers = 1
        eventually(lambda: not journal.old_answers)
        append(journal, [body("SessionBegin", NOON, session_id="after")])
        eventually(lambda: applied(tmp_path) == 5)
    assert lines(logs, "journal_diverged", "view_discarded") == []


class CopiedJournal(MemoryJournal):
    """A journal with the id of another one, as a copy of its file has it."""

    def __init__(self, original: Journal) -> None:
        super().__init__()
        self._original = original

    @property
    def id(self) -> str:
        return self._original.id


@pytest.mark.parametrize("grown_to", [2, 4, 9])
def test_a_journal_put_back_to_an_earlier_state_stops_the_follower_until_the_right_one_is_back(
    tmp_path: Path, grown_to: int
) -> None:
    original = MemoryJournal()
    restored = CopiedJournal(original)
    shared = [body("SessionBegin", NOON, session_id=f"s{n}") for n in range(2)]
    append(original, [*shared, *life(*LIFE, session_id="lost")[:2]])
    append(restored, shared)
    new = [body("SessionBegin", NOON, session_id=f"n{n}") for n in range(grown_to - 2)]
    with following(original, tmp_path):
        eventually(lambda: applied(tmp_path) == 4)
    kept = content(tmp_path)
    append(restored, new)
    with capture_logs() as logs, following(restored, tmp_path):
        eventually(lambda: problem(tmp_path).startswith("JOURNAL_DIVERGED: "))
    assert lines(logs, "journal_diverged")
    assert content(tmp_path) == kept
    with following(original, tmp_path):
        eventually(lambda: problem(tmp_path) == "")
    assert content(tmp_path) == kept


def test_a_journal_put_back_under_a_running_follower_stops_it(tmp_path: Path) -> None:
    path, backup = tmp_path / "journal.db", tmp_path / "backup.db"
    with closing(SqliteWriter(path)) as journal:
        append(journal, [body("SessionBegin", NOON, session_id="before")])
    backup.write_bytes(path.read_bytes())
    with closing(SqliteReader(path)) as reader, following(reader, tmp_path):
        with closing(SqliteWriter(path)) as journal:
            append(journal, [body("SessionBegin", NOON, session_id="lost")])
        eventually(lambda: applied(tmp_path) == 2)
        for suffix in ("-wal", "-shm"):
            path.with_name(f"journal.db{suffix}").unlink(missing_ok=True)
        backup.rename(path)
        with closing(SqliteWriter(path)) as journal:
            append(journal, [body("SessionBegin", NOON, session_id="after")])
        eventually(lambda: "revision 2 is another callback" in problem(tmp_path))
    names = rows(tmp_path, "SELECT session_id FROM sessions ORDER BY number")
    assert names == [("before",), ("lost",)]


def test_the_view_of_an_old_version_goes_even_if_it_was_in_use_before(tmp_path: Path) -> None:
    journal = MemoryJournal()
    old = tmp_path / "view-0123456789ab.db"
    old.write_bytes(b"")
    holder = lock(old)
    with following(journal, tmp_path, keep_views=0):
        eventually(lambda: rows(tmp_path, "SELECT complete FROM progress") == [(1,)])
    assert old.exists()
    holder.release()
    with following(journal, tmp_path, keep_views=0):
        eventually(lambda: not old.exists())


def test_an_idle_follower_gives_signs_of_life(tmp_path: Path) -> None:
    with following(MemoryJournal(), tmp_path):
        sign = store.lock_path(store.locate(tmp_path))
        eventually(sign.exists)
        for _ in range(2):
            os.utime(sign, (0, 0))
            eventually(lambda: sign.stat().st_mtime > 0)


def test_a_new_version_builds_its_view_beside_the_old_one_then_takes_over(tmp_path: Path) -> None:
    journal = MemoryJournal()
    append(journal, life(*LIFE))
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 4)
    new, old = store.locate(tmp_path), tmp_path / "view-0123456789ab.db"
    new.rename(old)
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 4)
    assert old.exists()
    a_day_ago = time.time() - KEEP_VIEWS - 1
    os.utime(old, (a_day_ago, a_day_ago))
    with following(journal, tmp_path):
        eventually(lambda: not old.exists())
    assert list(tmp_path.glob("view-*.db")) == [new]


@pytest.mark.parametrize("page", [0, 1, 3])
def test_a_damaged_view_is_thrown_away_and_built_anew(tmp_path: Path, page: int) -> None:
    journal = MemoryJournal()
    append(journal, [body("SessionBegin", NOON + n, session_id=f"s{n}") for n in range(50)])
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 50)
    with store.locate(tmp_path).open("r+b") as file:
        file.seek(page * store.PAGE)
        file.write(b"\xa5" * store.PAGE)
    append(journal, life(*LIFE))
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 54)
        assert len(rows(tmp_path, "SELECT 1 FROM feed")) == 54


def test_numbers_may_have_gaps(tmp_path: Path) -> None:
    journal, dense = SparseJournal(), MemoryJournal()
    views = []
    for each, folder in ((journal, tmp_path / "sparse"), (dense, tmp_path / "dense")):
        folder.mkdir()
        for session_id in ("one", "two"):
            revisions = append(each, life(*LIFE, session_id=session_id))
            with following(each, folder):  # anew each time: it finds where it stood
                eventually(lambda folder=folder, last=revisions[-1]: applied(folder) == last)
        views.append(rows(folder, "SELECT session_id, state FROM sessions ORDER BY number"))
        assert len(rows(folder, "SELECT 1 FROM feed")) == 8
    assert journal.head() > dense.head()
    assert views[0] == views[1]


def test_a_view_begins_where_its_journal_begins(tmp_path: Path) -> None:
    journal = SparseJournal()
    append(journal, life(*LIFE, session_id="removed"))
    revisions = append(journal, life(*LIFE, session_id="kept"))
    journal.remove_before(revisions[0])
    with capture_logs() as logs, following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == revisions[-1])
    assert [line["begins_at"] for line in lines(logs, "view_discarded")] == [revisions[0]]
    assert progress(tmp_path)[2] == revisions[0]
    assert rows(tmp_path, "SELECT session_id FROM sessions") == [("kept",)]


def test_a_view_that_has_missed_what_was_removed_stops_and_stays_as_it_is(tmp_path: Path) -> None:
    journal = SparseJournal()
    first = append(journal, life(*LIFE, session_id="seen"))
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == first[-1])
    append(journal, life(*LIFE, session_id="missed"))
    oldest = journal.head() + 1
    journal.remove_before(oldest)
    append(journal, life(*LIFE, session_id="new"))
    with following(journal, tmp_path):
        gap = f"JOURNAL_DIVERGED: revisions {first[-1] + 1} to {oldest - 1} are gone"
        eventually(lambda: gap in problem(tmp_path))
    assert progress(tmp_path)[0] == first[-1]
    assert rows(tmp_path, "SELECT session_id FROM sessions") == [("seen",)]


def test_a_view_that_is_past_what_was_removed_stays_as_it_is(tmp_path: Path) -> None:
    journal = SparseJournal()
    append(journal, life(*LIFE, session_id="removed but known"))
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == journal.head())
    journal.remove_before(journal.head() + 1)
    with capture_logs() as logs, following(journal, tmp_path):
        last = append(journal, life(*LIFE, session_id="new"))[-1]
        eventually(lambda: applied(tmp_path) == last)
    assert lines(logs, "view_discarded", "follower_retrying") == []
    assert len(rows(tmp_path, "SELECT 1 FROM sessions")) == 2


def test_a_forget_entry_that_is_invalid_is_skipped_with_an_error(tmp_path: Path) -> None:
    journal = MemoryJournal()
    begun = life(*LIFE)
    append(journal, [b"first"], kind=Kind.FORGET)
    append(journal, begun[:2])
    append(journal, [b"second", b"third"], kind=Kind.FORGET)
    append(journal, begun[2:])
    append(journal, [b"last"], kind=Kind.FORGET)
    with capture_logs() as logs, following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 8 and progress(tmp_path)[3] is None)
        append(journal, [b"later"], kind=Kind.FORGET)
        eventually(lambda: applied(tmp_path) == 9 and progress(tmp_path)[3] is None)
        eventually(lambda: rows(tmp_path, "SELECT complete FROM progress") == [(1,)])
    errors = lines(logs, "forget_entry_invalid")
    assert [line["revision"] for line in errors] == [1, 4, 5, 8, 9]
    fed = rows(tmp_path, "SELECT event_revision, verdict, session_id FROM feed ORDER BY position")
    assert [revision for revision, *_ in fed] == [2, 3, 6, 7]
    append(journal, [body("SessionEnd", NOON + 60_000)])
    append(journal, [b"after a callback"], kind=Kind.FORGET)
    with following(journal, tmp_path):  # it stands on an entry that left no trace
        eventually(lambda: applied(tmp_path) == 11 and progress(tmp_path)[3] is None)
    assert len(rows(tmp_path, "SELECT 1 FROM feed")) == 5


def prepare(folder: Path, sql: str) -> None:
    """Make an empty view in which the follower's work has side effects."""
    ViewWriter(folder).close()
    with closing(apsw.Connection(str(store.locate(folder)))) as db:
        db.execute(sql)


def poison(folder: Path) -> None:
    """Have the view refuse rows of sessions whose ids begin with "poison"."""
    prepare(
        folder,
        "CREATE TRIGGER poison BEFORE INSERT ON feed WHEN NEW.session_id GLOB 'poison*' "
        "BEGIN SELECT RAISE(ABORT, 'it does not fit'); END",
    )


def test_an_entry_that_cannot_be_applied_holds_nobody_up_and_is_named(tmp_path: Path) -> None:
    journal = MemoryJournal()
    ids = [f"poison-{n}" if n % 3 else f"sound-{n}" for n in range(21)]
    poisoned = [revision for revision, each in enumerate(ids, 1) if each.startswith("poison")]
    assert len(poisoned) > MOST_SKIPPED
    append(journal, [body("SessionBegin", NOON, session_id=each) for each in ids])
    poison(tmp_path)
    with capture_logs() as logs, following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 21)
        append(journal, [body("SessionBegin", NOON, session_id="after")])
        eventually(lambda: applied(tmp_path) == 22)
    assert [line["revision"] for line in lines(logs, "entry_skipped")] == poisoned
    fed = [revision for (revision,) in rows(tmp_path, "SELECT event_revision FROM feed")]
    assert fed == [revision for revision in range(1, 23) if revision not in poisoned]


def test_a_fault_that_is_not_in_one_entry_ends_the_follower(tmp_path: Path) -> None:
    journal = MemoryJournal()
    ids = [f"poison-{n}" for n in range(30)]
    append(journal, [body("SessionBegin", NOON, session_id=each) for each in ids])
    poison(tmp_path)
    with ThreadPoolExecutor(1) as pool, capture_logs() as logs:
        running = pool.submit(Follower(journal, tmp_path).run, threading.Event())
        with pytest.raises(Exception, match="revisions 11 to 11"):
            running.result(60)
    assert len(lines(logs, "entry_skipped")) == MOST_SKIPPED


class Hesitant(MemoryJournal):
    """Gives two entries a time, whatever it is asked for, as a journal of large bodies would."""

    def read(self, after: int, *, limit: int) -> list[Entry]:
        return super().read(after, limit=min(limit, 2))


def note_batches(folder: Path) -> None:
    """Have the view note each batch: its last revision, and if entries are left behind it."""
    prepare(
        folder,
        "CREATE TABLE batches (revision, is_behind); "
        "CREATE TRIGGER note AFTER INSERT ON progress BEGIN "
        "INSERT INTO batches VALUES (NEW.applied_revision, NEW.behind_since IS NOT NULL); END",
    )


SIZE = len(body("SessionBegin", NOON, session_id="s00"))


@pytest.mark.parametrize(
    ("bounds", "batches"),
    [
        ({}, [(12, 0)]),
        ({"batch": 5}, [(5, 1), (10, 1), (12, 0)]),
        ({"batch": 5, "batch_bytes": 3 * SIZE}, [(3, 1), (5, 1), (7, 1), (9, 1), (11, 1), (12, 0)]),
    ],
)
def test_reads_are_joined_into_batches_bounded_by_entries_and_bytes(
    tmp_path: Path, bounds: dict[str, int], batches: list[tuple[int, int]]
) -> None:
    journal = Hesitant()
    append(journal, [body("SessionBegin", NOON, session_id=f"s{n:02}") for n in range(12)])
    note_batches(tmp_path)
    with following(journal, tmp_path, **bounds):
        eventually(lambda: applied(tmp_path) == 12)
    assert rows(tmp_path, "SELECT * FROM batches") == batches


def test_batches_of_any_size_make_the_same_view(tmp_path: Path) -> None:
    journal = Hesitant()
    bodies = [each for n in range(9) for each in life(*LIFE, session_id=f"s{n}", start=NOON + n)]
    append(journal, [*bodies[1::2], *bodies[::2]])  # half of them late
    views = []
    for batch in (8_000, 5, 1):
        folder = tmp_path / str(batch)
        folder.mkdir()
        with following(journal, folder, batch=batch):
            eventually(lambda folder=folder: applied(folder) == len(bodies))
        views.append(content(folder))
    assert views[0] == views[1] == views[2]


def start_follower(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.follow", str(folder)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )


def test_a_follower_killed_again_and_again_builds_the_same_view(tmp_path: Path) -> None:
    journal = SqliteWriter(tmp_path / "journal.db")
    bodies = [
        each
        for number in range(300)
        for each in life(*LIFE, session_id=f"s{number}", start=NOON + number)
    ]
    bodies = [*bodies[1::2], *bodies[::2]]  # half of them late
    killed_at = []
    for round_, start in enumerate(range(0, len(bodies), 400), 1):
        process = start_follower(tmp_path)
        append(journal, bodies[start : start + 400])
        eventually(lambda least=400 * round_ - 350: applied(tmp_path) >= least)
        process.kill()
        process.wait(60)
        killed_at.append(applied(tmp_path))
    assert len(killed_at) == 3
    process = start_follower(tmp_path)
    append(journal, [body("SessionBegin", NOON, session_id="last")])
    eventually(lambda: applied(tmp_path) == len(bodies) + 1)
    process.terminate()
    assert process.wait(60) == 0
    survived = content(tmp_path)

    rebuilt = tmp_path / "rebuilt"
    rebuilt.mkdir()
    with following(journal, rebuilt):
        eventually(lambda: applied(rebuilt) == len(bodies) + 1)
    assert content(rebuilt) == survived
    journal.close()


class DamagedJournal(MemoryJournal):
    """A journal of which nothing can be read, and which counts how often that was tried."""

    tried = 0

    def read(self, after: int, *, limit: int) -> list[Entry]:
        self.tried += 1
        raise Damaged("a damaged page")


def test_a_follower_that_waits_before_damage_gives_signs_of_life(tmp_path: Path) -> None:
    stop, alive = threading.Event(), threading.Semaphore(0)
    journal = DamagedJournal()
    follower = Follower(journal, tmp_path, idle=SOON)
    thread = threading.Thread(target=follower.run, args=(stop, alive.release))
    thread.start()
    try:
        # It reads again only after ten seconds; the supervisor must not take it for hung before.
        begun = time.monotonic()
        assert all(alive.acquire(timeout=60) for _ in range(20))
        assert journal.tried <= 1 + (time.monotonic() - begun) / 10
    finally:
        stop.set()
        thread.join(60)


def test_what_was_forgotten_leaves_the_files_and_deleted_entries_the_list(tmp_path: Path) -> None:
    journal = MemoryJournal()
    append(journal, life(*LIFE))
    follower = Follower(journal, tmp_path, idle=SOON)
    stop = threading.Event()
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    try:
        journal.append(forget_entry(APP, NOON, session_ids=[SESSION]), timeout=60)
        listed = "SELECT revision FROM entries_to_delete"
        eventually(lambda: rows(tmp_path, listed) == [(1,), (2,), (3,), (4,)])
        # The user is in every event, and in no list of what was forgotten.
        eventually(lambda: not files_with(b"user-1", tmp_path))
        assert follower.note_deleted(5).wait(60)
        assert rows(tmp_path, listed) == []
    finally:
        stop.set()
        thread.join()


def test_a_wal_that_is_being_read_is_emptied_later(tmp_path: Path) -> None:
    journal = MemoryJournal()
    append(journal, life(*LIFE))
    wal = Path(f"{store.locate(tmp_path)}-wal")
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 4)
        with closing(store.open_reader(store.locate(tmp_path))) as db:
            db.execute("BEGIN")
            assert db.execute("SELECT count(*) FROM feed").fetchone() == (4,)
            journal.append(forget_entry(APP, NOON, session_ids=[SESSION]), timeout=60)
            eventually(lambda: applied(tmp_path) == 5)
            append(journal, [body("SessionBegin", NOON, session_id="next")])
            eventually(lambda: applied(tmp_path) == 6)
            assert SESSION.encode() in wal.read_bytes()
            assert db.execute("SELECT count(*) FROM feed").fetchone() == (4,)
        eventually(lambda: SESSION.encode() not in wal.read_bytes())
        append(journal, [body("SessionBegin", NOON, session_id="later")])
        eventually(lambda: applied(tmp_path) == 7)


def test_a_late_view_counts_as_kept_up_only_once_readers_see_how_late_it_is(tmp_path: Path) -> None:
    journal = MemoryJournal()
    append(journal, life(*LIFE, session_id="a"))
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 4)
    os.utime(store.lock_path(store.locate(tmp_path)), (0, 0))  # the service was stopped for long
    append(journal, life(*LIFE, session_id="b"))
    stop, go_on, rounds = threading.Event(), threading.Event(), list[None]()
    with connected_with(lambda db: db.set_commit_hook(lambda: not go_on.wait(60))):
        follower = Follower(journal, tmp_path, batch=1)
        with ThreadPoolExecutor(1) as threads:
            threads.submit(follower.run, stop, lambda: rounds.append(None))
            eventually(lambda: len(rounds) > 1)  # the first batch is applied, and not committed
            seen = store.last_seen(store.locate(tmp_path))
            go_on.set()
            eventually(lambda: store.last_seen(store.locate(tmp_path)))
            stop.set()
    assert seen == 0


@contextmanager
def connected_with(change: Callable[[apsw.Connection], object]) -> Iterator[None]:
    """Change each connection to SQLite that is made inside."""
    apsw.connection_hooks.append(change)
    try:
        yield
    finally:
        apsw.connection_hooks.remove(change)
