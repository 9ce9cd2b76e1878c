"""The journal as a stream of NATS JetStream, which replicates, orders and stores it.

Any number of processes write and read. Reading is Direct Get: stateless, answered by any replica,
and checked for gaps at each page. Nothing is subscribed for long that could go silent.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from uuid import uuid4

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js.api import PubAck, StreamInfo, StreamState
from nats.js.errors import APIError, BadRequestError, NoStreamResponseError, NotFoundError

from journal import jetstream_stream
from journal.entry import Appended, Entry, NewEntry, validate
from journal.errors import (
    AppendTimedOut,
    Closed,
    JournalError,
    NotKept,
    Unavailable,
    Unreadable,
)
from journal.group_commit import LIMITS, GroupCommit, Limits
from journal.jetstream_access import Access
from journal.jetstream_connection import Connection, Link
from journal.jetstream_message import entry_of, headers_of, subject_of
from journal.jetstream_pages import Pages
from journal.jetstream_stream import StreamOptions, announcements
from journal.port import Waiter
from metrics.definitions import DUPLICATES, HEAD_REVISION, JOURNAL_SIZE, OLDEST_REVISION

OLDEST_SERVER = (2, 15)
"""Older servers can lose acknowledged messages (nats-server #8447, #8475)."""

ANSWER_WITHIN = 2.0
"""Seconds that NATS has for an answer."""

PUBLISH_WITHIN = 1.5
"""Seconds in which an entry is published again until it is acknowledged."""

ATTEMPT = 0.4
"""Seconds without an acknowledgement after which an entry is published again."""

AGAIN = 0.05
"""Seconds between two attempts to publish."""

POLL = 0.25
"""Seconds between two looks for new entries: an announcement may be lost."""

CLOSE_TIMEOUT = 5.0
"""Seconds that `close` grants to appends under way."""

IN_PROCESS = 10158
"""JetStream's error while another copy of a message is on its way through the replicas."""

NOT_NOW = 503
"""JetStream's code while it has no leader."""


@dataclass(frozen=True, kw_only=True)
class JetStreamOptions:
    """The place of a journal, and the rules that its stream must keep."""

    access: Access
    stream: StreamOptions


class JetStreamReader:
    """`journal.port.JournalReader` on a stream."""

    def __init__(self, options: JetStreamOptions) -> None:
        """Connect.

        Raises:
            Unavailable: no server can be reached, or there is no stream yet.
            Unreadable: the server is too old, or the stream cannot be used.
        """
        self._options = options.stream
        self._name = options.stream.name
        self.id = ""
        self._pages = Pages(options.access, self._name)
        self._reading = threading.Lock()
        self._connection = Connection(options.access, self._check)

    def read(self, after: int, *, limit: int) -> list[Entry]:
        server = self._connection.server()
        try:
            with self._reading:
                entries = self._pages.read(server, after, limit)
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
            raise Unreadable(f"the stream {self._name} holds another journal now")
        self.id = journal_id

    async def _missing(self, link: Link) -> StreamInfo:
        raise Unavailable(f"there is no stream {self._name} yet")

    async def _info(self) -> StreamInfo:
        link = await self._connection.link()
        return await link.js.stream_info(self._name)

    async def _verified(self, entries: list[Entry], after: int) -> list[Entry]:
        """Return the entries after a revision, of which a page has shown `entries`.

        Raises:
            NotKept: the beginning of them was removed.
        """
        link = await self._connection.link()
        state = (await link.js.stream_info(self._name)).state
        if state.first_seq > after + 1:
            raise NotKept(state.first_seq)
        if not entries and state.last_seq > after:  # the replica that answered is behind
            return await self._first_of_leader(link, after)
        return entries

    async def _first_of_leader(self, link: Link, after: int) -> list[Entry]:
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
            if (await link.js.stream_info(self._name)).state.last_seq > after:
                return True
            await asyncio.wait([announcement], timeout=pause)
            return announcement.done()
        finally:
            if not announcement.done():
                announcement.cancel()
                await subscription.unsubscribe()


class JetStreamWriter(JetStreamReader):
    """`journal.port.Journal` on a stream: one of any number of writers.

    An entry that is published again, because its acknowledgement was lost, counts as a duplicate.
    """

    def __init__(self, options: JetStreamOptions, *, limits: Limits = LIMITS) -> None:
        """Connect; create the stream if there is none.

        Raises:
            Unavailable, Unreadable: as `JetStreamReader`.
        """
        super().__init__(options)
        self._commits = GroupCommit(
            self._commit,
            afterwards=lambda: None,
            check=self._check_space,
            limits=limits,
            storage="NATS",
        )
        HEAD_REVISION.read_number(self.head)
        OLDEST_REVISION.read_number(self.oldest)
        JOURNAL_SIZE.read_number(lambda: self._state().bytes)

    def append(
        self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter] = threading.Event
    ) -> Appended:
        validate(entry)
        return self._commits.append(entry, timeout=timeout, event=event)

    def trouble(self) -> str:
        return self._connection.trouble() or self._commits.trouble()

    def close(self) -> None:
        self._commits.close(timeout=CLOSE_TIMEOUT)
        super().close()

    def _commit(self, entries: Sequence[NewEntry]) -> list[Appended | JournalError]:
        return self._connection.run(lambda: self._publish(entries), timeout=PUBLISH_WITHIN + 1)

    def _check_space(self) -> None:
        if self._state().bytes >= self._options.max_bytes:
            raise Unavailable(f"the stream {self._name} is full")

    # ---- In the connection's thread ----

    async def _missing(self, link: Link) -> StreamInfo:
        if self.id:
            raise Unavailable(f"the stream {self._name} is gone")
        with suppress(BadRequestError):  # another process was faster
            await link.js.add_stream(jetstream_stream.wanted(self._options, uuid4().hex))
        return await link.js.stream_info(self._name)

    async def _publish(self, entries: Sequence[NewEntry]) -> list[Appended | JournalError]:
        """Publish entries until each is acknowledged or refused, or it takes too long."""
        outcomes: dict[int, Appended | JournalError] = {}
        left = dict(enumerate(entries))
        problem: JournalError = AppendTimedOut("NATS did not confirm the entry in time")
        end = monotonic() + PUBLISH_WITHIN
        while left and (rest := end - monotonic()) > 0:
            try:
                outcomes |= await self._attempt(left, min(rest, ATTEMPT))
            except Unavailable as error:
                problem = error
                break
            left = {place: entry for place, entry in left.items() if place not in outcomes}
            if left:
                await asyncio.sleep(AGAIN)
        return [outcomes.get(place, problem) for place in range(len(entries))]

    async def _attempt(
        self, entries: dict[int, NewEntry], patience: float
    ) -> dict[int, Appended | JournalError]:
        """Publish entries once; return the outcomes of those that have one.

        Raises:
            Unavailable: there is no connection.
        """
        link = await self._connection.link()
        outcomes: dict[int, Appended | JournalError] = {}
        sent: dict[asyncio.Future[PubAck], int] = {}
        with suppress(NatsError):  # the connection is lost
            for place, entry in entries.items():
                subject, headers = subject_of(self._name, entry), headers_of(entry)
                try:
                    ack = await link.js.publish_async(subject, entry.body, headers=headers)
                except MaxPayloadError:
                    outcomes[place] = Unavailable("larger than max_payload of the server")
                else:
                    sent[ack] = place
        if sent:
            await asyncio.wait(sent, timeout=patience)
        for ack, place in sent.items():
            if not ack.done():
                ack.cancel()
            elif outcome := _outcome(ack):
                outcomes[place] = outcome
        return outcomes


def _outcome(ack: asyncio.Future[PubAck]) -> Appended | JournalError | None:
    """Return the outcome of a publish; None if it is to be published again."""
    error = ack.exception()
    if error is None:
        found = ack.result()
        DUPLICATES.values[("append",)] += bool(found.duplicate)
        return Appended(found.seq, bool(found.duplicate))
    if isinstance(error, APIError) and error.err_code != IN_PROCESS and error.code != NOT_NOW:
        return Unavailable(f"JetStream refuses it: {error.description}")
    if isinstance(error, APIError | NoStreamResponseError):
        return None
    return Unavailable(type(error).__name__)
