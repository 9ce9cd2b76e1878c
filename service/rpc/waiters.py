"""Calls that wait for the view to reach a revision, or for a session to be in a state."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from desk.v1.session_pb2 import Session
from service.positions import revision_of
from service.records import forgotten_sessions, is_forgotten
from service.rpc.errors import CallRefused, forgotten
from service.session import SessionKey
from service.view.selection import LiveRow


class Seen(NamedTuple):
    """A session in one of the states waited for, and its revision then."""

    revision: int
    session: Session


class StateWaiter:
    """A call that waits for a session to be in one of some states after a revision."""

    def __init__(self, states: frozenset[int]) -> None:
        self.seen: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        self.after = 0
        self.states = states


class Waiters:
    """All waiting calls of this worker. The feed wakes them; they do not read the view."""

    def __init__(self) -> None:
        self._revisions: set[tuple[int, asyncio.Future[None]]] = set()
        self._states: dict[SessionKey, dict[int, set[StateWaiter]]] = {}

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
    def state(self, key: SessionKey, states: frozenset[int]) -> Iterator[StateWaiter]:
        """Wait for a session's state."""
        waiter = StateWaiter(states)
        by_state = self._states.setdefault(key, defaultdict(set))
        for state in states:
            by_state[state].add(waiter)
        try:
            yield waiter
        finally:
            for state in states:
                by_state[state].discard(waiter)
            if not any(by_state.values()):
                del self._states[key]

    def announce(self, rows: Iterable[LiveRow], revision: int) -> Iterator[None]:
        """Wake the waiters for states in new rows, then for revisions, in small steps.

        Rows are read in their order, so that a state that lasted for one revision is seen too.
        Waiters may come and go between two steps.
        """
        for row in rows:
            if is_forgotten(row.record):
                yield from self._end_forgotten(row)
            by_state = self._states.get((row.sdk_app_id, row.session_id))
            if by_state and row.session:
                yield
                yield from _announce_state(by_state, row)
        for future in [future for wanted, future in self._revisions if wanted <= revision]:
            if not future.done():
                future.set_result(None)
                yield

    def _end_forgotten(self, row: LiveRow) -> Iterator[None]:
        revision = revision_of(row.position)
        for key in [(row.sdk_app_id, each) for each in forgotten_sessions(row.record)]:
            for waiter in _all(self._states.get(key, {})):
                if revision > waiter.after and not waiter.seen.done():
                    waiter.seen.set_exception(forgotten(*key, revision))
                    yield

    def fail(self, error: Callable[[], CallRefused]) -> None:
        """End the wait of every call with an error."""
        futures: list[asyncio.Future[Any]] = [future for _, future in self._revisions]
        futures += [waiter.seen for by_state in self._states.values() for waiter in _all(by_state)]
        for future in futures:
            if not future.done():
                future.set_exception(error())


def _all(by_state: dict[int, set[StateWaiter]]) -> set[StateWaiter]:
    return set().union(*by_state.values())


def _announce_state(by_state: dict[int, set[StateWaiter]], row: LiveRow) -> Iterator[None]:
    try:
        session = Session.FromString(row.session or b"")
    except DecodeError as error:
        # A damaged session must not end the reading for all others.
        for waiter in _all(by_state):
            if not waiter.seen.done():
                waiter.seen.set_exception(error)
                yield
        return
    revision = revision_of(row.position)
    for waiter in tuple(by_state.get(session.state, ())):
        if revision > waiter.after and not waiter.seen.done():
            waiter.seen.set_result(Seen(revision, session))
        yield
