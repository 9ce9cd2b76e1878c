"""Publishes batches of entries until each entry is acknowledged.

Many entries are one atomic batch (NATS ADR-50), for which JetStream syncs once and answers once.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic
from uuid import uuid4

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from journal.entry import Appended, NewEntry
from journal.errors import AppendTimedOut, JournalError, TooLarge, Unavailable
from journal.jetstream_connection import Connection
from journal.jetstream_message import headers_of, subject_of
from metrics.definitions import DUPLICATES

PUBLISH_WITHIN = 1.5
"""Seconds in which an entry is published again until it is acknowledged."""

ATTEMPT = 0.4
"""Seconds without an answer after which entries are published again."""

AGAIN = 0.05
"""Seconds between two attempts."""

TOGETHER = 8
"""Entries from which on they are one atomic batch. Fewer are faster one by one."""

BATCH, NUMBER, COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"
"""Headers of the messages of a batch: its id, the place in it, and the mark of the last one."""

IN_PROCESS = 10158
"""JetStream's error while another copy of a message is on its way through the replicas."""

TOO_LARGE = 10054, 10097
"""JetStream's errors of a message, or of headers, that are larger than it takes."""

STORE_FAILED = 10077
"""JetStream's error of a stream that has no room, or whose disk fails."""

NOT_NOW = 429, 503
"""JetStream's codes of what may do better at once, as while a leader is elected; and of
`STORE_FAILED`."""

MAX_REASON = 200
"""Characters of an error of JetStream that are shown."""

Outcome = Appended | JournalError


@dataclass(slots=True, eq=False)
class _Append:
    """An entry, and its outcome as soon as that is known."""

    entry: NewEntry
    outcome: Outcome | None = None


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""

    def asks_for_another(self) -> bool:
        """Return True if the entries are to be published again."""
        if self.err_code == STORE_FAILED:
            return False
        return self.err_code == IN_PROCESS or self.code in NOT_NOW


class _Answer(msgspec.Struct):
    """JetStream's answer to a message, or to a batch, whose last message has the number `seq`."""

    seq: int = 0
    count: int = 1
    duplicate: bool = False
    error: _Error | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


class Publisher:
    """Works in the thread of the connection, on one batch at a time."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._client: Client | None = None
        self._inbox = ""
        self._reason = ""
        self._tokens = count()
        self._asked: dict[str, tuple[Sequence[_Append], asyncio.Future[_Error | None]]] = {}

    async def publish(self, entries: Sequence[NewEntry]) -> list[Outcome]:
        """Return the outcome of each entry, in order.

        An entry that is published again, because the answer was lost, is a duplicate.
        """
        appends: dict[bytes, _Append] = {}
        for entry in entries:
            appends.setdefault(entry.id, _Append(entry))
        try:
            problem = await self._publish(list(appends.values()))
        finally:
            self._asked.clear()
        outcomes = [(appends[entry.id], entry) for entry in entries]
        return [
            _of_copy(append.outcome or problem, is_first=append.entry is entry)
            for append, entry in outcomes
        ]

    async def _publish(self, appends: Sequence[_Append]) -> JournalError:
        """Find out the outcomes of appends; return that of the others."""
        end = monotonic() + PUBLISH_WITHIN
        self._reason = "nothing was answered"
        try:
            while monotonic() < end and _unknown(appends):
                await self._attempt(appends, min(end, monotonic() + ATTEMPT))
                if _unknown(appends):
                    await asyncio.sleep(AGAIN)
        except Unavailable as error:
            return error
        return AppendTimedOut(f"NATS did not confirm the entry in time: {self._reason}")

    async def _attempt(self, appends: Sequence[_Append], end: float) -> None:
        """Publish once the entries whose outcomes are not known.

        A batch with a repetition is refused as a whole: then its halves are published.

        Raises:
            Unavailable: there is no connection.
        """
        appends = _unknown(appends)
        if 1 < len(appends) < TOGETHER:
            await asyncio.gather(*(self._attempt([each], end) for each in appends))
            return
        error = await self._ask(appends, end) if appends else None
        if error is None:
            return
        self._reason = error.description[:MAX_REASON]
        if error.asks_for_another():
            return
        if len(appends) > 1:
            half = len(appends) // 2
            parts = appends[:half], appends[half:]
            await asyncio.gather(*(self._attempt(part, end) for part in parts))
        elif appends[0].outcome is None:
            kind = TooLarge if error.err_code in TOO_LARGE else Unavailable
            appends[0].outcome = kind(f"JetStream refuses it: {self._reason}")

    async def _ask(self, appends: Sequence[_Append], end: float) -> _Error | None:
        """Publish entries; return the error of the answer to the last one, if there is any.

        An answer that comes later, while they are published again, counts as well.
        """
        client = (await self._connection.link()).client
        token = str(next(self._tokens))
        error: asyncio.Future[_Error | None] = asyncio.get_running_loop().create_future()
        self._asked[token] = appends, error
        try:
            await self._listen(client)
            await self._send(client, appends, f"{self._inbox}.{token}")
            async with asyncio.timeout(end - monotonic()):
                return await error
        except MaxPayloadError:
            return _Error(
                err_code=TOO_LARGE[0], description="larger than max_payload of the server"
            )
        except (NatsError, TimeoutError):  # the connection is lost, or the answer is late
            return None

    async def _listen(self, client: Client) -> None:
        if client is not self._client:
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._note)
            self._client = client

    async def _send(self, client: Client, appends: Sequence[_Append], reply: str) -> None:
        batch = uuid4().hex[:8]  # kept with each message
        messages = []
        for number, append in enumerate(appends, start=1):
            headers = headers_of(append.entry)
            if len(appends) > 1:
                headers |= {BATCH: batch, NUMBER: str(number)}
            if 1 < number == len(appends):
                headers[COMMIT] = "1"
            messages.append((subject_of(self._stream, append.entry), append.entry.body, headers))
        # The server closes the connection of a client that sends more.
        if any(_size(body, headers) > client.max_payload for _, body, headers in messages):
            raise MaxPayloadError
        for subject, body, headers in messages[:-1]:
            await client.publish(subject, body, "", headers)
        subject, body, headers = messages[-1]
        await client.publish(subject, body, reply, headers)

    async def _note(self, message: Msg) -> None:
        appends, waiting = self._asked.get(message.subject.rpartition(".")[2], ((), None))
        if waiting is None:
            return
        try:
            answer = _ANSWER.decode(message.data)
        except msgspec.DecodeError:  # nobody answers for the stream
            answer = _Answer(error=_Error(NOT_NOW[1], description="the stream has no leader"))
        if answer.error is None:
            _note_revisions(appends, answer)
        if not waiting.done():
            waiting.set_result(answer.error)


def _unknown(appends: Sequence[_Append]) -> list[_Append]:
    return [each for each in appends if each.outcome is None]


def _size(body: bytes, headers: Mapping[str, str]) -> int:
    """Return the bytes of a message, as the server counts them. Headers are ASCII."""
    lines = sum(len(name) + len(value) + len(": \r\n") for name, value in headers.items())
    return len("NATS/1.0\r\n\r\n") + lines + len(body)


def _note_revisions(appends: Sequence[_Append], answer: _Answer) -> None:
    """Note the outcomes of acknowledged entries, unless the answer is not to all of them."""
    first = answer.seq - len(appends) + 1
    if answer.count != len(appends) or first < 1:
        return
    DUPLICATES.values[("append",)] += answer.duplicate
    for revision, append in enumerate(appends, first):
        if not isinstance(append.outcome, Appended):
            append.outcome = Appended(revision, answer.duplicate)


def _of_copy(outcome: Outcome, *, is_first: bool) -> Outcome:
    """Return the outcome of an entry that has that of the first copy in its batch."""
    if is_first or not isinstance(outcome, Appended):
        return outcome
    DUPLICATES.values[("append",)] += 1
    return Appended(outcome.revision, duplicate=True)
