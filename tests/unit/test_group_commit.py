"""Batches: how large, in which order, and what becomes of a commit that breaks."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from journal.entry import Appended, NewEntry
from journal.errors import Closed, Unavailable
from journal.group_commit import MAX_BATCH, MAX_BATCH_BYTES, GroupCommit
from tests.support.journals import PATIENCE, new_entry
from tests.support.waiting import eventually


class Log:
    """Takes batches once it may, and remembers them."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[NewEntry]] = []
        self.tidied = 0

    def commit(self, entries: Sequence[NewEntry]) -> list[Appended]:
        self.entered.set()
        assert self.may.wait(PATIENCE)
        first = 1 + sum(map(len, self.batches))
        self.batches.append(list(entries))
        return [Appended(first + n, False) for n in range(len(entries))]

    def tidy(self) -> None:
        self.tidied += 1


def append_while_held(log: Log, entries: Sequence[NewEntry]) -> list[Appended]:
    """Append `entries` from a thread each while the first one's commit is held up."""
    commits = GroupCommit(log.commit, afterwards=log.tidy)
    with ThreadPoolExecutor(len(entries)) as pool:
        futures = [pool.submit(commits.append, entries[0], timeout=PATIENCE)]
        assert log.entered.wait(PATIENCE)
        futures += [pool.submit(commits.append, e, timeout=PATIENCE) for e in entries[1:]]
        eventually(lambda: len(commits._waiting) == len(entries) - 1)
        log.may.set()
        outcomes = [future.result() for future in futures]
    assert commits.close(timeout=PATIENCE)
    return outcomes


def test_those_who_wait_share_one_commit_and_get_each_their_own_outcome() -> None:
    log = Log()
    entries = [new_entry(n) for n in range(20)]
    outcomes = append_while_held(log, entries)
    assert [len(batch) for batch in log.batches] == [1, 19]
    assert log.tidied == 2
    stored = [entry for batch in log.batches for entry in batch]
    assert [stored[outcome.revision - 1] for outcome in outcomes] == entries


def test_a_batch_has_a_limit_of_entries() -> None:
    log = Log()
    append_while_held(log, [new_entry(n) for n in range(MAX_BATCH + 11)])
    assert [len(batch) for batch in log.batches] == [1, MAX_BATCH, 10]


def test_a_batch_has_a_limit_of_bytes_but_takes_at_least_one_entry() -> None:
    log = Log()
    sizes = [1] + [MAX_BATCH_BYTES // 4] * 9
    append_while_held(log, [new_entry(n, body=bytes(size)) for n, size in enumerate(sizes)])
    assert [len(batch) for batch in log.batches] == [1, 4, 4, 1]
    huge = Log()
    append_while_held(huge, [new_entry(n, body=bytes(MAX_BATCH_BYTES + 1)) for n in range(3)])
    assert [len(batch) for batch in huge.batches] == [1, 1, 1]


def test_a_commit_that_breaks_in_an_unforeseen_way_is_unavailable_and_not_the_end() -> None:
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
