"""A session's callbacks in time order: where a late one goes, and which verdicts it changes.

An in-order callback is O(1). A late one redoes the steps behind its place, as long as the core
before a step has changed, and corrects the sums by the difference.

Pure: no I/O, no clock. The order is that of docs/callbacks.md: `(event time, rank, id)`, never
arrival.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from callback.catalogue import BEGIN_HEAD_START, RANK_OF_UNKNOWN, RANKS, EventType
from service.session import (
    FIRSTS,
    Core,
    Facts,
    Outcome,
    Session,
    Sum,
    is_sign_of_life,
    may_offer,
    offers,
    step,
    too_long,
)

TAIL = 32
"""Callbacks of a session that stay at hand. One that is later still has the whole history read
again; Desk's callbacks overtake each other by a few places at most."""

WEIGHT = 600
"""Bytes that a callback takes in memory beside its texts, about. These take one and a half times
what they take as stored, at most."""

_BEGIN = EventType.SESSION_BEGIN.value  # a member is looked up by way of a function

Key = tuple[int, int, bytes]
"""A place in time order: ms, rank, id."""


class Limits(NamedTuple):
    """The limits of one session. A callback that arrives when any is used up is rejected.

    Attributes:
        callbacks: callbacks in its history.
        revised: revised records published for it.
        redone: steps that late callbacks had redone, and callbacks looked at for a first value that
            one of them has withdrawn.
    """

    callbacks: int = 20_000
    revised: int = 100_000
    redone: int = 1_000_000


LIMITS = Limits()


class Usage(msgspec.Struct, array_like=True, gc=False):
    """The part of its limits that a session has used."""

    callbacks: int = 0
    revised: int = 0
    redone: int = 0

    def is_used_up(self, limits: Limits) -> bool:
        """Say whether there is room for no other callback."""
        return (
            self.callbacks >= limits.callbacks
            or self.revised >= limits.revised
            or self.redone >= limits.redone
        )


def order_key(facts: Facts) -> Key:
    """Return the place of a callback in its session."""
    time = facts.event_time
    event = facts.event
    if event == _BEGIN:
        time -= BEGIN_HEAD_START
    return time, RANKS.get(event, RANK_OF_UNKNOWN), facts.identity


class Placed(msgspec.Struct, gc=False):
    """A callback at its place in time order.

    Attributes:
        key: its place.
        revision: its own revision in the journal.
        facts: the callback.
        weight: bytes that it takes in memory, about.
        outcome: what was made of it; None before it was folded for the first time.
        before: the session's core just before it, likewise.
        verdicts: bits of all verdicts ever published for it; kept by whoever publishes.
        agent_id: the agent that filters find it by; likewise.
    """

    key: Key
    revision: int
    facts: Facts
    weight: int = WEIGHT
    outcome: Outcome | None = None
    before: Core | None = None
    verdicts: int = 0
    agent_id: str = ""


_FACTS = msgspec.msgpack.Decoder(Facts)


def placed_by(facts: Facts, revision: int, weight: int) -> Placed:
    """Make a callback of its facts; `weight` is the length of what `saved` makes of them."""
    return Placed(order_key(facts), revision, facts, WEIGHT + weight + weight // 2)


def restored(revision: int, saved: bytes) -> Placed:
    """Read a callback back from its facts as the feed stores them."""
    return placed_by(_FACTS.decode(saved), revision, len(saved))


def identity_of(saved: bytes) -> bytes:
    """Return the id of a callback from its facts as the feed stores them."""
    return _FACTS.decode(saved).identity


class Truncated(Exception):
    """The callback belongs before the part of the history that is at hand: replay all of it."""


class _Saved(msgspec.Struct, array_like=True, gc=False):
    """The state that a history needs to go on in order."""

    core: Core
    session: Session
    last: Key
    usage: Usage


_SAVED = msgspec.msgpack.Decoder(_Saved)


class History:
    """One session: its state after everything so far, and the last part of its time line.

    Attributes:
        session: the session after its last callback; changed in place.
        tail: the last callbacks, in time order.
        usage: what is used of the limits.
        weight: bytes that `tail` takes in memory, about.
    """

    def __init__(self) -> None:
        self.session = Session()
        self.usage = Usage()
        self.tail: list[Placed] = []
        self.weight = 0
        self._core = Core()
        self._last: Key | None = None
        self._truncated = False
        self._is_whole = False  # and is to stay so: a late callback has needed all of it
        self._holders: dict[str, Key] = {}  # who offered which of FIRSTS; not all before the tail
        self._last_sign: Key | None = None  # the last sign of life; None if before the tail

    @classmethod
    def replay(cls, callbacks: Iterable[Placed], usage: Usage | None = None) -> "History":
        """Fold callbacks once, in time order, whatever order they are given in."""
        history = cls()
        for placed in sorted(callbacks, key=_key):
            history._append(placed)
        history.usage = usage or Usage(len(history.tail))
        history._is_whole = True
        return history

    @classmethod
    def restore(cls, saved: bytes) -> "History":
        """Go on from what `save` wrote."""
        history, state = cls(), _SAVED.decode(saved)
        history._core, history.session = state.core, state.session
        history._last, history.usage = state.last, state.usage
        history._truncated = True
        return history

    def save(self) -> bytes:
        """Write what is needed to go on in order."""
        last = self._last or (0, 0, b"")
        return msgspec.msgpack.encode(_Saved(self._core, self.session, last, self.usage))

    def add(self, placed: Placed) -> list[Placed]:
        """Take a callback to its place.

        Returns:
            it, followed by those whose verdict or reason it has changed, in time order; nothing if
            the history has it already.

        Raises:
            Truncated: it may stand before what is at hand; nothing was changed.
        """
        is_late = self._last is not None and placed.key <= self._last
        place = self._place(placed.key) if is_late else 0
        if place is None:
            return []
        self.usage.callbacks += 1
        if is_late:
            return self._insert(placed, place)
        self._append(placed)
        return [placed]

    def reject(self, placed: Placed) -> Placed:
        """Reject a callback that the session has no room for; return it."""
        self.session.rejected_events += 1
        placed.outcome = too_long(self._core)
        return placed

    def close(self) -> None:
        """Let go of all callbacks: from now on, any is rejected."""
        self.tail = []
        self.weight = 0
        self._truncated = True

    def holds(self, key: Key) -> bool:
        """Say whether a callback with this place is in the history.

        Raises:
            Truncated: it may stand before what is at hand.
        """
        return self._last is not None and key <= self._last and self._place(key) is None

    def trim(self) -> None:
        """Let go of the older callbacks, once there are many more than `TAIL`."""
        if self._is_whole or len(self.tail) <= 2 * TAIL:
            return
        del self.tail[:-TAIL]
        self.weight = sum(placed.weight for placed in self.tail)
        self._truncated = True

    def _place(self, key: Key) -> int | None:
        """Return the index in the tail where a late callback belongs; None if it is there."""
        if key == self._last:
            return None
        if self._truncated and (not self.tail or key < self.tail[0].key):
            raise Truncated
        place = bisect_left(self.tail, key, key=_key)
        return None if self.tail[place].key == key else place

    def _append(self, placed: Placed) -> None:
        self._last = placed.key
        self.tail.append(placed)
        self.weight += placed.weight
        before, facts, session = self._core, placed.facts, self.session
        outcome, core, sums = step(before, facts)
        placed.before, placed.outcome = before, outcome
        if sums:
            self._add(sums, 1)
        if may_offer(session, outcome, facts):
            for name, value in offers(outcome, facts):
                if not getattr(session, name):
                    self._hold(name, value, placed.key)
        if is_sign_of_life(outcome):
            self._last_sign = placed.key
            if facts.event_time > (session.last_event_at or 0):
                session.last_event_at = facts.event_time
        if core is not before:
            self._core = core
            self._show_core()

    def _insert(self, placed: Placed, place: int) -> list[Placed]:
        self.tail.insert(place, placed)
        self.weight += placed.weight
        stop, revised = self._redo(place)
        self.usage.redone += stop - place - 1
        self.usage.revised += len(revised)
        self._find_firsts(place, stop)
        self._find_last_event(place, stop)
        self._show_core()
        return [placed, *revised]

    def _redo(self, place: int) -> tuple[int, list[Placed]]:
        """Fold from a place to where the core is again what it was.

        Returns the index of the first callback that was not folded again; and those behind `place`
        whose verdict or reason is new.
        """
        tail = self.tail
        revised: list[Placed] = []
        core = tail[place + 1].before or Core()
        for stop in range(place, len(tail)):
            placed = tail[stop]
            if stop > place and placed.before == core:
                return stop, revised
            old = placed.outcome
            if old is not None and placed.before is not None:
                self._add(step(placed.before, placed.facts)[2], -1)
            placed.before = core
            placed.outcome, core, sums = step(core, placed.facts)
            self._add(sums, 1)
            if old is not None and _is_other(old, placed.outcome):
                revised.append(placed)
        self._core = core
        return len(tail), revised

    def _find_last_event(self, place: int, stop: int) -> None:
        """Correct the last event after the callbacks from `place` to `stop` were folded again.

        If the last sign of life is silenced, another one is among them: what silences others was
        accepted. So nothing before them needs to be looked at.
        """
        if self._last_sign is None or not self._is_behind(self._last_sign, stop):
            for placed in reversed(self.tail[place:stop]):
                if is_sign_of_life(_known(placed.outcome)):
                    self._last_sign = placed.key
                    break
        if self._last_sign is not None:
            # A SessionBegin sorts before its time.
            self.session.last_event_at = max(self._last_sign[0], self.session.begun_at or 0)

    def _is_behind(self, key: Key, stop: int) -> bool:
        return stop < len(self.tail) and key >= self.tail[stop].key

    def _add(self, sums: Sequence[Sum], sign: int) -> None:
        session = self.session
        for name, amount in sums:
            setattr(session, name, getattr(session, name) + sign * amount)

    def _find_firsts(self, place: int, stop: int) -> None:
        """Correct the first values after the callbacks from `place` to `stop` were folded again."""
        found: dict[str, tuple[int | str, Key]] = {}
        for placed in self.tail[place:stop]:
            for name, value in offers(_known(placed.outcome), placed.facts):
                found.setdefault(name, (value, placed.key))
        first = self.tail[place].key
        later = {name: key for name, key in self._holders.items() if key >= first}
        for name, offer in found.items():
            if name in later or not getattr(self.session, name):
                self._hold(name, *offer)
        withdrawn = {name for name, key in later.items() if not self._is_behind(key, stop)}
        self._find_next_offers(withdrawn - found.keys(), stop)

    def _find_next_offers(self, names: set[str], start: int) -> None:
        """Find first values that are offered no more before `start`, in one pass for all of them.

        Each callback looked at counts as one redone. The history is at hand from `start` on, so
        that their number depends on the journal alone.
        """
        for name in names:
            setattr(self.session, name, _NOTHING[name])
            del self._holders[name]
        place = start
        while names and place < len(self.tail):
            placed = self.tail[place]
            place += 1
            for name, value in offers(_known(placed.outcome), placed.facts):
                if name in names:
                    self._hold(name, value, placed.key)
                    names.remove(name)
        self.usage.redone += place - start

    def _hold(self, name: str, value: int | str, key: Key) -> None:
        setattr(self.session, name, value)
        self._holders[name] = key

    def _show_core(self) -> None:
        session, core = self.session, self._core
        session.state = core.state
        session.end_reason = core.end_reason
        session.agent_id = core.agent_id
        session.agent_ids = core.agent_ids
        session.satisfaction = core.satisfaction


_NOTHING = {name: getattr(Session(), name) for name in FIRSTS}


def _key(placed: Placed) -> Key:
    return placed.key


def _known(outcome: Outcome | None) -> Outcome:
    if outcome is None:
        raise AssertionError("a callback at its place has been folded")
    return outcome


def _is_other(old: Outcome, new: Outcome) -> bool:
    return old.verdict is not new.verdict or old.reason is not new.reason
