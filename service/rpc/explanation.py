"""ExplainSession page by page: every callback of a session as the fold sees it at one revision."""

from collections import OrderedDict
from threading import Lock

from desk.v1.event_pb2 import SessionRecord
from desk.v1.session_pb2 import Session
from desk.v1.session_service_pb2 import ExplainSessionResponse
from service.explanation import Explained, explained
from service.history import HistoryEntry
from service.records import facts_of
from service.rpc.reads import not_found, session_as_of
from service.rpc.responses import header
from service.session import SessionKey
from service.view.bounds import size_of, take_bytes
from service.view.reader import Reader

Page = tuple[ExplainSessionResponse, tuple[int, int] | None]
"""A page and the place of the next one; None if there is none."""


class Explanations:
    """The explanations of sessions. A session is refolded once for all pages of one revision.

    May be used by several threads.

    Args:
        kept: callbacks whose explanation is cached.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._cache: OrderedDict[tuple[str, SessionKey, int], list[Explained]] = OrderedDict()
        self._lock = Lock()

    def page(self, reader: Reader, key: SessionKey, place: tuple[int, ...], size: int) -> Page:
        """Read the next page, as of the revision of the first one.

        Args:
            reader: reads the view.
            key: names the session.
            place: that revision (0: now), and the number of records so far.
            size: records, at most.

        Raises:
            CallRefused: SESSION_NOT_FOUND, REVISION_NOT_KEPT.
        """
        revision, start = place
        with reader.snapshot() as progress:
            revision = revision or progress.applied_revision
            session = session_as_of(reader, key, revision, progress)
            whole = self._explained(reader, progress.journal_id, key, revision)
            chosen = whole[start : start + size]
            rows, _ = take_bytes(
                reader.records(each.position for each in chosen), size_of, reader.bounds.size
            )
            if not rows:  # there were none, or they were forgotten between two pages
                raise not_found(reader, key)
        end = start + len(rows)
        response = ExplainSessionResponse(
            header=header(progress.journal_id, revision),
            session=Session.FromString(session) if session else None,
            records=[
                each.correct(SessionRecord.FromString(row[1]))
                for each, row in zip(chosen, rows, strict=False)
            ],
        )
        return response, (revision, end) if end < len(whole) else None

    def _explained(
        self, reader: Reader, journal_id: str, key: SessionKey, revision: int
    ) -> list[Explained]:
        name = (journal_id, key, revision)
        with self._lock:
            if name in self._cache:
                self._cache.move_to_end(name)
                return self._cache[name]
        made = _explain(reader, key, revision)
        with self._lock:
            self._cache[name] = made
            while len(self._cache) > 1 and sum(map(len, self._cache.values())) > self._kept:
                self._cache.popitem(last=False)
        return made


def _explain(reader: Reader, key: SessionKey, revision: int) -> list[Explained]:
    positions: dict[int, int] = {}
    callbacks: list[HistoryEntry] = []
    for position, event, record in reader.history(*key, revision):
        positions[event] = position
        callbacks.append(HistoryEntry.of(facts_of(record), event))
    revised = reader.history(*key, revision, revised=True)
    positions.update((event, position) for position, event, _ in revised)
    return explained(callbacks, positions)
