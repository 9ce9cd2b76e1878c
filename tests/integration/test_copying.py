"""A copy of a journal beside forgetting: what its source has deleted since."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from journal.copying import check_target, compare, copy_entries
from journal.errors import OtherEntries
from journal.forgetting import forget_entry
from journal.sqlite import SqliteReader, SqliteWriter
from journal.sqlite_copy import FileTarget
from journal.sqlite_eraser import SqliteEraser
from tests.support.callbacks import APP, NOON
from tests.support.copies import append_real, change


def quietly(*_: object) -> None:
    """Report nothing."""


class Copied(NamedTuple):
    """A journal of ten entries, and a copy of it."""

    path: Path
    source: SqliteReader
    target: FileTarget


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Copied]:
    path = tmp_path / "journal.db"
    append_real(path, 1, 10)
    with (
        closing(SqliteWriter(path)),
        closing(SqliteReader(path)) as source,
        closing(FileTarget(tmp_path / "copy.db", source.id, oldest=1)) as target,
    ):
        copy_entries(source, target, quietly)
        yield Copied(path, source, target)


def forget(copied: Copied, *revisions: int) -> None:
    eraser = SqliteEraser(copied.path)
    eraser.forget(forget_entry(APP, NOON, session_ids=["s"], up_to=max(revisions)))
    eraser.delete(revisions)


def test_a_backup_may_have_what_was_forgotten_since(copied: Copied) -> None:
    forget(copied, 1, 4, 5, 10)
    found = compare(copied.source, copied.target, quietly, may_have_forgotten=True)
    assert (found.head, found.entries) == (10, 6)


def test_a_copy_that_goes_on_must_be_made_again(copied: Copied) -> None:
    forget(copied, 4, 5)
    copy_entries(copied.source, copied.target, quietly)
    with pytest.raises(OtherEntries, match="revision 4 was forgotten since it was copied"):
        compare(copied.source, copied.target, quietly)


def test_a_copy_whose_last_entry_was_forgotten_must_be_made_again(copied: Copied) -> None:
    forget(copied, 10)
    with pytest.raises(OtherEntries, match="revision 10 was forgotten"):
        check_target(copied.source, copied.target)


@pytest.mark.parametrize("is_backup", [True, False])
def test_what_is_missing_without_a_forget_entry_behind_it_is_a_difference(
    copied: Copied, is_backup: bool
) -> None:
    change(copied.path, "DELETE FROM entries WHERE revision = 7")
    with pytest.raises(OtherEntries, match="differ at revision 7"):
        compare(copied.source, copied.target, quietly, may_have_forgotten=is_backup)
