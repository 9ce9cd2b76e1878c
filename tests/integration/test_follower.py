"""The follower: lives with its journal, survives its own death, replaces what is out of date."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from journal.entry import Entry, NewEntry
from journal.memory import MemoryJournal
from journal.port import Journal
from journal.sqlite import SqliteWriter
from service import follower as follower_module
from service.follower import Follower
from service.projection import Projection
from service.view import store
from service.view.writer import ViewWriter, lock
from tests.support.callbacks import NOON, body, entry, life
from tests.support.waiting import eventually

LIFE = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "TransferToHumanSuccess")


def append(journal: Journal, bodies: list[bytes]) -> None:
    for each in bodies:
        made = entry(1, each)
        new = NewEntry(id=made.id, sdk_app_id=made.sdk_app_id, received_at=NOON, body=each)
        journal.append(new, timeout=10)


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """What a reader of the view sees now; nothing if there is no view yet."""
    try:
        db = store.open_reader(store.locate(folder))
    except apsw.CantOpenError:
        return []
    try:
        return list(db.execute(sql))
    except apsw.Error:  # no tables yet, damaged, or being replaced
        return []
    finally:
        db.close()


def applied(folder: Path) -> int:
    return next((row[0] for row in rows(folder, "SELECT applied_revision FROM progress")), -1)


def inode_of(path: Path) -> int:
    """Which file is there; 0 = none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def content(folder: Path) -> list[list[tuple[Any, ...]]]:
    return [
        rows(folder, "SELECT * FROM feed ORDER BY position"),
        rows(folder, "SELECT * FROM sessions ORDER BY number"),
        rows(folder, "SELECT * FROM session_keys ORDER BY 1, 2"),
        rows(folder, "SELECT digest FROM progress"),
    ]


@contextmanager
def following(journal: Journal, folder: Path) -> Iterator[None]:
    stop = threading.Event()
    follower = Follower(journal, folder)
    thread = threading.Thread(target=follower.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


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


def test_a_journal_shorter_than_its_view_has_it_built_anew(tmp_path: Path) -> None:
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
        eventually(lambda: applied(tmp_path) == 4)


@pytest.mark.parametrize("grown_to", [2, 4, 9])
def test_a_journal_put_back_to_an_earlier_state_has_its_view_built_anew(
    tmp_path: Path, grown_to: int
) -> None:
    original, restored = MemoryJournal(), MemoryJournal()
    restored._id = original.id  # as a copy of the file has it
    shared = [body("SessionBegin", NOON, session_id=f"s{n}") for n in range(2)]
    append(original, [*shared, *life(*LIFE, session_id="lost")[:2]])
    append(restored, shared)
    new = [body("SessionBegin", NOON, session_id=f"n{n}") for n in range(grown_to - 2)]
    with following(original, tmp_path):
        eventually(lambda: applied(tmp_path) == 4)
    inode = inode_of(store.locate(tmp_path))
    reader = store.open_reader(store.locate(tmp_path))  # whose file lives on while it is open
    append(restored, new)
    with following(restored, tmp_path):
        eventually(lambda: inode_of(store.locate(tmp_path)) not in (0, inode))
        eventually(lambda: applied(tmp_path) == grown_to)
    reader.close()
    names = {name for (name,) in rows(tmp_path, "SELECT session_id FROM sessions")}
    assert names == {"s0", "s1", *(f"n{n}" for n in range(grown_to - 2))}


def test_the_view_of_an_old_version_goes_even_if_it_was_in_use_before(tmp_path: Path) -> None:
    journal = MemoryJournal()
    old = tmp_path / "view-0123456789ab.db"
    old.write_bytes(b"")
    holder = lock(old)
    with following(journal, tmp_path):
        eventually(lambda: rows(tmp_path, "SELECT complete FROM progress") == [(1,)])
    assert old.exists()
    os.close(holder)
    with following(journal, tmp_path):
        eventually(lambda: not old.exists())


def test_an_idle_follower_gives_signs_of_life(tmp_path: Path) -> None:
    with following(MemoryJournal(), tmp_path):
        sign = store.lock_path(store.locate(tmp_path))
        eventually(sign.exists)
        for _ in range(2):
            os.utime(sign, (0, 0))
            eventually(lambda: sign.stat().st_mtime > 0)


def test_a_new_version_builds_its_view_beside_the_old_one_then_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = MemoryJournal()
    append(journal, life(*LIFE))
    with monkeypatch.context() as old_version:
        old_version.setattr(store, "FOLD_VERSION", 0)
        store.fingerprint.cache_clear()
        old = store.locate(tmp_path)
        with following(journal, tmp_path):
            eventually(lambda: applied(tmp_path) == 4)
    store.fingerprint.cache_clear()
    assert old.exists()
    assert old != store.locate(tmp_path)
    with following(journal, tmp_path):
        eventually(lambda: not old.exists())
        assert applied(tmp_path) == 4
    assert [path.name for path in tmp_path.glob("view-*.db")] == [store.locate(tmp_path).name]


@pytest.mark.parametrize("page", [0, 1, 3])
def test_a_damaged_view_is_thrown_away_and_built_anew(tmp_path: Path, page: int) -> None:
    journal = MemoryJournal()
    append(journal, [body("SessionBegin", NOON + n, session_id=f"s{n}") for n in range(50)])
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 50)
    with store.locate(tmp_path).open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"\xa5" * 4096)
    append(journal, life(*LIFE))
    with following(journal, tmp_path):
        eventually(lambda: applied(tmp_path) == 54)
        assert len(rows(tmp_path, "SELECT 1 FROM feed")) == 54


class Hesitant(MemoryJournal):
    """Gives two entries a time, whatever it is asked for, as a journal of large bodies would."""

    def read(self, after: int, *, limit: int) -> list[Entry]:
        return super().read(after, limit=min(limit, 2))


def batches(journal: Journal, folder: Path) -> list[tuple[int, int | None]]:
    """What a new follower takes: how many entries at a time, and the revision after them."""
    stop = threading.Event()
    follower = Follower(journal, folder)
    taken: list[tuple[int, int | None]] = []
    after = 0
    while not taken or taken[-1][1]:
        entries, following = follower._batch(after)
        after += len(entries)
        taken.append((len(entries), following and following.revision))
    stop.set()
    follower.run(stop)
    return taken


def test_reads_are_joined_into_batches_bounded_by_entries_and_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Hesitant()
    append(journal, [body("SessionBegin", NOON + n, session_id=f"s{n:02}") for n in range(12)])
    assert batches(journal, tmp_path) == [(12, None)]
    monkeypatch.setattr(follower_module, "BATCH", 5)
    assert batches(journal, tmp_path) == [(5, 6), (5, 11), (2, None)]
    size = len(journal.read(0, limit=1)[0].body)
    monkeypatch.setattr(follower_module, "BATCH_BYTES", 3 * size)
    assert batches(journal, tmp_path) == [(3, 4), (3, 7), (3, 10), (2, 12), (1, None)]


def test_batches_of_any_size_make_the_same_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Hesitant()
    bodies = [each for n in range(9) for each in life(*LIFE, session_id=f"s{n}", start=NOON + n)]
    append(journal, [*bodies[1::2], *bodies[::2]])  # half of them late
    views = []
    for batch in (8_000, 5, 1):
        monkeypatch.setattr(follower_module, "BATCH", batch)
        folder = tmp_path / str(batch)
        folder.mkdir()
        with following(journal, folder):
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
    for round_, start in enumerate(range(0, len(bodies), 200), 1):
        process = start_follower(tmp_path)
        append(journal, bodies[start : start + 200])
        eventually(lambda least=200 * round_ - 150: applied(tmp_path) >= least)
        process.kill()
        process.wait(10)
        killed_at.append(applied(tmp_path))
    assert len(killed_at) == 6
    process = start_follower(tmp_path)
    append(journal, [body("SessionBegin", NOON, session_id="last")])
    eventually(lambda: applied(tmp_path) == len(bodies) + 1)
    process.terminate()
    assert process.wait(10) == 0
    survived = content(tmp_path)

    rebuilt = tmp_path / "rebuilt"
    rebuilt.mkdir()
    with following(journal, rebuilt):
        eventually(lambda: applied(rebuilt) == len(bodies) + 1)
    assert content(rebuilt) == survived
    journal.close()
