"""Reads of the view for one call. Each blocks, is of one revision, and may run in a thread."""

import time
from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from google.protobuf.duration_pb2 import Duration

from desk.v1.session_pb2 import EndReason, Session, SessionState
from desk.v1.session_service_pb2 import (
    CountGroup,
    CountSessionsResponse,
    DurationSummary,
    SessionGroup,
)
from service.records import duration
from service.rpc.errors import CallRefused, ErrorReason, forgotten, quoted
from service.rpc.responses import header_of
from service.rpc.revisions import check_kept, in_future
from service.session import SessionKey
from service.view.bounds import FRAMING, Row
from service.view.errors import TimeLimitPassed
from service.view.progress import Progress
from service.view.reader import Reader, SessionAt
from service.view.selection import SessionSelection, SnapshotSelection

P = ParamSpec("P")
T = TypeVar("T")

MAX_GROUPS = 1_000

COUNTED = 100
"""Most callbacks counted of a session that has not begun: GetSession reads them inline."""


def in_snapshot(
    reader: Reader, read: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
) -> tuple[Progress, T]:
    """Call `read(reader, …)`; returns its result with the progress that it belongs to."""
    with reader.snapshot() as progress:
        return progress, read(reader, *args, **kwargs)


def as_of(reader: Reader, key: SessionKey, revision: int) -> SessionAt:
    """Read a session as it was after a revision; raises REVISION_NOT_KEPT, REVISION_IN_FUTURE."""
    with reader.snapshot() as progress:
        session = session_as_of(reader, key, revision, progress)
    return SessionAt(progress.journal_id, revision, session)


def at_time(reader: Reader, key: SessionKey, time: int) -> SessionAt:
    """Read a session as of the last of its callbacks that had been received at a time (ms)."""
    with reader.snapshot() as progress:
        return SessionAt(progress.journal_id, *reader.session_at_time(*key, time))


def session_as_of(
    reader: Reader, key: SessionKey, revision: int, progress: Progress
) -> bytes | None:
    """Read a session inside a snapshot, as `as_of`; None if it had not begun."""
    now = reader.session(*key)
    check_kept(revision, progress.begins_at, progress.journal_id)
    if revision > progress.applied_revision:
        raise in_future(revision, progress.applied_revision)
    if now is None or Session.FromString(now).revision <= revision:
        return now
    return reader.session_as_of(*key, revision)


def not_found(reader: Reader, key: SessionKey, revision: int = 0, when: str = "") -> CallRefused:
    """Make the error for a session that has not begun, or had not at a revision or another time.

    Args:
        reader: of the view.
        key: of the session.
        revision: asked for; 0 if none was.
        when: the words for the time asked for; empty = now.
    """
    app, name = key
    named = f"session {quoted(name)} in app {app}"
    is_here = bool(when) and reader.session(app, name) is not None
    forgotten_at = reader.forgotten_at(app, name)
    if forgotten_at > revision or (forgotten_at and not is_here):
        return forgotten(app, name, forgotten_at)
    if is_here:
        sentence = f"{named} had not begun at {when}"
    elif (count := reader.rejected_of(app, name, COUNTED)) is None:
        sentence = f"no {named}: no callback has named it"
    else:
        number = f"{count:,} or more" if count == COUNTED else f"{count:,}"
        callbacks = "callback of it was" if count == 1 else "callbacks of it were"
        sentence = (
            f"{named} has not begun: {number} {callbacks} rejected or not recognised, because no "
            "SessionBegin has come"
        )
    return CallRefused(ErrorReason.SESSION_NOT_FOUND, sentence)


class Batch(NamedTuple):
    """The sessions of the first keys; `missing` have none, `remaining` were not read."""

    progress: Progress
    sessions: list[bytes]
    missing: list[SessionKey]
    remaining: list[SessionKey]


def batch(reader: Reader, keys: list[SessionKey], enough: int) -> Batch:
    """Read the sessions of keys, in order: up to `enough` bytes, but at least one."""
    sessions: list[bytes] = []
    missing: list[SessionKey] = []
    size = 0
    with reader.snapshot() as progress:
        for number, key in enumerate(keys):
            session = reader.session(*key)
            size += len(session or b"") + FRAMING
            if sessions and size > enough:
                return Batch(progress, sessions, missing, keys[number:])
            if session is None:
                missing.append(key)
            else:
                sessions.append(session)
    return Batch(progress, sessions, missing, [])


class Part(NamedTuple):
    """Some of the sessions as of a revision, and the number up to which they are complete."""

    sessions: list[bytes]
    reached: int


def part(
    reader: Reader, selection: SnapshotSelection, after: int, revision: int, enough: int
) -> Part:
    """Read the next part of the sessions as of a revision, of `enough` bytes at most.

    No snapshot stays open from part to part. A session that has changed since the revision is read
    from the feed, which has each session as it was after each of its revisions.

    Raises:
        CallRefused: REVISION_NOT_KEPT, if the feed was cut off in the meantime.
    """
    with reader.snapshot():
        rows, reached = reader.snapshot_sessions(selection, after, revision, enough)
        blobs = (_older(reader, blob, revision) for _, blob in rows)
        chosen = [blob for blob, session in blobs if selection.selects(session)]
    return Part(chosen, reached)


def _older(reader: Reader, blob: bytes, revision: int) -> tuple[bytes, Session]:
    session = Session.FromString(blob)
    if session.revision <= revision:
        return blob, session
    older = reader.session_as_of(session.sdk_app_id, session.session_id, revision)
    if older is None:
        raise CallRefused(ErrorReason.REVISION_NOT_KEPT, f"revision {revision} is no longer kept")
    return older, Session.FromString(older)


GROUPINGS: dict[int, tuple[str, Callable[[Any], str]]] = {
    CountGroup.COUNT_GROUP_UNSPECIFIED: ("", str),
    CountGroup.COUNT_GROUP_STATE: ("state", SessionState.Name),
    CountGroup.COUNT_GROUP_AGENT: ("agent_id", str),
    CountGroup.COUNT_GROUP_CHANNEL_TYPE: ("channel_type", str),
    CountGroup.COUNT_GROUP_END_REASON: ("end_reason", EndReason.Name),
    CountGroup.COUNT_GROUP_SDK_APP: ("sdk_app_id", str),
}
"""The view's keys to count by, and the names of their groups on the wire."""


def count(
    reader: Reader, selection: SessionSelection, group_by: int, end: float, most: float
) -> CountSessionsResponse:
    """Count sessions by group, up to the time `end` (`time.monotonic`) and `most` seconds.

    Raises:
        CallRefused: TOO_MANY_SESSIONS.
    """
    by, name = GROUPINGS[group_by]
    with reader.snapshot() as progress:
        try:
            seconds = min(end - time.monotonic(), most)
            rows = reader.count(selection, by, MAX_GROUPS, seconds=seconds)
        except TimeLimitPassed:
            raise CallRefused(
                ErrorReason.TOO_MANY_SESSIONS, "counting took too long; select fewer sessions"
            ) from None
    groups = [_group(name(row[0]), row) for row in rows]
    groups.sort(key=lambda group: (-group.sessions, group.key))
    return CountSessionsResponse(
        header=header_of(progress),
        groups=groups,
        other_sessions=rows[0][-1] - sum(group.sessions for group in groups) if rows else 0,
    )


def _group(key: str, row: Row) -> SessionGroup:
    return SessionGroup(
        key=key,
        sessions=row[1],
        queue_wait=_summary(*row[2:5]),
        first_response=_summary(*row[5:8]),
        handle_time=_summary(*row[8:11]),
        ratings=row[11],
        mean_satisfaction=row[12],
    )


def _summary(sessions: int, mean: int | None, most: int | None) -> DurationSummary:
    return DurationSummary(sessions=sessions, mean=_duration(mean), max=_duration(most))


def _duration(milliseconds: int | None) -> Duration | None:
    return None if milliseconds is None else duration(milliseconds)
