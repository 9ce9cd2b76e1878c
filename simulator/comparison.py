"""Compares the service's answers with the expected ones. Makes no calls."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from desk.v1.event_pb2 import RejectionReason, SessionRecord, Verdict
from desk.v1.session_pb2 import EndReason, Session, SessionState
from simulator.callbacks import Made
from simulator.expectation import Expectation
from simulator.ledger import SentCallback
from simulator.report import Report
from simulator.scripts import NEW
from simulator.sender import Fate


class FoundCallback(msgspec.Struct, gc=False):
    """The compared fields of the last record of a callback in the feed."""

    event_revision: int
    name: str
    session_id: str
    time: int | None
    verdict: tuple[str, str]


def read_record(record: SessionRecord) -> FoundCallback:
    return FoundCallback(
        event_revision=record.event.revision,
        name=label(record),
        session_id=record.event.session_id,
        time=_ms(record.event, "event_time"),
        verdict=(_word(Verdict, record.verdict), _reason(record)),
    )


def label(record: SessionRecord) -> str:
    """Return the words for a record in a difference."""
    event = record.event
    type_name = event.type_name or "malformed"
    return f"session {event.session_id or '-'}, {type_name}, revision {event.revision}"


def compare_callback(
    report: Report, sent: SentCallback, found: FoundCallback | None, *, whole_session: bool = True
) -> None:
    """Compare one callback; `found` is None if it is not in the feed.

    Its verdict is compared in a whole session only: it may depend on a callback that never arrived.
    """
    callback = sent.callback
    subject = f"session {callback.session_id or '-'}, callback of {callback.at}"
    unknown = sent.fate is Fate.UNKNOWN
    if found is None:
        report.unknown_lost += unknown
        if sent.fate is Fate.KEPT:
            report.differ(f"{subject}: acknowledged, and lost")
        return
    report.unknown_kept += unknown
    report.callbacks += 1
    if sent.fate in (Fate.REFUSED, None):
        report.differ(f"{subject}: {'refused' if sent.fate else 'never sent'}, but in the feed")
    before = report.differences
    _compare_record(report, callback, found, whole_session=whole_session)
    if sent.revisions:
        report.compare(
            f"{found.name}, Desk-Revision of its answers (0 = none)",
            expected=(found.event_revision,),
            found=sent.revisions,
        )
    report.rejected += bool(callback.reason) and report.differences == before


def _compare_record(
    report: Report, callback: Made, found: FoundCallback, *, whole_session: bool
) -> None:
    time = callback.at if callback.session_id else None
    report.compare(f"{found.name}, session", expected=callback.session_id, found=found.session_id)
    if whole_session:
        report.compare(f"{found.name}, verdict", expected=_verdict(callback), found=found.verdict)
    report.compare(f"{found.name}, time", expected=time, found=found.time)


def compare_explanation(
    report: Report, session_id: str, callbacks: Sequence[Made], records: Sequence[SessionRecord]
) -> None:
    """Compare all callbacks of a session, in time order, with the records of its explanation."""
    for place, (callback, record) in enumerate(zip_longest(callbacks, records), 1):
        report.compare(
            f"session {session_id}, explained, callback {place}",
            expected=callback and (callback.at, *_verdict(callback), *_states(callback)),
            found=record and _record_outcome(record),
        )


def compare_session(
    report: Report,
    session_id: str,
    expected: Expectation | None,
    found: Session | None,
    revision: int,
) -> None:
    """Compare a session; None means that there is none."""
    if expected is None or found is None:
        if expected is not None:
            report.differ(f"session {session_id}: missing")
        if found is not None:
            report.differ(f"session {session_id}: it never began, but the service has it")
        return
    report.sessions += 1
    report.compare(f"session {session_id}, revision", expected=revision, found=found.revision)
    for field, value in _fields(found):
        subject = f"session {session_id}, {field}"
        report.compare(subject, expected=getattr(expected, field), found=value)


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


def _record_outcome(record: SessionRecord) -> tuple[object, ...]:
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
    """Return a time or duration in milliseconds; None if it is not set."""
    return getattr(message, field).ToMilliseconds() if message.HasField(field) else None


def _word(enum: Any, value: int) -> str:
    """Return an enum value's name without its prefix; empty for `…_UNSPECIFIED`."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    return str(enum.Name(value).removeprefix(prefix)) if value else ""
