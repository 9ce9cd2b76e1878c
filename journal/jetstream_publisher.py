"""Publishes batches of entries until each entry is acknowledged.

Many entries are one atomic batch (NATS ADR-50), for which JetStream syncs once and answers once.
"""

import asyncio
from collections.abc import Sequence
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

TOGETHER = 32
"""Entries from which on they are one atomic batch. Fewer are faster one by one."""

BATCH, NUMBER, COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"
"""Headers of the messages of a batch: its id, the place in it, and the mark of the last one."""

IN_PROCESS = 10158
"""JetStream's error while another copy of a message is on its way through the replicas."""

TOO_LARGE = 10054
"""JetStream's error of a message that is larger than the stream, or the server, takes."""

MAX_HEADERS = 4096
"""Bytes that the headers of a message take at most. The server closes the connection of a client
that sends it more than `max_payload`."""

FULL = 10077
"""JetStream's error of a stream that has no room."""

NOT_NOW = 503
"""JetStream's code of what may do better at once, as while a leader is elected; and of `FULL`."""

Entries = Sequence[tuple[int, NewEntry]]
"""Entries with their places in the batch of the caller."""

Outcome = Appended | JournalError


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


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
        self._tokens = count()
        self._answers: dict[str, asyncio.Future[_Answer]] = {}

    async def publish(self, entries: Sequence[NewEntry]) -> list[Outcome]:
        """Return the outcome of each entry, in order.

        An entry that is published again, because the answer was lost, is a duplicate.
        """
        outcomes: dict[int, Outcome] = {}
        places = {entry.id: place for place, entry in reversed(tuple(enumerate(entries)))}
        left = [(place, entries[place]) for place in sorted(places.values())]
        problem: JournalError = AppendTimedOut("NATS did not confirm the entry in time")
        end = monotonic() + PUBLISH_WITHIN
        while left and monotonic() < end:
            try:
                await self._attempt(left, outcomes, min(end, monotonic() + ATTEMPT))
            except Unavailable as error:
                problem = error
                break
            left = [each for each in left if each[0] not in outcomes]
            if left:
                await asyncio.sleep(AGAIN)
        return [
            _of_copy(outcomes.get(places[entry.id], problem), place == places[entry.id])
            for place, entry in enumerate(entries)
        ]

    async def _attempt(self, entries: Entries, outcomes: dict[int, Outcome], end: float) -> None:
        """Publish entries once, and note the outcomes that are known then.

        A batch with a repetition is refused as a whole: then its halves are published.

        Raises:
            Unavailable: there is no connection.
        """
        if 1 < len(entries) < TOGETHER:
            await asyncio.gather(*(self._attempt([each], outcomes, end) for each in entries))
            return
        answer = await self._ask(entries, end)
        if answer is None or _asks_for_another(answer.error):
            return
        if answer.error is None:
            outcomes |= _revisions(entries, answer)
        elif len(entries) > 1:
            half = len(entries) // 2
            parts = entries[:half], entries[half:]
            await asyncio.gather(*(self._attempt(part, outcomes, end) for part in parts))
        else:
            kind = TooLarge if answer.error.err_code == TOO_LARGE else Unavailable
            refusal = kind(f"JetStream refuses it: {answer.error.description}")
            outcomes[entries[0][0]] = refusal

    async def _ask(self, entries: Entries, end: float) -> _Answer | None:
        """Publish entries, and return the answer to the last one; None if there is none."""
        client = (await self._connection.link()).client
        token = str(next(self._tokens))
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._answers[token] = answer
        try:
            await self._listen(client)
            await self._send(client, entries, f"{self._inbox}.{token}")
            async with asyncio.timeout(end - monotonic()):
                return await answer
        except MaxPayloadError:
            larger = "larger than max_payload of the server"
            return _Answer(error=_Error(err_code=TOO_LARGE, description=larger))
        except (NatsError, TimeoutError):  # the connection is lost, or the answer
            return None
        finally:
            del self._answers[token]

    async def _listen(self, client: Client) -> None:
        if client is not self._client:
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._note)
            self._client = client

    async def _send(self, client: Client, entries: Entries, reply: str) -> None:
        batch = uuid4().hex[:8]  # kept with each message
        for number, (_, entry) in enumerate(entries, start=1):
            if len(entry.body) + MAX_HEADERS > client.max_payload:
                raise MaxPayloadError
            headers = headers_of(entry)
            is_last = number == len(entries)
            if len(entries) > 1:
                headers |= {BATCH: batch, NUMBER: str(number)} | ({COMMIT: "1"} if is_last else {})
            subject = subject_of(self._stream, entry)
            await client.publish(subject, entry.body, reply if is_last else "", headers)

    async def _note(self, message: Msg) -> None:
        answer = self._answers.get(message.subject.rpartition(".")[2])
        if answer is None or answer.done():
            return
        try:
            answer.set_result(_ANSWER.decode(message.data))
        except msgspec.DecodeError:  # nobody answers for the stream
            answer.set_result(_Answer(error=_Error(NOT_NOW)))


def _asks_for_another(error: _Error | None) -> bool:
    """Return True if the entries are to be published again."""
    if error is None or error.err_code == FULL:
        return False
    return error.err_code == IN_PROCESS or error.code == NOT_NOW


def _revisions(entries: Entries, answer: _Answer) -> dict[int, Outcome]:
    """Return the outcomes of acknowledged entries; none if the answer is not to all of them."""
    first = answer.seq - len(entries) + 1
    if answer.count != len(entries) or first < 1:
        return {}
    DUPLICATES.values[("append",)] += answer.duplicate
    return {
        place: Appended(revision, answer.duplicate)
        for revision, (place, _) in enumerate(entries, first)
    }


def _of_copy(outcome: Outcome, is_first: bool) -> Outcome:
    """Return the outcome of an entry that has that of the first copy in its batch."""
    if is_first or not isinstance(outcome, Appended):
        return outcome
    DUPLICATES.values[("append",)] += 1
    return Appended(outcome.revision, duplicate=True)
