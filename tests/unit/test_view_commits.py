"""The view's transactions: whatever fails leaves no trace, and nothing is left in between."""

import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from structlog.testing import capture_logs

from journal.entry import Entry
from journal.errors import InUse
from service.projection import Projection
from service.view import store
from service.view.errors import ContentRefused, ViewDamaged, ViewError
from service.view.locks import discard
from service.view.writer import ViewWriter
from tests.support.callbacks import NOON
from tests.support.views import JOURNAL, connected, digest, fixed_journal, project, read


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of `fixed_journal`, applied without a fault."""
    folder = tmp_path_factory.mktemp("expected")
    project(folder, fixed_journal()).close()
    return digest(folder)


def test_a_batch_that_fails_leaves_no_trace(tmp_path, expected):
    with connected(tmp_path) as (writer, db):
        projection = Projection(writer, JOURNAL)
        journal = fixed_journal()
        db.set_commit_hook(lambda: True)
        with pytest.raises(ContentRefused):
            projection.apply(journal, head=9, behind_since=None)
        db.set_commit_hook(None)
        assert writer.progress() is None
        Projection(writer, JOURNAL).apply(journal, head=9, behind_since=None)
    assert digest(tmp_path) == expected


def test_batches_with_more_behind_them_leave_the_same_view(tmp_path, expected):
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL)
    journal = fixed_journal()
    for each in journal[:-1]:
        projection.apply([each], head=8, behind_since=NOON)
    projection.apply(journal[-1:], head=8, behind_since=None)
    writer.close()
    assert digest(tmp_path) == expected


def test_a_commit_that_fails_behind_a_batch_is_told_by_the_next_and_leaves_no_trace(
    tmp_path, expected
):
    with connected(tmp_path) as (writer, db):
        projection = Projection(writer, JOURNAL)
        journal = fixed_journal()
        projection.apply(journal[:2], head=8, behind_since=NOON)
        writer.settle()
        db.set_commit_hook(lambda: True)
        projection.apply(journal[2:4], head=8, behind_since=NOON)
        with pytest.raises(ContentRefused):
            projection.apply(journal[4:], head=8, behind_since=None)
        db.set_commit_hook(None)
        again = Projection(writer, JOURNAL)
        assert again.progress.applied_revision == 2
        again.apply(journal[2:], head=8, behind_since=None)
    assert digest(tmp_path) == expected


def apply_each(projection: Projection, journal: list[Entry], behind_since: int | None) -> None:
    for each in journal:
        projection.apply([each], head=len(journal), behind_since=behind_since)


@pytest.mark.parametrize("behind_since", [None, NOON])
def test_a_projection_that_has_failed_refuses_to_leave_a_gap(tmp_path, behind_since):
    with connected(tmp_path) as (writer, db):
        projection = Projection(writer, JOURNAL)
        journal = fixed_journal()
        db.set_commit_hook(lambda: True)
        with pytest.raises(ContentRefused):
            apply_each(projection, journal[:2], behind_since)
        db.set_commit_hook(None)
        with pytest.raises(AssertionError, match="must not be used"):
            projection.apply(journal[2:], head=9, behind_since=None)
        assert writer.progress() is None


def slowly(*, fail: bool) -> Callable[[], bool]:
    """Make a hook that delays a commit, and makes it fail if asked."""
    due = threading.Event()
    threading.Timer(0.2, due.set).start()
    return lambda: not due.wait(60) or fail


def test_progress_waits_for_the_commit_under_way_and_tells_that_it_failed(tmp_path):
    with connected(tmp_path) as (writer, db):
        projection = Projection(writer, JOURNAL)
        journal = fixed_journal()
        projection.apply(journal[:2], head=9, behind_since=None)
        db.set_commit_hook(slowly(fail=True))
        projection.apply(journal[2:], head=9, behind_since=NOON)
        with pytest.raises(ContentRefused):
            writer.progress()
        on_disk = writer.progress()
    assert on_disk
    assert on_disk.applied_revision == 2


def test_closing_waits_for_the_commit_under_way(tmp_path):
    with capture_logs() as logs, connected(tmp_path) as (writer, db):
        db.set_commit_hook(slowly(fail=False))
        Projection(writer, JOURNAL).apply(fixed_journal(), head=9, behind_since=NOON)
    assert logs == []
    assert read(tmp_path, "SELECT applied_revision FROM progress") == [(9,)]


def test_closing_ends_the_thread_that_commits(tmp_path):
    before = set(threading.enumerate())
    writer = ViewWriter(tmp_path)
    Projection(writer, JOURNAL).apply(fixed_journal(), head=9, behind_since=NOON)
    assert set(threading.enumerate()) - before
    writer.close()
    assert not set(threading.enumerate()) - before


def test_closing_logs_that_the_last_commit_failed(tmp_path):
    with capture_logs() as logs, connected(tmp_path) as (writer, db):
        db.set_commit_hook(lambda: True)
        Projection(writer, JOURNAL).apply(fixed_journal(), head=9, behind_since=NOON)
    assert [(line["event"], line["error"]) for line in logs] == [
        ("view_commit_failed", "ContentRefused")
    ]
    assert read(tmp_path, "SELECT applied_revision FROM progress") == []


def damaged_at(statement: str) -> Callable[..., bool]:
    """Make a hook that finds the view damaged at a statement, and lets no ROLLBACK through."""

    def look(_cursor: apsw.Cursor, current: str, _bindings: object) -> bool:
        if statement in current:
            raise apsw.CorruptError("damaged")
        return current != "ROLLBACK"

    return look


@pytest.mark.parametrize("statement", ["COMMIT", "INTO feed"])
def test_a_batch_that_cannot_be_rolled_back_tells_why_it_failed_and_leaves_no_trace(
    tmp_path, statement
):
    with connected(tmp_path) as (writer, db):
        db.exec_trace = damaged_at(statement)
        with pytest.raises(ViewDamaged):
            Projection(writer, JOURNAL).apply(fixed_journal(), head=9, behind_since=None)
        db.exec_trace = None
        assert db.in_transaction
        assert writer.progress() is None


def test_a_transaction_begins_although_one_before_could_not_be_rolled_back(tmp_path, expected):
    with connected(tmp_path) as (writer, db):
        projection = Projection(writer, JOURNAL)
        db.exec_trace = damaged_at("COMMIT")
        with pytest.raises(ViewDamaged), writer.transaction():
            writer.add_rejection(1, 1)
        db.exec_trace = None
        assert db.in_transaction
        projection.apply(fixed_journal(), head=9, behind_since=None)
    assert digest(tmp_path) == expected
    assert read(tmp_path, "SELECT 1 FROM rejections WHERE position = 1") == []


def test_an_entry_that_cannot_be_applied_is_named(tmp_path):
    with connected(tmp_path) as (writer, db):
        projection = Projection(writer, JOURNAL)
        db.exec_trace = damaged_at("FROM session_keys")
        with capture_logs() as logs, pytest.raises(ViewDamaged):
            projection.apply(fixed_journal(), head=9, behind_since=None)
        db.exec_trace = None
    assert [(line["event"], line["revision"]) for line in logs] == [("entry_not_applied", 1)]


def test_a_view_is_renewed_whatever_became_of_its_last_commit(tmp_path, expected):
    with connected(tmp_path) as (writer, db):
        db.set_commit_hook(lambda: True)
        Projection(writer, JOURNAL).apply(fixed_journal(), head=9, behind_since=NOON)
        writer.renew()
        assert writer.progress() is None
        Projection(writer, JOURNAL).apply(fixed_journal(), head=8, behind_since=None)
    assert digest(tmp_path) == expected


def test_a_second_follower_is_refused(tmp_path):
    writer = ViewWriter(tmp_path)
    with pytest.raises(InUse, match="another follower"):
        ViewWriter(tmp_path)
    writer.close()
    ViewWriter(tmp_path).close()


def test_the_view_of_another_version_is_discarded_unless_it_is_in_use(tmp_path):
    project(tmp_path, fixed_journal()).close()
    other = tmp_path / "view-0123456789ab.db"
    for suffix in ("", "-wal", ".lock"):
        Path(f"{other}{suffix}").write_bytes(b"")
    assert store.others(tmp_path) == [other]
    assert discard(other)
    assert store.others(tmp_path) == []
    writer = ViewWriter(tmp_path)
    assert not discard(store.locate(tmp_path))
    writer.close()


def test_a_view_that_cannot_be_opened_lets_go_of_the_lock(tmp_path):
    store.locate(tmp_path).mkdir()
    for _ in range(2):
        with pytest.raises(ViewError):
            ViewWriter(tmp_path)
    store.locate(tmp_path).rmdir()
    ViewWriter(tmp_path).close()
