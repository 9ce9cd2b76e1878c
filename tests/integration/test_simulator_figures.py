"""The comparison of board and report with the ledger finds what is wrong."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC

import msgspec
import pytest

from desk.client import Client
from journal.entry import unnumbered
from service.rpc.live_board import Centre
from simulator.day import DayPlan, lives_of_a_day
from simulator.figures import WAITING
from simulator.ledger import Ledger
from simulator.lives import make_lives
from simulator.report import Report
from simulator.verify_figures import verify_figures
from tests.support.callbacks import APP, NOON, body, entry
from tests.support.rpc import service

LAST = NOON + 600_000


@asynccontextmanager
async def a_day() -> AsyncIterator[tuple[Client, Ledger, int]]:
    """A day in a real service."""
    ledger = Ledger(APP)
    lives = lives_of_a_day(DayPlan(), 40, seed=3, run="r", now=LAST)
    made = [each for life in ledger.record(lives) for each in life.callbacks]
    arrived = [unnumbered(entry(1, each.body, received_at=LAST)) for each in made]
    centre = Centre(UTC, now=lambda: LAST)
    async with (
        service(*arrived, centre=centre) as (world, worker),
        Client(f"127.0.0.1:{worker.port}") as client,
    ):
        yield client, ledger, world.journal.head()


async def compared(tamper: Callable[[Ledger], None]) -> Report:
    report = Report()
    async with a_day() as (client, ledger, revision):
        tamper(ledger)
        await verify_figures(client, ledger, revision, report)
    return report


async def test_a_service_that_is_right_has_no_difference():
    report = await compared(lambda _: None)
    assert report.details == []
    assert report.figures > 500


def rated(ledger: Ledger) -> None:
    for session_id, session in ledger.sessions.items():
        if session and session.satisfaction:
            changed = msgspec.structs.replace(session, satisfaction=6 - session.satisfaction or 1)
            ledger.sessions[session_id] = changed


def answered_later(ledger: Ledger) -> None:
    for session_id, session in ledger.sessions.items():
        if session and session.answered_at:
            later = session.answered_at + 1
            ledger.sessions[session_id] = msgspec.structs.replace(session, answered_at=later)
            stays = ledger.stays[session_id]
            ledger.stays[session_id] = tuple(
                msgspec.structs.replace(each, start=later)
                if each.start == session.answered_at
                else each
                for each in stays
            )
            return


def another_agent(ledger: Ledger) -> None:
    for session_id, stays in ledger.stays.items():
        if any(each.agent for each in stays):
            ledger.stays[session_id] = tuple(
                msgspec.structs.replace(each, agent=each.agent and "nobody") for each in stays
            )
            return


def another_user(ledger: Ledger) -> None:
    for session_id, session in ledger.sessions.items():
        if session:
            changed = msgspec.structs.replace(session, client_user_id="the same")
            ledger.sessions[session_id] = changed


@pytest.mark.parametrize("tamper", [rated, answered_later, another_agent, another_user])
async def test_a_ledger_that_differs_is_noticed(tamper: Callable[[Ledger], None]):
    assert (await compared(tamper)).differences > 0


async def test_what_is_open_is_compared_session_by_session():
    report, ledger = Report(), Ledger(APP)
    lives = make_lives(150, seed=3, run="r", now=LAST)
    made = [each for life in ledger.record(lives) for each in life.callbacks]
    arrived = [unnumbered(entry(1, each.body, received_at=LAST)) for each in made]
    centre = Centre(UTC, now=lambda: LAST)
    async with (
        service(*arrived, centre=centre) as (world, worker),
        Client(f"127.0.0.1:{worker.port}") as client,
    ):
        await verify_figures(client, ledger, world.journal.head(), report)
        assert report.details == []
        waits = next(v for v in ledger.visits() if v.session.state in WAITING)
        ledger.stays[waits.session_id] = (
            msgspec.structs.replace(waits.stays[-1], start=waits.stays[-1].start + 1),
        )
        await verify_figures(client, ledger, world.journal.head(), report)
    assert any(each.startswith("board, longest waiting: ") for each in report.details)


async def test_figures_are_not_compared_if_sessions_were_skipped():
    report = Report()
    async with a_day() as (client, ledger, revision):
        report.skipped = 1
        await verify_figures(client, ledger, revision, report)
    assert "board and report not compared: not all sessions were" in report.as_text()


async def test_figures_are_not_compared_if_there_are_sessions_of_others():
    report = Report()
    ledger = Ledger(APP)
    list(ledger.record(lives_of_a_day(DayPlan(), 3, seed=3, run="r", now=LAST)))
    async with (
        service(body("SessionBegin", NOON)) as (_, worker),
        Client(f"127.0.0.1:{worker.port}") as client,
    ):
        await verify_figures(client, ledger, 1, report)
    assert (report.figures, report.figures_skipped) == (0, True)
    assert "not compared" in report.as_text()
