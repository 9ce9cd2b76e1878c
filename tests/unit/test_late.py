"""The journal that is opened as soon as possible."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from journal.errors import InUse, JournalError, Unavailable
from journal.late import LateWriter
from journal.memory import MemoryJournal
from journal.port import JournalWriter
from tests.support.journals import PATIENCE, new_entry
from tests.support.waiting import eventually


class Opening:
    """Fails with given errors, then opens a journal in memory."""

    def __init__(self, *errors: JournalError) -> None:
        self._errors: Iterator[JournalError] = iter(errors)
        self.may_go_on = threading.Event()
        self.opened = threading.Event()
        self.failed = threading.Event()
        self.reasons: list[str] = []

    def open(self) -> JournalWriter:
        if self.reasons:
            self.may_go_on.wait(PATIENCE)
        for error in self._errors:
            raise error
        return MemoryJournal()

    def writer(self) -> LateWriter:
        return LateWriter(
            self.open,
            on_open=self.opened.set,
            on_failure=self.failed.set,
            on_wait=self.reasons.append,
        )


def test_a_journal_that_is_there_is_open_at_once() -> None:
    opening = Opening()
    with closing(opening.writer()) as journal:
        assert opening.opened.is_set()
        assert journal.append(new_entry(), timeout=PATIENCE).revision == 1
        assert journal.trouble() == ""


def test_until_it_is_open_nothing_is_taken_and_the_reason_is_told() -> None:
    opening = Opening(Unavailable("the disk is full"), Unavailable("still full"))
    with closing(opening.writer()) as journal:
        with pytest.raises(Unavailable, match="the disk is full"):
            journal.append(new_entry(), timeout=PATIENCE)
        assert journal.trouble() == "the journal cannot be opened: the disk is full"
        opening.may_go_on.set()
        assert opening.opened.wait(PATIENCE)
        assert journal.append(new_entry(), timeout=PATIENCE).revision == 1
        assert opening.reasons == ["the disk is full", "still full"]


def test_an_error_for_good_at_once_is_raised() -> None:
    with pytest.raises(InUse):
        Opening(InUse("by another")).writer()


def test_an_error_for_good_later_is_kept_and_told() -> None:
    opening = Opening(Unavailable("full"), InUse("by another"))
    with closing(opening.writer()) as journal:
        opening.may_go_on.set()
        assert opening.failed.wait(PATIENCE)
        eventually(lambda: isinstance(journal.failure, InUse))
        assert journal.trouble() == "by another"


def test_a_close_ends_the_attempts() -> None:
    opening = Opening(*[Unavailable("full")] * 1000)
    opening.may_go_on.set()
    journal = opening.writer()
    journal.close()
    with pytest.raises(Unavailable):
        journal.append(new_entry(), timeout=PATIENCE)
