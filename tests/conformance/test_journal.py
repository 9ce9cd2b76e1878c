"""The promises of `journal.port`, for every engine, and for one that promises no more."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, thread_time

import pytest

from journal import jetstream_publisher, port
from journal.entry import Appended, Kind
from journal.errors import Closed, NotKept
from journal.memory import MemoryJournal
from journal.port import Journal
from journal.sqlite import SqliteWriter
from tests.support.journals import (
    PATIENCE,
    append,
    append_together,
    new_entry,
    read_all,
)
from tests.support.sparse_journal import WINDOW, SparseJournal
from tests.support.spools import SpooledJournal
from tests.support.waiting import eventually

ENGINES: dict[str, Callable[[Path], Journal]] = {
    "memory": lambda _directory: MemoryJournal(),
    "sparse": lambda _directory: SparseJournal(),
    "spooled": lambda directory: SpooledJournal(directory / "spool"),
    "sqlite": lambda directory: SqliteWriter(directory / "journal.db"),
}


@pytest.fixture(params=[*ENGINES, "jetstream"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    if request.param == "jetstream":
        patched = request.getfixturevalue("monkeypatch")
        patched.setattr(jetstream_publisher, "PUBLISH_WITHIN", PATIENCE)  # on a busy machine
        journal: Journal = request.getfixturevalue("nats").writer()
    else:
        journal = ENGINES[request.param](tmp_path)
    yield journal
    journal.close()


def test_an_empty_journal_has_head_0_and_nothing_to_read(journal: Journal) -> None:
    assert (journal.head(), journal.read(0, limit=10)) == (0, [])


def test_the_id_is_32_lower_case_hexadecimal_digits_and_stays(journal: Journal) -> None:
    first = journal.id
    append(journal)
    assert journal.id == first
    assert len(first) == 32
    assert set(first) <= set("0123456789abcdef")


def test_numbers_ascend_and_the_last_one_is_the_head(journal: Journal) -> None:
    revisions = [append(journal, name).revision for name in "abc"]
    assert 1 <= revisions[0] < revisions[1] < revisions[2]
    assert journal.head() == revisions[2]


def test_an_entry_is_read_exactly_as_it_was_appended(journal: Journal) -> None:
    entry = new_entry(
        sdk_app_id=2**63 - 1,
        received_at=0,
        request_id="",
        client_ip="2001:db8::1",
        platform="\x00 ünï 🙂 \r\n",
        body=bytes(range(256)) + b"\xff\xfe\x00",
    )
    appended = journal.append(entry, timeout=PATIENCE)
    (read,) = journal.read(0, limit=1)
    assert read.revision == appended.revision
    for field in entry.__struct_fields__:
        assert getattr(read, field) == getattr(entry, field)


@pytest.mark.parametrize("body", [b"", b"\x00", b"x" * 256 * 1024])
def test_a_body_of_any_length_is_kept(journal: Journal, body: bytes) -> None:
    append(journal, body=body)
    assert journal.read(0, limit=1)[0].body == body


@pytest.mark.parametrize("kind", Kind)
def test_an_entry_of_any_kind_is_kept(journal: Journal, kind: Kind) -> None:
    append(journal, kind=kind)
    assert journal.read(0, limit=1)[0].kind == kind


def test_a_repetition_adds_nothing_and_gets_the_first_copys_revision(journal: Journal) -> None:
    first = append(journal, "a")
    assert not first.duplicate
    second = append(journal, "b")
    assert append(journal, "a", request_id="other", body=b"other") == Appended(first.revision, True)
    assert journal.head() == second.revision
    assert append(journal, "c").revision > second.revision
    assert journal.read(0, limit=1)[0].request_id == "request-a"
    assert len(read_all(journal)) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"id": b"short"},
        {"id": b"x" * 17},
        {"sdk_app_id": 0},
        {"sdk_app_id": 2**63},
        {"received_at": -1},
        {"received_at": 2**63},
        {"request_id": "\ud800"},
        {"client_ip": "\udfff"},
        {"platform": "\ud800"},
        {"kind": 0},
    ],
)
def test_what_cannot_be_stored_is_refused_and_harms_nobody(
    journal: Journal, changes: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r".+"):
        append(journal, "bad", **changes)
    append(journal, "good")
    assert [entry.request_id for entry in read_all(journal)] == ["request-good"]


def test_read_starts_after_the_given_revision_and_is_ascending(journal: Journal) -> None:
    revisions = [append(journal, name).revision for name in range(20)]
    assert [entry.revision for entry in journal.read(revisions[4], limit=4)] == revisions[5:9]
    assert [entry.revision for entry in journal.read(revisions[17], limit=100)] == revisions[18:]
    assert journal.read(revisions[19], limit=100) == []
    assert journal.read(revisions[19] + 1000, limit=100) == []


def test_read_after_any_number_gives_what_is_beyond_it_gap_or_not(journal: Journal) -> None:
    revisions = [append(journal, name).revision for name in range(10)]
    for after in range(revisions[-1] + 2):
        beyond = [revision for revision in revisions if revision > after]
        assert [entry.revision for entry in journal.read(after, limit=3)] == beyond[:3]
        assert journal.wait(after, timeout=0) is bool(beyond)


def test_read_stops_after_about_read_bytes_but_returns_at_least_one(journal: Journal) -> None:
    quarter = b"x" * (port.READ_BYTES // 4)
    revisions = [append(journal, name, body=quarter).revision for name in range(6)]
    append(journal, "huge", body=b"x" * (port.READ_BYTES + 1))
    assert len(journal.read(0, limit=100)) == 4
    assert len(journal.read(revisions[5], limit=100)) == 1
    assert len(read_all(journal)) == 7


class Flag(threading.Event):
    """An event that counts how often it was set."""

    times = 0

    def set(self) -> None:
        self.times += 1
        super().set()


def test_an_append_waits_on_the_event_that_it_is_given(journal: Journal) -> None:
    flags: list[Flag] = []

    def event() -> Flag:
        flags.append(Flag())
        return flags[-1]

    first, second, again = [
        journal.append(new_entry(name), timeout=PATIENCE, event=event).revision for name in "aba"
    ]
    assert first == again < second
    assert {flag.times for flag in flags} <= {1}


def test_a_journal_that_works_is_no_trouble_and_a_closed_one_is(journal: Journal) -> None:
    append(journal)
    assert journal.trouble() == ""
    journal.close()
    assert "closed" in journal.trouble()


def test_concurrent_appends_get_each_a_number_of_their_own(journal: Journal) -> None:
    names = [[f"{thread}-{n}" for n in range(25)] for thread in range(16)]
    outcomes = append_together(journal, names)
    acknowledged = {
        new_entry(name).id: outcome.revision for mine in outcomes for name, outcome in mine.items()
    }
    stored = {entry.id: entry.revision for entry in read_all(journal, limit=37)}
    assert stored == acknowledged
    assert len(set(stored.values())) == 400


def test_the_appends_of_one_thread_are_numbered_in_their_order(journal: Journal) -> None:
    for mine in append_together(journal, [[f"{t}-{n}" for n in range(25)] for t in range(8)]):
        revisions = [outcome.revision for outcome in mine.values()]
        assert revisions == sorted(revisions)


def test_concurrent_duplicates_become_one_entry(journal: Journal) -> None:
    outcomes = append_together(journal, [list(range(20))] * 16)
    for name in range(20):
        copies = [mine[name] for mine in outcomes]
        assert len({copy.revision for copy in copies}) == 1
        assert [copy.duplicate for copy in copies].count(False) == 1
    assert len(read_all(journal)) == 20


def test_an_acknowledged_entry_is_visible_at_once_and_a_visible_entry_never_changes(
    journal: Journal,
) -> None:
    seen: dict[int, bytes] = {}
    finished = threading.Event()

    def follow() -> None:
        after = 0
        while not finished.is_set() or journal.head() > after:
            for entry in journal.read(after, limit=7):
                assert entry.revision > after
                after = entry.revision
                seen[after] = entry.id
            journal.wait(after, timeout=0.01)

    follower = threading.Thread(target=follow)
    follower.start()
    for n in range(100):
        outcome = append(journal, n)
        assert journal.head() >= outcome.revision
        assert journal.read(outcome.revision - 1, limit=1)[0].id == new_entry(n).id
    finished.set()
    follower.join(PATIENCE)
    assert list(seen.items()) == [(entry.revision, entry.id) for entry in read_all(journal)]
    assert len(seen) == 100


def test_wait_returns_at_once_when_there_is_an_entry(journal: Journal) -> None:
    revision = append(journal).revision
    assert journal.wait(0, timeout=0) is True
    assert journal.wait(revision, timeout=0) is False


def test_wait_gives_up_after_its_timeout_and_costs_little(journal: Journal) -> None:
    begin, cpu = monotonic(), thread_time()
    assert journal.wait(0, timeout=0.3) is False
    assert 0.3 <= monotonic() - begin < PATIENCE
    assert thread_time() - cpu < 0.1


def test_wait_is_ended_by_an_append(journal: Journal) -> None:
    outcome: list[bool] = []
    waiter = threading.Thread(target=lambda: outcome.append(journal.wait(0, timeout=PATIENCE)))
    waiter.start()
    append(journal)
    waiter.join(PATIENCE / 2)
    assert outcome == [True]


def test_several_threads_may_wait_at_once(journal: Journal) -> None:
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(journal.wait, 0, timeout=PATIENCE) for _ in range(3)]
        append(journal)
        assert [each.result(PATIENCE / 2) for each in waiting] == [True] * 3


def test_wait_is_ended_by_close(journal: Journal) -> None:
    waiter = threading.Thread(target=lambda: journal.wait(0, timeout=PATIENCE), daemon=True)
    waiter.start()
    journal.close()
    waiter.join(PATIENCE / 2)
    assert not waiter.is_alive()


def test_after_close_everything_is_refused_as_closed(journal: Journal) -> None:
    journal_id = journal.id
    append(journal)
    journal.close()
    journal.close()
    calls: list[Callable[[], object]] = [
        lambda: append(journal, "late"),
        lambda: journal.read(0, limit=1),
        lambda: journal.wait(0, timeout=1),
        journal.head,
    ]
    for call in calls:
        with pytest.raises(Closed):
            call()
    assert journal.id == journal_id


def test_close_finishes_the_appends_under_way_and_refuses_the_rest(journal: Journal) -> None:
    acknowledged: list[int] = []
    refused: list[str] = []

    def work(name: int) -> None:
        for n in itertools.count():
            try:
                acknowledged.append(append(journal, f"{name}-{n}").revision)
            except Closed:
                refused.append("closed")
                return

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(acknowledged) > 50)
    journal.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert refused == ["closed"] * 8
    assert len(set(acknowledged)) == len(acknowledged)


def test_a_repetition_beyond_the_window_is_an_entry_of_its_own() -> None:
    journal = SparseJournal()
    first = append(journal, "a")
    for name in range(WINDOW):
        append(journal, name)
    again = append(journal, "a")
    assert not again.duplicate
    assert again.revision > first.revision
    copies = [entry for entry in read_all(journal) if entry.id == new_entry("a").id]
    assert [entry.revision for entry in copies] == [first.revision, again.revision]


def test_a_beginning_that_was_removed_is_reported_not_skipped() -> None:
    journal = SparseJournal()
    revisions = [append(journal, name).revision for name in range(10)]
    journal.remove_before(revisions[5])
    with pytest.raises(NotKept) as removed:
        journal.read(revisions[5] - 2, limit=10)
    assert removed.value.oldest == revisions[5]
    rest = journal.read(revisions[5] - 1, limit=10)
    assert [entry.revision for entry in rest] == revisions[5:]
