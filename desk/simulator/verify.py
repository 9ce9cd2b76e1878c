"""Asks the service what it made of a run, over its public API, and compares."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from desk.client import Client
from desk.simulator.expectation import Expectation
from desk.simulator.ledger import Ledger, Planned
from desk.simulator.report import Report
from desk.simulator.sender import Fate
from desk.v1.event_pb2 import EventFilter, RejectionReason, SessionRecord, Verdict
from desk.v1.session_pb2 import EndReason, Session, SessionKey, SessionState
from desk.v1.session_service_pb2 import BatchGetSessionsRequest

SETTLE = 1.0
"""Seconds after the last answer in which the follower surely learns of the journal's head."""

PATIENCE = 30.0
"""Seconds without any progress after which the service counts as stuck."""

BATCH = 500
"""Sessions asked for at once."""

_POLL = 0.1

Progress = Callable[[int, int], None]
"""Told the revision that the view has reached, and the one to be reached."""


class Start(msgspec.Struct, frozen=True):
    """Where the feed stood before the run."""

    journal_id: str
    revision: int


class Stuck(Exception):
    """The view stands still."""


class Found(msgspec.Struct, gc=False):
    """What the feed says of one callback."""

    event_revision: int
    last: SessionRecord


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
        Stuck: the view made no progress for `patience` seconds.
        ClientError: the service cannot be asked.
    """
    report = Report()
    head = await _settle(client, on_progress, patience)
    found = await _read_feed(client, ledger, start, head, report, patience)
    for identity, planned in ledger.callbacks.items():
        _compare_callback(report, planned, found.get(identity))
    await _compare_sessions(client, ledger, found, report)
    return report


async def _settle(client: Client, on_progress: Progress, patience: float) -> int:
    """Wait until the view contains what is in the journal now; the revision of that."""
    await asyncio.sleep(SETTLE)
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
                report.differ(f"the feed repeats {update.dropped} records before {update.revision}")
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
            report.differ(f"{_name(record)} was never sent like this")
        return
    report.compare(f"{_name(record)}, id", expected=identity, found=event.id)
    known = found.get(identity)
    if known is None:
        found[identity] = Found(event.revision, record)
        return
    if not record.revised or known.event_revision != event.revision:
        report.differ(f"{_name(record)} is there twice, also at revision {known.event_revision}")
    known.last = record


def _name(record: SessionRecord) -> str:
    event = record.event
    return f"session {event.session_id or '-'}, {event.type_name or 'malformed'}, " \
           f"revision {event.revision}"  # fmt: skip


def _compare_callback(report: Report, planned: Planned, found: Found | None) -> None:
    callback = planned.callback
    name = f"session {callback.session_id or '-'}, callback of {callback.at}"
    unknown = planned.fate is Fate.UNKNOWN
    if found is None:
        report.unknown_lost += unknown
        if planned.fate is Fate.KEPT:
            report.differ(f"{name}: acknowledged, and lost")
        return
    report.unknown_kept += unknown
    report.callbacks += 1
    if planned.fate in (Fate.REFUSED, None):
        report.differ(f"{name}: {'refused' if planned.fate else 'never sent'}, and yet there")
    before = report.differences
    _compare_record(report, planned, found.last)
    report.rejected += bool(callback.reason) and report.differences == before


def _compare_record(report: Report, planned: Planned, record: SessionRecord) -> None:
    callback, name = planned.callback, _name(record)
    verdict = "REJECTED" if callback.reason else "ACCEPTED"
    for what, expected, found in (
        ("session", callback.session_id, record.event.session_id),
        ("verdict", verdict, Verdict.Name(record.verdict).removeprefix("VERDICT_")),
        ("reason", callback.reason, _word(RejectionReason.Name(record.rejection_reason))),
        ("state before", callback.before.replace("NEW", ""), _state(record.state_before)),
        ("state after", callback.after.replace("NEW", ""), _state(record.state_after)),
        ("time", callback.at if callback.session_id else None, _ms(record.event, "event_time")),
    ):
        report.compare(f"{name}, {what}", expected=expected, found=found)


async def _compare_sessions(
    client: Client, ledger: Ledger, found: dict[str, Found], report: Report
) -> None:
    revisions = _revisions(ledger, found)
    skip = _incomplete(ledger, found)
    report.skipped = len(skip)
    names = (name for name in ledger.sessions if name not in skip)
    while batch := list(islice(names, BATCH)):
        sessions = await _fetch(client, ledger.sdk_app_id, batch)
        for name in batch:
            session, expected = sessions.get(name), ledger.sessions[name]
            report.sessions += expected is not None
            if expected is None or session is None:
                _compare_presence(report, name, expected, session)
                continue
            _compare_session(report, name, expected, session)
            if session.revision != revisions.get(name):
                report.compare(
                    f"session {name}, revision",
                    expected=revisions.get(name),
                    found=session.revision,
                )


async def _fetch(client: Client, sdk_app_id: int, names: Sequence[str]) -> dict[str, Session]:
    keys = [SessionKey(sdk_app_id=sdk_app_id, session_id=name) for name in names]
    answer = await client.call(
        client.session_service.BatchGetSessions, BatchGetSessionsRequest(keys=keys)
    )
    return {session.session_id: session for session in answer.sessions}


def _revisions(ledger: Ledger, found: dict[str, Found]) -> dict[str, int]:
    """The last revision of each session's callbacks."""
    last: dict[str, int] = {}
    for identity, each in found.items():
        name = ledger.callbacks[identity].callback.session_id
        last[name] = max(last.get(name, 0), each.event_revision)
    return last


def _incomplete(ledger: Ledger, found: dict[str, Found]) -> set[str]:
    """Sessions of which not all callbacks reached the service, through no fault of its own."""
    return {
        planned.callback.session_id
        for identity, planned in ledger.callbacks.items()
        if identity not in found and planned.fate is not Fate.KEPT
    } - {""}


def _compare_presence(
    report: Report, name: str, expected: Expectation | None, session: Session | None
) -> None:
    if session is not None:
        report.differ(f"session {name}: it never began, and yet it is there")
    elif expected is not None:
        report.differ(f"session {name}: missing")


def _compare_session(report: Report, name: str, expected: Expectation, session: Session) -> None:
    for field, value in _as_expectation(session):
        report.compare(f"session {name}, {field}", expected=getattr(expected, field), found=value)


def _as_expectation(session: Session) -> Iterator[tuple[str, object]]:
    for field in Expectation.__struct_fields__:
        value = getattr(session, field)
        if field == "state":
            value = _state(value)
        elif field == "end_reason":
            value = _word(EndReason.Name(value))
        elif field == "agent_ids":
            value = tuple(value)
        elif isinstance(value, Timestamp | Duration):
            value = _ms(session, field)
        yield field, value


def _ms(message: Any, field: str) -> int | None:
    """A time or duration in milliseconds; None = unset."""
    return getattr(message, field).ToMilliseconds() if message.HasField(field) else None


def _state(value: SessionState.ValueType) -> str:
    return _word(SessionState.Name(value))


def _word(name: str) -> str:
    """An enum value's name without its prefix; "" for `…_UNSPECIFIED`."""
    for prefix in ("SESSION_STATE_", "END_REASON_", "REJECTION_REASON_"):
        name = name.removeprefix(prefix)
    return "" if name == "UNSPECIFIED" else name
