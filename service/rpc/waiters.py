"""Calls that wait: for the view to reach a revision, or for a session to be in a state."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from desk.v1.session_pb2 import Session
from service.rpc.errors import Refused
from service.view.selection import LiveRow
from service.view.store import POSITION_BITS


class Seen(NamedTuple):
    """A session in a state that was waited for, and the revision at which it was."""

    revision: int
    session: Session


class StateWaiter:
    """Waits for one session to be in one of some states after a revision."""

    def __init__(self, states: frozenset[int]) -> None:
        self.seen: asyncio.Future[Seen] = asyncio.get_running_loop().create_future()
        self.after = 0
        self._states = states

    def wants(self, session: Session) -> bool:
        """Return True if the session is in one of the states."""
        return session.state in self._states

    def see(self, revision: int, session: Session) -> None:
        """End the wait if the session is in one of the states after a revision."""
        if revision > self.after and self.wants(session) and not self.seen.done():
            self.seen.set_result(Seen(revision, session))

    def fail(self, error: Exception) -> None:
        """End the wait with an error."""
        if not self.seen.done():
            self.seen.set_exception(error)


class Waiters:
    """All that wait on this worker: woken by what the feed reads, without asking the view."""

    def __init__(self) -> None:
        self._revisions: set[tuple[int, asyncio.Future[None]]] = set()
        self._states: defaultdict[tuple[int, str], set[StateWaiter]] = defaultdict(set)

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
        self._states[key].add(waiter)
        try:
            yield waiter
        finally:
            self._states[key].discard(waiter)
            if not self._states[key]:
                del self._states[key]

    def reach(self, revision: int) -> None:
        """Wake who waits for this or an earlier revision."""
        for wanted, future in self._revisions:
            if wanted <= revision and not future.done():
                future.set_result(None)

    def see(self, rows: Iterable[LiveRow]) -> None:
        """Show new rows, in their order: a state that lasted for one revision is seen as well."""
        if not self._states:
            return
        for row in rows:
            waiters = self._states.get((row.sdk_app_id, row.session_id))
            if waiters and row.session:
                _show(waiters, row.position >> POSITION_BITS, row.session)

    def refuse(self, error: Callable[[], Refused]) -> None:
        """Wake everybody with an error."""
        futures: list[asyncio.Future[Any]] = [future for _, future in self._revisions]
        futures += [waiter.seen for waiters in self._states.values() for waiter in waiters]
        for future in futures:
            if not future.done():
                future.set_exception(error())


def _show(waiters: Iterable[StateWaiter], revision: int, blob: bytes) -> None:
    try:
        session = Session.FromString(blob)
    except DecodeError as error:
        # A session that is damaged must not end the reading for all others.
        for waiter in waiters:
            waiter.fail(error)
        return
    for waiter in waiters:
        waiter.see(revision, session)
