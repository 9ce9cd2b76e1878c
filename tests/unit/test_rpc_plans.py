"""No page of sessions or part of the feed is found by sorting or by looking at everything."""

from collections import Counter
from contextlib import closing
from functools import partial
from itertools import chain, combinations, product
from pathlib import Path

import pytest

from service.view import queries, store, walks
from service.view import reader as readers
from service.view.reader import Reader
from service.view.selection import Between, EventSelection, SessionSelection
from service.view.walks import Order
from service.view.writer import LOAD_HISTORY, LOAD_REVISIONS, LOAD_SESSION, SAVE_SESSION

FILTERS = {
    "sdk_app_ids": (1, 2),
    "states": (3, 7),
    "agent_ids": ("a", "b"),
    "client_user_ids": ("u",),
    "channel_types": ("SDK",),
    "end_reasons": (0, 1),
    "begun": Between(100, None),
    "ended": Between(150, None),
    "active": Between(None, 250_000),
}
COMBINATIONS = [*chain.from_iterable(combinations(FILTERS, n) for n in range(3)), tuple(FILTERS)]
ORDERS = [
    Order(column, descending)
    for column in ("begun_at", "last_event_at", "ended_at")
    for descending in (True, False)
]
LATER = {"begun_at": 0, "ended_at": 50, "last_event_at": 100}
"""Milliseconds from a session's number, which is when it began."""

KEY_FOUND = "SEARCH session_keys USING PRIMARY KEY (session_id=? AND sdk_app_id=?)"

OF_SESSION = "(first_revision=? AND revised=? AND rowid<?)"

SHARE = 200
"""Rows that a page looks at here, at most."""


class Recording(Reader):
    """Notes the statements of walks."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.walked: list[tuple[str, tuple[int | str, ...]]] = []

    def walk(self, sql: str, values: tuple[int | str, ...], last: int) -> list[tuple[int, int]]:
        self.walked.append((sql, (*values, last)))
        return super().walk(sql, values, last)


def fill(path: Path, sessions: int) -> None:
    """Make a view of sessions that differ in everything that a filter may ask about."""
    with closing(store.open_writer(path)) as db, db:
        db.executemany(SAVE_SESSION, map(session, range(1, sessions + 1)))


def session(n: int) -> tuple[int | str | bytes | None, ...]:
    ended = n + LATER["ended_at"] if n % 3 else None
    kinds = (n % 2 + 1, f"s{n}", n, n % 7 + 1, n % 5, f"{'uvw'[n % 3]}", ("SDK", "Web")[n % 2])
    return (
        n,
        *kinds,
        "abcd"[n % 4],
        n,
        ended,
        n + LATER["last_event_at"],
        n % 6,
        1,
        2,
        None,
        b"session",
        b"fold",
    )


@pytest.fixture
def reader(tmp_path):
    path = tmp_path / "view.db"
    fill(path, 2_000)
    with closing(Recording(path)) as opened:
        yield opened


def read_pages(reader: Reader, names: tuple[str, ...], order: Order, sessions: int) -> None:
    """Read the first page, and one from the middle of the list."""
    selection = SessionSelection(**{name: FILTERS[name] for name in names})
    middle = (sessions // 2 + LATER[order.column], sessions // 2)
    for after in (None, middle):
        walks.page(reader, selection, order, after, 10)


@pytest.mark.parametrize("order", ORDERS)
def test_sessions_are_walked_along_an_index_in_every_order(reader, monkeypatch, order):
    monkeypatch.setattr(walks, "SCAN_ROWS", SHARE)
    for names in COMBINATIONS:
        reader.walked.clear()
        read_pages(reader, names, order, 2_000)
        assert len(reader.walked) >= 2
        for sql, values in reader.walked:
            (step,) = reader.plan(sql, values)
            assert step.startswith("SEARCH sessions USING"), (sql, step)
            assert f"{order.column}>? AND {order.column}<?)" in step, (sql, step)


def test_a_page_is_as_much_work_in_a_large_view_as_in_a_small_one(tmp_path, monkeypatch):
    monkeypatch.setattr(walks, "SCAN_ROWS", SHARE)
    least, most = (costs(tmp_path / f"{n}.db", n, monkeypatch) for n in (3_000, 12_000))
    for question, steps in most.items():
        assert steps <= least[question] * 1.15, question


def costs(path: Path, sessions: int, monkeypatch) -> dict[object, int]:
    """What pages cost, in steps of SQLite's machine."""
    fill(path, sessions)
    connection = store.open_reader(path)
    monkeypatch.setattr(readers, "open_reader", lambda _: connection)
    steps: Counter[object] = Counter()
    with closing(Reader(path)) as reader:
        for question in product(COMBINATIONS, ORDERS):
            connection.set_progress_handler(partial(count, steps, question), 10)
            read_pages(reader, *question, sessions)
    return steps


def count(steps: Counter[object], question: object) -> bool:
    steps[question] += 1
    return False  # go on


def test_a_session_is_found_by_its_key(reader):
    of_progress, _, of_sessions, _, of_key = reader.plan(queries.SESSION_NOW, (1, "s"))
    assert of_progress == "SCAN progress"  # its one row
    assert of_sessions.startswith("SEARCH sessions USING INTEGER PRIMARY KEY")
    assert of_key == KEY_FOUND
    (step,) = reader.plan(queries.SESSION_BY_NUMBER, (1,))
    assert step.startswith("SEARCH sessions USING INTEGER PRIMARY KEY")


def test_the_feed_is_read_in_its_own_order(reader):
    where = EventSelection(agent_ids=("a",), verdicts=10).where()
    sql = queries.FEED.format(columns=queries.RECORD_COLUMNS, where=where.sql)
    step, *borrowed = reader.plan(sql, (1, 2, *where.values))
    assert step.startswith("SEARCH feed USING INTEGER PRIMARY KEY")
    assert borrowed[1:] == ["SEARCH own USING INTEGER PRIMARY KEY (rowid=?)"]


def test_the_feed_of_a_session_is_found_in_the_index_alone(reader):
    sql = queries.FEED_OF_SESSIONS.format(where=" AND session_id IN (?)")
    step, _, of_key, *_ = reader.plan(sql, (1, 2, "s", 10))
    assert step.startswith("SEARCH feed USING COVERING INDEX feed_by_session (first_revision=?")
    assert of_key == "SEARCH session_keys USING PRIMARY KEY (session_id=?)"


def test_a_few_rejections_are_found_without_sorting(reader):
    where = EventSelection(agent_ids=("a",), reasons=(1,)).where()
    plan = reader.plan(queries.REJECTIONS.format(where=where.sql), (9, 1, *where.values, 10))
    assert [step.split(" USING")[0] for step in plan] == [
        "SEARCH rejections",
        "SEARCH feed",
        "CORRELATED SCALAR SUBQUERY 1",
        "SEARCH own",
    ]


def test_a_session_as_of_a_revision_is_found_without_sorting(reader):
    row, *found = reader.plan(queries.SESSION_AS_OF, ("s", 1, 5))
    assert row == "SEARCH feed USING INTEGER PRIMARY KEY (rowid=?)"
    assert [step for step in found if step.startswith("SEARCH")] == [
        f"SEARCH feed USING COVERING INDEX feed_by_session {OF_SESSION}",
        KEY_FOUND,
        f"SEARCH feed USING COVERING INDEX feed_by_session {OF_SESSION}",
    ]


def test_the_facts_of_a_session_are_found_without_sorting(reader):
    step, _, of_key = reader.plan(queries.FACTS_OF_SESSION, ("s", 1, 0, 5))
    assert step == f"SEARCH feed USING INDEX feed_by_session {OF_SESSION}"
    assert of_key == KEY_FOUND


def test_the_callbacks_of_a_session_are_counted_in_the_index_alone(reader):
    steps = reader.plan(queries.CALLBACKS_OF_SESSION, (1, "s", 5))
    assert steps[0] == KEY_FOUND
    found = "SEARCH feed USING COVERING INDEX feed_by_session (first_revision=? AND revised=?)"
    assert found in steps


def test_a_snapshot_looks_for_later_changes_in_the_index_alone(reader):
    sql = queries.SESSIONS_SNAPSHOT.format(where=" AND agent_id IN (?)")
    steps = reader.plan(sql, (1, 9, "a", 10))
    assert steps[0].startswith("SEARCH sessions USING INTEGER PRIMARY KEY")
    assert steps[2].startswith("SEARCH feed USING COVERING INDEX feed_by_session (first_revision=?")


def test_the_follower_finds_a_session_by_its_key_and_its_number(reader):
    of_key, of_session = reader.plan(LOAD_SESSION, (1, "s"))
    assert of_key == KEY_FOUND
    assert of_session.startswith("SEARCH sessions USING INTEGER PRIMARY KEY (rowid=?)")


def test_the_follower_finds_a_history_in_the_index(reader):
    for statement in (LOAD_HISTORY, LOAD_REVISIONS):
        (step,) = reader.plan(statement, (1,))
        assert step == "SEARCH feed USING INDEX feed_by_session (first_revision=? AND revised=?)"
