"""Calls that wait: for the view to reach a revision, or for a session to be in a state."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from desk.v1.session_pb2 import Session
from google.protobuf.message import DecodeError

from service.positions import revision_of
from service.rpc.errors import Refused
from service.rpc.filter_groups import WAKE_WEIGHT
from service.view.selection import LiveRow

PARSE_WEIGHT = 20
"""Cost of parsing a session, in questions to a filter."""


class Seen(NamedTuple):
    """A session in a state that was waited for, and the revision at which it was."""

    revision: int
    session: Session


class StateWaiter:
    """Waits for one session to be in one of some states after a revision."""

    def __init__(self, states: frozenset[int]) -> None:
        self.seen: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        self.after = 0
        self.states = states


Waiting = dict[int, set[StateWaiter]]
"""Those that wait for one session, by state."""


class Waiters:
    """All that wait on this worker: woken by what the feed reads, without asking the view."""

    def __init__(self) -> None:
        self._revisions: set[tuple[int, asyncio.Future[None]]] = set()
        self._states: dict[tuple[int, str], Waiting] = {}

    @contextmanager
    def revision(self, revision: int) -> Iterator[asyncio.Future[None]]:
        """Wait for the view to contain a revision."""
        waiter = (revision, asyncio.get_running_loop().create_future())
        self._revisions.add(waiter)
        try:
            yield waiter[1]
        finally:
            self._revisions.discard(waiter)

    @contextmanager
    def state(self, key: tuple[int, str], states: frozenset[int]) -> Iterator[StateWaiter]:
        """Wait for a session's state."""
        waiter = StateWaiter(states)
        of_session = self._states.setdefault(key, {})
        for state in states:
            of_session.setdefault(state, set()).add(waiter)
        try:
            yield waiter
        finally:
            for state in states:
                of_session[state].discard(waiter)
                if not of_session[state]:
                    del of_session[state]
            if not of_session:
                del self._states[key]

    def announce(self, rows: Iterable[LiveRow], revision: int) -> Iterator[int]:
        """Wake those whom new rows concern, then those who wait for this or an earlier revision.

        Rows are looked at in their order: a state that lasted for one revision is seen as well.
        Yields the cost of each step, in questions to a filter. Waiters may come and go in between.
        """
        for row in rows:
            of_session = self._states.get((row.sdk_app_id, row.session_id))
            if of_session and row.session:
                yield PARSE_WEIGHT
                yield from _show(of_session, revision_of(row.position), row.session)
        for future in [future for wanted, future in self._revisions if wanted <= revision]:
            if not future.done():
                future.set_result(None)
                yield WAKE_WEIGHT

    def refuse(self, error: Callable[[], Refused]) -> None:
        """Wake everybody with an error."""
        futures: list[asyncio.Future[Any]] = [future for _, future in self._revisions]
        futures += [waiter.seen for of in self._states.values() for waiter in _all(of)]
        for future in futures:
            if not future.done():
                future.set_exception(error())


def _all(waiting: Waiting) -> set[StateWaiter]:
    return set().union(*waiting.values())


def _show(waiting: Waiting, revision: int, blob: bytes) -> Iterator[int]:
    try:
        session = Session.FromString(blob)
    except DecodeError as error:
        # A session that is damaged must not end the reading for all others.
        for waiter in _all(waiting):
            if not waiter.seen.done():
                waiter.seen.set_exception(error)
                yield WAKE_WEIGHT
        return
    for waiter in tuple(waiting.get(session.state, ())):
        if revision > waiter.after and not waiter.seen.done():
            waiter.seen.set_result(Seen(revision, session))
            yield WAKE_WEIGHT
        else:
            yield 1
