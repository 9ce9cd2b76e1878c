"""Compares what was found with what was to be expected. Asks nobody."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import msgspec
from desk.v1.event_pb2 import RejectionReason, SessionRecord, Verdict
from desk.v1.session_pb2 import EndReason, Session, SessionState
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from simulator.callbacks import Made
from simulator.expectation import Expectation
from simulator.ledger import Planned
from simulator.report import Report
from simulator.scripts import NEW
from simulator.sender import Fate


class Found(msgspec.Struct, gc=False):
    """What the feed says of one callback: the last of its records, as far as it is compared."""

    event_revision: int
    name: str
    session_id: str
    time: int | None
    verdict: tuple[str, str]


def read_record(record: SessionRecord) -> Found:
    """Read a record."""
    return Found(
        event_revision=record.event.revision,
        name=name(record),
        session_id=record.event.session_id,
        time=_ms(record.event, "event_time"),
        verdict=(_word(Verdict, record.verdict), _reason(record)),
    )


def name(record: SessionRecord) -> str:
    """What to call a record in a difference."""
    event = record.event
    what = event.type_name or "malformed"
    return f"session {event.session_id or '-'}, {what}, revision {event.revision}"


def compare_callback(
    report: Report, planned: Planned, found: Found | None, *, whole_session: bool = True
) -> None:
    """Compare one callback, which the feed may have or not.

    Its verdict only in a whole session: one that never arrived may decide what another means.
    """
    callback = planned.callback
    what = f"session {callback.session_id or '-'}, callback of {callback.at}"
    unknown = planned.fate is Fate.UNKNOWN
    if found is None:
        report.unknown_lost += unknown
        if planned.fate is Fate.KEPT:
            report.differ(f"{what}: acknowledged, and lost")
        return
    report.unknown_kept += unknown
    report.callbacks += 1
    if planned.fate in (Fate.REFUSED, None):
        report.differ(f"{what}: {'refused' if planned.fate else 'never sent'}, and yet there")
    before = report.differences
    _compare_record(report, callback, found, whole_session=whole_session)
    if planned.revisions:
        report.compare(
            f"{found.name}, Desk-Revision of its answers (0 = none)",
            expected=(found.event_revision,),
            found=planned.revisions,
        )
    report.rejected += bool(callback.reason) and report.differences == before


def _compare_record(report: Report, callback: Made, found: Found, *, whole_session: bool) -> None:
    time = callback.at if callback.session_id else None
    report.compare(f"{found.name}, session", expected=callback.session_id, found=found.session_id)
    if whole_session:
        report.compare(f"{found.name}, verdict", expected=_verdict(callback), found=found.verdict)
    report.compare(f"{found.name}, time", expected=time, found=found.time)


def compare_story(
    report: Report, session_id: str, callbacks: Sequence[Made], records: Sequence[SessionRecord]
) -> None:
    """Compare all callbacks of a session, in time order, with what became of each at its place."""
    for place, (callback, record) in enumerate(zip_longest(callbacks, records), 1):
        report.compare(
            f"session {session_id}, explained, callback {place}",
            expected=callback and (callback.at, *_verdict(callback), *_states(callback)),
            found=record and _told(record),
        )


def compare_session(
    report: Report,
    session_id: str,
    expected: Expectation | None,
    found: Session | None,
    revision: int,
) -> None:
    """Compare a session; None = there is none."""
    if expected is None or found is None:
        if expected is not None:
            report.differ(f"session {session_id}: missing")
        if found is not None:
            report.differ(f"session {session_id}: it never began, and yet it is there")
        return
    report.sessions += 1
    report.compare(f"session {session_id}, revision", expected=revision, found=found.revision)
    for field, value in _fields(found):
        what = f"session {session_id}, {field}"
        report.compare(what, expected=getattr(expected, field), found=value)


def _fields(session: Session) -> Iterator[tuple[str, object]]:
    for field in Expectation.__struct_fields__:
        value = getattr(session, field)
        if field in _ENUMS:
            value = _word(_ENUMS[field], value)
        elif field == "agent_ids":
            value = tuple(value)
        elif isinstance(value, Timestamp | Duration):
            value = _ms(session, field)
        yield field, value


_ENUMS: dict[str, Any] = {"state": SessionState, "end_reason": EndReason}


def _verdict(callback: Made) -> tuple[str, str]:
    return "REJECTED" if callback.reason else "ACCEPTED", callback.reason


def _states(callback: Made) -> tuple[str, ...]:
    return tuple("" if state == NEW else state for state in (callback.before, callback.after))


def _told(record: SessionRecord) -> tuple[object, ...]:
    return (
        _ms(record.event, "event_time"),
        _word(Verdict, record.verdict),
        _reason(record),
        _word(SessionState, record.state_before),
        _word(SessionState, record.state_after),
    )


def _reason(record: SessionRecord) -> str:
    return _word(RejectionReason, record.rejection_reason)


def _ms(message: Any, field: str) -> int | None:
    """A time or duration in milliseconds; None = unset."""
    return getattr(message, field).ToMilliseconds() if message.HasField(field) else None


def _word(enum: Any, value: int) -> str:
    """An enum value's name without its prefix; "" for `…_UNSPECIFIED`."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    return str(enum.Name(value).removeprefix(prefix)) if value else ""
