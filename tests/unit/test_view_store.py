"""The view's connections are set up as the view's promises need them."""

from contextlib import closing
from pathlib import Path

import apsw
import pytest

from callback.decoder import MAX_AHEAD, MAX_NAME
from service.history import FoldLimits
from service.view import store


def test_the_writer_leaves_it_to_checkpoints_to_wait_for_the_disk(tmp_path: Path) -> None:
    # NORMAL; FULL, which is what SQLite starts with, would sync with every batch.
    with closing(store.open_writer(tmp_path / "view.db")) as db:
        assert (db.pragma("journal_mode"), db.pragma("synchronous")) == ("wal", 1)


def test_the_writer_is_bounded(tmp_path: Path) -> None:
    with closing(store.open_writer(tmp_path / "view.db")) as db:
        assert db.pragma("cache_size") == -store.CACHE_KIB
        assert db.pragma("journal_size_limit") == store.WAL_KEPT


def test_what_the_writer_needs_to_undo_a_statement_stays_in_memory(tmp_path: Path) -> None:
    with closing(store.open_writer(tmp_path / "view.db")) as db:
        assert db.pragma("temp_store") == 2  # MEMORY


@pytest.mark.parametrize("opening", [store.open_writer, store.open_reader])
def test_a_plan_depends_on_the_statement_alone(tmp_path: Path, opening: object) -> None:
    path = tmp_path / "view.db"
    store.open_writer(path).close()
    with closing(opening(path)) as db:  # type: ignore[operator]
        assert db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1) == 1


def test_other_limits_make_another_view() -> None:
    assert {MAX_AHEAD, MAX_NAME} <= set(store.BOUNDS)
    limits, bounds = FoldLimits(callbacks=7), (*store.BOUNDS[:-1], 7)
    views = {
        store.fingerprint(),
        store.fingerprint(limits=limits),
        store.fingerprint(bounds=bounds),
    }
    assert len(views) == 3
