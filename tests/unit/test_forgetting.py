"""The effects of a FORGET entry on a view, case by case; tests/property compares whole views."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from desk.v1.event_service_pb2 import SubscribeResponse
from journal.entry import Entry, numbered
from journal.forgetting import forget_entry
from service.history import LIMITS, FoldLimits
from service.positions import position_of
from service.projection import BatchBounds, Projection
from service.records import received_at
from service.view import store
from service.view import writer as view_writer
from service.view.digest import row_hash
from service.view.reader import Reader
from service.view.writer import ViewWriter
from tests.support.callbacks import APP, EVENTS, NOON, body, entries, entry, life
from tests.support.model import DAY
from tests.support.views import JOURNAL, read

TWO = ("SessionBegin", "ChatBot.UserSendMsg")
KEPT, GONE = (life(*TWO, session_id=name) for name in ("kept", "gone"))
MIXED = [KEPT[0], GONE[0], KEPT[1], GONE[1]]


def forgetting(revision: int, *session_ids: str, app: int = APP, **listed: Any) -> Entry:
    made = forget_entry(app, NOON + revision, session_ids=session_ids, **listed)
    return numbered(made, revision)


def applied(folder: Path, *batches: Sequence[Entry], limits: FoldLimits = LIMITS) -> None:
    """Apply batches to the view in a folder, in one process."""
    with closing(ViewWriter(folder)) as writer:
        projection = Projection(writer, JOURNAL, limits=limits)
        for batch in batches:
            projection.apply(batch, head=batch[-1].revision, behind_since=None)


def deleted(folder: Path) -> list[tuple[int, int]]:
    return read(folder, "SELECT * FROM entries_to_delete")


def progress(folder: Path, *columns: str) -> tuple[Any, ...]:
    [row] = read(folder, f"SELECT {', '.join(columns)} FROM progress")
    return row


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_a_session_leaves_the_view_and_its_entries_are_listed(tmp_path: Path, batches: int) -> None:
    journal = [*entries(MIXED), forgetting(5, "gone")]
    cuts = {1: [5], 2: [4, 5], 5: [1, 2, 3, 4, 5]}[batches]
    applied(tmp_path, *(journal[a:b] for a, b in zip([0, *cuts], cuts, strict=False)))
    assert read(tmp_path, "SELECT position >> 20, session_id FROM feed") == [
        (1, "kept"),
        (3, "kept"),
        (5, ""),
    ]
    for table in ("sessions", "session_keys WHERE session_id != ''"):
        assert read(tmp_path, f"SELECT session_id FROM {table}") == [("kept",)]
    assert read(tmp_path, "SELECT sum(sessions) FROM session_counts") == [(1,)]
    assert deleted(tmp_path) == [(2, 5), (4, 5)]


def test_the_feed_says_what_was_asked_whether_or_not_it_was_there(tmp_path: Path) -> None:
    applied(tmp_path, [forgetting(7, "never", "nor this", revisions=[3])])
    [(record,)] = read(tmp_path, "SELECT record FROM feed")
    forgotten = SubscribeResponse.FromString(record).forgotten
    assert (forgotten.revision, forgotten.sdk_app_id) == (7, APP)
    assert list(forgotten.session_ids) == ["never", "nor this"]
    assert list(forgotten.malformed_revisions) == [3]
    assert forgotten.requested_at.ToMilliseconds() == NOON + 7
    assert deleted(tmp_path) == []


def test_a_session_of_another_app_stays(tmp_path: Path) -> None:
    applied(tmp_path, [*entries(GONE), forgetting(3, "gone", app=APP + 1, revisions=[1])])
    assert read(tmp_path, "SELECT session_id FROM sessions") == [("gone",)]
    assert deleted(tmp_path) == []


def test_a_callback_that_comes_later_begins_a_new_session(tmp_path: Path) -> None:
    again = entry(4, body("SessionBegin", NOON + 1, session_id="gone"))
    applied(tmp_path, [*entries(GONE), forgetting(3, "gone"), again])
    assert read(tmp_path, "SELECT number, first_revision FROM sessions") == [(4, 4)]
    assert read(tmp_path, "SELECT session_id, revision FROM forgotten_sessions") == [("gone", 3)]
    assert read(tmp_path, "SELECT sum(sessions) FROM session_counts") == [(1,)]


def test_a_session_can_be_forgotten_again(tmp_path: Path) -> None:
    again = entry(4, body("SessionBegin", NOON + 1, session_id="gone"))
    journal = [*entries(GONE), forgetting(3, "gone"), again, forgetting(5, "gone")]
    applied(tmp_path, journal)
    assert read(tmp_path, "SELECT revision FROM forgotten_sessions") == [(3,), (5,)]
    assert deleted(tmp_path) == [(1, 3), (2, 3), (4, 5)]


@pytest.mark.parametrize("batched", [True, False])
def test_repetitions_are_forgotten_with_what_they_repeat(tmp_path: Path, batched: bool) -> None:
    once = entries([*MIXED, b"not json"])
    again = [replace(each, revision=each.revision + 5) for each in once]
    journal = [*once, *again, forgetting(11, "gone", revisions=[5])]
    applied(tmp_path, *([journal] if batched else [[each] for each in journal]))
    assert deleted(tmp_path) == [(n, 11) for n in (2, 4, 5, 7, 9, 10)]
    assert read(tmp_path, "SELECT * FROM repetitions") == [(1, 6), (1, 8)]
    assert progress(tmp_path, "repetitions") == (2,)


def test_a_full_session_is_forgotten_with_what_it_had_no_room_for(tmp_path: Path) -> None:
    long = life("SessionBegin", *["ChatBot.UserSendMsg"] * 5, session_id="gone")
    journal = entries(long)
    journal += [replace(journal[1], revision=7), replace(journal[5], revision=8)]
    limits = FoldLimits(callbacks=3)
    applied(tmp_path, [*journal, forgetting(9, "gone")], limits=limits)
    assert deleted(tmp_path) == [(n, 9) for n in range(1, 9)]
    for table in ("refused_ids", "rejections", "repetitions", "sessions"):
        assert read(tmp_path, f"SELECT * FROM {table}") == []


def test_a_malformed_callback_is_forgotten_by_its_revision(tmp_path: Path) -> None:
    broken = replace(entry(3, b"broken"), body=b"damaged")
    journal = [entry(1, b"one"), entry(2, b"two"), broken, forgetting(4, revisions=[1, 3, 4, 99])]
    applied(tmp_path, journal)
    assert deleted(tmp_path) == [(1, 4), (3, 4)]
    assert read(tmp_path, "SELECT event_revision FROM rejections") == [(2,)]
    assert read(tmp_path, "SELECT owner FROM refused_ids") == [(2,)]
    assert progress(tmp_path, "damaged") == (0,)


def test_a_revision_that_is_of_a_session_is_not_forgotten(tmp_path: Path) -> None:
    applied(tmp_path, [*entries(KEPT), forgetting(3, revisions=[1, 2, 2**63 - 1])])
    assert read(tmp_path, "SELECT session_id FROM sessions") == [("kept",)]
    assert deleted(tmp_path) == []


def test_a_callback_that_came_too_early_is_forgotten_if_it_is_listed_beside_its_session(
    tmp_path: Path,
) -> None:
    early = [entry(n, GONE[n - 1], received_at=NOON - 2 * DAY) for n in (1, 2)]
    whole = entry(3, GONE[0])  # repeats the first
    applied(tmp_path, [*early, whole, forgetting(4, "gone", revisions=[1])])
    assert deleted(tmp_path) == [(1, 4), (3, 4)]
    assert read(tmp_path, "SELECT revision FROM malformed_callbacks") == [(2,)]


@pytest.mark.parametrize(
    ("up_to", "oldest"), [(2, 3), (4, 5), (0, 5), (99, 5)], ids=["known", "last", "unknown", "late"]
)
def test_the_oldest_revision_follows_what_the_entry_says(
    tmp_path: Path, up_to: int, oldest: int
) -> None:
    applied(tmp_path, [*entries(MIXED), forgetting(5, "gone", up_to=up_to)])
    assert progress(tmp_path, "oldest_revision", "begins_at") == (oldest, 1)


def test_the_oldest_revision_never_goes_back(tmp_path: Path) -> None:
    applied(tmp_path, [*entries(MIXED), forgetting(5, "gone")], [forgetting(6, "kept", up_to=3)])
    assert progress(tmp_path, "oldest_revision") == (5,)


def test_an_entry_that_is_not_as_it_was_made_is_not_applied(tmp_path: Path) -> None:
    false = replace(forgetting(3, "gone"), sdk_app_id=APP + 1)
    with capture_logs() as logs:
        applied(tmp_path, [*entries(GONE), false])
    assert [(each["event"], each["revision"]) for each in logs] == [("forget_entry_invalid", 3)]
    assert progress(tmp_path, "applied_revision", "oldest_revision") == (3, 1)
    assert read(tmp_path, "SELECT count(*) FROM feed") == [(2,)]


def test_many_sessions_are_forgotten_one_after_the_other_and_each_at_once(tmp_path: Path) -> None:
    names = [f"s{n}" for n in range(4)]
    journal = entries([each for name in names for each in life(*TWO, session_id=name)])
    order, bounds = forgetting(9, *names, up_to=8), BatchBounds(work=9)
    once = tmp_path / "once"
    once.mkdir()
    applied(once, [*journal, order])
    with closing(ViewWriter(tmp_path)) as writer, closing(Reader(writer.path)) as reader:
        Projection(writer, JOURNAL).apply(journal, head=8, behind_since=None)
        before, seen = reader.progress(), []
        while reader.progress().applied_revision < 9:
            assert reader.progress().digest == before.digest
            assert reader.progress().oldest_revision == 1
            assert is_sound(tmp_path)
            # A restart after each transaction.
            Projection(writer, JOURNAL, bounds=bounds).apply([order], head=9, behind_since=None)
            rows = read(tmp_path, "SELECT session_id, count(*) FROM feed GROUP BY 1")
            seen.append([(name, count) for name, count in rows if name])
            assert [reader.forgotten_at(APP, each) > 0 for each in names] == [
                (each, 2) not in rows for each in names
            ]
    assert seen == [[("s2", 2), ("s3", 2)], []]
    columns = "digest, removed, oldest_revision, applied_revision"
    assert progress(tmp_path, columns) == progress(once, columns)
    assert is_sound(tmp_path)


def is_sound(folder: Path) -> bool:
    """Return True if the digest is the one of the feed."""
    total = sum(
        row_hash(*row) for row in read(folder, "SELECT position, record, session FROM feed")
    )
    with closing(Reader(store.locate(folder))) as reader:
        return reader.progress().fits(total)


def test_entries_are_deleted_from_the_newest_and_then_listed_no_more(tmp_path: Path) -> None:
    with closing(ViewWriter(tmp_path)) as writer, closing(Reader(writer.path)) as reader:
        projection = Projection(writer, JOURNAL)
        journal = [*entries(MIXED), forgetting(5, "gone", "kept")]
        projection.apply(journal, head=5, behind_since=None)
        assert reader.entries_to_delete(3) == [4, 3, 2]
        assert reader.entries_to_delete(3, before=3) == [2, 1]
        assert reader.left_to_delete(3) == (3, NOON + 5)
        assert projection.note_deleted(4)
        assert reader.left_to_delete(9) == (4, NOON + 5)
        assert projection.note_deleted(5)
        assert reader.left_to_delete(9) == (0, None)


def test_entries_are_deleted_by_the_forget_entries_that_list_them(tmp_path: Path) -> None:
    with closing(ViewWriter(tmp_path)) as writer, closing(Reader(writer.path)) as reader:
        projection = Projection(writer, JOURNAL)
        journal = [*entries(MIXED), forgetting(5, "gone"), forgetting(6, "kept")]
        projection.apply(journal, head=6, behind_since=None)
        assert reader.last_forgotten() == position_of(6)
        untils = [reader.listed_until(6, enough) for enough in (1, 2, 3, 9)]
        assert untils == [5, 5, 6, 6]
        assert [reader.listed_until(until, 9) for until in (4, 5)] == [0, 5]
        assert reader.entries_to_delete(9, until=5) == [4, 2]
        assert projection.note_deleted(5)
        assert reader.entries_to_delete(9) == [3, 1]


def test_no_file_of_the_view_has_a_text_of_a_forgotten_session(tmp_path: Path) -> None:
    journal = entries(sorted(talk("secret") + talk("public"), key=len))
    last = journal[-1].revision + 1
    with closing(ViewWriter(tmp_path)) as writer:
        projection = Projection(writer, JOURNAL)
        for start in range(0, len(journal), 7):  # pages are written, moved and left
            batch = journal[start : start + 7]
            projection.apply(batch, head=last, behind_since=None)
        assert b"secret text" in files(tmp_path)
        names = [f"secret-{n}" for n in range(20)]
        projection.apply([forgetting(last, *names)], head=last, behind_since=None)
        writer.clear_removed()
        found = files(tmp_path)
        assert b"public text" in found
        for each in names:
            found = found.replace(each.encode(), b"")  # the list of what was forgotten
        assert b"secret" not in found


def test_a_row_of_the_feed_says_when_its_entry_was_received(tmp_path: Path) -> None:
    applied(tmp_path, [*entries([GONE[0], b"not json"]), forgetting(3, "gone")])
    rows = read(tmp_path, "SELECT record FROM feed")
    assert [received_at(row) for (row,) in rows] == [NOON + 2, NOON + 3]


def test_frequent_forget_entries_do_not_keep_the_files_from_being_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_writer, "CLEARING", 0.0)  # one piece of the file at a time
    journal = entries(talk("secret"))
    first = journal[-1].revision + 1
    with closing(ViewWriter(tmp_path)) as writer:
        projection = Projection(writer, JOURNAL)
        projection.apply(journal, head=first, behind_since=None)
        for revision in range(first, first + 10):
            forget = forgetting(revision, f"secret-{revision - first}")
            projection.apply([forget], head=revision, behind_since=None)
            writer.clear_removed()
        assert writer.is_clear(first)
        assert not writer.is_clear(revision)
        for _ in range(20):
            writer.clear_removed()
        assert writer.is_clear(revision)


def talk(word: str) -> list[bytes]:
    """Make sessions that have a word in every text."""
    return [
        body(
            event,
            NOON + 1000 * place,
            session_id=f"{word}-{session}",
            AgentId=f"{word} agent {place}",
            ClientUserId=f"{word} user",
            MsgKey=f"{word} key {place}",
            MsgBody=[{"MsgType": "TIMTextElem", "MsgContent": {"Text": f"{word} text " * size}}],
        )
        for session in range(20)
        for place, event in enumerate(EVENTS)
        for size in (1 + session * place,)
    ]


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())
