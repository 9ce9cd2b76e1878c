"""A disk that fails or hangs: no false answer, nothing doubled, and recovery."""

import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import monotonic

import apsw
import pytest

from journal.errors import AppendTimedOut, Overloaded, Unavailable, Unreadable
from journal.group_commit import CommitLimits
from journal.sqlite import SqliteReader, SqliteWriter
from tests.support.faulty_disk import FaultyDisk, faulty_disk
from tests.support.journals import PATIENCE, append, new_entry, read_all
from tests.support.waiting import eventually


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    with faulty_disk() as disk:
        yield disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(disk: FaultyDisk, path: Path) -> Iterator[SqliteWriter]:
    journal = SqliteWriter(path)
    yield journal
    disk.heal()
    journal.close()


FAULTS = [
    ("sync", apsw.IOError("the disk lost it")),
    ("write", apsw.IOError("the disk refused it")),
    ("write", apsw.FullError("no space left")),
    ("write", apsw.ReadOnlyError("remounted read-only")),
    ("sync", apsw.ReadOnlyError("remounted read-only")),
]


@pytest.mark.parametrize(("operation", "error"), FAULTS)
def test_a_failing_disk_is_unavailable_and_works_again_when_it_does(
    disk, journal, operation, error
):
    append(journal, "before")
    disk.fail(operation, error)
    for name in ("one", "two"):
        with pytest.raises(Unavailable):
            append(journal, name)
        assert journal.head() == 1
    disk.heal()
    assert append(journal, "two").revision == 2
    assert append(journal, "one").revision == 3
    assert [entry.request_id for entry in read_all(journal)] == [
        "request-before",
        "request-two",
        "request-one",
    ]


def test_the_file_is_opened_anew_after_a_failed_commit_and_only_then(disk, journal):
    append(journal, "before")
    opened = disk.opened.count("journal.db")
    append(journal, "more")
    assert disk.opened.count("journal.db") == opened
    disk.fail("sync", apsw.IOError("the disk lost it"))
    with pytest.raises(Unavailable):
        append(journal, "lost")
    disk.heal()
    append(journal, "after")
    assert disk.opened.count("journal.db") > opened


def test_a_disk_that_is_full_is_trouble_until_it_can_be_written_again(disk, path):
    with closing(SqliteWriter(path, limits=CommitLimits(check_after=0.02))) as journal:
        disk.fail("write", apsw.FullError("no space left"))
        with pytest.raises(Unavailable):
            append(journal, "one")
        eventually(lambda: "cannot be used" in journal.trouble())
        disk.heal()
        eventually(lambda: journal.trouble() == "")
        assert append(journal, "one").revision == 1


def test_a_reader_that_cannot_read_is_unavailable_and_reads_again_when_it_can(disk, journal, path):
    append(journal, body=b"x" * 100_000)
    disk.fail("read", apsw.IOError("the disk does not answer"))
    with pytest.raises(Unavailable):
        journal.read(0, limit=1)
    with pytest.raises(Unavailable):
        SqliteReader(path)
    disk.heal()
    assert journal.read(0, limit=1)[0].body == b"x" * 100_000


def test_a_journal_that_cannot_be_opened_lets_go_of_the_lock(disk, path):
    disk.fail("sync", apsw.IOError("the disk lost it"))
    with pytest.raises(Unavailable):
        SqliteWriter(path)
    disk.heal()
    journal = SqliteWriter(path)
    assert append(journal).revision == 1
    journal.close()


def test_each_caller_of_a_failed_batch_is_told(disk, journal):
    disk.fail("sync", apsw.IOError("the disk lost it"))

    def work(name: int) -> str:
        try:
            append(journal, name)
        except Unavailable:
            return "unavailable"
        return "acknowledged"

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(work, range(64))) == {"unavailable"}
    disk.heal()
    assert journal.head() == 0
    assert append(journal, 0).revision == 1


def test_every_acknowledged_append_was_synced_first(disk, journal):
    for name in range(20):
        before = disk.synced
        append(journal, name)
        assert disk.synced > before


def test_a_disk_that_fails_now_and_then_loses_and_doubles_nothing(disk, journal, path):
    dice = random.Random(7)

    def fault(_operation: str) -> None:
        if dice.random() < 0.02:
            raise apsw.IOError("now and then")

    disk.fault = fault
    acknowledged: dict[bytes, int] = {}

    def work(thread: int) -> int:
        failures = 0
        for n in range(40):
            entry = new_entry(f"{thread}-{n}")
            while entry.id not in acknowledged:
                try:
                    appended = journal.append(entry, timeout=PATIENCE)
                    acknowledged[entry.id] = appended.revision
                except Unavailable:
                    failures += 1
        return failures

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) > 0
    disk.heal()
    assert {entry.id: entry.revision for entry in read_all(journal)} == acknowledged
    assert sorted(acknowledged.values()) == list(range(1, 321))
    journal.close()
    reopened = SqliteReader(path)
    assert {entry.id: entry.revision for entry in read_all(reopened)} == acknowledged
    reopened.close()


def test_a_hanging_disk_times_out_in_time_and_the_retry_tells_the_truth(disk, journal):
    with disk.hanging() as hangs:
        begin = monotonic()
        while not hangs.is_set():  # on a busy machine it may be withdrawn before the commit
            with pytest.raises(AppendTimedOut):
                journal.append(new_entry("taken"), timeout=1.0)
            assert monotonic() - begin < PATIENCE
        with pytest.raises(AppendTimedOut):
            journal.append(new_entry("waiting"), timeout=0.2)
        assert monotonic() - begin < PATIENCE
        assert journal.head() == 0, "a reader sees nothing that is not on the disk"
    assert append(journal, "taken").revision == 1
    assert append(journal, "waiting").revision == 2
    assert not append(journal, "more").duplicate


def test_an_append_that_timed_out_while_it_waited_was_withdrawn(disk, journal):
    with ThreadPoolExecutor(1) as pool, disk.hanging() as hangs:
        first = pool.submit(append, journal, "taken")
        assert hangs.wait(PATIENCE)
        with pytest.raises(AppendTimedOut):
            journal.append(new_entry("withdrawn"), timeout=0.1)
    assert first.result().revision == 1
    append(journal, "next")
    assert [e.request_id for e in read_all(journal)] == ["request-taken", "request-next"]


def test_more_appends_than_may_wait_are_refused_at_once(disk, path):
    journal = SqliteWriter(path, limits=CommitLimits(waiting=5))  # the one in the commit too
    refused: list[Overloaded] = []
    with ThreadPoolExecutor(6) as pool, disk.hanging() as hangs:
        pool.submit(append, journal, "taken")
        assert hangs.wait(PATIENCE)

        def work(name: int) -> None:
            try:
                append(journal, name)
            except Overloaded as error:
                refused.append(error)

        for name in range(5):
            pool.submit(work, name)
        eventually(lambda: refused)
    assert 1 <= len(refused) <= 2, "one more is taken if the commit under way has let go of its own"
    assert journal.head() + len(refused) == 6, "each of the others was kept"
    journal.close()


def test_close_waits_for_a_disk_that_hangs_only_so_long(disk, path):
    journal = SqliteWriter(path, close_timeout=0.2)
    with disk.hanging():
        with pytest.raises(AppendTimedOut):
            journal.append(new_entry(), timeout=0.1)
        begin = monotonic()
        journal.close()
        assert monotonic() - begin < PATIENCE
    eventually(lambda: not any(t.name == "journal-commit" for t in threading.enumerate()))


def test_a_file_that_was_moved_away_takes_nothing_until_it_is_back(journal, path):
    append(journal, "before")
    away = path.with_name("away.db")
    os.rename(path, away)
    with pytest.raises(Unavailable):
        append(journal, "lost?")
    with pytest.raises(Unavailable):
        journal.read(0, limit=1)
    os.rename(away, path)
    eventually(lambda: journal.head() == 1)
    assert append(journal, "after").revision == 2


def test_another_journal_in_its_place_is_not_taken_for_it(journal, path, tmp_path):
    append(journal, "before")
    other = SqliteWriter(tmp_path / "other.db")
    append(other, "theirs")
    other.close()
    for suffix in ("", "-wal", "-shm"):
        os.replace(tmp_path / f"other.db{suffix}", tmp_path / f"journal.db{suffix}")
    with pytest.raises(Unavailable):
        append(journal, "mine")
    with pytest.raises(Unreadable):
        journal.head()
    with closing(SqliteReader(path)) as reader:
        assert [entry.request_id for entry in read_all(reader)] == ["request-theirs"]
