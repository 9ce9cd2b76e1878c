"""Asks the service what it made of a run, over its public API, and compares."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import msgspec
from desk.client import Client, NotFound
from desk.v1.event_pb2 import EventFilter, SessionRecord, Verdict
from desk.v1.session_pb2 import SessionKey
from desk.v1.session_service_pb2 import BatchGetSessionsRequest, ExplainSessionRequest

from simulator.callbacks import Made
from simulator.comparison import (
    Found,
    compare_callback,
    compare_session,
    compare_story,
    name,
    read_record,
)
from simulator.ledger import Ledger
from simulator.report import Report, count_of
from simulator.sender import Fate

ROUNDS = 2
"""Signs of life after which the follower has looked at the journal after the last answer: the first
may end a round that began before it."""

PATIENCE = 30.0
"""Seconds without any progress after which the service counts as stuck."""

BATCH = 500
"""Sessions asked for at once."""

STORIES = 200
"""Sessions whose whole story is asked for, at most: that takes a call for each."""

_POLL = 0.1

Progress = Callable[[int, int], None]
"""Told the revision that the view has reached, and the one to be reached."""


class Start(msgspec.Struct, frozen=True):
    """Where the feed stood before the run."""

    journal_id: str
    revision: int


class Stuck(Exception):
    """The view stands still."""


async def note_start(client: Client) -> Start:
    """Remember where the feed stands."""
    header = (await client.status()).header
    return Start(header.journal_id, header.revision)


async def verify(
    client: Client,
    ledger: Ledger,
    start: Start,
    *,
    on_progress: Progress = lambda _reached, _head: None,
    patience: float = PATIENCE,
) -> Report:
    """Wait until the service has taken everything in, and compare it with what was sent.

    Raises:
        Stuck: the follower was silent, or the view made no progress, for `patience` seconds.
        ClientError: the service cannot be asked.
    """
    report = Report()
    head = await _settle(client, on_progress, patience)
    found = await _read_feed(client, ledger, start, head, report, patience)
    incomplete = _incomplete_sessions(ledger, found)
    for identity, planned in ledger.callbacks.items():
        whole_session = planned.callback.session_id not in incomplete
        compare_callback(report, planned, found.get(identity), whole_session=whole_session)
    whole = [session_id for session_id in ledger.sessions if session_id not in incomplete]
    report.skipped = len(incomplete)
    await _compare_sessions(client, ledger, whole, found, report)
    await _compare_stories(client, ledger, whole, report)
    return report


async def _settle(client: Client, on_progress: Progress, patience: float) -> int:
    """Wait until the view contains what is in the journal now; the revision of that."""
    await _await_rounds(client, patience)
    status = await client.status()
    head, reached = status.head_revision, status.header.revision
    clock = asyncio.get_running_loop().time
    moved = clock()
    while reached < head:
        if clock() - moved > patience:
            raise Stuck(f"the view stands still at revision {reached}; the journal is at {head}")
        await asyncio.sleep(_POLL)
        now = (await client.status()).header.revision
        if now > reached:
            reached, moved = now, clock()
        on_progress(reached, head)
    return head


async def _await_rounds(client: Client, patience: float) -> None:
    """Wait until the follower knows what has been acknowledged: `head_revision` is only as new."""
    clock = asyncio.get_running_loop().time
    seen, rounds, heard = (await client.status()).follower_seen_at, 0, clock()
    while rounds < ROUNDS:
        if clock() - heard > patience:
            raise Stuck("the follower is silent: what was acknowledged is not in the view yet")
        await asyncio.sleep(_POLL)
        now = (await client.status()).follower_seen_at
        if now != seen:
            seen, rounds, heard = now, rounds + 1, clock()


async def _read_feed(
    client: Client, ledger: Ledger, start: Start, head: int, report: Report, patience: float
) -> dict[str, Found]:
    """Everything in the feed that is ours, by identity, up to revision `head`."""
    found: dict[str, Found] = {}
    before, broken = (start.revision, 1 << 31), False
    updates = client.subscribe(
        after_revision=start.revision,
        journal_id=start.journal_id,
        event_filter=EventFilter(
            sdk_app_ids=[ledger.sdk_app_id],
            verdicts=[
                Verdict.VERDICT_ACCEPTED, Verdict.VERDICT_REJECTED, Verdict.VERDICT_UNRECOGNISED
            ],
        ),
        give_up_after=patience,
    )  # fmt: skip
    async with aclosing(updates):
        async for update in updates:
            broken |= update.resumed
            if update.dropped and not broken:
                repeated = count_of(update.dropped, "record")
                report.differ(f"the feed repeats {repeated} before {update.revision}")
            for record in update.records:
                place = (record.revision, record.ordinal)
                if place <= before:
                    report.differ(f"the feed's order is broken: {place} comes after {before}")
                before = place
                _take(report, ledger, found, record)
            if update.revision >= head:
                break
    return found


def _take(report: Report, ledger: Ledger, found: dict[str, Found], record: SessionRecord) -> None:
    event = record.event
    identity = ledger.identify(event.raw_body)
    if identity not in ledger.callbacks:
        if event.session_id in ledger.sessions:
            report.differ(f"{name(record)} was never sent like this")
        return
    report.compare(f"{name(record)}, id", expected=identity, found=event.id)
    known = found.get(identity)
    found[identity] = read_record(record)
    if known and (not record.revised or known.event_revision != event.revision):
        report.differ(f"{name(record)} is there twice, also at revision {known.event_revision}")


def _incomplete_sessions(ledger: Ledger, found: dict[str, Found]) -> set[str]:
    """Return the sessions of which a callback never reached the service, and need not have."""
    return {
        planned.callback.session_id
        for identity, planned in ledger.callbacks.items()
        if identity not in found and planned.fate is not Fate.KEPT and planned.callback.session_id
    }


async def _compare_sessions(
    client: Client, ledger: Ledger, whole: list[str], found: dict[str, Found], report: Report
) -> None:
    revisions = _last_revisions(ledger, found)
    for start in range(0, len(whole), BATCH):
        batch = whole[start : start + BATCH]
        keys = [SessionKey(sdk_app_id=ledger.sdk_app_id, session_id=each) for each in batch]
        request = BatchGetSessionsRequest(keys=keys)
        answer = await client.call(client.session_service.BatchGetSessions, request)
        sessions = {session.session_id: session for session in answer.sessions}
        for each in batch:
            compare_session(
                report, each, ledger.sessions[each], sessions.get(each), revisions.get(each, 0)
            )


def _last_revisions(ledger: Ledger, found: dict[str, Found]) -> dict[str, int]:
    """The last revision of each session's callbacks."""
    last: dict[str, int] = {}
    for identity, each in found.items():
        session_id = ledger.callbacks[identity].callback.session_id
        last[session_id] = max(last.get(session_id, 0), each.event_revision)
    return last


async def _compare_stories(
    client: Client, ledger: Ledger, whole: list[str], report: Report
) -> None:
    """Compare what becomes of each callback at its place, for sessions spread over the run."""
    chosen = whole[:: len(whole) // STORIES + 1]
    stories: dict[str, list[Made]] = {session_id: [] for session_id in chosen}
    for planned in ledger.callbacks.values():
        if planned.callback.session_id in stories:
            stories[planned.callback.session_id].append(planned.callback)
    for session_id, callbacks in stories.items():
        request = ExplainSessionRequest(sdk_app_id=ledger.sdk_app_id, session_id=session_id)
        try:
            answer = await client.call(client.session_service.ExplainSession, request)
        except NotFound:
            report.differ(f"session {session_id}: there is nothing to explain")
            continue
        compare_story(report, session_id, callbacks, answer.records)
        report.stories += 1
