"""What became of a session: as it was at a revision, and its story page by page."""

from typing import NamedTuple

from desk.v1.event_pb2 import SessionRecord
from desk.v1.session_pb2 import Session
from service import story
from service.rpc import freshness
from service.rpc.errors import Reason, Refused, quoted
from service.rpc.stream import check_kept
from service.view.reader import Now, Progress, Reader, take_bytes

Key = tuple[int, str]

COUNTED = 1_000
"""Callbacks of a session that has not begun that are counted, at most."""


class StoryPage(NamedTuple):
    """A page of a session's story. `end` = records told so far; 0 when there are no more."""

    journal_id: str
    revision: int
    session: bytes | None
    records: list[SessionRecord]
    end: int


def page(reader: Reader, key: Key, place: tuple[int, ...], size: int) -> StoryPage:
    """Read the next page, as of the revision of the first; `place` is (revision, told so far).

    Raises:
        Refused: SESSION_NOT_FOUND, REVISION_NOT_KEPT.
    """
    revision, start = place
    with reader.snapshot() as progress:
        revision = revision or progress.applied_revision
        session = session_as_of(reader, key, revision, progress)
        rows = reader.story(*key, revision)
    if not rows:
        raise Refused(Reason.SESSION_NOT_FOUND, "no callback names this session")
    told = story.tell(SessionRecord.FromString(record) for *_, record in rows)
    chosen, _ = take_bytes(
        ((record,) for record in told[start : start + size]), lambda row: row[0].ByteSize()
    )
    end = start + len(chosen)
    return StoryPage(
        progress.journal_id,
        revision,
        session,
        [record for (record,) in chosen],
        end if end < len(told) else 0,
    )


def as_of(reader: Reader, key: Key, revision: int) -> Now:
    """A session as it was after a revision, said to be of that.

    Raises:
        Refused: REVISION_NOT_KEPT, REVISION_IN_FUTURE.
    """
    with reader.snapshot() as progress:
        session = session_as_of(reader, key, revision, progress)
    return Now(progress.journal_id, revision, session)


def session_as_of(reader: Reader, key: Key, revision: int, progress: Progress) -> bytes | None:
    """A session as it was after a revision; None if it had not begun.

    Raises:
        Refused: REVISION_NOT_KEPT, REVISION_IN_FUTURE.
    """
    now = reader.session(*key)
    check_kept(revision, progress.oldest_revision)
    if revision > progress.applied_revision:
        raise freshness.in_future(revision, progress.applied_revision)
    if now is None or Session.FromString(now).revision <= revision:
        return now
    return reader.session_as_of(*key, revision)


def not_found(reader: Reader, key: Key, revision: int) -> Refused:
    """Say what is known of a session that has not begun; `revision` 0 = now."""
    app, name = key
    named = f"session {quoted(name)} in app {app}"
    if revision and reader.session(app, name) is not None:
        sentence = f"{named} had not begun at revision {revision}"
    elif (count := reader.rejected_of(app, name, COUNTED)) is None:
        sentence = f"no {named}: no callback has named it"
    else:
        number = f"{count:,} or more" if count == COUNTED else f"{count:,}"
        sentence = (
            f"{named} has not begun: {number} {'callback' if count == 1 else 'callbacks'} of it "
            f"{'was' if count == 1 else 'were'} rejected or not recognised, because no "
            "SessionBegin has come"
        )
    return Refused(Reason.SESSION_NOT_FOUND, sentence)
