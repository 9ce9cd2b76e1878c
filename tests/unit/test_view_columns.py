"""Rows are written without naming columns: their fields are the columns of their tables."""

from contextlib import closing
from pathlib import Path

import pytest

from service.view import store
from service.view.progress import Progress
from service.view.rows import FeedRow, SavedKey, SessionRow


@pytest.mark.parametrize(
    ("table", "fields"),
    [
        ("feed", FeedRow._fields),
        ("sessions", SessionRow._fields),
        ("session_keys", SavedKey._fields),
        ("progress", ("only", *Progress.__struct_fields__)),
    ],
)
def test_a_row_has_the_columns_of_its_table(
    table: str, fields: tuple[str, ...], tmp_path: Path
) -> None:
    with closing(store.open_writer(tmp_path / "view.db")) as db:
        columns = db.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", (table,))
        assert tuple(name for (name,) in columns) == fields
