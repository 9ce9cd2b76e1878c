"""A question costs the same work in a large view as in a small one."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import chain, combinations, product
from pathlib import Path

import apsw
import msgspec
import pytest

from service.positions import position_of
from service.view import index_pages, store
from service.view.bounds import Bounds
from service.view.index_pages import Order
from service.view.progress import Progress
from service.view.reader import EVERYTHING, Reader
from service.view.removal import Removal
from service.view.rows import NO_HISTORY, OWN, REVISED, FeedRow, SavedKey, SessionRow
from service.view.selection import (
    Between,
    EventSelection,
    SessionSelection,
    SnapshotSelection,
)
from service.view.writer import (
    ADD_MALFORMED,
    ADD_REFUSED_ID,
    ADD_REJECTION,
    ADD_REPETITION,
    INSERT_FEED,
    LOAD_HISTORY,
    LOAD_REVISIONS,
    LOAD_SESSION,
    SAVE_KEY,
    SAVE_PROGRESS,
    SAVE_SESSION,
)

SMALL, LARGE = 1_500, 6_000
"""Sessions of the two views. In between, every B-tree gets at most one level more."""

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
    "ever_agent_ids": ("a", "b"),
    "ratings": (0, 1),
    "min_forwards": 1,
    "min_rejected_events": 1,
    "never_answered": True,
}
DRIVING = {"agent_ids", "client_user_ids", "states"}
COMBINATIONS = [
    (),
    *((name,) for name in FILTERS),
    *(pair for pair in combinations(FILTERS, 2) if DRIVING.intersection(pair)),
    tuple(FILTERS),
]
ORDERS = [
    Order(column, descending)
    for column in ("begun_at", "last_event_at", "ended_at", "state_since")
    for descending in (True, False)
]
LATER = {"begun_at": 0, "ended_at": 50, "last_event_at": 100, "state_since": 75}
"""Milliseconds from a session's number, which is when it began."""

BOUNDS = Bounds(revisions=50, rows=200)
MIDDLE = SMALL // 2 + 1
APP = MIDDLE % 2 + 1

Question = Callable[[Reader], object]


def fill(path: Path, sessions: int) -> None:
    """Make a view of sessions that differ in everything that a filter may ask about."""
    numbers = range(1, sessions + 1)
    with closing(store.open_writer(path)) as db, db:
        progress = Progress("j", "f", sessions, b"", sessions, digest=bytes(32), complete=True)
        db.execute(SAVE_PROGRESS, msgspec.structs.astuple(progress))
        db.executemany(SAVE_SESSION, map(session, numbers))
        db.executemany(SAVE_KEY, (SavedKey(f"s{n}", n % 2 + 1, n, n, False) for n in numbers))
        db.executemany(INSERT_FEED, chain.from_iterable(map(records, numbers)))
        db.executemany(ADD_REJECTION, ((position_of(n), n) for n in numbers if n % 2))
        db.executemany(ADD_REFUSED_ID, ((b"%d" % n, n) for n in numbers))
        db.executemany(ADD_REPETITION, ((n, sessions + n) for n in numbers))
        db.executemany(ADD_MALFORMED, ((n, n % 2 + 1, f"s{n}") for n in numbers))


def session(n: int) -> SessionRow:
    return SessionRow(
        number=n,
        sdk_app_id=n % 2 + 1,
        session_id=f"s{n}",
        first_revision=n,
        state=n % 7 + 1,
        end_reason=n % 5,
        client_user_id="uvw"[n % 3],
        channel_type=("SDK", "Web")[n % 2],
        agent_id="abcd"[n % 4],
        agent_ids=f'["{"abcd"[n % 4]}"]',
        begun_at=n,
        ended_at=n + LATER["ended_at"] if n % 3 else None,
        last_event_at=n + LATER["last_event_at"],
        state_since=n + LATER["state_since"],
        satisfaction=n % 6,
        queue_wait=1,
        first_response=2,
        handle_time=None,
        forwards=n % 2,
        rejected_events=n % 2,
        never_answered=n % 3 == 0,
        session=b"session",
        fold=b"fold",
    )


def records(n: int) -> Iterator[FeedRow]:
    """Yield a record of session `n`, and one that revises it."""
    for revised in (OWN if n % 5 else NO_HISTORY, REVISED):
        yield FeedRow(
            position=position_of(n, revised == REVISED),
            event_revision=n,
            sdk_app_id=n % 2 + 1,
            session_id=f"s{n}",
            first_revision=n,
            revised=revised,
            type=2,
            verdict=1,
            reason=1,
            verdicts=2,
            agent_id="abcd"[n % 4],
            client_user_id="u",
            channel_type="SDK",
            received_at=n,
            record=b"record",
            event_at=1,
            session=None if revised == REVISED else b"session",
        )


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("views")
    paths = {n: folder / f"{n}.db" for n in (SMALL, LARGE)}
    for n, path in paths.items():
        fill(path, n)
    return paths


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the steps of SQLite's machine, by tens, on all connections opened inside."""
    steps = [0]

    def count() -> bool:
        steps[0] += 1
        return False  # go on

    def hook(connection: apsw.Connection) -> None:
        connection.set_progress_handler(count, 10)

    apsw.connection_hooks.append(hook)
    try:
        yield steps
    finally:
        apsw.connection_hooks.remove(hook)


def cost(path: Path, question: Question) -> int:
    with counted() as steps, closing(Reader(path, BOUNDS)) as reader:
        steps[0] = 0
        question(reader)
        return steps[0]


SELECTIVE = EventSelection(agent_ids=("a",), verdicts=10, reasons=(1,))
QUESTIONS: dict[str, Question] = {
    "a session now": lambda reader: reader.now(APP, f"s{MIDDLE}"),
    "a session as of a revision": lambda reader: reader.session_as_of(APP, f"s{MIDDLE}", SMALL),
    "a session as of a time": lambda reader: reader.session_at_time(APP, f"s{MIDDLE}", SMALL),
    "the feed": lambda reader: reader.feed(
        EVERYTHING, position_of(MIDDLE), with_session=True, enough=1 << 20
    ),
    "the feed with a filter": lambda reader: reader.feed(
        SELECTIVE, position_of(MIDDLE), enough=1 << 20
    ),
    "the feed of a session": lambda reader: reader.feed(
        EventSelection(session_ids=(f"s{MIDDLE}",)),
        0,
        enough=1 << 20,
    ),
    "the history of a session": lambda reader: list(reader.history(APP, f"s{MIDDLE}", SMALL)),
    "the revisions of a session": lambda reader: list(
        reader.history(APP, f"s{MIDDLE}", SMALL, revised=True)
    ),
    "a record": lambda reader: list(reader.records([position_of(MIDDLE)])),
    "the callbacks of a session": lambda reader: reader.rejected_of(APP, f"s{MIDDLE}", 1_000),
    "rejections": lambda reader: reader.rejections(EVERYTHING, position_of(MIDDLE), 10),
    "rejections with a filter": lambda reader: reader.rejections(
        SELECTIVE, position_of(MIDDLE), 10
    ),
    "the sessions as of a revision": lambda reader: reader.snapshot_sessions(
        SnapshotSelection(agent_ids=("a",)), MIDDLE, SMALL, 1 << 20
    ),
    "a session by number": lambda reader: list(reader.by_number([MIDDLE])),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_is_as_much_work_in_a_large_view_as_in_a_small_one(views, name):
    small, large = (cost(views[n], QUESTIONS[name]) for n in (SMALL, LARGE))

    assert small > 0
    assert large <= small * 1.15 + 2


FOLLOWER = {
    "a session": (LOAD_SESSION, (APP, f"s{MIDDLE}")),
    "a history": (LOAD_HISTORY, (MIDDLE,)),
    "the revisions of a history": (LOAD_REVISIONS, (MIDDLE,)),
}


@pytest.mark.parametrize("name", FOLLOWER)
def test_the_follower_reads_back_a_session_with_as_much_work_in_a_large_view(views, name):
    sql, values = FOLLOWER[name]
    costs = []
    for path in views.values():
        with counted() as steps, closing(store.open_reader(path)) as db:
            steps[0] = 0
            for _ in range(10):  # one takes few steps
                assert list(db.execute(sql, values))
            costs.append(steps[0])

    assert costs[1] <= costs[0] * 1.15 + 2


def test_removing_a_session_is_as_much_work_in_a_large_view(views):
    key, costs = (APP, f"s{MIDDLE}"), []
    for path in views.values():
        with counted() as steps, closing(store.open_writer(path)) as db:
            db.execute("BEGIN")
            removal, steps[0] = Removal(db, 2 * LARGE), 0
            assert removal.session(key, MIDDLE, MIDDLE)[::2] == (2, 1)
            assert removal.find_malformed(APP, MIDDLE) is None
            assert removal.malformed(MIDDLE + 1)[::2] == (1, 1)
            costs.append(steps[0])
            db.execute("ROLLBACK")

    assert costs[1] <= costs[0] * 1.15 + 2


def test_a_page_of_sessions_is_as_much_work_in_a_large_view_as_in_a_small_one(views):
    for names, order in product(COMBINATIONS, ORDERS):
        small, large = (cost(views[n], pages(names, order, n)) for n in (SMALL, LARGE))

        assert large <= small * 1.15 + 2, (names, order)


def pages(names: tuple[str, ...], order: Order, sessions: int) -> Question:
    """Read the first page, and one from the middle of the list."""
    selection = SessionSelection(**{name: FILTERS[name] for name in names})
    middle = (sessions // 2 + LATER[order.column], sessions // 2)

    def ask(reader: Reader) -> object:
        return [index_pages.page(reader, selection, order, after, 10) for after in (None, middle)]

    return ask
