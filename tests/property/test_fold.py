"""Whatever the order of arrival, the copies and the batches: one set of callbacks, one truth."""

from collections import Counter
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from callback.decoder import identify
from desk.v1.event_pb2 import SessionRecord
from desk.v1.session_pb2 import Session
from journal.entry import Entry
from service.history import LIMITS, FoldLimits, History, HistoryEntry
from service.records import event_type, facts_of, outcome_numbers
from tests.support.callbacks import APP
from tests.support.histories import batches, first_copies, journals, repetitive
from tests.support.views import View, view

few = st.builds(FoldLimits, st.integers(1, 20), st.integers(1, 8), st.integers(1, 40))
"""Limits that a journal of these tests uses up."""

Outcome = tuple[int, int]
"""Verdict and reason, as desk.v1 numbers them."""


@given(st.data(), repetitive(), st.just(LIMITS) | few)
def test_repeated_entries_leave_no_trace(data, journal, limits):
    cut, reopen = data.draw(batches(journal)), data.draw(st.booleans())
    with (
        view(cut, reopen=reopen, limits=limits) as repeated,
        view([first_copies(journal)], limits=limits) as once,
    ):
        assert repeated.everything() == once.everything()


@given(st.data(), journals(), st.just(LIMITS) | few)
def test_batches_and_restarts_change_not_a_byte(data, journal, limits):
    cut, reopen = data.draw(batches(journal)), data.draw(st.booleans())
    with (
        view([journal], limits=limits) as rebuilt,
        view(cut, reopen=reopen, limits=limits) as live,
    ):
        assert live.everything() == rebuilt.everything()


@settings(max_examples=20)
@given(st.data(), journals(most=120))
def test_long_sessions_are_read_back_from_the_view_as_they_were(data, journal):
    with view([journal]) as rebuilt, view(data.draw(batches(journal)), reopen=True) as live:
        assert live.everything() == rebuilt.everything()


@given(journals(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_neither_sessions_nor_verdicts(journal, random):
    with view([journal]) as one:
        expected = sessions(one), standing_verdicts(one)
    for order in (oldest_first, newest_first, lambda each: random.sample(each, len(each))):
        with view([arriving(journal, order)]) as other:
            assert (sessions(other), standing_verdicts(other)) == expected


def oldest_first(journal: list[Entry]) -> list[Entry]:
    return sorted(journal, key=lambda each: (event_time(each), each.id))


def newest_first(journal: list[Entry]) -> list[Entry]:
    return oldest_first(journal)[::-1]


def event_time(entry: Entry) -> int:
    time = entry.body.partition(b'"EventTime": ')[2]
    return int(time.partition(b",")[0])


def arriving(journal: list[Entry], order: Callable[[list[Entry]], list[Entry]]) -> list[Entry]:
    return [replace(each, revision=place) for place, each in enumerate(order(journal), 1)]


def standing_verdicts(view: View) -> dict[str, Outcome]:
    """Return the last verdict published for each callback, by its id."""
    return {each.event.id: (each.verdict, each.rejection_reason) for each in view.records()}


def sessions(view: View) -> dict[str, Session]:
    """Return all sessions, without the revision: the one thing that depends on arrival."""
    found = view.sessions()
    for session in found.values():
        session.ClearField("revision")
    return found


@given(journals())
def test_each_callback_is_published_once_and_revised_only_to_another_verdict(journal):
    standing: dict[int, Outcome] = {}
    with view([journal]) as live:
        for record in live.records():
            verdict = (record.verdict, record.rejection_reason)
            assert record.revised == (record.ordinal > 0) == (record.event.revision in standing)
            assert standing.get(record.event.revision) != verdict
            standing[record.event.revision] = verdict
    assert sorted(standing) == [entry.revision for entry in journal]


@given(journals())
def test_a_late_callback_changes_only_its_own_session(journal):
    with view([journal]) as live:
        revised = live.rows(
            "SELECT later.session_id, own.session_id FROM feed AS later"
            " JOIN feed AS own ON own.position = later.position >> 20 << 20"
            " WHERE later.position & 1048575 > 0"
        )
    assert all(theirs == own for theirs, own in revised)


@given(st.data(), journals())
def test_a_session_has_the_same_numbers_wherever_it_is_noted(data, journal):
    two_apps = [replace(each, sdk_app_id=APP + each.revision % 2) for each in journal]
    with view(data.draw(batches(two_apps)), reopen=data.draw(st.booleans())) as live:
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


@given(st.data(), journals())
def test_sessions_are_counted_by_app_and_state_in_each_transaction(data, journal):
    two_apps = [of_app(each, APP + each.revision % 2) for each in journal]
    with view(data.draw(batches(two_apps)), reopen=data.draw(st.booleans())) as live:
        assert live.rows("SELECT * FROM session_counts WHERE sessions != 0") == live.rows(
            "SELECT sdk_app_id, state, count(*) FROM sessions GROUP BY 1, 2 ORDER BY 1, 2"
        )


@given(st.data(), journals(), st.just(LIMITS) | few)
def test_callbacks_are_counted_by_their_outcome_as_things_stand(
    data: st.DataObject, journal: list[Entry], limits: FoldLimits
) -> None:
    two_apps = [of_app(each, APP + each.revision % 2) for each in journal]
    cut, reopen = data.draw(batches(two_apps)), data.draw(st.booleans())
    with view(cut, reopen=reopen, limits=limits) as live:
        counted = live.rows("SELECT * FROM event_counts WHERE events != 0")
        assert counted == sorted((*key, n) for key, n in outcomes(live).items())


def outcomes(live: View) -> "Counter[tuple[int, ...]]":
    """Fold each session anew, and count the outcomes; the others are as published."""
    counts: Counter[tuple[int, ...]] = Counter()
    sessions: dict[tuple[int, str], list[HistoryEntry]] = {}
    rows = live.rows(
        "SELECT sdk_app_id, session_id, event_revision, revised, type, verdict, reason, record"
        " FROM feed WHERE revised IN (0, 2)"
    )
    for app, session_id, revision, revised, kind, verdict, reason, record in rows:
        if revised:
            state = SessionRecord.FromString(record).state_before
            counts[app, kind, state, verdict, reason] += 1
        else:
            entry = HistoryEntry.of(facts_of(record), revision)
            sessions.setdefault((app, session_id), []).append(entry)
    for (app, _), history in sessions.items():
        for each in History.replay(history).tail:
            kind = event_type(each.facts.event)
            counts[app, kind, *outcome_numbers(each.outcome)] += 1
    return counts


def of_app(entry: Entry, app: int) -> Entry:
    return replace(entry, sdk_app_id=app, id=identify(app, entry.body))
