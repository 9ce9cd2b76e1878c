"""Whatever the order of arrival, the copies and the batches: one set of callbacks, one truth."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from desk.v1 import event_pb2, session_pb2
from journal.callback import Malformed, decode
from journal.entry import Entry
from service import history as history_module
from service import projection as projection_module
from service import records
from service.history import History, Placed, order_key
from service.projection import Projection
from service.view import store
from service.view.writer import ViewWriter
from tests.support.callbacks import APP, bodies, entries

JOURNAL = "0" * 32


@contextmanager
def view(batches: list[list[Entry]], *, reopen: bool = False) -> Iterator["View"]:
    """A view to which these batches were applied, in the hands of a new process each if asked."""
    with tempfile.TemporaryDirectory() as folder:
        writer = ViewWriter(Path(folder))
        projection = Projection(writer, JOURNAL)
        for batch in batches:
            projection.apply(batch, head=batch[-1].revision, behind_since=None)
            if reopen:
                writer.close()
                writer = ViewWriter(Path(folder))
                projection = Projection(writer, JOURNAL)
        yield View(writer.path, projection.progress.digest)
        writer.close()


class View(NamedTuple):
    """A view as a reader finds it."""

    path: Path
    digest: bytes

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        db = store.open_reader(self.path)
        try:
            return list(db.execute(sql))
        finally:
            db.close()


def everything(view: View) -> list[object]:
    """All that a view holds."""
    return [
        view.rows("SELECT * FROM feed ORDER BY position"),
        view.rows("SELECT * FROM sessions ORDER BY number"),
        view.rows("SELECT * FROM session_keys ORDER BY 1, 2"),
        view.rows("SELECT * FROM rejections ORDER BY position"),
        view.digest,
    ]


def standing_verdicts(view: View) -> dict[str, tuple[int, int]]:
    """The last verdict published for each callback, by its id."""
    verdicts = {}
    for (record,) in view.rows("SELECT record FROM feed ORDER BY position"):
        seen = event_pb2.SessionRecord.FromString(record)
        verdicts[seen.event.id] = (seen.verdict, seen.rejection_reason)
    return verdicts


def sessions(view: View) -> dict[tuple[int, str], session_pb2.Session]:
    """All sessions, without the revision: the one thing that depends on arrival."""
    found = {}
    for app, session_id, blob in view.rows("SELECT sdk_app_id, session_id, session FROM sessions"):
        session = session_pb2.Session.FromString(blob)
        session.ClearField("revision")
        found[app, session_id] = session
    return found


def folded_once(
    given: list[Entry],
) -> tuple[dict[str, tuple[int, int]], dict[tuple[int, str], object]]:
    """The reference: sort each session's callbacks, fold them once."""
    groups: dict[tuple[int, str], list[Placed]] = {}
    verdicts: dict[str, tuple[int, int]] = {}
    ids = {entry.revision: entry.id.hex() for entry in given}
    for entry in given:
        try:
            callback = decode(entry.body)
        except Malformed:
            verdicts[entry.id.hex()] = (
                event_pb2.VERDICT_REJECTED,
                event_pb2.REJECTION_REASON_MALFORMED,
            )
            continue
        placed = Placed(order_key(callback, entry.id), entry.revision, callback)
        groups.setdefault((entry.sdk_app_id, callback.session_id), []).append(placed)
    expected: dict[tuple[int, str], object] = {}
    for key, group in groups.items():
        history = History.replay(group)
        for placed in history.tail:
            assert placed.outcome
            verdict = (
                records.VERDICTS[placed.outcome.verdict],
                records.REASONS[placed.outcome.reason],
            )
            verdicts[ids[placed.revision]] = verdict
        if history.session.begun_at is not None:
            shown = records.SessionMessage(*key).update(history.session, 0)
            expected[key] = session_pb2.Session.FromString(shown)
    return verdicts, expected


def cut(given: list[Entry], sizes: list[int]) -> list[list[Entry]]:
    batches, start = [], 0
    for size in sizes:
        if start < len(given):
            batches.append(given[start : start + size])
            start += size
    return [*batches, given[start:]] if start < len(given) else batches


callbacks = st.lists(bodies(), min_size=1, max_size=40)
sizes = st.lists(st.integers(1, 7), max_size=40)


@settings(max_examples=150, deadline=None)
@given(callbacks, sizes, st.booleans())
def test_batches_and_restarts_change_not_a_byte(
    given_bodies: list[bytes], batch_sizes: list[int], reopen: bool
) -> None:
    journal = entries(given_bodies)
    with view([journal]) as rebuilt, view(cut(journal, batch_sizes), reopen=reopen) as live:
        assert everything(live) == everything(rebuilt)


@settings(max_examples=150, deadline=None)
@given(callbacks, st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_neither_sessions_nor_verdicts(
    given_bodies: list[bytes], random: Random
) -> None:
    shuffled = list(given_bodies)
    random.shuffle(shuffled)
    with view([entries(given_bodies)]) as one, view([[e] for e in entries(shuffled)]) as other:
        assert sessions(one) == sessions(other)
        assert standing_verdicts(one) == standing_verdicts(other)


@settings(max_examples=150, deadline=None)
@given(callbacks, sizes)
def test_the_view_equals_folding_the_sorted_set_once(
    given_bodies: list[bytes], batch_sizes: list[int]
) -> None:
    journal = entries(given_bodies)
    verdicts, expected = folded_once(journal)
    with view(cut(journal, batch_sizes)) as live:
        assert standing_verdicts(live) == verdicts
        assert sessions(live) == expected


@settings(max_examples=60, deadline=None)
@given(callbacks, sizes)
def test_what_memory_lets_go_is_read_back_from_the_view(
    given_bodies: list[bytes], batch_sizes: list[int]
) -> None:
    journal = entries(given_bodies)
    kept, tail = projection_module.KEPT_SESSIONS, history_module.TAIL
    with view([journal]) as roomy:
        expected = everything(roomy)
    projection_module.KEPT_SESSIONS, history_module.TAIL = 0, 1
    try:
        with view(cut(journal, batch_sizes)) as tight:
            assert everything(tight) == expected
    finally:
        projection_module.KEPT_SESSIONS, history_module.TAIL = kept, tail


@settings(max_examples=100, deadline=None)
@given(callbacks)
def test_each_callback_is_published_once_and_revised_only_to_another_verdict(
    given_bodies: list[bytes],
) -> None:
    journal = entries(given_bodies)
    standing: dict[int, tuple[int, int]] = {}
    with view([journal]) as live:
        for position, blob in live.rows("SELECT position, record FROM feed ORDER BY position"):
            record = event_pb2.SessionRecord.FromString(blob)
            verdict = (record.verdict, record.rejection_reason)
            assert position == record.revision << store.POSITION_BITS | record.ordinal
            assert record.revised == (record.ordinal > 0) == (record.event.revision in standing)
            assert standing.get(record.event.revision) != verdict
            standing[record.event.revision] = verdict
    assert sorted(standing) == [entry.revision for entry in journal]


@settings(max_examples=100, deadline=None)
@given(st.lists(bodies(), min_size=2, max_size=60))
def test_a_late_callback_changes_only_its_own_session(given_bodies: list[bytes]) -> None:
    with view([entries(given_bodies)]) as live:
        revised = live.rows(
            "SELECT later.session_id, own.session_id FROM feed AS later"
            " JOIN feed AS own ON own.position = later.position >> 20 << 20"
            " WHERE later.position & 1048575 > 0"
        )
    assert all(theirs == own for theirs, own in revised)


@settings(max_examples=100, deadline=None)
@given(callbacks, sizes, st.booleans())
def test_a_session_has_the_same_numbers_wherever_it_is_noted(
    given_bodies: list[bytes], batch_sizes: list[int], reopen: bool
) -> None:
    journal = [replace(each, sdk_app_id=APP + each.revision % 2) for each in entries(given_bodies)]
    with view(cut(journal, batch_sizes), reopen=reopen) as live:
        assert live.rows(
            "SELECT sdk_app_id, session_id, first_revision, first_revision, first_revision"
            " FROM session_keys WHERE session_id != '' ORDER BY 1, 2"
        ) == live.rows(
            "SELECT sdk_app_id, session_id,"
            " min(event_revision), min(first_revision), max(first_revision)"
            " FROM feed WHERE session_id != '' GROUP BY 1, 2 ORDER BY 1, 2"
        )
        columns = "number, sdk_app_id, session_id, first_revision"
        assert live.rows(
            f"SELECT {columns} FROM session_keys WHERE number IS NOT NULL ORDER BY number"
        ) == live.rows(f"SELECT {columns} FROM sessions ORDER BY number")
