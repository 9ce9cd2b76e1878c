"""A batch is bounded, and so is what stays in memory; neither changes what the view holds."""

from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from desk.v1 import event_pb2
from journal.entry import Entry, numbered
from journal.forgetting import forget_entry
from service.history import FoldLimits
from service.projection import BatchBounds, Projection
from service.view.writer import ViewWriter
from tests.support.callbacks import APP, NOON, body, entries, entry, life
from tests.support.views import (
    JOURNAL,
    CountingWriter,
    Rows,
    apply_all,
    fixed_journal,
    project,
    read,
    records,
)


def repeated(journal: list[Entry]) -> list[Entry]:
    """The same entries again, behind them, as an engine may write them that forgets ids."""
    last = journal[-1].revision
    return [replace(each, revision=last + each.revision) for each in journal]


def content(folder: Path) -> list[Rows]:
    tables = ("feed", "sessions", "session_keys", "rejections", "refused_ids")
    return [read(folder, f"SELECT * FROM {table} ORDER BY 1") for table in tables]


@pytest.mark.parametrize(
    "bounds", [BatchBounds(rows=0), BatchBounds(sessions=0), BatchBounds(memory=0)]
)
@pytest.mark.parametrize(("room", "recognised_by_id"), [(7, 9), (8, 9), (9, 1)])
def test_a_repetition_leaves_no_trace_but_that_it_is_counted(
    tmp_path, bounds, room, recognised_by_id
):
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL, limits=FoldLimits(callbacks=room), bounds=bounds)
    journal = fixed_journal()  # 8 callbacks and a malformed body
    apply_all(projection, journal)
    before, progress = content(tmp_path), projection.progress
    assert read(tmp_path, "SELECT count(*) FROM refused_ids") == [(recognised_by_id,)]
    apply_all(projection, repeated(journal))
    writer.close()
    assert content(tmp_path) == before
    assert projection.progress == replace(
        progress,
        applied_revision=18,
        applied_id=journal[-1].id,
        head_revision=18,
        repetitions=9,
    )


def test_the_count_of_repetitions_goes_on_after_a_restart(tmp_path):
    journal = fixed_journal()
    with closing(project(tmp_path, journal)) as writer:
        for each in repeated(journal):  # a new process each
            projection = Projection(writer, JOURNAL)
            projection.apply([each], head=18, behind_since=None)
    assert projection.progress.repetitions == 9


def sessions_read(folder: Path, bounds: BatchBounds) -> int:
    """Apply a long session in eight batches; return how often it was read from the view."""
    talk = [body("SessionBegin", NOON), *(body("Brand.New", NOON + n) for n in range(1, 400))]
    journal = entries(talk)
    with closing(CountingWriter(folder)) as writer:
        projection = Projection(writer, JOURNAL, bounds=bounds)
        for start in range(0, 400, 50):
            projection.apply(journal[start : start + 50], head=400, behind_since=None)
    return writer.sessions_read


@pytest.mark.parametrize(
    ("bounds", "times"),
    [(BatchBounds(sessions=0), 8), (BatchBounds(memory=0), 8), (BatchBounds(), 1)],
)
def test_a_session_that_no_room_is_left_for_is_read_from_the_view(tmp_path, bounds, times):
    assert sessions_read(tmp_path, bounds) == times


@pytest.mark.parametrize(("room", "times"), [(200_000, 1), (20_000, 8)])
def test_a_session_in_order_takes_little_room_however_long_it_is(tmp_path, room, times):
    assert sessions_read(tmp_path, BatchBounds(memory=room)) == times


def test_a_session_that_is_forgotten_leaves_its_room_to_others(tmp_path):
    talk = [body("Brand.New", NOON + n, session_id="gone") for n in range(40)]
    with closing(CountingWriter(tmp_path)) as writer:
        projection = Projection(writer, JOURNAL, bounds=BatchBounds(memory=100_000))
        for start in range(1, 1_000, 50):
            kept = entry(start, body("Brand.New", NOON + start))
            batch = [kept, *(entry(start + n, each) for n, each in enumerate(talk, 1))]
            projection.apply(batch, head=1_000, behind_since=None)
            order = forget_entry(APP, NOON, session_ids=["gone"])
            projection.apply([numbered(order, start + 49)], head=1_000, behind_since=None)
    assert writer.sessions_read == 1 + 20  # the kept one, and each new one


def test_a_batch_ends_when_it_has_done_enough_and_the_next_one_goes_on(tmp_path):
    journal = entries(
        [
            *life(*["ChatBot.UserSendMsg"] * 20, start=NOON + 1),
            body("SessionBegin", NOON),
            *life("SessionBegin", "SessionEnd", session_id="other"),
        ]
    )
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    project(tmp_path / "whole", journal).close()
    writer = ViewWriter(tmp_path / "parts")
    projection = Projection(writer, JOURNAL, bounds=BatchBounds(work=50))
    projection.apply(journal, head=23, behind_since=None)
    assert projection.progress.applied_revision == 21
    assert projection.progress.applied_id == journal[20].id
    assert projection.progress.behind_since == journal[21].received_at
    assert projection.progress.head_revision == 23
    assert not projection.progress.complete
    projection.apply(journal[21:], head=23, behind_since=None)
    writer.close()
    assert projection.progress.complete
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_a_batch_counts_the_revised_verdicts_that_are_read_back(tmp_path):
    journal = entries(
        [
            *life(*["ChatBot.UserSendMsg"] * 20, start=NOON + 1),
            body("SessionBegin", NOON),
            body("ChatBot.UserSendMsg", NOON + 2),
            body("SessionBegin", NOON, session_id="other"),
        ]
    )
    writer = ViewWriter(tmp_path)
    Projection(writer, JOURNAL).apply(journal[:21], head=23, behind_since=NOON)
    projection = Projection(writer, JOURNAL, bounds=BatchBounds(work=20))
    projection.apply(journal[21:], head=23, behind_since=None)
    writer.close()
    assert projection.progress.applied_revision == 22


@pytest.mark.parametrize("first", ["SessionBegin", "ChatBot.RobotSendMsg"])
def test_the_history_of_a_full_session_is_read_no_more(tmp_path, first):
    journal = entries(life(first, *["ChatBot.UserSendMsg"] * 99))
    late = [
        body("ChatBot.UserSendMsg", NOON + each, SatisfactionSelected=each) for each in range(5)
    ]
    writer = CountingWriter(tmp_path)
    limits, bounds = FoldLimits(callbacks=100), BatchBounds(sessions=0)
    projection = Projection(writer, JOURNAL, limits=limits, bounds=bounds)
    apply_all(projection, journal)
    before = writer.histories_read
    more = [*repeated(journal), *(entry(201 + n, each) for n, each in enumerate(late))]
    for each in more:
        projection.apply([each], head=205, behind_since=None)
    writer.close()
    assert writer.histories_read == before
    assert projection.progress.repetitions == 100
    reasons = [each.rejection_reason for each in records(tmp_path)]
    assert reasons[100:] == [event_pb2.REJECTION_REASON_SESSION_TOO_LONG] * 5


def test_a_batch_counts_the_ids_that_are_noted_as_sessions_become_full(tmp_path):
    names = ("one", "two", "three")
    journal = entries([each for n in names for each in life(*["Brand.New"] * 10, session_id=n)])
    with closing(ViewWriter(tmp_path)) as writer:
        limits, bounds = FoldLimits(callbacks=10), BatchBounds(work=15)
        projection = Projection(writer, JOURNAL, limits=limits, bounds=bounds)
        projection.apply(journal, head=30, behind_since=None)
        assert projection.progress.applied_revision == 20


def in_turn(times: int) -> tuple[list[Entry], list[Entry]]:
    """Three sessions of 100 callbacks each, then late ones of each in turn."""
    names = ("one", "two", "three")
    whole = [each for name in names for each in life(*["Brand.New"] * 100, session_id=name)]
    late = [
        body("Brand.New", NOON + 1 + n, session_id=name) for n in range(times) for name in names
    ]
    journal = entries([*whole, *late])
    return journal[:300], journal[300:]


def test_sessions_in_turn_are_read_back_once_and_do_not_end_a_batch(tmp_path):
    whole, late = in_turn(4)
    with closing(CountingWriter(tmp_path)) as writer:
        apply_all(Projection(writer, JOURNAL), whole)
        projection = Projection(writer, JOURNAL, bounds=BatchBounds(work=50))
        assert apply_all(projection, late[:6]) == 1
        assert apply_all(projection, late[6:]) == 1
    assert writer.histories_read == 3


def test_a_batch_reads_back_no_more_than_is_kept(tmp_path):
    whole, late = in_turn(2)
    with closing(CountingWriter(tmp_path)) as writer:
        apply_all(Projection(writer, JOURNAL), whole)
        projection = Projection(writer, JOURNAL, bounds=BatchBounds(memory=100_000))
        assert apply_all(projection, late) == 3
    assert writer.histories_read == 6
