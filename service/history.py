"""A session's callbacks in time order: where a late one goes, and which verdicts it changes.

An in-order callback is O(1). A late one refolds its session from its place on. Pure: no I/O, no
clock. The order is that of docs/callbacks.md: `(event time, rank, id)`, never arrival.
"""

from bisect import bisect_right
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from journal.callback import Callback
from service.machine import BEGIN_HEAD_START, RANK_OF_UNKNOWN, RANKS, Event
from service.session import Outcome, Session, apply

TAIL = 32
"""Callbacks of a session that stay at hand. One that is later still has the whole history read
again; Desk's callbacks overtake each other by a few places at most."""

_BEGIN = Event.SESSION_BEGIN.value  # a member is looked up by way of a function

Key = tuple[int, int, bytes]
"""A place in time order: ms, rank, id."""


def order_key(callback: Callback, identity: bytes) -> Key:
    """Where a callback stands in its session."""
    time = callback.event_time
    event = callback.event
    if event == _BEGIN:
        time -= BEGIN_HEAD_START
    return time, RANKS.get(event, RANK_OF_UNKNOWN), identity


def facts(callback: Callback) -> Callback:
    """What the fold needs of a callback: all but the message, which may be long."""
    return replace(callback, message=None, message_key="", cloud_custom_data="")


class Placed(msgspec.Struct, gc=False):
    """A callback at its place in time order.

    Attributes:
        key: its place.
        revision: its own revision in the journal.
        callback: what it says.
        outcome: what was made of it; None before it was folded for the first time.
        before: the session just before it.
        verdicts: bits of all verdicts ever published for it; kept by whoever publishes.
        agent_id: the agent that filters find it by; likewise.
    """

    key: Key
    revision: int
    callback: Callback
    outcome: Outcome | None = None
    before: Session | None = None
    verdicts: int = 0
    agent_id: str = ""


class Truncated(Exception):
    """The callback belongs before the part of the history that is at hand: replay all of it."""


class History:
    """One session: its state after everything so far, and the last part of its time line.

    Attributes:
        session: the session after its last callback. Replaced by `add`, never changed in place.
        last: where its last callback stands; None when there is none.
        tail: the last callbacks, in time order.
    """

    def __init__(self, session: Session | None = None, last: Key | None = None) -> None:
        """Start empty, or go on from a saved state whose last callback stands at `last`."""
        self.session = session or Session()
        self.last = last
        self.tail: list[Placed] = []
        self._truncated = last is not None

    @classmethod
    def replay(cls, callbacks: Iterable[Placed]) -> "History":
        """Fold callbacks once, in time order, whatever order they are given in."""
        history = cls()
        for placed in sorted(callbacks, key=_key):
            history._append(placed)
        return history

    def add(self, placed: Placed) -> list[Placed]:
        """Take a callback to its place.

        Returns:
            it, followed by those whose verdict or reason it has changed, in time order.

        Raises:
            Truncated: it stands before what is at hand; nothing was changed.
        """
        if self.last is None or placed.key > self.last:
            self._append(placed)
            return [placed]
        if self._truncated and (not self.tail or placed.key < self.tail[0].key):
            raise Truncated
        return self._insert(placed)

    def trim(self) -> None:
        """Let go of the older callbacks, once there are many more than `TAIL`."""
        if len(self.tail) > 2 * TAIL:
            del self.tail[:-TAIL]
            self._truncated = True

    def _append(self, placed: Placed) -> None:
        self.last = placed.key
        self.tail.append(placed)
        self._fold(placed)

    def _insert(self, placed: Placed) -> list[Placed]:
        place = bisect_right(self.tail, placed.key, key=_key)
        self.session = self.tail[place].before or Session()
        self.tail.insert(place, placed)
        return [each for each in self.tail[place:] if self._changes(each)]

    def _changes(self, placed: Placed) -> bool:
        """Fold `placed`; say whether its verdict is new."""
        old = placed.outcome
        new = self._fold(placed)
        return old is None or old.verdict is not new.verdict or old.reason is not new.reason

    def _fold(self, placed: Placed) -> Outcome:
        """Apply `placed` to the session."""
        placed.before = self.session
        self.session = replace(self.session)
        placed.outcome = outcome = apply(self.session, placed.callback)
        return outcome


def _key(placed: Placed) -> Key:
    return placed.key
