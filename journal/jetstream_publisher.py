"""Publishes entries, hundreds at once, until each is acknowledged.

nats-py's own `publish_async` leaves a publish unanswered that JetStream refuses with code 503.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from time import monotonic

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from journal.entry import Appended, NewEntry
from journal.errors import AppendTimedOut, JournalError, Unavailable
from journal.jetstream_connection import Connection
from journal.jetstream_message import headers_of, subject_of
from metrics.definitions import DUPLICATES

PUBLISH_WITHIN = 1.5
"""Seconds in which an entry is published again until it is acknowledged."""

ATTEMPT = 0.4
"""Seconds without an acknowledgement after which an entry is published again."""

AGAIN = 0.05
"""Seconds between two attempts."""

IN_PROCESS = 10158
"""JetStream's error while another copy of a message is on its way through the replicas."""

FULL = 10077
"""JetStream's error of a stream that has no room."""

NOT_NOW = 503
"""JetStream's code of what may do better at once, as while a leader is elected; and of `FULL`."""

Outcome = Appended | JournalError


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


class Publisher:
    """One batch at a time, in the thread of the connection."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._client: Client | None = None
        self._inbox = ""
        self._tokens = count()
        self._sent: dict[str, int] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._answered = asyncio.Event()

    async def publish(self, entries: Sequence[NewEntry]) -> list[Outcome]:
        """Return the outcome of each entry, in order.

        An entry that is published again, because its acknowledgement was lost, is a duplicate.
        """
        left = dict(enumerate(entries))
        self._outcomes = {}
        problem: JournalError = AppendTimedOut("NATS did not confirm the entry in time")
        end = monotonic() + PUBLISH_WITHIN
        while left and (rest := end - monotonic()) > 0:
            try:
                await self._attempt(left, min(rest, ATTEMPT))
            except Unavailable as error:
                problem = error
                break
            left = {place: entry for place, entry in left.items() if place not in self._outcomes}
            if left:
                await asyncio.sleep(AGAIN)
        return [self._outcomes.get(place, problem) for place in range(len(entries))]

    async def _attempt(self, entries: dict[int, NewEntry], patience: float) -> None:
        """Publish entries once, and note the outcomes that come.

        Raises:
            Unavailable: there is no connection.
        """
        client = (await self._connection.link()).client
        self._sent = {}
        self._answered.clear()
        with suppress(NatsError):  # the connection is lost
            await self._listen(client)
            for place, entry in entries.items():
                await self._send(client, place, entry)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience if self._sent else 0):
                await self._answered.wait()

    async def _listen(self, client: Client) -> None:
        if client is not self._client:
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.*", cb=self._note)
            self._client = client

    async def _send(self, client: Client, place: int, entry: NewEntry) -> None:
        token = str(next(self._tokens))
        self._sent[token] = place
        try:
            await client.publish(
                subject_of(self._stream, entry),
                entry.body,
                reply=f"{self._inbox}.{token}",
                headers=headers_of(entry),
            )
        except MaxPayloadError:
            self._settle(token, Unavailable("the entry is larger than the server's max_payload"))

    async def _note(self, message: Msg) -> None:
        """Note an answer, unless it is one that asks for another attempt."""
        try:
            answer = _ANSWER.decode(message.data)
        except msgspec.DecodeError:  # nobody answers for the stream
            answer = _Answer(error=_Error(NOT_NOW))
        self._settle(message.subject.rpartition(".")[2], _outcome(answer))

    def _settle(self, token: str, outcome: Outcome | None) -> None:
        place = self._sent.pop(token, None)
        if place is not None and outcome:
            self._outcomes[place] = outcome
        if not self._sent:
            self._answered.set()


def _outcome(answer: _Answer) -> Outcome | None:
    """Return the outcome that an answer is; None if the entry is to be published again."""
    error = answer.error
    if error is None:
        DUPLICATES.values[("append",)] += answer.duplicate
        return Appended(answer.seq, answer.duplicate)
    if error.err_code != FULL and (error.err_code == IN_PROCESS or error.code == NOT_NOW):
        return None
    return Unavailable(f"JetStream refuses it: {error.description}")
