"""The view's connections are set up as the view's promises need them."""

from contextlib import closing
from pathlib import Path

from service.view import store


def test_the_writer_leaves_it_to_checkpoints_to_wait_for_the_disk(tmp_path: Path) -> None:
    # NORMAL; FULL, which is what SQLite starts with, would sync with every batch.
    with closing(store.open_writer(tmp_path / "view.db")) as db:
        assert (db.pragma("journal_mode"), db.pragma("synchronous")) == ("wal", 1)


def test_the_writer_is_bounded(tmp_path: Path) -> None:
    with closing(store.open_writer(tmp_path / "view.db")) as db:
        assert db.pragma("cache_size") == -store.CACHE_KIB
        assert db.pragma("journal_size_limit") == store.WAL_KEPT
