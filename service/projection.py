"""Turns journal entries into the view: one batch, one transaction.

An entry is decoded, its callback added to its session's history, and what that has changed is
published in the feed. At the end of the batch the sessions and the progress are saved.

Deterministic: what is written depends on the entries alone, not on how they are cut into batches.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import structlog
from msgspec.structs import replace

from callback.catalogue import State
from desk.v1 import event_pb2
from journal.entry import DAMAGED, Entry, Kind
from journal.forgetting import ForgetList, forget_list_of
from metrics.definitions import LATE, RECORDS, RECORDS_REVISED
from service import records
from service.arrival import Arrival, arrival_of
from service.feed_rows import callback_row, forgotten_row, malformed_row
from service.history import LIMITS, FoldLimits, History, HistoryEntry, Usage
from service.session import Outcome, Reason, SessionKey, Verdict
from service.session_cache import CachedSession, SessionCache
from service.session_message import SessionMessage
from service.view.digest import DIGEST_BYTES, DIGESTS, row_hash
from service.view.progress import Progress
from service.view.removal import Removal, Removed
from service.view.rows import NO_HISTORY, OWN, REVISED, FeedRow, SavedKey, SessionRow, place
from service.view.store import fingerprint
from service.view.writer import ViewWriter

PUBLISHED = 4
"""The work of publishing a callback again, when folding it again is 1."""

REMOVED = 4
"""The work of removing a record and folding its callback again, likewise."""

DECODED = 250
"""Entries that are decoded at a time."""

# Enum members are slow to look up in Python 3.11.
_TOO_LONG, _NEW = Reason.SESSION_TOO_LONG, State.NEW
_MALFORMED = (
    event_pb2.EVENT_TYPE_UNSPECIFIED,
    Outcome(Verdict.REJECTED, Reason.MALFORMED, _NEW, _NEW),
)
_CALLBACK, _FORGET = int(Kind.CALLBACK), int(Kind.FORGET)

log = structlog.get_logger()


class BatchBounds(NamedTuple):
    """The bounds of a batch, and of the sessions that stay in memory between batches.

    Attributes:
        sessions: sessions in memory; the others are read from the view when they are needed.
        memory: approximate bytes of these sessions, enough for about eleven of the longest. A
            batch that has read back as many ends.
        rows: rows of the feed that are collected before they are written.
        work: steps for late callbacks after which a batch ends, so that other sessions need not
            wait. A callback folded again is 1, published again `PUBLISHED` more; a revised verdict
            that is read back is 1, and so is an id that is stored because its session is full. A
            record that is forgotten is `REMOVED`.
    """

    sessions: int = 2_000
    memory: int = 192 * 1024 * 1024
    rows: int = 500
    work: int = 50_000


BOUNDS = BatchBounds()

Counted = tuple[int, int, Outcome]
"""App, event type as desk.v1 numbers it, and outcome."""


class Projection:
    """The view's content as a function of the journal.

    Attributes:
        progress: the view's progress after the last batch, which may not be committed yet.
    """

    def __init__(
        self,
        writer: ViewWriter,
        journal_id: str,
        *,
        limits: FoldLimits = LIMITS,
        bounds: BatchBounds = BOUNDS,
    ) -> None:
        self.progress = writer.progress() or Progress(journal_id, fingerprint())
        self._writer = writer
        self._limits = limits
        self._bounds = bounds
        self._cache = SessionCache(bounds.sessions, bounds.memory)
        self._digest = int.from_bytes(self.progress.digest)
        self._removed = int.from_bytes(self.progress.removed)
        self._repetitions = self.progress.repetitions
        self._damaged = self.progress.damaged
        self._oldest = self.progress.oldest_revision
        self._any_refused = writer.refuses_any()
        self._failed = False
        # Of the batch under way:
        self._sessions: dict[SessionKey, CachedSession] = {}
        self._rows: list[FeedRow] = []
        self._counts: Counter[tuple[int, int]] = Counter()  # changes, by app and state
        self._outcomes: list[Counted] = []  # of new callbacks
        self._corrections: Counter[Counted] = Counter()  # of the outcomes counted before
        self._work = 0
        self._read_bytes = 0  # of histories

    def apply(self, entries: Sequence[Entry], *, head: int, behind_since: int | None) -> None:
        """Apply a batch: as many entries as `BatchBounds.work` allows, or nothing.

        `progress` says how many. After an error this projection must not be used any more: it may
        be ahead of the view.

        Args:
            entries: the journal's next ones; may be empty.
            head: the journal's newest revision.
            behind_since: `received_at` of the first entry after these; None if there is none. If
                there is one, the batch may be committed later, by a thread.

        Raises:
            ViewError: this batch cannot be written, or the one before could not be committed.
        """
        if self._failed:
            raise AssertionError("a projection must not be used after an error")
        self._failed = True  # until all of it has succeeded
        with self._writer.transaction(in_background=behind_since is not None):
            taken = self._take_all(entries)
            self._flush()
            self._save_sessions()
            self._save_counts()
            if taken < len(entries):
                head = max(head, entries[-1].revision)
                behind_since = entries[taken].received_at
            progress = self._progress_after(entries[:taken], head, behind_since)
            self._writer.save_progress(progress)
        self.progress = progress
        self._cache.put_back(self._sessions)
        self._sessions.clear()
        self._work = self._read_bytes = 0
        self._failed = False

    def _take_all(self, entries: Sequence[Entry]) -> int:
        """Take entries until the batch has done enough; return their number."""
        for count, arrival in enumerate(_decoded(entries), 1):
            try:
                done = self._take(arrival)
            except Exception as problem:
                revision, error = arrival.entry.revision, type(problem).__name__
                log.warning("entry_not_applied", revision=revision, error=error)
                raise
            if not done:
                return count - 1
            if self._is_full_batch() or self._read_bytes > self._bounds.memory:
                return count
        return len(entries)

    def _is_full_batch(self) -> bool:
        """Return True if the batch has done enough."""
        return self._work >= self._bounds.work

    def _take(self, arrival: Arrival) -> bool:
        """Take an entry; return False if that is not done, and it must be taken again."""
        entry, callback = arrival.entry, arrival.callback
        if entry.kind == _FORGET:
            return self._take_forget(entry)
        if entry.kind != _CALLBACK:
            log.error("entry_of_unknown_kind", revision=entry.revision, kind=entry.kind)
        elif self._any_refused and (owner := self._writer.owner_of(entry.id)):
            self._repeat(owner, entry)
        elif callback and not arrival.problem:
            self._take_callback(arrival, callback)
        elif callback and (owner := self._owner_of(arrival.key, callback)):
            self._repeat(owner, entry)
        else:
            self._take_malformed(arrival)
        return True

    def _repeat(self, owner: int, entry: Entry) -> None:
        self._repetitions += 1
        self._writer.add_repetition(owner, entry.revision)

    def _take_malformed(self, arrival: Arrival) -> None:
        entry = arrival.entry
        if arrival.problem is DAMAGED:  # a copy with the same id may be whole
            self._damaged += 1
            log.error("entry_damaged", revision=entry.revision, throttle="")
        else:
            self._refuse(entry.id, entry.revision)
        if arrival.callback:
            self._writer.add_malformed(entry.revision, arrival.key)
        self._outcomes.append((entry.sdk_app_id, *_MALFORMED))
        self._append(malformed_row(arrival))

    def _take_callback(self, arrival: Arrival, callback: HistoryEntry) -> None:
        session = self._session_for(arrival.key, callback)
        history = session.history
        redone = history.usage.redone
        changed = [history.reject(callback)] if session.is_full else history.add(callback)
        if not changed:
            self._repeat(session.first_revision, arrival.entry)
            return
        session.first_revision = session.first_revision or callback.revision
        session.revision = callback.revision
        if not session.number and history.session.state is not _NEW:
            session.number = callback.revision
        self._publish(arrival, session, changed)
        late = (history.session.last_event_at or 0) - callback.facts.event_time
        if late > 0:
            LATE.observe(late / 1000)
        self._work += history.usage.redone - redone
        if not session.is_full and history.usage.is_used_up(self._limits):
            self._close(session)

    def _take_forget(self, entry: Entry) -> bool:
        """Forget what an entry lists, or whole sessions of it: then it must be taken again.

        The digest changes, and the feed has the entry, once everything is forgotten.
        """
        try:
            listed = forget_list_of(entry)
        except ValueError:
            log.exception("forget_entry_invalid", revision=entry.revision)
            return True
        self._flush()
        if not self._forget(entry, listed):
            return False
        row = forgotten_row(entry, listed)
        self._writer.add_feed([row])
        self._digest += row_hash(row.position, row.record, None) - self._removed
        self._removed = 0
        before = entry.revision - 1
        self._oldest = max(self._oldest, min(listed.up_to or before, before) + 1)
        return True

    def _forget(self, entry: Entry, listed: ForgetList) -> bool:
        """Remove what a FORGET entry lists, until that is enough work; return True at the end."""
        removal = self._writer.removal(entry.revision)
        for session_id in listed.session_ids:
            if self._is_full_batch():
                return False
            key = entry.sdk_app_id, session_id
            self._forget_session(removal, key)
            self._writer.note_forgotten(key, entry.revision)
        for revision in filter(entry.revision.__gt__, listed.revisions):
            if self._is_full_batch():
                return False
            self._forget_malformed(removal, entry.sdk_app_id, revision)
        return True

    def _forget_session(self, removal: Removal, key: SessionKey) -> None:
        session = self._sessions.pop(key, None) or self._cache.take(key) or self._load(key)
        self._cache.release(session)
        if session.first_revision:
            self._discount(session)
            self._count_removed(removal.session(key, session.first_revision, session.number))
        if session.saved_place:
            self._counts[key[0], session.saved_place[0]] -= 1

    def _discount(self, session: CachedSession) -> None:
        """Take the callbacks of a session out of the numbers of events."""
        app, first_revision = session.key[0], session.first_revision
        history = History.replay(self._writer.load_history(first_revision))
        for each in history.tail:
            self._corrections[app, records.event_type(each.facts.event), each.outcome] -= 1
        if session.is_full:
            for kind, number in self._writer.types_without_history(first_revision):
                self._corrections[app, kind, history.too_long] -= number

    def _forget_malformed(self, removal: Removal, sdk_app_id: int, revision: int) -> None:
        if record := removal.find_malformed(sdk_app_id, revision):
            self._damaged -= records.is_of_damaged(record)
            self._corrections[sdk_app_id, *_MALFORMED] -= 1
            self._count_removed(removal.malformed(revision))

    def _count_removed(self, removed: Removed) -> None:
        self._removed += removed.digest
        self._repetitions -= removed.repetitions
        self._work += REMOVED * removed.rows

    def _owner_of(self, key: SessionKey, callback: HistoryEntry) -> int:
        """Return the session that has a callback, by its first revision; 0 if none has.

        The ids of a session that is full are refused.
        """
        session = self._session_for(key, callback)
        is_in = not session.is_full and session.history.contains(callback.key)
        return session.first_revision if is_in else 0

    def _session_for(self, key: SessionKey, callback: HistoryEntry) -> CachedSession:
        """Return a session, with the part of its history in memory where a callback belongs."""
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = self._cache.take(key) or self._load(key)
        history = session.history
        if not session.is_full and not history.reaches(callback.key):
            self._flush()
            session.history = self._replay(session.first_revision, history.usage)
        return session

    def _load(self, key: SessionKey) -> CachedSession:
        """Read a session from the view; none of its rows is waiting."""
        session = CachedSession(key, History(), SessionMessage(*key))
        if saved := self._writer.load_session(key):
            session.first_revision, session.number, session.is_full, fold, before = saved
            session.saved_place = before
            session.saved_key = session.key_row()
            if fold:
                session.history = History.restore(fold)
            elif not session.is_full:  # only sessions that have begun are saved with their fold
                session.history = self._replay(session.first_revision, None)
        return session

    def _replay(self, first_revision: int, usage: Usage | None) -> History:
        """Read a session's whole history back from the view."""
        history = History.replay(self._writer.load_history(first_revision), usage)
        self._work += history.usage.revised
        self._read_bytes += history.weight
        self._cache.make_room(self._read_bytes)
        return history

    def _publish(
        self, arrival: Arrival, session: CachedSession, changed: list[HistoryEntry]
    ) -> None:
        own, *revised = changed
        now = session.history.session
        own.agent_id = own.facts.agent_id or now.agent_id
        kind = OWN
        if own.outcome.reason is _TOO_LONG:
            kind = NO_HISTORY
            self._refuse(arrival.entry.id, session.first_revision)
        snapshot = None
        if session.number:
            changed_fields = session.history.changed
            snapshot = session.message.update(now, session.revision, changed_fields)
            changed_fields.clear()
        received_at = arrival.entry.received_at
        row = callback_row(session, own, 0, kind, received_at, arrival.event, snapshot)
        self._outcomes.append((row.sdk_app_id, row.type, own.outcome))
        self._append(row)
        if revised:
            self._publish_again(session, revised, received_at)
        if session.history.replaced:
            self._recount(session)

    def _publish_again(
        self, session: CachedSession, revised: Sequence[HistoryEntry], received_at: int
    ) -> None:
        """Publish the callbacks whose verdict the callback of this revision has changed."""
        for ordinal, callback in enumerate(revised, 1):
            self._append(callback_row(session, callback, ordinal, REVISED, received_at))
        self._work += PUBLISHED * len(revised)
        RECORDS_REVISED.values[()] += len(revised)

    def _recount(self, session: CachedSession) -> None:
        """Correct the numbers of events whose outcome a late callback has replaced."""
        app = session.key[0]
        for event, before, after in session.history.replaced:
            kind = records.event_type(event)
            self._corrections[app, kind, before] -= 1
            self._corrections[app, kind, after] += 1
        session.history.replaced.clear()

    def _append(self, row: FeedRow) -> None:
        self._rows.append(row)
        if len(self._rows) >= self._bounds.rows:
            self._flush()

    def _flush(self) -> None:
        """Write the collected rows of the feed, so that they can be read back."""
        self._writer.add_feed(self._rows)
        for row in self._rows:
            self._digest += row_hash(row.position, row.record, row.session)
            if row.reason:
                self._writer.add_rejection(row.position, row.event_revision)
            elif row.revised:
                self._writer.drop_rejection(row.event_revision)
        self._rows.clear()

    def _save_sessions(self) -> None:
        keys: list[SavedKey] = []
        moved: list[SessionRow] = []
        stayed: list[SessionRow] = []
        counts = self._counts
        for name in sorted(self._sessions):
            session = self._sessions[name]
            if not session.revision:
                continue
            key = session.key_row()
            if key != session.saved_key:
                session.saved_key = key
                keys.append(key)
            if session.number:
                row = session.row(session.number)
                before, session.saved_place = session.saved_place, place(row)
                (stayed if before == session.saved_place else moved).append(row)
                counts[row.sdk_app_id, row.state] += 1
                if before:
                    counts[row.sdk_app_id, before[0]] -= 1
        self._writer.save_keys(keys)
        self._writer.save_sessions(moved)
        self._writer.save_sessions_in_place(stayed)
        self._writer.count_sessions(counts)
        counts.clear()

    def _save_counts(self) -> None:
        """Write the changes of the numbers of events."""
        counts = Counter(self._outcomes)
        for (app, _, outcome), number in counts.items():
            RECORDS.values[_labels(app, outcome)] += number
        counts.update(self._corrections)
        self._writer.count_events(
            (app, kind, *records.outcome_numbers(outcome), change)
            for (app, kind, outcome), change in counts.items()
            if change
        )
        self._outcomes.clear()
        self._corrections.clear()

    def _close(self, session: CachedSession) -> None:
        """Store the ids of a full session, so that repetitions are recognised without it."""
        self._flush()
        self._writer.refuse_history(session.first_revision)
        self._any_refused = True
        self._work += session.history.usage.callbacks
        session.is_full = True
        session.history.close()

    def _refuse(self, identity: bytes, owner: int) -> None:
        """Store an id, so that the entry is recognised if it is repeated."""
        self._writer.refuse(identity, owner)
        self._any_refused = True

    def _progress_after(
        self, entries: Sequence[Entry], head: int, behind_since: int | None
    ) -> Progress:
        applied = entries[-1].revision if entries else self.progress.applied_revision
        return replace(
            self.progress,
            applied_revision=applied,
            applied_id=entries[-1].id if entries else self.progress.applied_id,
            head_revision=max(head, applied),
            oldest_revision=self._oldest,
            behind_since=behind_since,
            digest=_bytes(self._digest),
            removed=_bytes(self._removed),
            complete=self.progress.complete or behind_since is None,
            repetitions=self._repetitions,
            damaged=self._damaged,
            problem="",
        )

    def skip(self, entry: Entry) -> None:
        """Advance the progress past an entry without storing anything of it."""
        head = max(self.progress.head_revision, entry.revision)
        self._update_progress(
            applied_revision=entry.revision, applied_id=entry.id, head_revision=head
        )

    def begin_at(self, oldest: int) -> None:
        """Make an empty view begin at a revision, of which the journal has no earlier entries."""
        before = oldest - 1
        self._oldest = oldest
        self._update_progress(
            applied_revision=before, head_revision=before, oldest_revision=oldest, begins_at=oldest
        )

    def note_deleted(self, until: int) -> bool:
        """Take some entries from the list that FORGET entries up to a revision have put there.

        Returns True if none of them is left.
        """
        with self._writer.transaction():
            return self._writer.note_deleted(until)

    def stop_at(self, problem: str) -> None:
        """Store why the journal cannot be read further, until the next batch."""
        self._update_progress(problem=problem)

    def _update_progress(self, **changes: int | bytes | str) -> None:
        progress = replace(self.progress, **changes)
        with self._writer.transaction():
            self._writer.save_progress(progress)
        self.progress = progress


def _decoded(entries: Sequence[Entry]) -> Iterator[Arrival]:
    """Decode entries, some at a time: fast, because neither code nor data leave the CPU's cache."""
    for start in range(0, len(entries), DECODED):
        yield from list(map(arrival_of, entries[start : start + DECODED]))


def _bytes(digest: int) -> bytes:
    return (digest % DIGESTS).to_bytes(DIGEST_BYTES)


def _labels(sdk_app_id: int, outcome: Outcome) -> tuple[str, str, str]:
    """Return the labels of a record."""
    reason = "" if outcome.reason is Reason.UNSPECIFIED else outcome.reason.name.lower()
    return str(sdk_app_id), outcome.verdict.name.lower(), reason
