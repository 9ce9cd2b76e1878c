"""The follower's gauges: as in its view, and honest about a journal that cannot be read."""

import math
import time
from contextlib import closing
from pathlib import Path

import pytest

from journal.entry import Entry, numbered
from journal.errors import Damaged
from journal.forgetting import forget_entry
from journal.memory import MemoryJournal
from metrics.definitions import (
    FORGOTTEN_ENTRIES,
    FORGOTTEN_OLDEST,
    LAG_SECONDS,
    LONGEST_WAIT,
    SESSIONS,
)
from service.gauges import read_gauges
from service.projection import Projection
from tests.support.callbacks import APP, NOON, body, entry
from tests.support.views import JOURNAL, project

BEGIN = ("SessionBegin",)
QUEUE = (*BEGIN, "TransferringToHuman", "TransferringToHumanWait")


def sessions_of(*lives: tuple[str, int, tuple[str, ...]]) -> list[Entry]:
    """Return the callbacks of sessions, given by id, time of the first callback, and events."""
    bodies = [
        body(event, begun_at + 1_000 * number, session_id=session_id)
        for session_id, begun_at, events in lives
        for number, event in enumerate(events)
    ]
    return [
        entry(revision, each, received_at=time.time_ns() // 1_000_000)
        for revision, each in enumerate(bodies, 1)
    ]


def test_sessions_are_shown_by_state_and_the_longest_wait_of_those_in_the_queue(
    tmp_path: Path,
) -> None:
    now = time.time_ns() // 1_000_000
    journal = sessions_of(
        ("with the bot", NOON, BEGIN),
        ("ended", NOON, (*QUEUE, "SessionEnd")),
        ("waiting", now - 602_000, QUEUE),
        ("waiting shortly", now - 12_000, QUEUE),
    )
    with closing(project(tmp_path, journal)) as writer:
        read_gauges(Projection(writer, JOURNAL), MemoryJournal(), writer.path)
        assert SESSIONS.read() == {
            (str(APP), "chatbot"): 1,
            (str(APP), "queued"): 2,
            (str(APP), "ended"): 1,
        }
        assert LONGEST_WAIT.read() == {(str(APP),): pytest.approx(600, abs=60)}


def test_nobody_waits_once_the_queue_is_empty(tmp_path: Path) -> None:
    journal = sessions_of(("a", NOON, (*QUEUE, "TransferToHumanSuccess")))
    with closing(project(tmp_path, journal)) as writer:
        read_gauges(Projection(writer, JOURNAL), MemoryJournal(), writer.path)
        assert LONGEST_WAIT.read() == {(str(APP),): 0.0}


def test_a_view_that_is_being_built_shows_no_sessions(tmp_path: Path) -> None:
    journal = sessions_of(("a", NOON, QUEUE))
    with closing(project(tmp_path, [])) as writer:
        writer.renew()
        projection = Projection(writer, JOURNAL)
        projection.apply(journal[:1], head=2, behind_since=NOON)
        writer.settle()
        read_gauges(projection, MemoryJournal(), writer.path)
        assert (SESSIONS.read(), LONGEST_WAIT.read()) == ({}, {})


def test_what_is_forgotten_and_not_deleted_is_counted_with_its_age(tmp_path: Path) -> None:
    now = time.time_ns() // 1_000_000
    journal = sessions_of(("a", NOON, QUEUE), ("b", NOON, BEGIN))
    with closing(project(tmp_path, journal)) as writer:
        projection = Projection(writer, JOURNAL)
        read_gauges(projection, MemoryJournal(), writer.path)
        assert (FORGOTTEN_ENTRIES.read(), FORGOTTEN_OLDEST.read()) == ({(): 0}, {(): 0})
        for revision, name, at in ((5, "b", now - 700_000), (6, "a", now)):
            forgetting = numbered(forget_entry(APP, at, session_ids=[name]), revision)
            projection.apply([forgetting], head=revision, behind_since=None)
        assert FORGOTTEN_ENTRIES.read() == {(): 4}
        assert FORGOTTEN_OLDEST.read() == {(): pytest.approx(700, abs=60)}
        projection.note_deleted(5)
        assert FORGOTTEN_ENTRIES.read() == {(): 3}
        assert FORGOTTEN_OLDEST.read() == {(): pytest.approx(0, abs=60)}


class DamagedJournal(MemoryJournal):
    def read(self, after: int, *, limit: int) -> list[Entry]:
        raise Damaged("the entry after revision 0")


def test_the_lag_behind_a_journal_that_cannot_be_read_is_endless(tmp_path: Path) -> None:
    with closing(project(tmp_path, [])) as writer:
        read_gauges(Projection(writer, JOURNAL), DamagedJournal(), writer.path)
        assert LAG_SECONDS.read() == {(): math.inf}
