"""What the view holds after given callbacks: rejections, revisions, numbers, a known digest."""

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from desk.v1 import event_pb2, session_pb2
from msgspec.structs import replace
from structlog.testing import capture_logs

from journal.entry import Entry
from journal.errors import InUse
from service import projection as projection_module
from service.history import Limits
from service.projection import DIGESTS, Projection, row_hash
from service.view import store
from service.view.errors import ContentRefused, ViewDamaged
from service.view.reader import EVERYTHING, Bounds, Reader
from service.view.selection import EventSelection
from service.view.writer import (
    INSERT_FEED,
    LOAD_HISTORY,
    LOAD_SESSION,
    FeedRow,
    ViewWriter,
    discard,
)
from tests.support.callbacks import APP, NOON, SESSION, body, entries, entry, life

JOURNAL = "0" * 32

KNOWN = (2, "bcb776214125490c46f1a508d3bc2d2f9f121c56bcd5630efcd201ca61dade63")
"""Fold version and feed digest of `fixed_journal`. If this test fails although neither table nor
schema has changed, raise `store.FOLD_VERSION` and put both new values here: views built by the
earlier version are of no more use."""


def fixed_journal() -> list[Entry]:
    bodies = [
        *life("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", MsgKey="k"),
        body("Human.AgentSendMsg", NOON + 50_000, AgentId="ann", MsgBody=every_element()),
        body("TransferToHumanSuccess", NOON + 40_000, AgentId="ann"),
        body("Brand.New", NOON + 60_000),
        b"not json",
        body("SatisfactionSelected", NOON + 70_000, SatisfactionSelected=3),
        body("SessionEnd", NOON + 65_000),
    ]
    return entries(bodies)


def every_element() -> list[dict[str, object]]:
    return [
        {"MsgType": "TIMTextElem", "MsgContent": {"Text": "Halo, ada yang bisa dibantu?"}},
        {"MsgType": "TIMFaceElem", "MsgContent": {"Index": 2**70, "Data": "x"}},
        {"MsgType": "TIMLocationElem", "MsgContent": {"Latitude": 10**300, "Longitude": 2}},
        {"MsgType": "TIMRelayElem", "MsgContent": {"Title": "bundle"}},
    ]


def project(folder: Path, journal: list[Entry]) -> ViewWriter:
    writer = ViewWriter(folder)
    Projection(writer, JOURNAL).apply(journal, head=len(journal), behind_since=None)
    return writer


def read(folder: Path, sql: str) -> list[tuple[object, ...]]:
    db = store.open_reader(store.locate(folder))
    try:
        return list(db.execute(sql))
    finally:
        db.close()


def records(folder: Path) -> list[event_pb2.SessionRecord]:
    with closing(Reader(store.locate(folder))) as reader:
        rows = reader.feed(EVERYTHING, 0, enough=Bounds().size).rows
    return [event_pb2.SessionRecord.FromString(row[1]) for row in rows]


def test_the_fold_gives_the_digest_that_its_version_stands_for(tmp_path: Path) -> None:
    project(tmp_path, fixed_journal()).close()
    [(digest,)] = read(tmp_path, "SELECT lower(hex(digest)) FROM progress")
    assert (store.FOLD_VERSION, digest) == KNOWN


def test_the_digest_is_the_sum_of_the_hashes_of_the_rows(tmp_path: Path) -> None:
    writer = project(tmp_path, fixed_journal())
    progress = writer.progress()
    writer.close()
    rows = read(tmp_path, f"SELECT {', '.join(FeedRow._fields)} FROM feed ORDER BY random()")
    hashes = [row_hash(FeedRow(*row)) for row in rows]  # type: ignore[arg-type]
    assert progress
    assert int.from_bytes(progress.digest) == sum(hashes) % DIGESTS


def test_a_late_event_turns_a_rejection_into_an_acceptance_and_says_so(tmp_path: Path) -> None:
    project(tmp_path, fixed_journal()).close()
    reply, joined, revised = records(tmp_path)[3:6]
    assert reply.rejection_reason == event_pb2.REJECTION_REASON_IMPOSSIBLE_IN_STATE
    assert reply.rejection_detail == (
        "Human.AgentSendMsg is impossible while the session is TRANSFERRING"
    )
    assert joined.verdict == event_pb2.VERDICT_ACCEPTED
    assert (joined.revision, joined.ordinal) == (5, 0)
    assert joined.session_state == session_pb2.SESSION_STATE_WITH_AGENT
    assert (revised.revision, revised.ordinal, revised.revised) == (5, 1, True)
    assert revised.event == reply.event
    assert revised.verdict == event_pb2.VERDICT_ACCEPTED
    assert revised.state_before == session_pb2.SESSION_STATE_WITH_AGENT


def test_a_row_has_every_verdict_that_its_event_ever_had(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path)
    for each in fixed_journal()[:5]:  # a new process each
        Projection(writer, JOURNAL).apply([each], head=5, behind_since=None)
    ended = entry(6, body("SessionEnd", NOON + 45_000))
    Projection(writer, JOURNAL).apply([ended], head=6, behind_since=None)
    writer.close()
    rejected, accepted = 1 << event_pb2.VERDICT_REJECTED, 1 << event_pb2.VERDICT_ACCEPTED
    assert read(tmp_path, "SELECT verdict, verdicts FROM feed WHERE event_revision = 4") == [
        (event_pb2.VERDICT_REJECTED, rejected),
        (event_pb2.VERDICT_ACCEPTED, rejected | accepted),
        (event_pb2.VERDICT_REJECTED, rejected | accepted),
    ]


def test_a_row_is_found_by_the_agent_whom_the_session_had_when_it_was_published(
    tmp_path: Path,
) -> None:
    joined = life("SessionBegin", "TransferringToHuman", "TransferToHumanSuccess", AgentId="ann")
    ended = [body("SessionUserTimeoutEnd", NOON + 50_000), body("SessionUserEnd", NOON + 40_000)]
    writer = ViewWriter(tmp_path)
    for each in entries([*joined, *ended]):  # a new process each
        Projection(writer, JOURNAL).apply([each], head=5, behind_since=None)
    writer.close()
    assert read(tmp_path, "SELECT event_revision, agent_id FROM feed ORDER BY position") == [
        (1, ""),
        (2, ""),
        (3, "ann"),
        (4, "ann"),
        (5, "ann"),
        (4, "ann"),
    ]


def test_only_standing_rejections_are_listed(tmp_path: Path) -> None:
    journal = entries([*life("SessionBegin", "AgentForward"), b"not json"])
    project(tmp_path, journal).close()
    assert read(tmp_path, "SELECT event_revision FROM rejections ORDER BY 1") == [(2,), (3,)]
    late = entries(
        [
            *life("SessionBegin", "AgentForward"),
            b"not json",
            body("TransferringToHuman", NOON + 1),
        ]
    )
    writer = ViewWriter(tmp_path)
    Projection(writer, JOURNAL).apply(late[3:], head=4, behind_since=None)
    writer.close()
    assert read(tmp_path, "SELECT event_revision FROM rejections") == [(3,)]


def test_a_session_is_numbered_by_the_revision_that_began_it(tmp_path: Path) -> None:
    early = life("ChatBot.UserSendMsg", start=NOON + 1)
    project(tmp_path, entries([*early, body("SessionBegin", NOON)])).close()
    assert read(tmp_path, "SELECT number, session_id FROM sessions") == [(2, SESSION)]
    assert read(tmp_path, "SELECT session IS NULL FROM feed ORDER BY position") == [
        (1,),
        (0,),
        (1,),
    ]


def test_a_session_saved_batch_by_batch_moves_in_the_indexes_with_what_happens_to_it(
    tmp_path: Path,
) -> None:
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL)
    seen = []
    for each in entries(
        life(
            "SessionBegin",
            "ChatBot.UserSendMsg",
            "TransferringToHuman",
            "TransferToHumanSuccess",
            "Human.UserSendMsg",
            "SessionEnd",
        )
    ):
        projection.apply([each], head=6, behind_since=None)
        seen += read(tmp_path, "SELECT state, agent_id, ended_at, last_event_at FROM sessions")
    writer.close()
    assert seen == [
        (1, "", None, NOON),
        (1, "", None, NOON + 10_000),
        (2, "", None, NOON + 20_000),
        (4, "default-agent", None, NOON + 30_000),
        (4, "default-agent", None, NOON + 40_000),
        (7, "default-agent", NOON + 50_000, NOON + 50_000),
    ]


def test_a_malformed_body_is_in_the_feed_with_its_reason_and_every_byte(tmp_path: Path) -> None:
    project(tmp_path, entries([b'{"SessionId": "s"}'])).close()
    [record] = records(tmp_path)
    assert record.rejection_reason == event_pb2.REJECTION_REASON_MALFORMED
    assert record.rejection_detail == "Event is missing or not a string"
    assert record.event.raw_body == b'{"SessionId": "s"}'
    assert record.event.type == event_pb2.EVENT_TYPE_UNSPECIFIED


def test_a_batch_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL)
    journal = fixed_journal()
    writer._db.set_commit_hook(lambda: True)
    with pytest.raises(ContentRefused):
        projection.apply(journal, head=9, behind_since=None)
    writer._db.set_commit_hook(None)
    assert writer.progress() is None
    Projection(writer, JOURNAL).apply(journal, head=9, behind_since=None)
    writer.close()
    [(digest,)] = read(tmp_path, "SELECT lower(hex(digest)) FROM progress")
    assert digest == KNOWN[1]


def test_batches_with_more_behind_them_leave_the_same_view(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL)
    journal = fixed_journal()
    for each in journal[:-1]:
        projection.apply([each], head=8, behind_since=NOON)
    projection.apply(journal[-1:], head=8, behind_since=None)
    writer.close()
    assert read(tmp_path, "SELECT lower(hex(digest)) FROM progress") == [(KNOWN[1],)]


def test_a_commit_that_fails_behind_a_batch_is_told_by_the_next_and_leaves_no_trace(
    tmp_path: Path,
) -> None:
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL)
    journal = fixed_journal()
    projection.apply(journal[:2], head=8, behind_since=NOON)
    writer.settle()
    writer._db.set_commit_hook(lambda: True)
    projection.apply(journal[2:4], head=8, behind_since=NOON)
    with pytest.raises(ContentRefused):
        projection.apply(journal[4:], head=8, behind_since=None)
    writer._db.set_commit_hook(None)
    again = Projection(writer, JOURNAL)
    assert again.progress.applied_revision == 2
    again.apply(journal[2:], head=8, behind_since=None)
    writer.close()
    assert read(tmp_path, "SELECT lower(hex(digest)) FROM progress") == [(KNOWN[1],)]


def apply_each(projection: Projection, journal: list[Entry], behind_since: int | None) -> None:
    for each in journal:
        projection.apply([each], head=len(journal), behind_since=behind_since)


@pytest.mark.parametrize("behind_since", [None, NOON])
def test_a_projection_that_has_failed_refuses_to_leave_a_gap(
    tmp_path: Path, behind_since: int | None
) -> None:
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL)
    journal = fixed_journal()
    writer._db.set_commit_hook(lambda: True)
    with pytest.raises(ContentRefused):
        apply_each(projection, journal[:2], behind_since)
    writer._db.set_commit_hook(None)
    with pytest.raises(AssertionError, match="of no more use"):
        projection.apply(journal[2:], head=9, behind_since=None)
    assert writer.progress() is None
    writer.close()


def slowly(*, fail: bool) -> Callable[[], bool]:
    """A hook that has a commit take a while, and fail if it is to."""
    due = threading.Event()
    threading.Timer(0.2, due.set).start()
    return lambda: not due.wait(10) or fail


def test_progress_waits_for_the_commit_under_way_and_tells_that_it_failed(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL)
    journal = fixed_journal()
    projection.apply(journal[:2], head=9, behind_since=None)
    writer._db.set_commit_hook(slowly(fail=True))
    projection.apply(journal[2:], head=9, behind_since=NOON)
    with pytest.raises(ContentRefused):
        writer.progress()
    on_disk = writer.progress()
    writer.close()
    assert on_disk
    assert on_disk.applied_revision == 2


def test_closing_waits_for_the_commit_under_way(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path)
    writer._db.set_commit_hook(slowly(fail=False))
    with capture_logs() as logs:
        Projection(writer, JOURNAL).apply(fixed_journal(), head=9, behind_since=NOON)
        writer.close()
    assert logs == []
    assert read(tmp_path, "SELECT applied_revision FROM progress") == [(9,)]


def test_closing_ends_the_thread_that_commits(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    writer = ViewWriter(tmp_path)
    Projection(writer, JOURNAL).apply(fixed_journal(), head=9, behind_since=NOON)
    assert set(threading.enumerate()) - before
    writer.close()
    assert not set(threading.enumerate()) - before


def test_closing_logs_that_the_last_commit_failed(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path)
    writer._db.set_commit_hook(lambda: True)
    with capture_logs() as logs:
        Projection(writer, JOURNAL).apply(fixed_journal(), head=9, behind_since=NOON)
        writer.close()
    assert [(line["event"], line["error"]) for line in logs] == [
        ("view_commit_failed", "ContentRefused")
    ]
    assert read(tmp_path, "SELECT applied_revision FROM progress") == []


def damaged_at(statement: str) -> Callable[..., bool]:
    """A hook that finds the view damaged at this statement, and has no ROLLBACK work."""

    def look(_cursor: apsw.Cursor, current: str, _bindings: object) -> bool:
        if current == statement:
            raise apsw.CorruptError("damaged")
        return current != "ROLLBACK"

    return look


@pytest.mark.parametrize("statement", ["COMMIT", INSERT_FEED])
def test_a_batch_that_cannot_be_rolled_back_tells_why_it_failed_and_leaves_no_trace(
    tmp_path: Path, statement: str
) -> None:
    writer = ViewWriter(tmp_path)
    writer._db.exec_trace = damaged_at(statement)
    with pytest.raises(ViewDamaged):
        Projection(writer, JOURNAL).apply(fixed_journal(), head=9, behind_since=None)
    writer._db.exec_trace = None
    assert writer._db.in_transaction
    assert writer.progress() is None
    writer.close()


def test_a_transaction_begins_although_one_before_could_not_be_rolled_back(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL)
    writer._db.exec_trace = damaged_at("COMMIT")
    with pytest.raises(ViewDamaged), writer.transaction():
        writer.add_rejection(1, 1)
    writer._db.exec_trace = None
    assert writer._db.in_transaction
    projection.apply(fixed_journal(), head=9, behind_since=None)
    writer.close()
    assert read(tmp_path, "SELECT lower(hex(digest)) FROM progress") == [(KNOWN[1],)]
    assert read(tmp_path, "SELECT 1 FROM rejections WHERE position = 1") == []


def test_a_view_is_renewed_whatever_became_of_its_last_commit(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path)
    writer._db.set_commit_hook(lambda: True)
    Projection(writer, JOURNAL).apply(fixed_journal(), head=9, behind_since=NOON)
    writer.renew()
    assert writer.progress() is None
    Projection(writer, JOURNAL).apply(fixed_journal(), head=8, behind_since=None)
    writer.close()
    assert read(tmp_path, "SELECT lower(hex(digest)) FROM progress") == [(KNOWN[1],)]


def test_a_second_follower_is_refused(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path)
    with pytest.raises(InUse, match="another follower"):
        ViewWriter(tmp_path)
    writer.close()
    ViewWriter(tmp_path).close()


def test_the_view_of_another_version_is_discarded_unless_it_is_in_use(tmp_path: Path) -> None:
    project(tmp_path, fixed_journal()).close()
    other = tmp_path / "view-0123456789ab.db"
    for suffix in ("", "-wal", ".lock"):
        Path(f"{other}{suffix}").write_bytes(b"")
    assert store.others(tmp_path) == [other]
    assert discard(other)
    assert store.others(tmp_path) == []
    writer = ViewWriter(tmp_path)
    assert not discard(store.locate(tmp_path))
    writer.close()


def repeated(journal: list[Entry]) -> list[Entry]:
    """The same entries again, behind them, as an engine may write them that forgets ids."""
    last = journal[-1].revision
    return [replace(each, revision=last + each.revision) for each in journal]


def content(folder: Path) -> list[list[tuple[object, ...]]]:
    tables = ("feed", "sessions", "session_keys", "rejections", "refused_ids")
    return [read(folder, f"SELECT * FROM {table} ORDER BY 1") for table in tables]


def apply_all(projection: Projection, journal: list[Entry]) -> int:
    """Apply a journal, however little a batch may do; return the number of batches."""
    batches = 0
    while rest := [
        each for each in journal if each.revision > projection.progress.applied_revision
    ]:
        projection.apply(rest, head=journal[-1].revision, behind_since=None)
        batches += 1
    return batches


@pytest.mark.parametrize("limit", ["MAX_WAITING", "KEPT_SESSIONS", "KEPT_BYTES"])
@pytest.mark.parametrize(("room", "recognised_by_id"), [(7, 9), (8, 9), (9, 1)])
def test_a_repetition_leaves_no_trace_but_that_it_is_counted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    room: int,
    recognised_by_id: int,
) -> None:
    monkeypatch.setattr(projection_module, limit, 0)
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL, Limits(callbacks=room))
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


def test_a_session_that_is_too_long_is_kept_current_and_goes_on_being_so(tmp_path: Path) -> None:
    journal = entries(
        [
            *life("ChatBot.UserSendMsg", "ChatBot.UserSendMsg", start=NOON + 1),
            body("SessionBegin", NOON),
            *life("SessionEnd", "Brand.New", start=NOON + 100_000),
        ]
    )
    writer = ViewWriter(tmp_path)
    for each in journal:  # a new process each, some before it has begun
        projection = Projection(writer, JOURNAL, Limits(revised=2))
        projection.apply([each], head=5, behind_since=None)
    writer.close()
    made = records(tmp_path)
    assert [each.revision for each in made] == [1, 2, 3, 3, 3, 4, 5]
    for each in made[-2:]:
        assert each.rejection_reason == event_pb2.REJECTION_REASON_SESSION_TOO_LONG
        assert each.state_before == each.state_after == session_pb2.SESSION_STATE_CHATBOT
    [(blob, facts)] = read(tmp_path, "SELECT session, facts FROM feed WHERE position = 5 << 20")
    session = session_pb2.Session.FromString(blob)  # type: ignore[arg-type]
    assert (session.rejected_events, session.revision, facts) == (2, 5, None)
    assert read(tmp_path, "SELECT session FROM sessions") == [(blob,)]


def test_a_session_that_never_begins_is_bounded_across_restarts(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path)
    for each in entries(life(*["ChatBot.UserSendMsg"] * 5)):
        projection = Projection(writer, JOURNAL, Limits(callbacks=3))
        projection.apply([each], head=5, behind_since=None)
    writer.close()
    reasons = [each.rejection_reason for each in records(tmp_path)]
    assert (
        reasons
        == [event_pb2.REJECTION_REASON_NOT_BEGUN] * 3
        + [event_pb2.REJECTION_REASON_SESSION_TOO_LONG] * 2
    )
    with closing(Reader(store.locate(tmp_path))) as reader:
        assert reader.rejected_of(APP, SESSION, 100) == 5
        assert reader.rejected_of(APP, SESSION, 4) == 4
        assert reader.rejected_of(APP, "unknown", 100) is None


def loads(folder: Path, journal: list[Entry], *, batch: int) -> int:
    """Apply a journal in batches; return how often a session was read from the view."""
    statements: list[str] = []
    writer = ViewWriter(folder)
    writer._db.exec_trace = lambda _cursor, sql, _values: statements.append(sql) is None
    projection = Projection(writer, JOURNAL)
    for start in range(0, len(journal), batch):
        projection.apply(journal[start : start + batch], head=len(journal), behind_since=None)
    writer._db.exec_trace = None
    writer.close()
    return statements.count(LOAD_SESSION)


TALK = [body("SessionBegin", NOON), *(body("Brand.New", NOON + n) for n in range(1, 400))]


@pytest.mark.parametrize(("limit", "times"), [("KEPT_SESSIONS", 8), ("KEPT_BYTES", 8), ("", 1)])
def test_a_session_that_no_room_is_left_for_is_read_from_the_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, times: int
) -> None:
    if limit:
        monkeypatch.setattr(projection_module, limit, 0)
    assert loads(tmp_path, entries(TALK), batch=50) == times


def test_a_session_in_order_takes_little_room_however_long_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection_module, "KEPT_BYTES", 200_000)
    assert loads(tmp_path, entries(TALK), batch=50) == 1
    monkeypatch.setattr(projection_module, "KEPT_BYTES", 20_000)
    (tmp_path / "scarce").mkdir()
    assert loads(tmp_path / "scarce", entries(TALK), batch=50) == 8


def test_a_batch_ends_when_it_has_done_enough_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(projection_module, "BATCH_WORK", 50)
    writer = ViewWriter(tmp_path / "parts")
    projection = Projection(writer, JOURNAL)
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


def test_a_batch_counts_the_revised_verdicts_that_are_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(projection_module, "BATCH_WORK", 20)
    projection = Projection(writer, JOURNAL)
    projection.apply(journal[21:], head=23, behind_since=None)
    writer.close()
    assert projection.progress.applied_revision == 22


class Reads:
    """Counts how often a statement is run."""

    def __init__(self, writer: ViewWriter, statement: str) -> None:
        self.count = 0
        self._statement = statement
        writer._db.exec_trace = self._note

    def _note(self, _cursor: object, sql: str, _values: object) -> bool:
        self.count += sql == self._statement
        return True


@pytest.mark.parametrize("first", ["SessionBegin", "ChatBot.RobotSendMsg"])
def test_the_history_of_a_full_session_is_read_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(projection_module, "KEPT_SESSIONS", 0)
    journal = entries(life(first, *["ChatBot.UserSendMsg"] * 99))
    late = [
        body("ChatBot.UserSendMsg", NOON + each, SatisfactionSelected=each) for each in range(5)
    ]
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL, Limits(callbacks=100))
    apply_all(projection, journal)
    reads = Reads(writer, LOAD_HISTORY)
    more = [*repeated(journal), *(entry(201 + n, each) for n, each in enumerate(late))]
    for each in more:
        projection.apply([each], head=205, behind_since=None)
    writer._db.exec_trace = None
    writer.close()
    assert reads.count == 0
    assert projection.progress.repetitions == 100
    reasons = [each.rejection_reason for each in records(tmp_path)]
    assert reasons[100:] == [event_pb2.REJECTION_REASON_SESSION_TOO_LONG] * 5


def test_a_batch_counts_the_ids_that_are_noted_as_sessions_become_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("one", "two", "three")
    journal = entries([each for n in names for each in life(*["Brand.New"] * 10, session_id=n)])
    monkeypatch.setattr(projection_module, "BATCH_WORK", 15)
    with closing(ViewWriter(tmp_path)) as writer:
        projection = Projection(writer, JOURNAL, Limits(callbacks=10))
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


def test_sessions_in_turn_are_read_back_once_and_do_not_end_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, late = in_turn(4)
    writer = ViewWriter(tmp_path)
    apply_all(Projection(writer, JOURNAL), whole)
    monkeypatch.setattr(projection_module, "BATCH_WORK", 50)
    reads = Reads(writer, LOAD_HISTORY)
    projection = Projection(writer, JOURNAL)
    assert apply_all(projection, late[:6]) == 1
    assert apply_all(projection, late[6:]) == 1
    writer._db.exec_trace = None
    writer.close()
    assert reads.count == 3


def test_a_batch_reads_back_no_more_than_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, late = in_turn(2)
    writer = ViewWriter(tmp_path)
    apply_all(Projection(writer, JOURNAL), whole)
    monkeypatch.setattr(projection_module, "KEPT_BYTES", 100_000)
    reads = Reads(writer, LOAD_HISTORY)
    assert apply_all(Projection(writer, JOURNAL), late) == 3
    writer._db.exec_trace = None
    writer.close()
    assert reads.count == 6


def test_what_is_too_long_is_found_by_its_session_but_not_read_with_its_history(
    tmp_path: Path,
) -> None:
    journal = entries(
        [
            *life("ChatBot.UserSendMsg", start=NOON + 1),
            body("SessionBegin", NOON),
            *life("SessionEnd", "Brand.New", "Brand.New", start=NOON + 100_000),
        ]
    )
    writer = ViewWriter(tmp_path)
    Projection(writer, JOURNAL, Limits(callbacks=3)).apply(journal, head=5, behind_since=None)
    assert [each.revision for each in writer.load_history(1)] == [1, 2, 3]
    writer.close()
    snapshots = read(tmp_path, "SELECT session FROM feed WHERE revised != 1 ORDER BY position")
    selection = EventSelection(session_ids=(SESSION,))
    with closing(Reader(store.locate(tmp_path))) as reader:
        assert [row[1] for row in reader.facts(APP, SESSION, 5)] == [1, 2, 3]
        rows = reader.feed(selection, 0, enough=Bounds().size).rows
        found = [event_pb2.SessionRecord.FromString(row[1]) for row in rows]
        as_of = [(reader.session_as_of(APP, SESSION, revision),) for revision in range(1, 6)]
    assert [each.event.revision for each in found] == [1, 2, 1, 3, 4, 5]
    assert found[-1].rejection_reason == event_pb2.REJECTION_REASON_SESSION_TOO_LONG
    assert as_of == snapshots
    assert len(set(snapshots)) == 5


def test_revised_rows_borrow_the_event_that_they_are_about(tmp_path: Path) -> None:
    project(tmp_path, fixed_journal()).close()
    assert read(tmp_path, "SELECT revised, event_at = length(record), facts IS NULL FROM feed") == [
        *[(0, 0, 0)] * 5,
        (1, 1, 1),
        (0, 0, 0),
        (2, 0, 1),  # malformed
        *[(0, 0, 0)] * 2,
    ]
    made = records(tmp_path)
    assert made[5].event == made[3].event


def test_an_entry_that_cannot_be_applied_is_named(tmp_path: Path) -> None:
    writer = ViewWriter(tmp_path)
    projection = Projection(writer, JOURNAL)
    writer._db.exec_trace = damaged_at(LOAD_SESSION)
    with capture_logs() as logs, pytest.raises(ViewDamaged):
        projection.apply(fixed_journal(), head=9, behind_since=None)
    writer._db.exec_trace = None
    writer.close()
    assert [(line["event"], line["revision"]) for line in logs] == [("entry_not_applied", 1)]
