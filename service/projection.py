"""Turns journal entries into the view: one batch, one transaction.

Deterministic: what is written depends on the entries alone, never on how they are cut into batches.
"""

from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct
from typing import Any

import msgspec
import structlog
from desk.v1 import event_pb2

from callback.catalogue import State
from callback.decoder import Malformed, TooEarly, decode
from journal.entry import Entry
from service import records
from service.history import LIMITS, History, Limits, Placed, Truncated, Usage, placed_by
from service.positions import position_of
from service.session import Outcome, Reason, without_message
from service.view.progress import Progress
from service.view.store import fingerprint
from service.view.writer import (
    NO_HISTORY,
    OWN,
    REVISED,
    FeedRow,
    SavedKey,
    SessionKey,
    SessionRow,
    ViewWriter,
    place,
)

KEPT_SESSIONS = 2_000
"""Sessions whose history stays in memory between batches; any other is read from the view when it
is needed."""

KEPT_BYTES = 192 * 1024 * 1024
"""Bytes that these sessions take together, about, at most: twelve of the longest with short names.
A batch that has read back as many ends."""

SHOWN = 6
"""Times that what a session shows is in memory: as a message, with what that has replaced, its
parts, as serialised."""

MAX_WAITING = 500
"""Rows of the feed that wait to be written together."""

BATCH_WORK = 50_000
"""Work for late callbacks after which a batch ends, so that others need not wait for all of it. A
callback that is folded again is 1, one that is published again `PUBLISHED` more; a revised verdict
that is read back, or an id that is noted as its session is full, is 1."""

PUBLISHED = 4

_TOO_LONG = Reason.SESSION_TOO_LONG  # a member is looked up by way of a function

log = structlog.get_logger()


class Arrival(msgspec.Struct, gc=False):
    """An entry that has been read but not folded yet.

    Attributes:
        event: a record of it alone, as serialised.
        problem: why it is malformed, and so belongs to no session; "" if it is not.
        placed: what it says; None if that cannot be read.
        facts: what the view keeps for the fold, likewise.
    """

    entry: Entry
    event: bytes
    key: SessionKey
    problem: str = ""
    placed: Placed | None = None
    facts: bytes = b""


class CachedSession(msgspec.Struct):
    """A session at hand. `number` is 0 until it has begun; `revision` is its last callback's.

    `message` shows the session after that; empty until it has begun. `place` is where it was saved
    in the view's indexes; empty if that is not known. `is_full`: it has no room for more callbacks.
    `saved_key` is what stands with its key: number and `is_full`; None if the key is new. `weight`
    is what it counts for of `KEPT_BYTES`.
    """

    history: History
    message: records.SessionMessage
    first_revision: int = 0
    number: int = 0
    revision: int = 0
    is_full: bool = False
    saved_key: tuple[int, bool] | None = None
    place: tuple[Any, ...] = ()
    weight: int = 0


class Projection:
    """The view's content as a function of the journal.

    Attributes:
        progress: how far the view has come, as of the last batch, which may not be committed yet.
    """

    def __init__(self, writer: ViewWriter, journal_id: str, limits: Limits = LIMITS) -> None:
        self._writer = writer
        self._limits = limits
        self._sessions: dict[SessionKey, CachedSession] = {}  # the one used last is the last
        self._touched: dict[SessionKey, CachedSession] = {}
        self._waiting: list[FeedRow] = []
        self._read: dict[int, Arrival] = {}  # what was read for a batch that ended before it
        self.progress = writer.progress() or Progress(journal_id, fingerprint())
        self._digest = int.from_bytes(self.progress.digest)
        self._repetitions = self.progress.repetitions
        self._refuses_any = writer.refuses_any()
        self._weight = 0
        self._work = 0
        self._read_bytes = 0  # of histories, for the batch under way
        self._failed = False

    def apply(self, entries: Sequence[Entry], *, head: int, behind_since: int | None) -> None:
        """Take a batch into the view: as many entries as `BATCH_WORK` allows, or nothing.

        `progress` tells how many. Once it has raised anything, this projection is of no more use:
        it may be ahead of the view.

        Args:
            entries: the journal's next ones; may be empty.
            head: the journal's newest revision.
            behind_since: `received_at` of the first entry after these; None if there is none. If
                there is one, the batch may be committed only a moment later, by a thread.

        Raises:
            ViewError: this batch cannot be written, or the one before could not be committed.
        """
        if self._failed:
            raise AssertionError("a projection that has failed is of no more use")
        self._failed = True  # unless all of it succeeds
        arrivals = list(map(self._arrival_of, entries))
        with self._writer.transaction(in_background=behind_since is not None):
            rest = self._take_all(arrivals)
            self._flush()
            self._save_sessions()
            if rest:
                entries = entries[: -len(rest)]
                head = max(head, rest[-1].entry.revision)
                behind_since = rest[0].entry.received_at
            progress = self._progress_after(entries, head, behind_since)
            self._writer.save_progress(progress)
        self.progress = progress
        self._read = {arrival.entry.revision: arrival for arrival in rest}
        self._forget()
        self._failed = False

    def _arrival_of(self, entry: Entry) -> Arrival:
        read = self._read.get(entry.revision)
        return read if read and read.entry == entry else _arrival(entry)

    def _take_all(self, arrivals: list[Arrival]) -> list[Arrival]:
        """Take arrivals; return those that are left when the batch has done enough."""
        self._work = self._read_bytes = 0
        for number, arrival in enumerate(arrivals, 1):
            try:
                self._take(arrival)
            except Exception as problem:
                # Tried again and again, it must at least be known which one it is.
                revision, error = arrival.entry.revision, type(problem).__name__
                log.warning("entry_not_applied", revision=revision, error=error)
                raise
            if self._work >= BATCH_WORK or self._read_bytes > KEPT_BYTES:
                return arrivals[number:]
        return []

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
            digest=(self._digest % DIGESTS).to_bytes(DIGEST_BYTES),
            complete=self.progress.complete or behind_since is None,
            repetitions=self._repetitions,
        )

    def _take(self, arrival: Arrival) -> None:
        identity, placed = arrival.entry.id, arrival.placed
        if self._refuses_any and self._writer.is_refused(identity):
            self._repetitions += 1
        elif placed and not arrival.problem:
            self._take_placed(arrival, placed)
        elif placed and self._holds(arrival.key, placed):
            self._repetitions += 1
        else:
            self._refuse(identity)
            self._append(_malformed(arrival))

    def _take_placed(self, arrival: Arrival, placed: Placed) -> None:
        session = self._touch(arrival.key)
        was_full = session.is_full
        changed = [session.history.reject(placed)] if was_full else self._add(session, placed)
        if not changed:
            self._repetitions += 1
            return
        session.first_revision = session.first_revision or placed.revision
        session.revision = placed.revision
        if not session.number and session.history.session.state is not State.NEW:
            session.number = placed.revision
        self._publish(arrival, session, changed)
        if session.is_full and not was_full:
            self._close(session)

    def _add(self, session: CachedSession, placed: Placed) -> list[Placed]:
        """Add a callback to a history; return what `History.add` does."""
        usage = session.history.usage
        redone = usage.redone
        try:
            changed = session.history.add(placed)
        except Truncated:
            self._read_back(session)
            changed = session.history.add(placed)
        self._work += usage.redone - redone
        session.is_full = usage.is_used_up(self._limits)
        return changed

    def _close(self, session: CachedSession) -> None:
        """Have repetitions recognised without the history, which is needed no more."""
        self._flush()
        self._writer.refuse_history(session.first_revision)
        self._work += session.history.usage.callbacks
        self._refuses_any = True
        session.history.close()

    def _refuse(self, identity: bytes) -> None:
        self._writer.refuse(identity)
        self._refuses_any = True

    def _touch(self, key: SessionKey) -> CachedSession:
        session = self._touched.get(key)
        if session is None:
            session = self._sessions.pop(key) if key in self._sessions else self._load(key)
            self._touched[key] = session
        return session

    def _load(self, key: SessionKey) -> CachedSession:
        """Find out what the view knows of a session not at hand; it has no rows waiting."""
        saved = self._writer.load_session(key)
        message = records.SessionMessage(*key)
        if saved is None:
            return CachedSession(History(), message)
        first, number, full = saved.first_revision, saved.number or 0, bool(saved.full)
        if saved.fold:
            history = History.restore(saved.fold)
        else:  # a session that has not begun is not saved, nor does it need to be if it never will
            history = History() if full else self._replay(first, None)
        return CachedSession(
            history, message, first, number, is_full=full, saved_key=(number, full)
        )

    def _replay(self, first_revision: int, usage: Usage | None) -> History:
        """Read all of a session's history back from the view."""
        history = History.replay(self._writer.load_history(first_revision), usage)
        self._work += history.usage.revised
        self._read_bytes += history.weight
        self._make_room()
        return history

    def _holds(self, key: SessionKey, placed: Placed) -> bool:
        """Say whether a session has a callback already."""
        session = self._touch(key)
        if session.is_full:
            return False  # it would have been recognised
        try:
            return session.history.holds(placed.key)
        except Truncated:
            self._read_back(session)
            return session.history.holds(placed.key)

    def _read_back(self, session: CachedSession) -> None:
        """Have all of a session's history at hand."""
        self._flush()
        session.history = self._replay(session.first_revision, session.history.usage)

    def _publish(self, arrival: Arrival, session: CachedSession, changed: list[Placed]) -> None:
        own, *revised = changed
        now = session.history.session
        own.agent_id = own.facts.agent_id or now.agent_id
        facts: bytes | None = arrival.facts
        if _outcome_of(own).reason is _TOO_LONG:
            facts = None
            self._refuse(arrival.entry.id)
        snapshot = session.message.update(now, session.revision) if session.number else None
        self._emit(arrival.key, session, own, 0, (arrival.event, snapshot, facts))
        for ordinal, placed in enumerate(revised, 1):
            self._emit(arrival.key, session, placed, ordinal, (b"", None, None))
        self._work += PUBLISHED * len(revised)

    def _emit(
        self,
        key: SessionKey,
        session: CachedSession,
        placed: Placed,
        ordinal: int,
        blobs: tuple[bytes, bytes | None, bytes | None],
    ) -> None:
        facts, revision = placed.facts, session.revision
        event, snapshot, saved = blobs
        now = session.history.session.state
        fields = records.verdict_fields(_outcome_of(placed), facts.event, now)
        placed.verdicts |= 1 << fields.verdict
        record = records.record(fields, revision, ordinal)
        self._append(
            FeedRow(
                position_of(revision, ordinal),
                placed.revision,
                *key,
                session.first_revision,
                REVISED if ordinal else OWN if saved else NO_HISTORY,
                records.event_type(facts.event),
                fields.verdict,
                fields.rejection_reason,
                placed.verdicts,
                placed.agent_id,
                facts.client_user_id,
                facts.channel_type,
                record + event,
                len(record),
                snapshot,
                saved,
            )
        )

    def _append(self, row: FeedRow) -> None:
        self._waiting.append(row)
        self._digest += row_hash(row)
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
        elif row.revised:
            self._writer.drop_rejection(row.event_revision)

    def _save_sessions(self) -> None:
        keys: list[SavedKey] = []
        moved: list[SessionRow] = []
        stayed: list[SessionRow] = []
        for key in sorted(self._touched):
            session = self._touched[key]
            number, full = session.number, session.is_full
            if session.first_revision and session.saved_key != (number, full):
                session.saved_key = number, full
                app, session_id = key
                keys.append(SavedKey(session_id, app, session.first_revision, number or None, full))
            if session.number and session.message.bytes:  # else nothing new has come
                row = _row(key, session)
                before, session.place = session.place, place(row)
                (stayed if before == session.place else moved).append(row)
        self._writer.save_keys(keys)
        self._writer.save_sessions(moved)
        self._writer.save_sessions_in_place(stayed)

    def _forget(self) -> None:
        for session in self._touched.values():
            session.history.trim()
            self._weight -= session.weight
            session.weight = session.history.weight + SHOWN * len(session.message.bytes)
            self._weight += session.weight
        self._sessions |= self._touched
        self._touched.clear()
        self._read_bytes = 0
        self._make_room()

    def _make_room(self) -> None:
        """Let go of the sessions used longest ago, for what this batch has read back, too."""
        room = KEPT_BYTES - self._read_bytes
        while self._sessions and (len(self._sessions) > KEPT_SESSIONS or self._weight > room):
            self._weight -= self._sessions.pop(next(iter(self._sessions))).weight


DIGEST_BYTES = 32
DIGESTS = 1 << 8 * DIGEST_BYTES

_LENGTHS = Struct(">QI")


def row_hash(row: FeedRow) -> int:
    """Hash a row of the feed. The feed's digest is the sum of these, mod `DIGESTS`."""
    digest = blake2b(_LENGTHS.pack(row.position, len(row.record)), digest_size=DIGEST_BYTES)
    digest.update(row.record)
    digest.update(row.session or b"")
    return int.from_bytes(digest.digest())


def _arrival(entry: Entry) -> Arrival:
    """Read an entry."""
    problem = ""
    try:
        callback = decode(entry.body, entry.received_at)
    except TooEarly as fault:
        problem, callback = str(fault), fault.callback
    except Malformed as fault:
        key = (entry.sdk_app_id, "")
        return Arrival(entry, records.event(entry, None), key, str(fault))
    facts = without_message(callback, entry.id)
    saved = msgspec.msgpack.encode(facts)
    return Arrival(
        entry,
        records.event(entry, None if problem else callback),
        (entry.sdk_app_id, callback.session_id),
        problem,
        placed_by(facts, entry.revision, len(saved)),
        saved,
    )


def _malformed(arrival: Arrival) -> FeedRow:
    revision = arrival.entry.revision
    fields = records.malformed_fields(arrival.problem)
    record = records.record(fields, revision, 0)
    return FeedRow(
        position=position_of(revision),
        event_revision=revision,
        sdk_app_id=arrival.entry.sdk_app_id,
        session_id="",
        first_revision=0,
        revised=NO_HISTORY,
        type=event_pb2.EVENT_TYPE_UNSPECIFIED,
        verdict=fields.verdict,
        reason=fields.rejection_reason,
        verdicts=1 << fields.verdict,
        agent_id="",
        client_user_id="",
        channel_type="",
        record=record + arrival.event,
        event_at=len(record),
        session=None,
        facts=None,
    )


def _row(key: SessionKey, cached: CachedSession) -> SessionRow:
    session = cached.history.session
    return SessionRow(
        cached.number,
        *key,
        cached.first_revision,
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
        cached.message.bytes,
        cached.history.save(),
    )


def _happened(time: int | None) -> int:
    if time is None:
        raise AssertionError("a session that has begun has a time of begin")
    return time


def _outcome_of(placed: Placed) -> Outcome:
    if placed.outcome is None:
        raise AssertionError("a callback is folded before it is published")
    return placed.outcome
