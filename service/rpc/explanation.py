"""The past of a session: its snapshot at a revision, and its explanation page by page."""

from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

from desk.v1.event_pb2 import SessionRecord
from desk.v1.session_pb2 import Session
from desk.v1.session_service_pb2 import ExplainSessionResponse
from desk.v1.status_pb2 import ResponseHeader

from service.explanation import Explained, explained
from service.history import HistoryEntry
from service.rpc import freshness
from service.rpc.errors import Reason, Refused, quoted
from service.rpc.stream import check_kept
from service.view.progress import Progress
from service.view.reader import Now, Reader, size_of, take_bytes

CACHED = 100_000
"""Callbacks whose explanation is kept for the next page; each takes some 200 bytes."""

COUNTED = 100
"""Callbacks of a session that has not begun that are counted, at most: GetSession does not leave
the event loop for them."""

Key = tuple[int, str]


class Page(NamedTuple):
    """A page of an explanation. `end` = records so far; 0 when there are no more."""

    journal_id: str
    revision: int
    session: bytes | None
    records: list[SessionRecord]
    end: int


class Answer(NamedTuple):
    """A page, serialised, and the place of the next one; None if there is none."""

    response: bytes
    following: tuple[int, int] | None


class Explanations:
    """The explanations of sessions. A session is refolded once for all pages of one revision.

    May be used by several threads.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, Key, int], list[Explained]] = OrderedDict()
        self._lock = Lock()

    def answer(self, reader: Reader, key: Key, place: tuple[int, ...], size: int) -> Answer:
        """Make an ExplainSessionResponse of the next page, without its token. As `page`."""
        page = self.page(reader, key, place, size)
        response = ExplainSessionResponse(
            header=ResponseHeader(journal_id=page.journal_id, revision=page.revision),
            session=Session.FromString(page.session) if page.session else None,
            records=page.records,
        )
        following = (page.revision, page.end) if page.end else None
        return Answer(response.SerializeToString(), following)

    def page(self, reader: Reader, key: Key, place: tuple[int, ...], size: int) -> Page:
        """Read the next page, as of the revision of the first one.

        Args:
            reader: reads the view.
            key: names the session.
            place: that revision, and the number of records so far.
            size: records, at most.

        Raises:
            Refused: SESSION_NOT_FOUND, REVISION_NOT_KEPT.
        """
        revision, start = place
        with reader.snapshot() as progress:
            revision = revision or progress.applied_revision
            session = session_as_of(reader, key, revision, progress)
            whole = self._explained(reader, (progress.journal_id, key, revision))
            chosen = whole[start : start + size]
            rows, _ = take_bytes(
                reader.records(each.position for each in chosen), size_of, reader.bounds.size
            )
            unknown = not_found(reader, key, 0) if not whole else None
        if unknown:
            raise unknown
        records = [
            each.correct(SessionRecord.FromString(row[1]))
            for each, row in zip(chosen, rows, strict=False)
        ]
        end = start + len(records)
        return Page(progress.journal_id, revision, session, records, end if end < len(whole) else 0)

    def _explained(self, reader: Reader, name: tuple[str, Key, int]) -> list[Explained]:
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None:
                self._kept.move_to_end(name)
                return kept
        made = _explain(reader, *name[1:])
        with self._lock:
            self._kept[name] = made
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > CACHED:
                self._kept.popitem(last=False)
        return made


def _explain(reader: Reader, key: Key, revision: int) -> list[Explained]:
    rows = reader.facts(*key, revision)
    positions = {event: position for position, event, _ in rows}
    positions |= {event: position for position, event, _ in reader.revisions(*key, revision)}
    return explained([HistoryEntry.restore(event, facts) for _, event, facts in rows], positions)


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
