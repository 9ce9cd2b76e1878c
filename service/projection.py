"""Turns journal entries into the view: one batch, one transaction.

Deterministic: what is written depends on the entries alone, never on how they are cut into batches.
"""

from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from itertools import islice
from operator import attrgetter
from typing import Any

import msgspec

from desk.v1 import event_pb2
from journal.callback import Malformed, decode
from journal.entry import Entry
from service import records
from service.history import History, Placed, Truncated, facts, order_key
from service.machine import State
from service.session import Outcome
from service.view.store import POSITION_BITS, fingerprint
from service.view.writer import (
    FeedRow,
    Progress,
    SavedKey,
    SessionKey,
    SessionRow,
    ViewWriter,
    place,
    restored_fold,
    saved_fold,
)

KEPT_SESSIONS = 2_000
"""Sessions whose history stays in memory between batches; any other is read from the view when it
is needed. With histories of up to `history.TAIL` callbacks this is some tens of MB."""

MAX_WAITING = 500
"""Rows of the feed that wait to be written together."""


class Arrival(msgspec.Struct, gc=False):
    """A callback that has been read but not folded yet. `event` shows it, as serialised."""

    key: SessionKey
    placed: Placed
    event: bytes


class Known(msgspec.Struct):
    """A session at hand. `number` is 0 until it has begun; `revision` is its last callback's.

    `message` shows the session after that; empty until it has begun. `place` is where it was saved
    in the view's indexes; empty if that is not known. `listed` is the number that stands with its
    key; None if the key is new.
    """

    history: History
    message: records.SessionMessage
    first_revision: int = 0
    number: int = 0
    revision: int = 0
    listed: int | None = None
    place: tuple[Any, ...] = ()


class Projection:
    """The view's content as a function of the journal.

    Attributes:
        progress: how far the view has come, as of the last batch, which may not be committed yet.
    """

    def __init__(self, writer: ViewWriter, journal_id: str) -> None:
        self._writer = writer
        self._sessions: dict[SessionKey, Known] = {}  # the one used last is the last
        self._touched: dict[SessionKey, Known] = {}
        self._waiting: list[FeedRow] = []
        self.progress = writer.progress() or Progress(journal_id, fingerprint())
        self._digest = self.progress.digest
        self._failed = False

    def apply(self, entries: Sequence[Entry], *, head: int, behind_since: int | None) -> None:
        """Take a batch into the view, all of it or nothing.

        Once it has raised anything, this projection is of no more use: it may be ahead of the view.

        Args:
            entries: the journal's next ones, without a gap; may be empty.
            head: the journal's newest revision.
            behind_since: `received_at` of the first entry after these; None if there is none. If
                there is one, the batch may be committed only a moment later, by a thread.

        Raises:
            ViewError: this batch cannot be written, or the one before could not be committed.
        """
        if self._failed:
            raise AssertionError("a projection that has failed is of no more use")
        self._failed = True  # unless all of it succeeds
        arrivals = [_arrival(entry) for entry in entries]
        with self._writer.transaction(aside=behind_since is not None):
            for arrival in arrivals:
                self._take(arrival)
            self._flush()
            self._save_sessions()
            progress = self._progress_after(entries, head, behind_since)
            self._writer.save_progress(progress)
        self.progress = progress
        self._forget()
        self._failed = False

    def _progress_after(
        self, entries: Sequence[Entry], head: int, behind_since: int | None
    ) -> Progress:
        applied = entries[-1].revision if entries else self.progress.applied_revision
        return msgspec.structs.replace(
            self.progress,
            applied_revision=applied,
            applied_id=entries[-1].id if entries else self.progress.applied_id,
            head_revision=max(head, applied),
            behind_since=behind_since,
            digest=self._digest,
            complete=self.progress.complete or behind_since is None,
        )

    def _take(self, arrival: Arrival | FeedRow) -> None:
        if isinstance(arrival, FeedRow):
            self._append(arrival)
            return
        key, placed = arrival.key, arrival.placed
        known = self._touched.get(key) or self._touch(key)
        if not known.first_revision:
            known.first_revision = placed.revision
        changed = self._place(known, placed)
        known.revision = placed.revision
        if not known.number and known.history.session.state is not State.NEW:
            known.number = placed.revision
        self._publish(key, known, arrival.event, changed)

    def _touch(self, key: SessionKey) -> Known:
        known = self._sessions.pop(key) if key in self._sessions else self._load(key)
        self._touched[key] = known
        return known

    def _load(self, key: SessionKey) -> Known:
        """Find out what the view knows of a session not at hand; it has no rows waiting."""
        saved = self._writer.load_session(key)
        message = records.SessionMessage(*key)
        if saved is None:
            return Known(History(), message)
        first, number = saved.first_revision, saved.number or 0
        if saved.fold:
            history = History(*restored_fold(saved.fold))
        else:
            history = History.replay(self._writer.load_history(first))
        return Known(history, message, first, number, listed=number)

    def _place(self, known: Known, placed: Placed) -> list[Placed]:
        try:
            return known.history.add(placed)
        except Truncated:
            self._flush()
            known.history = History.replay(self._writer.load_history(known.first_revision))
            return known.history.add(placed)

    def _publish(self, key: SessionKey, known: Known, event: bytes, changed: list[Placed]) -> None:
        session = known.history.session
        own, *revised = changed
        own.agent_id = records.agent_id(own.callback) or session.agent_id
        snapshot = known.message.update(session, known.revision) if known.number else None
        self._emit(key, known, own, 0, event, snapshot)
        for ordinal, placed in enumerate(revised, 1):
            event = records.event_of(self._first_record(placed.revision))
            self._emit(key, known, placed, ordinal, event, None)

    def _first_record(self, revision: int) -> bytes:
        """The record that an event was first published with."""
        position = revision << POSITION_BITS
        place = bisect_left(self._waiting, position, key=_position)
        if place < len(self._waiting) and self._waiting[place].position == position:
            return self._waiting[place].record
        return self._writer.load_record(position)

    def _emit(
        self,
        key: SessionKey,
        known: Known,
        placed: Placed,
        ordinal: int,
        event: bytes,
        snapshot: bytes | None,
    ) -> None:
        callback, revision = placed.callback, known.revision
        judgement = records.judgement(
            _known_outcome(placed), callback.event, known.history.session.state
        )
        placed.verdicts |= 1 << judgement.verdict
        self._append(
            FeedRow(
                revision << POSITION_BITS | ordinal,
                placed.revision,
                *key,
                known.first_revision,
                judgement.type,
                judgement.verdict,
                judgement.reason,
                placed.verdicts,
                placed.agent_id,
                callback.client_user_id,
                callback.channel_type,
                records.record(revision, ordinal, event, judgement.fields),
                snapshot,
            )
        )

    def _append(self, row: FeedRow) -> None:
        self._waiting.append(row)
        self._digest = blake2b(
            b"".join((self._digest, row.record, row.session or b"")), digest_size=16
        ).digest()
        if len(self._waiting) >= MAX_WAITING:
            self._flush()

    def _flush(self) -> None:
        """Write the feed rows that wait, so that they can be read back."""
        self._writer.add_feed(self._waiting)
        for row in self._waiting:
            self._file_rejection(row)
        self._waiting.clear()

    def _file_rejection(self, row: FeedRow) -> None:
        if row.reason:
            self._writer.add_rejection(row.position, row.event_revision)
        elif row.position != row.event_revision << POSITION_BITS:
            self._writer.drop_rejection(row.event_revision)

    def _save_sessions(self) -> None:
        keys: list[SavedKey] = []
        moved: list[SessionRow] = []
        stayed: list[SessionRow] = []
        for key in sorted(self._touched):
            known = self._touched[key]
            if known.listed != known.number:
                known.listed = known.number
                app, session_id = key
                keys.append(SavedKey(session_id, app, known.first_revision, known.number or None))
            if known.number:
                row = _row(key, known)
                before, known.place = known.place, place(row)
                (stayed if before == known.place else moved).append(row)
        self._writer.save_keys(keys)
        self._writer.save_sessions(moved)
        self._writer.save_sessions_in_place(stayed)

    def _forget(self) -> None:
        for known in self._touched.values():
            known.history.trim()
        self._sessions |= self._touched
        self._touched.clear()
        for key in list(islice(self._sessions, max(0, len(self._sessions) - KEPT_SESSIONS))):
            del self._sessions[key]


def _arrival(entry: Entry) -> Arrival | FeedRow:
    """Read an entry. One that is malformed belongs to no session: nothing is left to be done."""
    try:
        callback = decode(entry.body)
    except Malformed as problem:
        return _malformed(entry, str(problem))
    return Arrival(
        (entry.sdk_app_id, callback.session_id),
        Placed(order_key(callback, entry.id), entry.revision, facts(callback)),
        records.event(entry, callback),
    )


def _malformed(entry: Entry, problem: str) -> FeedRow:
    outcome = records.MALFORMED
    verdict = records.VERDICTS[outcome.verdict]
    judged = records.judged(outcome, problem, State.NEW)
    return FeedRow(
        entry.revision << POSITION_BITS,
        entry.revision,
        entry.sdk_app_id,
        "",
        0,
        event_pb2.EVENT_TYPE_UNSPECIFIED,
        verdict,
        records.REASONS[outcome.reason],
        1 << verdict,
        "",
        "",
        "",
        records.record(entry.revision, 0, records.event(entry, None), judged),
        None,
    )


def _row(key: SessionKey, known: Known) -> SessionRow:
    session = known.history.session
    return SessionRow(
        known.number,
        *key,
        known.first_revision,
        records.STATES[session.state],
        records.END_REASONS[session.end_reason],
        session.client_user_id,
        session.channel_type,
        session.agent_id,
        _happened(session.begun_at),
        session.ended_at,
        _happened(session.last_event_at),
        session.satisfaction,
        session.queue_wait,
        session.first_response,
        session.handle_time,
        known.message.bytes,
        saved_fold(session, known.history.last or (0, 0, b"")),
    )


_position = attrgetter("position")


def _happened(time: int | None) -> int:
    if time is None:
        raise AssertionError("a session that has begun has a time of begin")
    return time


def _known_outcome(placed: Placed) -> Outcome:
    if placed.outcome is None:
        raise AssertionError("a callback is folded before it is published")
    return placed.outcome
