"""The daily forgetting: when it is due, what it takes, what it reports; several replicas."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from desk.v1.status_pb2 import GetStatusRequest
from journal.entry import Kind, NewEntry, unnumbered
from journal.errors import Unavailable
from journal.forgetting import forget_list_of
from journal.jetstream_objects import ObjectStore
from metrics.report import RetentionReport, load
from service import forget_targets
from service.retention import DAY, Retention
from tests.support.callbacks import NOON, body, entry, life
from tests.support.nats import NatsServer
from tests.support.rpc import World, worker, world

KEEP = timedelta(days=400)
AT = clock_time(3)
SENT = datetime.fromtimestamp(NOON / 1000, UTC)
OLD = SENT + KEEP + timedelta(days=1)
"""A time at which everything in the journal is too old."""

NEWEST = datetime(2026, 1, 12, 2, tzinfo=UTC)
"""The time of the newest event: what confirms the time of a run."""


def callback(session_id: str, sent: datetime, received: datetime | None = None) -> NewEntry:
    """Make the first callback of a session."""
    times = [int(each.timestamp() * 1000) for each in (sent, received or sent)]
    made = body("SessionBegin", times[0], session_id=session_id)
    return unnumbered(entry(1, made, received_at=times[1]))


@pytest.fixture
def made() -> Iterator[World]:
    with world() as made:
        made.append(*life("SessionBegin", session_id="one"), b"not json")
        made.append(*life("SessionBegin", session_id="two"), app=8)
        made.append(callback("new", NEWEST))
        made.wait()
        yield made


def retention(made: World, **options: Any) -> Retention:
    made_with = {"claim": lambda _: True, "keep": KEEP, "at": AT, "append": made.append, **options}
    return Retention(made.folder, **made_with)


def forgotten(made: World) -> list[tuple[int, tuple[str, ...], int]]:
    """By FORGET entry: app, sessions, number of malformed callbacks."""
    entries = [each for each in made.journal.read(0, limit=99) if each.kind == Kind.FORGET]
    lists = [(each.sdk_app_id, forget_list_of(each)) for each in entries]
    return sorted((app, listed.session_ids, len(listed.revisions)) for app, listed in lists)


def test_what_is_too_old_is_forgotten_in_every_app(made: World):
    app = made.journal.read(0, limit=1)[0].sdk_app_id
    work = retention(made)
    work.run_if_due(OLD, Event())
    assert forgotten(made) == [(8, ("two",), 0), (app, (), 1), (app, ("one",), 0)]
    assert (work.report.sessions, work.report.malformed, work.report.problem) == (2, 1, "")


def test_what_is_not_too_old_is_kept(made: World):
    work = retention(made)
    work.run_if_due(SENT + KEEP, Event())
    assert not forgotten(made)
    assert work.report.completed_at, "the run went through"


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-01-10T02:59:00", False),
        ("2026-01-10T03:00:00", True),
        ("2026-01-10T23:00:00", True),
        ("2026-01-12T02:00:00", True),
    ],
)
def test_a_run_is_due_once_after_the_time_of_day(made: World, now: str, due: bool):
    work = retention(made)
    before = datetime(2026, 1, 9, 3, 5, tzinfo=UTC)
    work.report.completed_at = int(before.timestamp() * 1000)
    work.run_if_due(datetime.fromisoformat(f"{now}+00:00"), Event())
    assert bool(forgotten(made)) is due


@pytest.mark.parametrize(
    ("sent", "received"),
    [(NEWEST, NEWEST), (NEWEST, NEWEST + 30 * DAY), (NEWEST + DAY, NEWEST)],
    ids=["service", "gateway and service", "Desk and service"],
)
@pytest.mark.parametrize("ahead", [DAY, 8 * DAY, 5_000 * DAY])
def test_clocks_that_are_ahead_forget_nothing_too_early(
    sent: datetime, received: datetime, ahead: timedelta
):
    with world() as made:
        made.append(callback("kept", NEWEST - KEEP + timedelta(hours=1)))
        made.append(callback("new", sent, received))
        made.wait()
        work = retention(made, append=pytest.fail)
        work.run_if_due(NEWEST + ahead, Event())
    assert bool(work.report.completed_at) == (work.report.problem == "") == (ahead == DAY)


def test_a_run_goes_on_when_a_callback_confirms_the_time(made: World):
    later = NEWEST + 30 * DAY
    work = retention(made)
    work.run_if_due(later, Event())
    assert (work.report.sessions, work.report.completed_at) == (0, 0)
    assert "the newest event is of 2026-01-12 02:00:00Z" in work.report.problem
    made.append(callback("newer", later))
    made.wait()
    work.run_if_due(later, Event())
    assert (work.report.sessions, work.report.problem) == (2, "")


def test_an_empty_journal_has_nothing_to_forget():
    with world() as made:
        made.wait()
        work = retention(made, append=pytest.fail)
        work.run_if_due(NEWEST, Event())
    assert work.report.completed_at


def test_callbacks_are_too_old_also_where_no_session_has_begun():
    now = SENT + KEEP + 2 * DAY
    with world(
        [b"not json", *life("SessionBegin", "SessionEnd", session_id="not begun")[1:]]
    ) as made:
        made.wait()
        work = retention(made)
        work.run_if_due(now, Event())
        assert (forgotten(made), work.report.completed_at) == ([], 0), (
            "no callback confirms the time"
        )
        made.append(unnumbered(entry(1, b"new", received_at=int(now.timestamp() * 1000))))
        made.wait()
        work.run_if_due(now, Event())
    assert (work.report.sessions, work.report.malformed, work.report.problem) == (1, 1, "")


def test_a_run_of_a_clock_that_was_ahead_does_not_delay_the_next_one(made: World):
    work = retention(made)
    work.report.completed_at = int((OLD + 30 * DAY).timestamp() * 1000)
    work.run_if_due(OLD, Event())
    assert work.report.sessions == 2


def test_the_last_run_survives_a_restart(made: World):
    retention(made).run_if_due(OLD, Event())
    first = load(made.folder, RetentionReport)
    again = retention(made, append=pytest.fail)
    again.run_if_due(OLD + timedelta(minutes=1), Event())
    assert again.report.completed_at == first.completed_at  # type: ignore[union-attr]


def test_one_of_several_replicas_forgets_and_a_second_run_finds_nothing(made: World):
    claimed: set[str] = set()

    def claim(name: str) -> bool:
        is_first = name not in claimed
        claimed.add(name)
        return is_first

    replicas = [retention(made, claim=claim) for _ in range(2)]
    for each in replicas:
        each.run_if_due(OLD, Event())
    assert [each.report.sessions for each in replicas] == [2, 0]
    assert not replicas[1].report.completed_at, "it tries again when the claim has ended"
    assert len(forgotten(made)) == 3


def test_a_run_goes_on_from_turn_to_turn(made: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forget_targets, "MAX_FORGOTTEN", 1)
    monkeypatch.setattr("service.retention.TURN", 1e-6)
    turns: list[str] = []
    work = retention(made, claim=lambda name: not turns.append(name))
    work.run_if_due(OLD, Event())
    assert (work.report.sessions, work.report.malformed) == (2, 1)
    assert work.report.completed_at
    assert len(set(turns)) == len(turns) > 3


def test_a_run_ends_where_another_replica_has_the_next_turn(
    made: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(forget_targets, "MAX_FORGOTTEN", 1)
    monkeypatch.setattr("service.retention.TURN", 1e-6)
    answers = iter([True, False])
    work = retention(made, claim=lambda _: next(answers))
    work.run_if_due(OLD, Event())
    assert (work.report.sessions, work.report.completed_at) == (1, 0)
    other = retention(made)
    other.run_if_due(OLD, Event())
    assert other.report.sessions == 1
    assert len(forgotten(made)) == 3, "nothing is forgotten twice"


def test_replicas_on_nats_claim_a_run_by_its_day(made: World, nats: NatsServer):
    options = nats.options()
    with ExitStack() as stack:
        stores = [ObjectStore(options.access, options.stream) for _ in range(2)]
        for each in stores:
            stack.callback(each.close)
        replicas = [retention(made, claim=each.claim) for each in stores]
        for each in replicas:
            each.run_if_due(OLD, Event())
        assert [each.report.sessions for each in replicas] == [2, 0]
        replicas[1].run_if_due(OLD + timedelta(days=1), Event())
        assert replicas[1].report.completed_at, "another day is another run"


def test_a_run_that_fails_says_why_and_is_tried_again(made: World):
    def refuse(_: Any) -> int:
        raise Unavailable("the disk is full")

    work = retention(made, append=refuse)
    work.run_if_due(OLD, Event())
    assert (work.report.completed_at, work.report.problem) == (0, "the disk is full")
    later = retention(made)
    assert later.report.problem == "the disk is full"
    later.run_if_due(OLD, Event())
    assert (later.report.sessions, later.report.problem) == (2, "")


def test_a_run_stops_between_two_steps(made: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(forget_targets, "MAX_FORGOTTEN", 1)
    stop = Event()

    def append_and_stop(entry: Any) -> int:
        stop.set()
        return made.append(entry)

    work = retention(made, append=append_and_stop)
    work.run_if_due(OLD, stop)
    assert (work.report.sessions, work.report.completed_at) == (1, 0)


def test_a_view_that_is_behind_forgets_nothing(made: World):
    made.edit("UPDATE progress SET behind_since = 1")
    work = retention(made, append=pytest.fail, claim=pytest.fail)
    work.run_if_due(OLD, Event())
    assert "behind" in work.report.problem


async def test_the_status_tells_of_the_last_run(made: World, tmp_path: Path):
    async with worker(made) as serving:
        status = await serving.status.GetStatus(GetStatusRequest())
        assert not status.HasField("retention")
        work = retention(made)
        work.run_if_due(OLD, Event())
        status = (await serving.status.GetStatus(GetStatusRequest())).retention
    assert (status.keep.seconds, status.sessions, status.malformed) == (400 * 86_400, 2, 1)
    assert status.completed_at.ToMilliseconds() == work.report.completed_at
