"""The journal's head and its first entry after a revision, for `GetStatus`."""

import threading
from pathlib import Path

import pytest

from journal.backlog import Backlog
from journal.errors import Unavailable
from journal.port import JournalReader
from journal.sqlite import SqliteReader, SqliteWriter
from tests.support.journals import PATIENCE, append
from tests.support.sparse_journal import SparseJournal


def test_it_tells_the_head_and_when_the_first_entry_behind_came() -> None:
    journal = SparseJournal()
    backlog = Backlog(lambda: journal)
    assert backlog(0) == (0, None)
    revisions = [append(journal, n, received_at=1000 + n).revision for n in range(5)]
    head = revisions[-1]
    assert backlog(0) == (head, 1000)
    assert backlog(revisions[1]) == (head, 1002)
    assert backlog(head) == (head, None)
    assert backlog(head + 7) == (head, None)


def test_a_beginning_that_was_removed_counts_from_the_oldest_entry() -> None:
    journal = SparseJournal()
    revisions = [append(journal, n, received_at=1000 + n).revision for n in range(5)]
    journal.remove_before(revisions[3])
    assert Backlog(lambda: journal)(revisions[0]) == (revisions[-1], 1003)


def test_a_journal_that_is_not_there_yet_is_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    backlog = Backlog(lambda: SqliteReader(path))
    with pytest.raises(Unavailable, match="there is no journal"):
        backlog(0)
    journal = SqliteWriter(path)
    append(journal, received_at=5)
    assert backlog(0) == (1, 5)
    journal.close()


def test_a_question_beside_one_that_hangs_is_answered_in_time() -> None:
    begun, release = threading.Event(), threading.Event()

    def open_reader() -> JournalReader:
        begun.set()
        release.wait(PATIENCE)
        return SparseJournal()

    backlog = Backlog(open_reader, patience=0.05)
    hanging = threading.Thread(target=backlog, args=(0,))
    hanging.start()
    assert begun.wait(PATIENCE)
    with pytest.raises(Unavailable, match="does not answer"):
        backlog(0)
    release.set()
    hanging.join(PATIENCE)
    assert backlog(0) == (0, None)
