"""A session's callbacks in time order, and the session that they make.

Adding a callback folds it, and the callbacks behind it again until the core is the same as before.
A callback that comes in order takes one step. A late one may change the verdicts of others; the
session's sums are then corrected by the difference.

Pure: no I/O, no clock. The order is that of docs/callbacks.md: `(event time, rank, id)`, never
arrival.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, Self

import msgspec

from callback.catalogue import BEGIN_HEAD_START, RANK_OF_UNKNOWN, RANKS, EventType, State
from service.session import (
    FIRSTS,
    MAX_STAYS,
    Core,
    Facts,
    Outcome,
    Reason,
    Session,
    Stay,
    Sum,
    Verdict,
    is_sign_of_life,
    may_offer,
    offers,
    step,
    too_long,
)

TAIL = 32
"""Callbacks of a session that stay in memory. Desk's callbacks overtake each other by a few places
at most; a callback that is later than that has the whole history read again."""

WEIGHT = 600
"""Approximate bytes that a callback takes in memory beside the characters of its texts."""

CHARACTER = 4
"""Bytes that a character takes, at most."""

Key = tuple[int, int, bytes]
"""A place in time order: milliseconds, rank, id."""

_EARLIEST: Key = (0, 0, b"")
_BEGIN = EventType.SESSION_BEGIN.value  # Enum members are slow to look up in Python 3.11
_NOT_FOLDED = Outcome(Verdict.UNRECOGNISED, Reason.UNSPECIFIED, State.NEW, State.NEW)
_BEFORE_ALL = Core()


class FoldLimits(NamedTuple):
    """The limits of one session. Once one of them is used up, further callbacks are rejected.

    Attributes:
        callbacks: callbacks in its history.
        revised: revised records published for it.
        redone: callbacks folded again for late ones, and callbacks searched for a first value that
            a late one has withdrawn.
    """

    callbacks: int = 20_000
    revised: int = 100_000
    redone: int = 1_000_000


LIMITS = FoldLimits()


class Usage(msgspec.Struct, array_like=True, gc=False):
    """The part of its limits that a session has used."""

    callbacks: int = 0
    revised: int = 0
    redone: int = 0

    def is_used_up(self, limits: FoldLimits) -> bool:
        """Return True if the session has no room for another callback."""
        return (
            self.callbacks >= limits.callbacks
            or self.revised >= limits.revised
            or self.redone >= limits.redone
        )


class HistoryEntry(msgspec.Struct, gc=False):
    """A callback at its place in time order.

    Attributes:
        key: its place.
        revision: its own revision in the journal.
        facts: the callback.
        weight: approximate bytes that it takes in memory.
        before: the session's core just before it.
        outcome: the result of its latest fold.
        verdicts: bits of all verdicts published for it; set by the publisher.
        agent_id: the agent that filters find it by; likewise.
    """

    key: Key
    revision: int
    facts: Facts
    weight: int
    before: Core
    outcome: Outcome = _NOT_FOLDED
    verdicts: int = 0
    agent_id: str = ""

    @classmethod
    def of(cls, facts: Facts, revision: int) -> Self:
        time = facts.event_time
        if facts.event == _BEGIN:
            time -= BEGIN_HEAD_START
        key = (time, RANKS.get(facts.event, RANK_OF_UNKNOWN), facts.identity)
        characters = (
            len(facts.client_user_id)
            + len(facts.customer_service_id)
            + len(facts.channel_type)
            + len(facts.agent_id)
            + len(facts.forward_from_agent_id)
            + len(facts.message_key)
        )
        return cls(key, revision, facts, WEIGHT + CHARACTER * characters, _BEFORE_ALL)


Start = tuple[Key, Stay]
"""A stay, and the place of the callback that began it."""


class _Saved(msgspec.Struct, array_like=True, gc=False):
    """The state from which a history can go on in order."""

    core: Core
    session: Session
    last: Key
    usage: Usage


class _SavedSession(msgspec.Struct, array_like=True, gc=False):
    """The first fields of `_Saved`. The others are not decoded."""

    core: msgspec.Raw
    session: Session


_SAVED = msgspec.msgpack.Decoder(_Saved)
_SAVED_SESSION = msgspec.msgpack.Decoder(_SavedSession)


def saved_session(saved: bytes) -> Session:
    """Read the session from the bytes of `History.save`."""
    return _SAVED_SESSION.decode(saved).session


class History:
    """One session: its state after all callbacks so far, and the last part of its timeline.

    Attributes:
        session: the session after its last callback; changed in place.
        changed: names of its fields that have changed; cleared by the caller that publishes them.
        replaced: events whose outcome a late callback has replaced, with that before and after;
            cleared by the caller that counts them.
        tail: the last callbacks, in time order.
        usage: the used part of the limits.
        weight: approximate bytes that `tail` takes in memory.
    """

    def __init__(self) -> None:
        self.session = Session()
        self.usage = Usage()
        self.tail: list[HistoryEntry] = []
        self.weight = 0
        self.changed: set[str] = set()
        self.replaced: list[tuple[str, Outcome, Outcome]] = []
        self._core = _BEFORE_ALL
        self._shown = _shown_of(_BEFORE_ALL)  # the part of the core that the session has, too
        self._last = _EARLIEST
        self._keeps_all = False  # once a late callback has needed all of it: more may follow
        # _EARLIEST stands for a callback that is not in memory.
        self._holders: dict[str, Key] = {}  # the callback that has offered each of FIRSTS
        self._last_sign = _EARLIEST  # of life
        self._starts: list[Start] = []  # of `Session.stays`, and of those that began in the tail

    @classmethod
    def replay(cls, callbacks: Iterable[HistoryEntry], usage: Usage | None = None) -> "History":
        """Fold a session's callbacks, given in any order, each once, in time order.

        Args:
            callbacks: all of them.
            usage: the used part of the limits; None if none of the callbacks came late.
        """
        history = cls()
        for entry in sorted(callbacks, key=_key_of):
            history.add(entry)
        history.usage = usage or history.usage
        history.changed.update(Session.__struct_fields__)
        history._keeps_all = True
        return history

    @classmethod
    def restore(cls, saved: bytes) -> "History":
        """Make a history from the bytes of `save`, with none of its callbacks in memory."""
        history, state = cls(), _SAVED.decode(saved)
        history._core, history.session = state.core, state.session
        history._shown = _shown_of(state.core)
        history.changed.update(Session.__struct_fields__)
        history._last, history.usage = state.last, state.usage
        history._holders = {name: _EARLIEST for name in FIRSTS if getattr(state.session, name)}
        history._starts = [(_EARLIEST, stay) for stay in state.session.stays]
        return history

    def save(self) -> bytes:
        """Write the state from which the history can go on in order."""
        return msgspec.msgpack.encode(_Saved(self._core, self.session, self._last, self.usage))

    def add(self, entry: HistoryEntry) -> list[HistoryEntry]:
        """Put a callback at its place, which `reaches` has found, and fold from there.

        Returns:
            it, followed by those whose verdict or reason it has changed, in time order; nothing if
            the history has it already.
        """
        place = self._place_of(entry.key)
        if place is None:
            return []
        self.usage.callbacks += 1
        self.weight += entry.weight
        if place < len(self.tail):
            revised = self._insert(place, entry)
        else:
            revised = []
            self._append(entry)
        self._show()
        return [entry, *revised]

    def _append(self, entry: HistoryEntry) -> None:
        """Fold a callback that is the last."""
        self.tail.append(entry)
        self._last = entry.key
        before = self._core
        self._core = after = self._fold(entry, before)
        self._take_offers(entry)
        if after.state is not before.state or after.agent_id != before.agent_id:
            stay = Stay(after.state, after.agent_id, entry.facts.event_time)
            self._starts.append((entry.key, stay))
            session = self.session
            self._set("stay_count", session.stay_count + 1)
            if session.stay_count <= MAX_STAYS + 1:
                session.stays = (*session.stays, stay)

    def _insert(self, place: int, entry: HistoryEntry) -> list[HistoryEntry]:
        """Fold a late callback and those behind it; return those that it has changed."""
        entry.before = self.tail[place].before
        self.tail.insert(place, entry)
        stop, revised = self._fold_from(place)
        self.usage.redone += stop - place - 1
        self.usage.revised += len(revised)
        self._correct_firsts(place, stop)
        self._correct_last_sign(place, stop)
        self._correct_stays(place, stop)
        return revised

    def reject(self, entry: HistoryEntry) -> HistoryEntry:
        """Reject a callback that the session has no room for; return it."""
        self._set("rejected_events", self.session.rejected_events + 1)
        entry.outcome = self.too_long
        return entry

    @property
    def too_long(self) -> Outcome:
        """Return the outcome of a callback that the session has no room for."""
        return too_long(self._core)

    def reaches(self, key: Key) -> bool:
        """Return True if all callbacks from this place on are in memory; else replay them all."""
        if key >= self._last:
            return True
        is_whole = len(self.tail) == self.usage.callbacks
        return is_whole or (bool(self.tail) and key >= self.tail[0].key)

    def contains(self, key: Key) -> bool:
        """Return True if a callback with this place, which `reaches` has found, is there."""
        return self._place_of(key) is None

    def trim(self, keep: int = TAIL) -> None:
        """Drop the older callbacks from memory, once there are many more than are to be kept."""
        if not self._keeps_all and len(self.tail) > 2 * keep:
            del self.tail[:-keep]
            self.weight = sum(entry.weight for entry in self.tail)
            first = bisect_left(self._starts, self.tail[0].key, key=_place_of)
            del self._starts[MAX_STAYS + 1 : first]

    def close(self) -> None:
        """Drop all callbacks from memory: the session takes no more."""
        self.tail.clear()
        self._starts.clear()
        self.weight = 0

    def _place_of(self, key: Key) -> int | None:
        """Return the index in the tail where a callback belongs; None if it is there already."""
        if key >= self._last:
            return len(self.tail) if key > self._last else None
        if not self.reaches(key):
            raise AssertionError("a callback belongs before those in memory")
        place = bisect_left(self.tail, key, key=_key_of)
        return None if self.tail[place].key == key else place

    def _fold_from(self, place: int) -> tuple[int, list[HistoryEntry]]:
        """Fold a new callback and those behind it, until the core is again the same as before.

        Returns the index of the first callback that was not folded, and those behind `place` that
        have another verdict or reason than before.
        """
        tail = self.tail
        revised: list[HistoryEntry] = []
        core = self._fold(tail[place], tail[place].before)
        for stop in range(place + 1, len(tail)):
            entry = tail[stop]
            if entry.before == core:
                return stop, revised
            old = entry.outcome
            self._add(step(entry.before, entry.facts)[2], -1)
            core = self._fold(entry, core)
            new = entry.outcome
            if new != old:
                self.replaced.append((entry.facts.event, old, new))
                if new.verdict is not old.verdict or new.reason is not old.reason:
                    revised.append(entry)
        self._core = core
        return len(tail), revised

    def _fold(self, entry: HistoryEntry, before: Core) -> Core:
        """Fold one callback; return the core after it."""
        entry.before = before
        entry.outcome, after, sums = step(before, entry.facts)
        if sums:
            self._add(sums, 1)
        return after

    def _add(self, sums: Sequence[Sum], sign: int) -> None:
        for name, amount in sums:
            self._set(name, getattr(self.session, name) + sign * amount)

    def _set(self, name: str, value: Any) -> None:
        setattr(self.session, name, value)
        self.changed.add(name)

    def _take_offers(self, entry: HistoryEntry) -> None:
        """Take the first values and the sign of life of the callback that is now the last."""
        if may_offer(self.session, entry.outcome, entry.facts):
            for name, value in offers(entry.outcome, entry.facts):
                if name not in self._holders:
                    self._hold(name, value, entry.key)
        if is_sign_of_life(entry.outcome):
            self._last_sign = entry.key

    def _correct_firsts(self, place: int, stop: int) -> None:
        """Correct the first values, after the callbacks from `place` to `stop` were folded."""
        folded = self.tail[place:stop]
        holders, first = self._holders, folded[0].key
        offered: set[str] = set()
        for entry in folded:
            for name, value in offers(entry.outcome, entry.facts):
                if name not in offered and (name not in holders or holders[name] >= first):
                    self._hold(name, value, entry.key)
                offered.add(name)
        if len(folded) > 1:
            held = {name for name, key in holders.items() if first <= key <= folded[-1].key}
            self._replace_withdrawn(held - offered, stop)

    def _replace_withdrawn(self, names: set[str], start: int) -> None:
        """Find the first values that no callback before `start` offers any more.

        Each callback looked at counts as redone. The history is in memory from `start` on, so this
        count depends on the journal alone.
        """
        for name in names:
            self._set(name, _NO_VALUE[name])
            del self._holders[name]
        place = start
        while names and place < len(self.tail):
            entry = self.tail[place]
            place += 1
            for name, value in offers(entry.outcome, entry.facts):
                if name in names:
                    self._hold(name, value, entry.key)
                    names.remove(name)
        self.usage.redone += place - start

    def _hold(self, name: str, value: int | str, key: Key) -> None:
        self._set(name, value)
        self._holders[name] = key

    def _correct_last_sign(self, place: int, stop: int) -> None:
        """Correct the last sign of life, after the callbacks from `place` to `stop` were folded.

        A last sign of life that was silenced was silenced by an accepted callback, which is one
        itself and among those: the search need not go back beyond `place`.
        """
        tail = self.tail
        if stop == len(tail) or self._last_sign < tail[stop].key:
            for entry in reversed(tail[place:stop]):
                if is_sign_of_life(entry.outcome):
                    self._last_sign = entry.key
                    break

    def _correct_stays(self, place: int, stop: int) -> None:
        """Correct the stays, after the callbacks from `place` to `stop` were folded."""
        folded = self.tail[place:stop]
        end = self.tail[stop].before if stop < len(self.tail) else self._core
        cores = [*(entry.before for entry in folded[1:]), end]
        found = [start for start in map(_start_of, folded, cores) if start]
        first = bisect_left(self._starts, folded[0].key, key=_place_of)
        last = bisect_right(self._starts, folded[-1].key, key=_place_of)
        if found != self._starts[first:last]:
            self._starts[first:last] = found
            self._set("stay_count", self.session.stay_count + len(found) - (last - first))
            self.session.stays = tuple(stay for _, stay in self._starts[: MAX_STAYS + 1])

    def _show(self) -> None:
        """Show the core and the last sign of life in the session."""
        core, session = self._core, self.session
        if self._last_sign is not _EARLIEST:  # nearly always: not by `_set`
            # A SessionBegin stands in the order before its own time.
            session.last_event_at = max(self._last_sign[0], session.begun_at or 0)
            self.changed.add("last_event_at")
        if core.last_user_message_at is not session.last_user_message_at:
            self._set("last_user_message_at", core.last_user_message_at)
        if core.last_agent_message_at is not session.last_agent_message_at:
            self._set("last_agent_message_at", core.last_agent_message_at)
        shown = _shown_of(core)
        if shown != self._shown:  # rarely: messages change none of these
            for name, value, before in zip(_SHOWN, shown, self._shown, strict=True):
                if value is not before:
                    self._set(name, value)
            self._shown = shown


def _start_of(entry: HistoryEntry, after: Core) -> Start | None:
    """Return the stay that a callback has begun, if any."""
    before = entry.before
    if after.state is before.state and after.agent_id == before.agent_id:
        return None
    return entry.key, Stay(after.state, after.agent_id, entry.facts.event_time)


_place_of: Callable[[Start], Key] = itemgetter(0)

_SHOWN = ("state", "end_reason", "agent_id", "agent_ids", "satisfaction", "live_since")
_shown_of = attrgetter(*_SHOWN)
_NO_VALUE = {name: getattr(Session(), name) for name in FIRSTS}
_key_of = attrgetter("key")
