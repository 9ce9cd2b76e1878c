"""The scrub: finds what differs between journal and view, and goes on where it was."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event

import apsw
import pytest
from msgspec.structs import asdict, replace
from structlog.testing import capture_logs

from journal.entry import Entry, Kind
from journal.errors import Damaged, NotKept, Unavailable
from journal.forgetting import forget_entry
from journal.memory import MemoryJournal
from metrics.definitions import SCRUB_DIFFERENCES
from metrics.report import ScrubReport, load
from service.projection import Projection
from service.recovery import check
from service.scrub import Scrub
from service.view import store
from service.view.errors import ViewUnavailable
from service.view.writer import ViewWriter
from tests.support.callbacks import APP, NOON, body, entry
from tests.support.views import JOURNAL, project, records
from tests.support.waiting import eventually

SESSIONS = 10
ENTRIES = [
    entry(revision, body("SessionBegin", NOON, session_id=f"s{revision}"))
    for revision in range(1, SESSIONS + 1)
]


class Changed(MemoryJournal):
    """A journal that holds certain entries, whatever was appended."""

    id = JOURNAL

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__()
        self._entries = list(entries)
        self.reads: list[int] = []

    def read(self, after: int, *, limit: int) -> list[Entry]:
        self.reads.append(after)
        return super().read(after, limit=limit)


def at(revision: int, change: Callable[[Entry], Entry | None]) -> list[Entry]:
    """Return the entries of which one is changed, or removed."""
    changed = (change(each) if each.revision == revision else each for each in ENTRIES)
    return [each for each in changed if each]


def scrubbed(folder: Path, journal: MemoryJournal, steps: int = 4) -> ScrubReport:
    scrub = Scrub(journal, folder, rate=4)
    for _ in range(steps):
        scrub.step()
        if scrub.report.completed_at:
            break
    return scrub.report


@pytest.fixture(autouse=True)
def _view(tmp_path: Path) -> None:
    project(tmp_path, ENTRIES).close()


def test_a_journal_that_its_view_was_made_of_has_no_differences(tmp_path):
    journal = Changed(ENTRIES)
    with capture_logs() as logs:
        report = scrubbed(tmp_path, journal)
    assert journal.reads == [0, 4, 8]
    assert (report.shown, report.first_difference) == (0, "")
    assert [line["revision"] for line in logs if line["event"] == "scrub_completed"] == [10]


OTHER = entry(3, body("SessionBegin", NOON, session_id="another"))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda _: OTHER, "the view has another entry than the journal"),
        (lambda old: replace(old, client_ip="10.9.9.9"), "the view has another entry"),
        (lambda old: replace(old, body=old.body + b" "), "the view has another entry"),
        (lambda _: None, "the view has an entry that the journal lacks"),
    ],
)
def test_an_entry_that_differs_is_reported(tmp_path, change, difference):
    with capture_logs() as logs:
        report = scrubbed(tmp_path, Changed(at(3, change)))
    assert report.shown == 1
    assert report.first_difference.startswith(f"revision 3: {difference}")
    assert [line["revision"] for line in logs if line["event"] == "scrub_difference"] == [3]
    assert load(tmp_path, ScrubReport) == report


@pytest.mark.parametrize("revision", [1, 3, 10])
def test_an_entry_that_the_view_lacks_is_reported(tmp_path, revision):
    with closing(apsw.Connection(str(store.locate(tmp_path)))) as db:
        db.execute("DELETE FROM feed WHERE event_revision = ?", (revision,))
    report = scrubbed(tmp_path, Changed(ENTRIES))
    assert report.shown == 1
    problem = "the view lacks an entry that the journal has"
    assert report.first_difference == f"revision {revision}: {problem}"
    found = check(store.locate(tmp_path), JOURNAL, ENTRIES).damages[0]
    assert (found.first, found.problem) == (revision, problem)


def test_a_repetition_and_an_entry_of_another_kind_are_no_difference(tmp_path):
    early = body("ChatBot.UserSendMsg", NOON + 10**11, session_id="s4")
    unread = [b"not json", early, ENTRIES[4].body, b"not json", early, ENTRIES[2].body]
    others = [entry(SESSIONS + number, each) for number, each in enumerate(unread, 1)]
    kind = replace(entry(SESSIONS + 7, b"of a later version"), kind=Kind.FORGET)
    entries = [*ENTRIES, *others, kind]
    new = tmp_path / "new"
    new.mkdir(mode=0o700)
    project(new, entries).close()
    assert len(records(new)) == SESSIONS + 2
    assert scrubbed(new, Changed(entries), steps=6).shown == 0
    assert check(store.locate(new), JOURNAL, entries).damages == []


@pytest.mark.parametrize("deleted", [False, True])
def test_forgotten_entries_are_no_difference_before_and_after_they_are_deleted(tmp_path, deleted):
    order = forget_entry(APP, NOON, session_ids=["s3", "s7"])
    entries = [*ENTRIES, Entry(revision=SESSIONS + 1, **asdict(order))]
    new = tmp_path / "new"
    new.mkdir(mode=0o700)
    project(new, entries).close()
    kept = [each for each in entries if not (deleted and each.revision in (3, 7))]
    assert scrubbed(new, Changed(kept)).shown == 0
    assert check(store.locate(new), JOURNAL, kept).damages == []


def test_what_is_forgotten_and_deleted_while_the_scrub_reads_is_no_difference(tmp_path):
    class Deleting(Changed):
        def read(self, after: int, *, limit: int) -> list[Entry]:
            if not self.reads:
                order = forget_entry(APP, NOON, session_ids=["s3"])
                with closing(ViewWriter(tmp_path)) as writer:
                    last = Entry(revision=SESSIONS + 1, **asdict(order))
                    Projection(writer, JOURNAL).apply([last], head=SESSIONS + 1, behind_since=None)
            return super().read(after, limit=limit)

    assert scrubbed(tmp_path, Deleting(at(3, lambda _: None))).shown == 0


def test_what_is_forgotten_and_deleted_while_a_view_is_checked_is_no_difference(tmp_path):
    def deleting() -> Iterator[Entry]:
        yield ENTRIES[0]
        order = forget_entry(APP, NOON, session_ids=["s3"])
        project(tmp_path, [Entry(revision=SESSIONS + 1, **asdict(order))]).close()
        yield from at(3, lambda _: None)[1:]

    assert check(store.locate(tmp_path), JOURNAL, deleting()).damages == []


def test_entries_that_were_lost_at_the_end_are_reported(tmp_path):
    report = scrubbed(tmp_path, Changed(ENTRIES[:7]))
    assert report.shown == 3
    assert report.first_difference.startswith("revision 8: ")


def test_entries_that_came_after_the_view_are_no_difference(tmp_path):
    later = [*ENTRIES, entry(11, body("SessionBegin", NOON, session_id="later"))]
    assert scrubbed(tmp_path, Changed(later)).shown == 0


def test_a_part_of_the_journal_that_cannot_be_read_is_reported(tmp_path):
    class Unread(Changed):
        def read(self, after: int, *, limit: int) -> list[Entry]:
            raise Damaged("a damaged page")

    report = scrubbed(tmp_path, Unread(ENTRIES))
    assert report.first_difference == "revision 1: a damaged page"


def test_a_beginning_that_was_removed_is_no_difference(tmp_path):
    class Removed(Changed):
        def read(self, after: int, *, limit: int) -> list[Entry]:
            if after < 6:
                raise NotKept(7)
            return super().read(after, limit=limit)

    journal = Removed(ENTRIES[6:])
    assert scrubbed(tmp_path, journal).shown == 0
    assert journal.reads[0] == 6


def test_a_difference_is_shown_until_a_whole_pass_finds_none(tmp_path):
    scrubbed(tmp_path, Changed(at(3, lambda _: OTHER)))
    mended = Scrub(Changed(ENTRIES), tmp_path, rate=4)
    shown = []
    for _ in range(3):
        mended.step()
        shown.append(mended.report.shown)
    assert shown == [1, 1, 0]
    assert mended.report.first_difference == ""


def test_a_restart_goes_on_where_the_pass_was_and_another_journal_begins_anew(tmp_path):
    Scrub(Changed(ENTRIES), tmp_path, rate=4).step()
    again = Changed(ENTRIES)
    Scrub(again, tmp_path, rate=4).step()
    assert again.reads == [4]
    assert Scrub(MemoryJournal(), tmp_path, rate=4).report.revision == 0


def test_the_scrub_waits_for_the_first_transaction_of_a_new_view(tmp_path):
    new = tmp_path / "new"
    new.mkdir(mode=0o700)
    store.open_writer(store.locate(new)).close()
    scrub = Scrub(Changed(ENTRIES), new, rate=4)
    with pytest.raises(ViewUnavailable, match="the view is empty"):
        scrub.step()
    project(new, ENTRIES).close()
    scrub.step()
    assert scrub.report.revision == 4


def test_a_pass_that_ended_when_the_clock_was_wrong_delays_no_other(tmp_path: Path) -> None:
    scrub = Scrub(Changed(ENTRIES), tmp_path, rate=4, pause=0.01)
    scrub.report.completed_at = wrong = (time.time_ns() + 10**15) // 1_000_000
    stop = Event()
    scrub.start(stop)
    eventually(lambda: scrub.report.completed_at < wrong)
    stop.set()


def test_the_scrub_works_beside_the_follower_and_survives_a_journal_that_is_away(tmp_path):
    class Away(Changed):
        def read(self, after: int, *, limit: int) -> list[Entry]:
            found = super().read(after, limit=limit)
            if len(self.reads) == 1:
                raise Unavailable("for a moment")
            if len(self.reads) == 2:
                raise ValueError("of a kind that nobody expects")
            return found

    stop = Event()
    with closing(Away(at(9, lambda _: None))) as journal:
        Scrub(journal, tmp_path, rate=4, pause=0.01, pass_every=0.0).start(stop)
        eventually(lambda: SCRUB_DIFFERENCES.read() == {(): 1})
        passes = 3 * 4
        eventually(lambda: len(journal.reads) > passes)
        stop.set()
