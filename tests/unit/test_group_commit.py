"""Batches: their size, their order, and a commit that fails."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from journal.entry import Appended, NewEntry
from journal.errors import AppendTimedOut, Closed, JournalError, Overloaded, Unavailable
from journal.group_commit import LIMITS, CommitLimits, GroupCommit
from journal.port import Waiter
from tests.support.journals import PATIENCE, new_entry
from tests.support.waiting import eventually


class Log:
    """A storage that commits once it may, and remembers the batches."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[NewEntry]] = []
        self.checkpoints = 0

    def commit(self, entries: Sequence[NewEntry]) -> list[Appended]:
        self.entered.set()
        assert self.may.wait(PATIENCE)
        first = 1 + sum(map(len, self.batches))
        self.batches.append(list(entries))
        return [Appended(first + n, False) for n in range(len(entries))]

    def checkpoint(self) -> None:
        self.checkpoints += 1


class Sleepers:
    """Counts the appenders that have begun to wait."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def event(self) -> Waiter:
        sleepers = self

        class Event(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                with sleepers._lock:
                    sleepers.count += 1
                return super().wait(timeout)

        return Event()


def append_while_hanging(log: Log, entries: Sequence[NewEntry]) -> list[Appended]:
    """Append `entries` from a thread each while the commit of the first one hangs."""
    commits = GroupCommit(log.commit, afterwards=log.checkpoint)
    asleep = Sleepers()

    def append(entry: NewEntry) -> Appended:
        return commits.append(entry, timeout=PATIENCE, event=asleep.event)

    with ThreadPoolExecutor(len(entries)) as pool:
        futures = [pool.submit(append, entries[0])]
        assert log.entered.wait(PATIENCE)
        futures += [pool.submit(append, entry) for entry in entries[1:]]
        eventually(lambda: asleep.count == len(entries))
        log.may.set()
        outcomes = [future.result() for future in futures]
    assert commits.close(timeout=PATIENCE)
    return outcomes


def test_every_append_is_committed_and_returns() -> None:
    log = Log()
    log.may.set()
    commits = GroupCommit(log.commit, afterwards=log.checkpoint)

    def append_one_by_one(first: int) -> None:
        for number in range(first, first + 3_000):
            commits.append(new_entry(number), timeout=PATIENCE)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(append_one_by_one, (0, 3_000)))
    assert commits.close(timeout=PATIENCE)
    assert sum(map(len, log.batches)) == 6_000


def test_waiting_appends_share_one_commit_and_each_gets_its_own_outcome() -> None:
    log = Log()
    entries = [new_entry(n) for n in range(20)]
    outcomes = append_while_hanging(log, entries)
    assert [len(batch) for batch in log.batches] == [1, 19]
    assert log.checkpoints == 2
    stored = [entry for batch in log.batches for entry in batch]
    assert [stored[outcome.revision - 1] for outcome in outcomes] == entries


def test_a_batch_has_a_limit_of_entries() -> None:
    log = Log()
    append_while_hanging(log, [new_entry(n) for n in range(LIMITS.batch + 11)])
    assert [len(batch) for batch in log.batches] == [1, LIMITS.batch, 10]


def test_a_batch_has_a_limit_of_bytes_but_takes_at_least_one_entry() -> None:
    log = Log()
    sizes = [1] + [LIMITS.batch_bytes // 4] * 9
    append_while_hanging(log, [new_entry(n, body=bytes(size)) for n, size in enumerate(sizes)])
    assert [len(batch) for batch in log.batches] == [1, 4, 4, 1]
    huge = Log()
    append_while_hanging(huge, [new_entry(n, body=bytes(LIMITS.batch_bytes + 1)) for n in range(3)])
    assert [len(batch) for batch in huge.batches] == [1, 1, 1]


Hanging = tuple[Log, GroupCommit, Future[Appended]]


@contextmanager
def hanging_commit(limits: CommitLimits) -> Iterator[Hanging]:
    """Make a commit hang, with one entry in it, until `log.may` is set."""
    log = Log()
    commits = GroupCommit(log.commit, afterwards=log.checkpoint, limits=limits)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(commits.append, new_entry("first"), timeout=PATIENCE)
        assert log.entered.wait(PATIENCE)
        yield log, commits, first
        log.may.set()
    assert commits.close(timeout=PATIENCE)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    with hanging_commit(CommitLimits(waiting=3)) as hanging:
        yield hanging


def give_up(commits: GroupCommit, name: object) -> None:
    with pytest.raises(AppendTimedOut):
        commits.append(new_entry(name), timeout=0)


def test_an_entry_that_no_commit_has_taken_in_time_is_withdrawn(hanging: Hanging) -> None:
    log, commits, first = hanging
    give_up(commits, "second")
    log.may.set()
    assert first.result(PATIENCE).revision == 1
    assert commits.append(new_entry("third"), timeout=PATIENCE).revision == 2
    assert log.batches == [[new_entry("first")], [new_entry("third")]]


def test_nothing_is_committed_if_every_waiting_append_was_withdrawn(hanging: Hanging) -> None:
    log, commits, first = hanging
    give_up(commits, "second")
    log.may.set()
    assert first.result(PATIENCE).revision == 1
    assert commits.close(timeout=PATIENCE)
    assert log.batches == [[new_entry("first")]]


def test_appends_in_a_commit_and_waiting_appends_are_bounded_together(
    hanging: Hanging,
) -> None:
    log, commits, _ = hanging
    with ThreadPoolExecutor(2) as pool:
        patient = [pool.submit(commits.append, new_entry(n), timeout=PATIENCE) for n in range(2)]
        eventually(lambda: "overloaded" in commits.trouble())
        with pytest.raises(Overloaded):
            commits.append(new_entry("too many"), timeout=PATIENCE)
        log.may.set()
        assert {future.result(PATIENCE).revision for future in patient} == {2, 3}
    assert commits.trouble() == ""


def test_a_withdrawn_append_does_not_count_as_waiting(
    hanging: Hanging,
) -> None:
    _, commits, _ = hanging
    for number in range(10):
        give_up(commits, number)


def test_a_commit_that_takes_long_is_trouble_while_it_lasts() -> None:
    with hanging_commit(CommitLimits(slow=0.0)) as (log, commits, first):
        eventually(lambda: commits.trouble() == "the disk does not answer")
        log.may.set()
        first.result(PATIENCE)
        eventually(lambda: commits.trouble() == "")


def test_a_failed_commit_is_trouble_until_one_succeeds() -> None:
    works = threading.Event()

    def commit(entries: Sequence[NewEntry]) -> list[Appended]:
        if not works.is_set():
            raise Unavailable("/secret/disk is full")
        return [Appended(1, False)] * len(entries)

    commits = GroupCommit(commit, afterwards=lambda: None)
    with pytest.raises(Unavailable):
        commits.append(new_entry(), timeout=PATIENCE)
    assert commits.trouble() == "the last commit failed"
    works.set()
    commits.append(new_entry(), timeout=PATIENCE)
    assert commits.trouble() == ""
    assert commits.close(timeout=PATIENCE)
    assert commits.trouble() == "the journal is closed"


def test_a_commit_of_which_all_is_refused_is_trouble_with_its_reason() -> None:
    outcomes: list[Appended | JournalError] = [Unavailable("the stream is full")]
    commits = GroupCommit(lambda _: outcomes, afterwards=lambda: None)
    with pytest.raises(Unavailable):
        commits.append(new_entry(), timeout=PATIENCE)
    assert commits.trouble() == "the stream is full"
    assert commits.close(timeout=PATIENCE)


def test_without_appends_a_regular_check_finds_trouble_and_its_end() -> None:
    found: list[str | Exception] = [""]

    def check() -> str:
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    log = Log()
    commits = GroupCommit(
        log.commit, afterwards=log.checkpoint, check=check, limits=CommitLimits(check_after=0.01)
    )
    found[0] = Unavailable("/secret/disk is gone")
    eventually(lambda: commits.trouble() == "the journal cannot be used: Unavailable")
    found[0] = "the stream is full"
    eventually(lambda: commits.trouble() == "the stream is full")
    found[0] = ""
    eventually(lambda: commits.trouble() == "")
    assert commits.close(timeout=PATIENCE)
    assert log.batches == []


def test_each_caller_of_a_failed_commit_gets_an_exception_of_its_own_with_the_cause() -> None:
    disk_full = Unavailable("the disk is full")
    entered, may = threading.Event(), threading.Event()

    def commit(entries: Sequence[NewEntry]) -> list[Appended]:
        entered.set()
        assert may.wait(PATIENCE)
        raise disk_full

    commits = GroupCommit(commit, afterwards=lambda: None)
    with ThreadPoolExecutor(3) as pool:
        appends = [pool.submit(commits.append, new_entry("first"), timeout=PATIENCE)]
        assert entered.wait(PATIENCE)
        appends += [pool.submit(commits.append, new_entry(n), timeout=PATIENCE) for n in range(2)]
        may.set()
        failures = [append.exception() for append in appends]
    assert len({id(failure) for failure in failures}) == 3
    assert {str(failure) for failure in failures} == {"the disk is full"}
    assert {getattr(failure, "__cause__", None) for failure in failures} == {disk_full}
    assert commits.close(timeout=PATIENCE)


def test_after_an_unforeseen_error_in_a_commit_later_ones_succeed() -> None:
    broken = [True]

    def commit(entries: Sequence[NewEntry]) -> list[Appended]:
        if broken.pop():
            raise ZeroDivisionError("a bug")
        return [Appended(1, False)] * len(entries)

    commits = GroupCommit(commit, afterwards=lambda: None)
    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        commits.append(new_entry(), timeout=PATIENCE)
    broken.append(False)
    assert commits.append(new_entry(), timeout=PATIENCE).revision == 1
    assert commits.close(timeout=PATIENCE)
    with pytest.raises(Closed):
        commits.append(new_entry(), timeout=PATIENCE)
