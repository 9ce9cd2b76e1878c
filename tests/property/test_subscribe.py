"""Properties of every feed, filter, batch size and place at which a stream breaks."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from desk.v1.event_pb2 import EventFilter, Forgotten, SessionRecord, Verdict
from desk.v1.event_service_pb2 import SubscribeResponse
from desk.v1.session_pb2 import Session
from journal.forgetting import forget_entry
from service.positions import complete_revision, last_of
from service.records import is_forgotten
from service.rpc import reads, requests
from service.rpc.checks import checking
from service.rpc.explanation import Explanations
from service.rpc.responses import BatchFormat, encode
from service.view.bounds import Bounds
from service.view.reader import Reader
from service.view.selection import EventSelection, LiveRow, SnapshotSelection
from tests.support.callbacks import APP, NOON, bodies
from tests.support.rpc import PATIENCE, World, worker, world

ENOUGH = 1 << 20
"""Bytes that no read of these feeds reaches."""

EVERY_VERDICT = EventFilter(verdicts=[Verdict.Value(v) for v in Verdict.keys()[1:]])

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

journals = st.lists(bodies(), min_size=1, max_size=25, unique=True)

forgets = st.builds(
    forget_entry,
    st.just(APP),
    st.just(NOON),
    session_ids=st.lists(st.sampled_from(["s1", "s2", "nobody"]), min_size=1, unique=True),
    revisions=st.lists(st.integers(1, 20), max_size=5),
)
with_forgets = st.lists(bodies() | bodies() | forgets, min_size=1, max_size=30)


def some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.just([]) | st.lists(st.sampled_from(values), max_size=3)


filters = st.builds(
    EventFilter,
    sdk_app_ids=some([APP, 1]),
    session_ids=some(["s1", "s2", "", "nobody"]),
    types=some(list(range(19))),
    agent_ids=some(["", "agent-a", "agent-b"]),
    client_user_ids=some(["", "user-1", "user-2"]),
    channel_types=some(["", "SDK"]),
    verdicts=some([1, 2, 3]),
)


@contextmanager
def viewed(callbacks: list[Any]) -> Iterator[Reader]:
    """A reader of the view of these callbacks and other entries."""
    with world(callbacks) as made:
        made.wait()
        with closing(Reader(made.view)) as opened:
            yield opened


def selection_of(asked: EventFilter) -> EventSelection:
    with checking() as check:
        return requests.event_selection(check, asked)


def whole_feed(opened: Reader) -> list[LiveRow]:
    rows = [LiveRow._make(row) for row in opened.tail(0).rows]
    assert rows[-1].position >> 20 == opened.progress().applied_revision
    return rows


@FEW
@given(journals | with_forgets, filters, st.integers(0, 25))
@example([b"not JSON"], EventFilter(session_ids=[""], verdicts=[Verdict.VERDICT_REJECTED]), 0)
def test_sql_and_predicate_select_the_same(callbacks, asked, after):
    selection = selection_of(asked)
    with viewed(callbacks) as opened:
        start = last_of(after)
        window = opened.feed(selection, start, with_session=True, enough=ENOUGH)
        live = filter(selection.predicate(), whole_feed(opened))
        assert window.rows == [row[:3] for row in live if row.position > start]


@FEW
@given(
    journals | with_forgets, filters, st.integers(1, 5), st.integers(1, 3_000), st.integers(1, 4)
)
def test_windows_of_any_size_make_up_the_feed_in_whole_revisions(
    callbacks, asked, revisions, size, max_batch
):
    selection = selection_of(asked)
    with viewed(callbacks) as opened:
        expected = [row for row in whole_feed(opened) if selection.predicate()(row)]
        opened.bounds = Bounds(revisions=revisions)
        got = list(windows(opened, selection, max_batch, size))
        assert got == [row.record for row in expected]


def windows(
    opened: Reader, selection: EventSelection, max_batch: int, size: int
) -> Iterator[bytes]:
    """Read the feed window by window, and look at each on the way."""
    position, end = 0, last_of(opened.progress().applied_revision)
    while position < end:
        window = opened.feed(selection, position, enough=size)
        assert window.reached > position
        revisions = {row[0] >> 20 for row in window.rows}
        if complete_revision(window.reached) < window.reached >> 20:
            assert last_of(window.reached >> 20) == window.reached or len(revisions) <= 1
        encode("j", window.rows, window.reached, BatchFormat(max_batch, with_session=False))
        yield from (row[1] for row in window.rows)
        position = window.reached


@FEW
@given(
    st.lists(bodies(), min_size=1, max_size=40, unique=True),
    filters | st.just(EVERY_VERDICT),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), max_size=8),
    st.integers(1, 6),
    st.booleans(),
)
def test_a_stream_that_breaks_anywhere_and_resumes_sees_exactly_the_feed(
    callbacks, asked, breaks, max_batch, include_session
):
    with world() as made:
        got = asyncio.run(broken(made, callbacks, breaks, asked, max_batch, include_session))
        made.wait()
        with closing(Reader(made.view)) as opened:
            selects = selection_of(asked).predicate()
            expected = [
                published(opened, row, include_session)
                for row in whole_feed(opened)
                if selects(row)
            ]
    assert got == expected


def published(opened: Reader, row: LiveRow, include_session: bool) -> SessionRecord:
    """Return the promised record of a row; its session is found in another way."""
    record = SessionRecord.FromString(row.record)
    blob = opened.session_as_of(row.sdk_app_id, row.session_id, record.revision)
    if include_session and blob and row.session_id:
        record.session.ParseFromString(blob)
    return record


@FEW
@given(
    with_forgets,
    filters | st.just(EVERY_VERDICT),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), max_size=8),
    st.integers(1, 6),
)
def test_who_deletes_what_is_forgotten_has_what_is_in_the_feed(journal, asked, breaks, max_batch):
    with world() as made:
        got = asyncio.run(broken(made, journal, breaks, asked, max_batch, False))
        made.wait()
        with closing(Reader(made.view)) as opened:
            selects = selection_of(asked).predicate()
            rows = [row.record for row in whole_feed(opened) if selects(row)]
    told = [each for each in got if isinstance(each, Forgotten)]
    assert told == [
        SubscribeResponse.FromString(row).forgotten for row in filter(is_forgotten, rows)
    ]
    kept = {(each.revision, each.ordinal): each for each in got if isinstance(each, SessionRecord)}
    for each in told:
        kept = {place: record for place, record in kept.items() if outlasts(record, each)}
    assert list(kept.values()) == [
        SessionRecord.FromString(row) for row in rows if not is_forgotten(row)
    ]


def outlasts(record: SessionRecord, forgotten: Forgotten) -> bool:
    name = record.event.session_id
    named = name in forgotten.session_ids if name else None
    listed = record.event.revision in forgotten.malformed_revisions
    return record.revision > forgotten.revision or not (listed if named is None else named)


async def broken(
    made: World,
    callbacks: list[Any],
    breaks: list[tuple[int, int]],
    asked: EventFilter,
    max_batch: int,
    include_session: bool,
) -> list[Any]:
    """Read with breaks: after so many messages, with so many more callbacks appended before."""
    got: list[Any] = []
    after, left = 0, list(callbacks)
    async with worker(made) as serving:
        for messages, more in (*breaks, (None, len(callbacks))):
            made.append(*left[:more])
            del left[:more]
            if messages is None:
                await serving.revision(made.journal.head())
            call = serving.subscribe(
                after_revision=after,
                filter=asked,
                max_batch=max_batch,
                include_session=include_session,
                skip_forgotten=True,
            )
            after = await read(call, after, messages, got)
            call.cancel()
    return got


async def read(call: Any, after: int, messages: int | None, got: list[Any]) -> int:
    """Read some messages, or (None) all there are; return the revision to resume after."""
    count = 0
    async with asyncio.timeout(PATIENCE):
        while messages is None or count < messages:
            message = await call.read()
            got += message.records.records
            got += [message.forgotten] if message.HasField("forgotten") else []
            assert message.header.revision >= after
            after = message.header.revision
            count += 1
            if message.WhichOneof("content") == "caught_up":
                break
    return after


@FEW
@given(
    st.lists(bodies(), min_size=8, max_size=30, unique=True),
    st.integers(1, 100),
    st.builds(EventFilter, agent_ids=some(["", "agent-a", "agent-b"]))
    | st.builds(EventFilter, client_user_ids=some(["user-1", "user-2"]))
    | filters,
)
def test_a_snapshot_is_of_its_revision_whatever_has_happened_since(callbacks, percent, asked):
    selection = requests.snapshot_selection(selection_of(asked))
    with viewed(callbacks) as opened:
        revision = max(1, opened.progress().applied_revision * percent // 100)
        latest = {
            (row.sdk_app_id, row.session_id): row.session
            for row in whole_feed(opened)
            if row.position <= last_of(revision) and row.session
        }
        assert sorted(sessions(opened, selection, revision)) == sorted(
            blob for blob in latest.values() if blob and selection.selects(Session.FromString(blob))
        )


def sessions(opened: Reader, selection: SnapshotSelection, revision: int) -> Iterator[bytes]:
    reached = 0
    while reached < revision:
        part = reads.part(opened, selection, reached, revision, ENOUGH)
        yield from part.sessions
        reached = part.reached


@FEW
@given(journals)
def test_an_explanation_agrees_with_what_was_published(callbacks):
    with viewed(callbacks) as opened:
        applied = opened.progress().applied_revision
        for name in ("s1", "s2"):
            rows = list(opened.history(APP, name, applied))
            if not rows:
                continue
            explanations = Explanations(1_000)
            told = explanations.page(opened, (APP, name), (applied, 0), 1_000)[0].records
            assert sorted(r.event.revision for r in told) == [row[1] for row in rows]
            for before, after in pairwise(told):
                assert before.state_after == after.state_before
            for record in told:
                if record.verdict != Verdict.VERDICT_ACCEPTED:
                    assert record.state_before == record.state_after
            blob = opened.session(APP, name)
            if blob:
                assert told[-1].state_after == Session.FromString(blob).state
