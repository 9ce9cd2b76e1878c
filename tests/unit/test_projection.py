"""The content of a view after given callbacks: rejections, revisions, numbers, a known digest."""

from contextlib import closing

from msgspec.structs import replace

from desk.v1 import event_pb2, session_pb2
from journal.entry import DAMAGED
from service.history import FoldLimits
from service.projection import Projection
from service.view import store
from service.view.bounds import Bounds
from service.view.digest import DIGESTS, row_hash
from service.view.reader import Reader
from service.view.rows import NO_HISTORY
from service.view.selection import EventSelection
from service.view.writer import ViewWriter
from tests.support.callbacks import APP, NOON, SESSION, body, entries, entry, life
from tests.support.views import JOURNAL, digest, fixed_journal, project, read, records

KNOWN = (4, "963017bd7a8a999463cbe49d399de2e4c86a765e25919c9f8c2bf74267d10fdc")
"""Fold version and feed digest of `fixed_journal`. If this test fails although neither table nor
schema has changed, raise `store.FOLD_VERSION` and put both new values here: views built by the
earlier version are of no more use."""


def test_the_fold_gives_the_digest_that_its_version_stands_for(tmp_path):
    project(tmp_path, fixed_journal()).close()
    assert (store.FOLD_VERSION, digest(tmp_path)) == KNOWN


def test_the_digest_is_the_sum_of_the_hashes_of_the_rows(tmp_path):
    writer = project(tmp_path, fixed_journal())
    progress = writer.progress()
    writer.close()
    rows = read(tmp_path, "SELECT position, record, session FROM feed ORDER BY random()")
    hashes = [row_hash(*row) for row in rows]
    assert progress
    assert int.from_bytes(progress.digest) == sum(hashes) % DIGESTS


def test_a_late_event_turns_a_rejection_into_an_acceptance_and_says_so(tmp_path):
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


def test_a_row_has_every_verdict_that_its_event_ever_had(tmp_path):
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


def test_a_row_is_found_by_the_agent_whom_the_session_had_when_it_was_published(tmp_path):
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


def test_only_standing_rejections_are_listed(tmp_path):
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


def test_a_session_is_numbered_by_the_revision_that_began_it(tmp_path):
    early = life("ChatBot.UserSendMsg", start=NOON + 1)
    project(tmp_path, entries([*early, body("SessionBegin", NOON)])).close()
    assert read(tmp_path, "SELECT number, session_id FROM sessions") == [(2, SESSION)]
    assert read(tmp_path, "SELECT session IS NULL FROM feed ORDER BY position") == [
        (1,),
        (0,),
        (1,),
    ]


def test_a_session_saved_batch_by_batch_moves_in_the_indexes_with_what_happens_to_it(tmp_path):
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


def test_a_malformed_body_is_in_the_feed_with_its_reason_and_every_byte(tmp_path):
    project(tmp_path, entries([b'{"SessionId": "s"}'])).close()
    [record] = records(tmp_path)
    assert record.rejection_reason == event_pb2.REJECTION_REASON_MALFORMED
    assert record.rejection_detail == "Event is missing or not a string"
    assert record.event.raw_body == b'{"SessionId": "s"}'
    assert record.event.type == event_pb2.EVENT_TYPE_UNSPECIFIED


def test_a_session_that_is_too_long_is_kept_current_and_goes_on_being_so(tmp_path):
    journal = entries(
        [
            *life("ChatBot.UserSendMsg", "ChatBot.UserSendMsg", start=NOON + 1),
            body("SessionBegin", NOON),
            *life("SessionEnd", "Brand.New", start=NOON + 100_000),
        ]
    )
    writer = ViewWriter(tmp_path)
    for each in journal:  # a new process each, some before it has begun
        projection = Projection(writer, JOURNAL, limits=FoldLimits(revised=2))
        projection.apply([each], head=5, behind_since=None)
    writer.close()
    made = records(tmp_path)
    assert [each.revision for each in made] == [1, 2, 3, 3, 3, 4, 5]
    for each in made[-2:]:
        assert each.rejection_reason == event_pb2.REJECTION_REASON_SESSION_TOO_LONG
        assert each.state_before == each.state_after == session_pb2.SESSION_STATE_CHATBOT
    [(blob, revised)] = read(tmp_path, "SELECT session, revised FROM feed WHERE position = 5 << 20")
    session = session_pb2.Session.FromString(blob)
    assert (session.rejected_events, session.revision, revised) == (2, 5, NO_HISTORY)
    assert read(tmp_path, "SELECT session FROM sessions") == [(blob,)]


def test_a_session_that_never_begins_is_bounded_across_restarts(tmp_path):
    writer = ViewWriter(tmp_path)
    for each in entries(life(*["ChatBot.UserSendMsg"] * 5)):
        projection = Projection(writer, JOURNAL, limits=FoldLimits(callbacks=3))
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


def test_what_is_too_long_is_found_by_its_session_but_not_read_with_its_history(tmp_path):
    journal = entries(
        [
            *life("ChatBot.UserSendMsg", start=NOON + 1),
            body("SessionBegin", NOON),
            *life("SessionEnd", "Brand.New", "Brand.New", start=NOON + 100_000),
        ]
    )
    writer = ViewWriter(tmp_path)
    Projection(writer, JOURNAL, limits=FoldLimits(callbacks=3)).apply(
        journal, head=5, behind_since=None
    )
    assert [each.revision for each in writer.load_history(1)] == [1, 2, 3]
    writer.close()
    snapshots = read(tmp_path, "SELECT session FROM feed WHERE revised != 1 ORDER BY position")
    selection = EventSelection(session_ids=(SESSION,))
    with closing(Reader(store.locate(tmp_path))) as reader:
        assert [row[1] for row in reader.history(APP, SESSION, 5)] == [1, 2, 3]
        rows = reader.feed(selection, 0, enough=Bounds().size).rows
        found = [event_pb2.SessionRecord.FromString(row[1]) for row in rows]
        as_of = [(reader.session_as_of(APP, SESSION, revision),) for revision in range(1, 6)]
    assert [each.event.revision for each in found] == [1, 2, 1, 3, 4, 5]
    assert found[-1].rejection_reason == event_pb2.REJECTION_REASON_SESSION_TOO_LONG
    assert as_of == snapshots
    assert len(set(snapshots)) == 5


def test_revised_rows_borrow_the_event_that_they_are_about(tmp_path):
    project(tmp_path, fixed_journal()).close()
    assert read(tmp_path, "SELECT revised, event_at = length(record) FROM feed") == [
        *[(0, 0)] * 5,
        (1, 1),
        (0, 0),
        (2, 0),  # malformed
        *[(0, 0)] * 2,
    ]
    made = records(tmp_path)
    assert made[5].event == made[3].event


def test_an_entry_that_is_not_what_was_appended_is_malformed_and_counted(tmp_path):
    whole = entries(life("SessionBegin", "ChatBot.UserSendMsg", "SessionEnd"))
    changed = replace(whole[1], body=whole[1].body.replace(b"user-1", b"user-3"))
    project(tmp_path, [whole[0], changed, whole[2]]).close()
    found = records(tmp_path)
    assert [each.rejection_detail for each in found] == ["", DAMAGED, ""]
    assert found[1].event.raw_body == changed.body
    assert found[1].event.session_id == ""
    assert read(tmp_path, "SELECT damaged FROM progress") == [(1,)]


def test_a_whole_copy_of_a_damaged_entry_is_taken(tmp_path):
    whole = entries(life("SessionBegin", "ChatBot.UserSendMsg"))
    damaged = replace(whole[0], body=b"{}")
    project(tmp_path, [damaged, whole[1], replace(whole[0], revision=3)]).close()
    assert records(tmp_path)[-1].session_state == session_pb2.SESSION_STATE_CHATBOT
