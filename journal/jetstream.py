"""The journal as a stream of NATS JetStream, which replicates, orders and stores it.

Any number of processes write and read. Reading is Direct Get: stateless, answered by any replica,
and checked for gaps at each page. Nothing is subscribed for long that could go silent.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from uuid import uuid4

from nats.aio.msg import Msg
from nats.js.api import StreamInfo, StreamState
from nats.js.errors import BadRequestError, NotFoundError

from journal import jetstream_stream
from journal.entry import Appended, Entry, NewEntry, validate
from journal.errors import (
    Closed,
    NotKept,
    OtherJournal,
    Unavailable,
    Unreadable,
)
from journal.group_commit import LIMITS, CommitLimits, GroupCommit
from journal.jetstream_access import Access
from journal.jetstream_connection import Connection, Link
from journal.jetstream_message import FORGET, entry_of
from journal.jetstream_pages import Pages
from journal.jetstream_publisher import Publisher
from journal.jetstream_stream import StreamOptions, announcements
from journal.port import Waiter
from metrics.definitions import HEAD_REVISION, JOURNAL_SIZE, OLDEST_REVISION

OLDEST_SERVER = (2, 15)
"""Older servers can lose acknowledged messages (nats-server #8447, #8475)."""

ANSWER_WITHIN = 2.0
"""Seconds that NATS has for an answer."""

POLL = 0.25
"""Seconds between two looks for new entries: an announcement may be lost."""

ROOM = 512 * 1024
"""Bytes that must be left in the stream: more than one entry takes."""

NAME_IN_USE = 10058
"""JetStream's error of a stream that another process has just made."""

CLOSE_TIMEOUT = 5.0
"""Seconds that `close` grants to appends under way."""


@dataclass(frozen=True, kw_only=True)
class JetStreamOptions:
    """The place of a journal, and the rules that its stream must keep."""

    access: Access
    stream: StreamOptions


class JetStreamReader:
    """`journal.port.JournalReader` on a stream.

    Attributes:
        bytes: of one copy of the stream, as it was when NATS was last asked.
    """

    def __init__(self, options: JetStreamOptions) -> None:
        """Connect.

        Raises:
            Unavailable: no server can be reached, or there is no stream yet.
            Unreadable: the server is too old, or the stream cannot be used.
        """
        self._options = options.stream
        self._name = options.stream.name
        self.id = ""
        self.bytes = 0
        self._pages = Pages(options.access, self._name)
        self._reading = threading.Lock()
        self._connection = Connection(options.access, self._check)

    def read(self, after: int, *, limit: int) -> list[Entry]:
        self._connection.wait_until_usable()
        try:
            with self._reading:
                entries = self._pages.read(after, limit)
        except Unavailable:
            self._connection.check_open()
            raise
        if entries and entries[0].revision == after + 1:
            return entries
        return self._connection.run(lambda: self._verified(entries, after), timeout=ANSWER_WITHIN)

    def wait(self, after: int, *, timeout: float) -> bool:
        self._connection.check_open()
        end = monotonic() + timeout
        with suppress(Closed):  # while it waits
            while not (found := self._look(after, max(0.0, min(POLL, end - monotonic())))):
                if monotonic() >= end:
                    break
            return found
        return False

    def head(self) -> int:
        return self._state().last_seq

    def oldest(self) -> int:
        """Return the oldest revision that may still be there."""
        return max(1, self._state().first_seq)

    def close(self) -> None:
        self._connection.close()
        self._pages.close()

    def _state(self) -> StreamState:
        return self._connection.run(self._info, timeout=ANSWER_WITHIN).state

    def _look(self, after: int, pause: float) -> bool:
        """Return True if there is an entry after `after`; wait `pause` seconds for one."""
        return self._connection.run(
            lambda: self._announced(after, pause), timeout=pause + ANSWER_WITHIN
        )

    # ---- In the connection's thread ----

    async def _check(self, link: Link) -> None:
        """Accept a connection, or raise the error that says why not."""
        version = link.client.connected_server_version
        if (version.major, version.minor) < OLDEST_SERVER:
            found = f"{version.major}.{version.minor}.{version.patch}"
            raise Unreadable(f"nats-server {found} is too old: 2.15 or newer is needed")
        try:
            info = await link.js.stream_info(self._name)
        except NotFoundError:
            info = await self._missing(link)
        journal_id = jetstream_stream.check(info.config, self._options)
        if self.id and journal_id != self.id:
            raise OtherJournal(f"the stream {self._name} holds another journal now")
        self.id, self.bytes = journal_id, info.state.bytes

    async def _missing(self, link: Link) -> StreamInfo:
        raise Unavailable(f"there is no stream {self._name} yet")

    async def _info(self) -> StreamInfo:
        link = await self._connection.link()
        info = await link.js.stream_info(self._name)
        if (info.config.metadata or {}).get(jetstream_stream.JOURNAL_ID) != self.id:
            raise OtherJournal(f"the stream {self._name} holds another journal now")
        self.bytes = info.state.bytes
        return info

    async def _verified(self, entries: list[Entry], after: int) -> list[Entry]:
        """Return the entries after a revision, of which a page has shown `entries`.

        Raises:
            NotKept: the beginning of them was removed, and not because it was forgotten.
        """
        state = (await self._info()).state
        if state.first_seq > after + 1 and not await self._forgets(after):
            raise NotKept(state.first_seq)
        if not entries and state.last_seq > after:  # the replica that answered is behind
            return await self._first_of_leader(after)
        return entries

    async def _forgets(self, after: int) -> bool:
        """Return True if there is a FORGET entry after a revision: it explains gaps before it."""
        link = await self._connection.link()
        try:
            last = await link.js.get_last_msg(self._name, f"{self._name}.*.{FORGET}")
        except NotFoundError:
            return False
        return (last.seq or 0) > after

    async def _first_of_leader(self, after: int) -> list[Entry]:
        link = await self._connection.link()
        try:
            found = await link.js.get_msg(self._name, seq=after + 1, subject=">", next=True)
        except NotFoundError:
            return []
        headers, body = found.headers or {}, found.data or b""
        return [entry_of(found.seq or 0, found.subject or "", headers, body)]

    async def _announced(self, after: int, pause: float) -> bool:
        link = await self._connection.link()
        announcement: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        subscription = await link.client.subscribe(
            announcements(self._name), future=announcement, max_msgs=1
        )
        try:
            await subscription.unsubscribe(limit=1)
            if (await self._info()).state.last_seq > after:
                return True
            await asyncio.wait([announcement], timeout=pause)
            return announcement.done()
        finally:
            if not announcement.done():
                announcement.cancel()
                await subscription.unsubscribe()


class JetStreamWriter(JetStreamReader):
    """`journal.port.Journal` on a stream: one of any number of writers."""

    def __init__(
        self, options: JetStreamOptions, *, may_create: bool = True, limits: CommitLimits = LIMITS
    ) -> None:
        """Connect; create the stream if there is none and `may_create`.

        Raises:
            Unavailable, Unreadable: as `JetStreamReader`.
        """
        self._may_create = may_create
        super().__init__(options)
        self._publisher = Publisher(self._connection, options.access, self._name)
        self._commits = GroupCommit(
            self._publisher.publish,
            afterwards=lambda: None,
            check=self._check_idle,
            limits=limits,
            storage="NATS",
        )
        HEAD_REVISION.read_number(lambda: self._figure(self.head))
        OLDEST_REVISION.read_number(lambda: self._figure(self.oldest))
        JOURNAL_SIZE.read_number(lambda: self._figure(lambda: self._state().bytes))

    def append(
        self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter] = threading.Event
    ) -> Appended:
        validate(entry)
        return self._commits.append(entry, timeout=timeout, event=event)

    def trouble(self) -> str:
        return self._connection.trouble() or self._commits.trouble()

    def close(self) -> None:
        if self._commits.close(timeout=CLOSE_TIMEOUT):
            self._publisher.close()
        super().close()

    def _figure(self, read: Callable[[], int]) -> int | None:
        """Read a figure of the stream; None in trouble: waiting would delay all other figures."""
        return None if self.trouble() else read()

    def _check_idle(self) -> str:
        """Return the reason for which an append would probably fail, or ""."""
        self._publisher.keep_alive()
        try:
            info = self._connection.run(self._info, timeout=ANSWER_WITHIN)
        except Unavailable as error:
            return str(error)
        is_full = info.state.bytes + ROOM > (info.config.max_bytes or 0)
        return f"the stream {self._name} is full: raise its max_bytes" if is_full else ""

    # ---- In the connection's thread ----

    async def _missing(self, link: Link) -> StreamInfo:
        if self.id:
            raise Unavailable(f"the stream {self._name} is gone")
        if not self._may_create:
            raise Unavailable(
                f"there is no stream {self._name}, and a spool or a view of a journal is here: "
                "delete them to begin with an empty journal"
            )
        try:
            await link.js.add_stream(jetstream_stream.wanted(self._options, uuid4().hex))
        except BadRequestError as error:
            if error.err_code != NAME_IN_USE:
                raise
        return await link.js.stream_info(self._name)
