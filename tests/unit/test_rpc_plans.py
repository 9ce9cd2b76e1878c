"""No page of sessions or part of the feed is found by sorting or by looking at everything."""

from contextlib import closing
from itertools import chain, combinations

import pytest

from service.view import queries, store
from service.view.reader import Reader
from service.view.selection import Between, EventSelection, SessionSelection
from service.view.walks import Order, ways_of

FILTERS = {
    "sdk_app_ids": (1, 2),
    "states": (3, 7),
    "agent_ids": ("a", "b"),
    "client_user_ids": ("u",),
    "channel_types": ("SDK",),
    "end_reasons": (0, 1),
    "begun": Between(1, 2),
    "ended": Between(1, None),
    "active": Between(None, 2),
}
COMBINATIONS = list(chain.from_iterable(combinations(FILTERS, n) for n in range(3)))


@pytest.fixture
def reader(tmp_path):
    path = tmp_path / "view.db"
    store.open_writer(path).close()
    with closing(Reader(path)) as opened:
        yield opened


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("column", ["begun_at", "last_event_at", "ended_at"])
def test_sessions_are_walked_along_an_index_in_every_order(reader, column, descending):
    for names in COMBINATIONS:
        selection = SessionSelection(**{name: FILTERS[name] for name in names})
        ways, rest = ways_of(selection, Order(column, descending))
        for way in ways:
            stretch = way.bounded((5, 5), (1, 1))
            filters = rest.where()
            for sql, values in (
                (
                    stretch.sql(queries.SESSIONS_WALK, filters.sql),
                    (*stretch.where.values, *filters.values, 10),
                ),
                (stretch.sql(queries.SESSIONS_HORIZON), (*stretch.where.values, 10)),
            ):
                (step,) = reader.plan(sql, values)
                assert step.startswith("SEARCH sessions USING"), (sql, step)
                assert f"{column}>" in step or f"{column}<" in step, (sql, step)


def test_the_feed_is_read_in_its_own_order(reader):
    where = EventSelection(agent_ids=("a",), verdicts=10).where()
    sql = queries.FEED.format(columns=queries.RECORD_COLUMNS, where=where.sql)
    (step,) = reader.plan(sql, (1, 2, *where.values))
    assert step.startswith("SEARCH feed USING INTEGER PRIMARY KEY")


def test_the_feed_of_a_session_is_found_in_the_index_alone(reader):
    sql = queries.FEED_OF_SESSIONS.format(where=" AND session_id IN (?)")
    step, *_ = reader.plan(sql, (1, 2, "s", 10))
    assert step.startswith("SEARCH feed USING COVERING INDEX feed_by_session (session_id=?")


def test_a_few_rejections_are_found_without_sorting(reader):
    where = EventSelection(agent_ids=("a",), reasons=(1,)).where()
    plan = reader.plan(queries.REJECTIONS.format(where=where.sql), (9, 1, *where.values, 10))
    assert [step.split(" USING")[0] for step in plan] == ["SEARCH rejections", "SEARCH feed"]


def test_a_session_as_of_a_revision_is_found_without_sorting(reader):
    (step,) = reader.plan(queries.SESSION_AS_OF, ("s", 1, 5))
    assert step.startswith("SEARCH feed USING INDEX feed_by_session")
