"""The spool before a journal that can be away: nothing is lost, and nothing overtakes."""

import json
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic

import pytest

from journal import spool_files
from journal.entry import Appended, NewEntry
from journal.errors import AppendTimedOut, Closed, InUse, TooLarge, Unavailable, Unreadable
from journal.jetstream_message import subject_of
from journal.memory import MemoryJournal
from journal.port import Waiter
from journal.spool import SpooledWriter
from journal.sqlite_file import open_read_only
from tests.support.faulty_disk import faulty_disk
from tests.support.files import files_with
from tests.support.gateway import gateway
from tests.support.journals import PATIENCE, append, new_entry
from tests.support.spools import Remote, forwarded, spool, spooled, stored
from tests.support.waiting import eventually

KEPT = Appended(0, duplicate=False)


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def journal(remote: Remote, folder: Path) -> Iterator[SpooledWriter]:
    with closing(spooled(remote, folder)) as journal:
        yield journal


def of_session(session: object, name: object) -> NewEntry:
    content = {"SessionId": str(session), "Padding": "x" * 5_000}
    return new_entry(f"{session}-{name}", body=json.dumps(content).encode())


def waiting(journal: SpooledWriter) -> int:
    """Return the number of callbacks in the spool."""
    return int(journal.notice().split()[1]) if journal.notice() else 0


def two_sessions() -> tuple[str, str]:
    """Return sessions whose callbacks may overtake each other."""
    subjects = {subject_of("", of_session(name, "")): name for name in "abcdef"}
    first, second, *_ = subjects.values()
    return first, second


# ---- Away and back ----


def test_while_the_journal_answers_the_spool_keeps_nothing(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    assert [append(journal, name).revision for name in "abc"] == [1, 2, 3]
    assert journal.id == remote.id
    assert (journal.trouble(), journal.notice()) == ("", "")
    assert stored(folder / "1.db") == []


def test_what_it_does_not_take_is_kept_and_forwarded_when_it_is_back(
    journal: SpooledWriter, remote: Remote
) -> None:
    append(journal, "first")
    remote.away = True
    assert [append(journal, name) for name in "abc"] == [KEPT] * 3
    assert append(journal, "a") == Appended(0, duplicate=True)
    assert journal.trouble() == ""
    assert journal.notice() == "spooling, 3 callbacks wait: nobody answers"
    remote.away = False
    forwarded(journal)
    assert remote.requests() == ["request-first", "request-a", "request-b", "request-c"]
    assert append(journal, "last") == Appended(5, duplicate=False)


def test_an_append_whose_outcome_is_unknown_is_kept_as_well(
    journal: SpooledWriter, remote: Remote
) -> None:
    remote.lost = True
    began = monotonic()
    spool(journal, new_entry("a"))
    assert monotonic() - began < PATIENCE / 2
    remote.lost = False
    forwarded(journal)
    assert remote.requests() == ["request-a"]
    assert remote.delivered.count("request-a") > 1


def test_a_later_callback_overtakes_none_of_its_session(
    journal: SpooledWriter, remote: Remote
) -> None:
    waiting, other = two_sessions()
    remote.held = {f"request-{waiting}-1"}
    spool(journal, of_session(waiting, 1))
    assert journal.append(of_session(waiting, 2), timeout=PATIENCE) == KEPT
    assert journal.append(of_session(other, 1), timeout=PATIENCE).revision > 0
    remote.held = set()
    forwarded(journal)
    assert remote.requests() == [f"request-{other}-1", *(f"request-{waiting}-{n}" for n in (1, 2))]
    assert journal.append(of_session(waiting, 3), timeout=PATIENCE).revision > 0


def test_appends_at_the_same_time_are_neither_lost_nor_reordered_by_the_switches(
    journal: SpooledWriter, remote: Remote
) -> None:
    remote.is_uneven = True
    stop = threading.Event()
    appended: dict[int, int] = defaultdict(int)
    direct: set[int] = set()

    def work(session: int) -> None:
        while not stop.is_set():
            outcome = journal.append(of_session(session, appended[session]), timeout=PATIENCE)
            appended[session] += 1
            if outcome.revision:
                direct.add(session)

    threads = [threading.Thread(target=work, args=(session,)) for session in range(12)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        direct.clear()
        eventually(lambda: len(direct) == 12)
        remote.away = True
        eventually(lambda: waiting(journal) > 100)
        remote.away = False
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    forwarded(journal)
    found = defaultdict(list)
    for request in remote.requests():
        session, _, number = request.removeprefix("request-").partition("-")
        found[int(session)].append(int(number))
    assert found == {session: list(range(number)) for session, number in appended.items()}


class TwoEvents(MemoryJournal):
    """A journal that gives one event up, and waits on another."""

    def append(
        self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter] = threading.Event
    ) -> Appended:
        first, second = event(), event()
        threading.Timer(0.05, first.set).start()
        threading.Timer(0.2, second.set).start()
        if not second.wait(timeout):
            raise AppendTimedOut("the second event is not set")
        return super().append(entry, timeout=timeout, event=event)


def test_an_event_that_was_given_up_does_not_end_the_wait_for_the_next_one() -> None:
    with gateway(TwoEvents()) as running:
        running.post().assert_ok()


# ---- Starts ----


def test_a_spool_of_an_earlier_time_is_forwarded_first(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    remote.away = True
    for number in range(5):
        journal.append(of_session("s", number), timeout=PATIENCE)
    journal.close()
    again = Remote()
    again._id = remote.id  # it survives, unlike one in memory
    again.held = {"request-s-0"}
    with closing(spooled(again, folder)) as restarted:
        assert restarted.notice() == "spooling, 5 callbacks wait: they are forwarded"
        assert restarted.append(of_session("s", 5), timeout=PATIENCE) == KEPT
        again.held = set()
        forwarded(restarted)
    assert again.requests() == [f"request-s-{number}" for number in range(6)]


def test_a_start_while_the_journal_is_away_takes_callbacks(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    journal.close()
    again = Remote()
    again._id, again.away = remote.id, True
    with closing(spooled(again, folder)) as restarted:
        assert append(restarted) == KEPT
        assert restarted.id == remote.id
        again.away = False
        forwarded(restarted)
    assert again.requests() == ["request-a"]


def test_a_first_start_needs_the_journal(remote: Remote, folder: Path) -> None:
    remote.away = True
    with pytest.raises(Unavailable, match="nobody answers"):
        spooled(remote, folder)
    remote.away = False
    spooled(remote, folder).close()


def test_what_was_forwarded_is_not_forwarded_again_after_a_start(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    remote.away = True
    append(journal, "a")
    remote.away = False
    forwarded(journal)
    journal.close()
    again = Remote()
    again._id = remote.id
    with closing(spooled(again, folder)) as restarted:
        append(restarted, "b")
        assert restarted.notice() == ""
    assert again.delivered == ["request-b"]


def test_a_position_of_another_file_is_not_taken(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    remote.away = True
    append(journal)
    journal.close()
    (folder / "1.position").write_text(f"{'0' * 32} 1000")
    again = Remote()
    again._id = remote.id
    with closing(spooled(again, folder)) as restarted:
        forwarded(restarted)
    assert again.requests() == ["request-a"]


def test_a_spool_belongs_to_one_process(journal: SpooledWriter, folder: Path) -> None:
    with pytest.raises(InUse, match="another process is writing"):
        spooled(Remote(), folder)


def test_entries_are_not_forwarded_into_another_journal(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    remote.away = True
    append(journal)
    journal.close()
    other = Remote()
    refusal = f"has 1 callbacks for the journal {remote.id}, and NATS has the journal {other.id}"
    with pytest.raises(Unreadable, match=refusal):
        spooled(other, folder)
    late = Remote()
    late.away = True
    with closing(spooled(late, folder)) as restarted:
        late.away = False
        eventually(lambda: refusal.partition(" and ")[0] in restarted.notice())
        assert append(restarted, "b") == KEPT
    assert (other.requests(), len(stored(folder / "1.db"))) == ([], 2)


def test_an_empty_spool_may_be_for_another_journal(journal: SpooledWriter, folder: Path) -> None:
    journal.close()
    other = Remote()
    with closing(spooled(other, folder)) as restarted:
        assert restarted.id == other.id


def test_a_closed_spool_refuses(journal: SpooledWriter, remote: Remote) -> None:
    remote.away = True
    journal.close()
    journal.close()
    with pytest.raises(Closed):
        append(journal)


# ---- Room ----


def test_a_full_spool_refuses_and_takes_again_when_there_is_room(
    remote: Remote, folder: Path
) -> None:
    with closing(spooled(remote, folder, max_bytes=2_000_000)) as journal:
        remote.away = True
        count = fill(journal)
        assert journal.trouble() == "the spool is full: it has 2000000 bytes"
        assert count > 10
        remote.away = False
        forwarded(journal)
        assert len(remote.requests()) == count
        assert journal.trouble() == ""
        remote.away = True
        assert append(journal, "more") == KEPT


def fill(journal: SpooledWriter) -> int:
    """Append until the spool is full; return the number of entries that it took."""
    for count in range(10_000):
        try:
            append(journal, count, body=b"x" * 100_000)
        except Unavailable:
            return count
    raise AssertionError("it is never full")


def test_space_is_given_back_when_all_is_forwarded(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    def size() -> int:
        return sum(file.stat().st_size for file in folder.iterdir())

    remote.away = True
    for number in range(40):
        append(journal, number, body=b"x" * 100_000)
    assert size() > 4_000_000
    remote.away = False
    forwarded(journal)
    assert not (folder / "1.db").exists()
    assert size() < 200_000
    remote.away = True
    append(journal, "more")
    remote.away = False
    forwarded(journal)
    assert len(remote.requests()) == 41


def test_what_is_forwarded_is_soon_in_no_file(
    remote: Remote, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_files, "QUIET", 0.05)
    with closing(spooled(remote, folder)) as journal:
        remote.away = True
        append(journal, "a", body=b"MARKED01")
        assert b"MARKED01" in (folder / "1.db-wal").read_bytes()
        remote.away = False
        forwarded(journal)
        eventually(lambda: not (folder / "1.db").exists())
        assert not files_with(b"MARKED01", folder)
        remote.away = True
        assert append(journal, "b") == KEPT


def test_a_disk_that_fails_matters_only_while_the_spool_is_needed(
    remote: Remote, folder: Path
) -> None:
    with faulty_disk() as disk, closing(spooled(remote, folder)) as journal:
        disk.fail("write", OSError("no space"))
        assert append(journal, "a").revision == 1
        assert journal.trouble() == ""
        remote.away = True
        with pytest.raises(Unavailable):
            append(journal, "b")
        assert journal.trouble()
        disk.heal()
        assert append(journal, "b") == KEPT
        assert journal.trouble() == ""
        remote.away = False
        forwarded(journal)
    assert remote.requests() == ["request-a", "request-b"]


def test_a_disk_that_takes_nothing_more_is_forwarded(remote: Remote, folder: Path) -> None:
    with faulty_disk() as disk, closing(spooled(remote, folder)) as journal:
        remote.away = True
        for number in range(30):
            append(journal, number, body=b"x" * 100_000)
        disk.fail("write", OSError("no space"))
        (folder / "1.new").mkdir()  # the position cannot be saved
        remote.away = False
        eventually(lambda: len(remote.requests()) == 30)
        eventually(lambda: "the spool cannot be used" in journal.notice())
        assert append(journal, "more").revision
        disk.heal()
        forwarded(journal)


def test_a_spool_that_cannot_be_opened_keeps_nobody_from_the_journal(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    remote.away = True
    journal.append(of_session("s", 0), timeout=PATIENCE)
    journal.close()
    again = Remote()
    again._id = remote.id
    with faulty_disk() as disk:
        disk.fail("read", OSError("broken"))
        with closing(spooled(again, folder)) as restarted:
            assert append(restarted, "a").revision == 1
            assert restarted.trouble() == ""
            assert restarted.notice() == "the spool cannot be used: Unavailable"
            again.away = True
            with pytest.raises(Unavailable, match="the spool cannot be used"):
                append(restarted, "b")
            assert restarted.trouble() == "the spool cannot be used: Unavailable"
            disk.heal()
            eventually(lambda: not restarted.trouble())
            assert restarted.append(of_session("s", 1), timeout=PATIENCE) == KEPT
            again.away = False
            forwarded(restarted)
    assert again.requests() == ["request-a", "request-s-0", "request-s-1"]


def test_a_start_with_neither_journal_nor_spool_names_both(remote: Remote, folder: Path) -> None:
    folder.write_text("a file in the place of the folder")
    remote.away = True
    with pytest.raises(Unavailable, match="nobody answers; the spool cannot be used"):
        spooled(remote, folder)


def test_a_spool_that_was_deleted_is_made_again(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    shutil.rmtree(folder.rename(folder.with_name("deleted")))  # at once: it is made again at once
    eventually(lambda: (folder / "1.db").exists() and (folder / "journal").exists())
    remote.away = True
    eventually(lambda: kept(journal, "a"))
    remote.away = False
    forwarded(journal)
    assert remote.requests() == ["request-a"]
    journal.close()


def kept(journal: SpooledWriter, name: str) -> bool:
    with suppress(Unavailable):
        return append(journal, name) == KEPT
    return False


def test_many_segments_take_no_file_descriptors(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    remote.away = True
    append(journal)
    journal.close()
    for number in range(2, 30):
        shutil.copy(folder / "1.db", folder / f"{number}.db")
    before = len(os.listdir("/proc/self/fd"))
    again = Remote()
    again._id, again.away = remote.id, True
    with closing(spooled(again, folder)) as restarted:
        assert waiting(restarted) == 29
        assert len(os.listdir("/proc/self/fd")) - before < 20


# ---- Entries that cannot be forwarded ----


def test_an_entry_that_is_too_large_is_refused(journal: SpooledWriter, remote: Remote) -> None:
    remote.max_body = 10
    with pytest.raises(TooLarge):
        append(journal, body=b"x" * 11)
    assert journal.notice() == ""


def test_an_entry_that_is_refused_for_ever_is_set_aside(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    remote.away = True
    append(journal, "a")
    append(journal, "large", body=b"x" * 1_000)
    append(journal, "b")
    remote.max_body = 100
    remote.away = False
    forwarded(journal)
    assert remote.requests() == ["request-a", "request-b"]
    assert [entry.request_id for entry in stored(folder / "refused.db")] == ["request-large"]


def test_the_file_of_what_was_set_aside_can_be_forwarded_later(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    test_an_entry_that_is_refused_for_ever_is_set_aside(journal, remote, folder)
    journal.close()
    (folder / "refused.db").rename(folder / "0.db")
    again = Remote()
    again._id = remote.id
    with closing(spooled(again, folder)) as restarted:
        forwarded(restarted)
        eventually(lambda: not (folder / "0.db").exists())
    assert again.requests() == ["request-large"]


def test_damaged_entries_are_skipped_and_their_file_is_kept(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    remote.away = True
    names = [str(number) for number in range(60)]
    for name in names:
        append(journal, name, body=b"x" * 3_000)
    journal.close()
    damage(folder / "1.db")
    again = Remote()
    again._id = remote.id
    with closing(spooled(again, folder)) as restarted:
        forwarded(restarted)
    assert 40 < len(again.requests()) < 60
    assert set(again.requests()) < {f"request-{name}" for name in names}
    assert (folder / "1.damaged").exists()


def test_a_file_that_is_no_spool_stops_only_itself(
    journal: SpooledWriter, remote: Remote, folder: Path
) -> None:
    remote.away = True
    append(journal, "a")
    journal.close()
    (folder / "2.db").write_bytes(b"\xaa" * 100_000)
    again = Remote()
    again._id = remote.id
    with closing(spooled(again, folder)) as restarted:
        forwarded(restarted)
        again.away = True
        assert append(restarted, "b") == KEPT
        again.away = False
        forwarded(restarted)
    assert again.requests() == ["request-a", "request-b"]
    assert (folder / "2.db").read_bytes() == b"\xaa" * 100_000


LEAF = """
SELECT pageno FROM dbstat WHERE name = 'entries' AND pagetype = 'leaf' LIMIT 1 OFFSET 9
"""


def damage(file: Path) -> None:
    """Overwrite a leaf of the table."""
    with closing(open_read_only(file)) as connection:
        size = connection.pragma("page_size")
        leaf = connection.execute(LEAF).get
    with file.open("r+b") as content:
        content.seek((leaf - 1) * size)
        content.write(b"\xff" * size)
