"""The view has the content that the rules of tests.support.model give, for any callbacks."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from desk.v1.event_pb2 import RejectionReason, SessionRecord, Verdict
from desk.v1.session_pb2 import EndReason, Session, SessionState
from journal.entry import Entry
from service.history import FoldLimits
from tests.support.callbacks import APP
from tests.support.histories import batches, journals, repetitive
from tests.support.model import TOO_LONG, Content, Record, content_of
from tests.support.views import View, view

WIDE = FoldLimits(callbacks=20_000, revised=100_000)
narrow = st.tuples(st.integers(1, 20), st.integers(1, 8)).map(
    lambda limits: FoldLimits(callbacks=limits[0], revised=limits[1])
)


@given(st.data(), journals() | repetitive(), st.just(WIDE) | narrow)
def test_feed_and_sessions_are_those_of_the_rules(
    data: st.DataObject, journal: list[Entry], limits: FoldLimits
) -> None:
    expected = content_of(journal, callbacks=limits.callbacks, revised=limits.revised)
    with view(data.draw(batches(journal)), limits=limits) as seen:
        assert_same(seen, expected)


@settings(max_examples=30)
@given(st.data(), journals(most=90))
def test_long_sessions_are_those_of_the_rules(data: st.DataObject, journal: list[Entry]) -> None:
    expected = content_of(journal, callbacks=WIDE.callbacks, revised=WIDE.revised)
    with view(data.draw(batches(journal)), reopen=data.draw(st.booleans())) as seen:
        assert_same(seen, expected)


def assert_same(seen: View, expected: Content) -> None:
    assert [shown(each) for each in seen.records()] == expected.feed
    assert all(each.revision == revision for revision, each in seen.snapshots().items())
    assert {revision: without_key(session) for revision, session in seen.snapshots().items()} == {
        revision: message(figures) for revision, figures in expected.snapshots.items()
    }
    assert {session_id: without_key(each) for session_id, each in seen.sessions().items()} == {
        session_id: message(figures) for session_id, figures in expected.sessions.items()
    }
    assert seen.rows("SELECT position, event_revision FROM rejections ORDER BY 1") == [
        (each.revision << 20 | each.ordinal, each.event_revision)
        for each in standing(expected.feed)
    ]


def standing(feed: list[Record]) -> list[Record]:
    """Return the rejections that no later record replaces."""
    last = {each.event_revision: each for each in feed}
    return [each for each in feed if each is last[each.event_revision] and is_rejected(each)]


def is_rejected(record: Record) -> bool:
    return record.outcome[0] == "REJECTED"


def shown(record: SessionRecord) -> Record:
    outcome = (
        Verdict.Name(record.verdict).removeprefix("VERDICT_"),
        RejectionReason.Name(record.rejection_reason).removeprefix("REJECTION_REASON_"),
    )
    placed = outcome != TOO_LONG
    assert record.revised == (record.ordinal > 0)
    return Record(
        record.revision,
        record.ordinal,
        record.event.revision,
        outcome,
        state(record.state_before) if placed else "",
        state(record.state_after) if placed else "",
        state(record.session_state),
    )


def state(number: Any) -> str:
    name = SessionState.Name(number).removeprefix("SESSION_STATE_")
    return "NEW" if name == "UNSPECIFIED" else name


def without_key(session: Session) -> Session:
    assert session.sdk_app_id == APP
    for field in ("sdk_app_id", "session_id", "revision"):
        session.ClearField(field)
    return session


def message(figures: dict[str, Any]) -> Session:
    """Return a session with these figures."""
    session = Session()
    for field, value in figures.items():
        if field == "state":
            session.state = state_number(value)
        elif field == "end_reason":
            session.end_reason = EndReason.Value(f"END_REASON_{value}")
        elif field == "stays":
            for name, agent_id, *times in value:
                stay = session.stays.add(state=state_number(name), agent_id=agent_id)
                set_times(stay, ("start_time", "end_time"), times)
        elif isinstance(value, list):
            getattr(session, field).extend(value)
        elif not session.DESCRIPTOR.fields_by_name[field].message_type:
            setattr(session, field, value)
        else:
            set_times(session, [field], [value])
    return session


def state_number(name: str) -> SessionState.ValueType:
    return SessionState.Value(f"SESSION_STATE_{name}")


def set_times(message: Any, fields: Sequence[str], values: Sequence[int | None]) -> None:
    for field, value in zip(fields, values, strict=True):
        if value is not None:
            getattr(message, field).FromMilliseconds(value)
            getattr(message, field).SetInParent()
