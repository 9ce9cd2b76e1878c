"""The target of a copy that is a stream. Until the copy is whole no process uses the stream.

A number that the source left out is used up by a placeholder, which is deleted later.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from uuid import uuid4

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import StreamInfo
from nats.js.errors import NotFoundError

from journal import jetstream_stream
from journal.entry import Entry
from journal.errors import Incomplete, OtherEntries, OtherJournal, Unavailable
from journal.jetstream import ANSWER_WITHIN, JetStreamOptions, JetStreamReader
from journal.jetstream_connection import Link
from journal.jetstream_message import entry_of, headers_of, subject_of
from journal.jetstream_publisher import BATCH, COMMIT, NUMBER
from journal.jetstream_stream import COPYING, DUPLICATE_WINDOW

WINDOW = 8_000
"""Messages that are published before their answers are waited for."""

TOGETHER = 1_000
"""Messages of an atomic batch, as many as JetStream takes."""

WRITE_WITHIN = 30.0
"""Seconds in which a window of messages must be confirmed."""

LOOK_AGAIN = 1.0
"""Seconds between two looks at a connection while an answer is waited for."""

EXPECTED = "Nats-Expected-Last-Sequence"
"""The header that has a batch refused unless the stream ends there."""

FORGET_IDS = 0.1
"""Seconds in which JetStream recognises repetitions meanwhile, the fewest that it takes: the ids
of a whole journal would fill its memory."""

Message = tuple[str, bytes, dict[str, str]]
"""Subject, payload and headers."""


class JetStreamTarget(JetStreamReader):
    """`journal.copying.Target` in a stream."""

    def __init__(self, options: JetStreamOptions, journal_id: str, *, first: int) -> None:
        """Connect; create the stream if there is none, for entries from revision `first` on.

        Raises:
            Unavailable, Unreadable: as `JetStreamReader`.
            OtherEntries: there is another journal.
        """
        self._journal_id = journal_id
        self._first = first
        self._gap = f"{options.stream.name}.0.gap"
        super().__init__(options)
        if self.id != journal_id:
            self.close()
            raise OtherEntries(f"the stream {self._name} holds another journal")

    def head(self) -> int:
        """Return the number used last. The placeholders are deleted from here on."""
        self._connection.run(self._purge, timeout=WRITE_WITHIN)
        return super().head()

    def last(self) -> Entry | None:
        return self._connection.run(self._last, timeout=ANSWER_WITHIN)

    def begin(self) -> bool:
        """Have all processes stop using the stream, within seconds; return True if they may now."""
        return self._connection.run(lambda: self._mark(whole=False), timeout=ANSWER_WITHIN)

    def write(self, after: int, entries: Sequence[Entry]) -> int:
        messages = list(islice(self._messages(after, entries), WINDOW))
        self._connection.run(lambda: self._publish(after, messages), timeout=WRITE_WITHIN)
        return after + len(messages)

    def repeats(self, entry: Entry) -> bool:
        return False

    def finish(self) -> None:
        """Give the stream to its users."""
        self._connection.run(lambda: self._mark(whole=True), timeout=ANSWER_WITHIN)

    def _messages(self, after: int, entries: Iterable[Entry]) -> Iterator[Message]:
        """Yield a message for each number."""
        for entry in entries:
            for _ in range(after + 1, entry.revision):
                yield self._gap, b"", {}
            yield subject_of(self._name, entry), entry.body, headers_of(entry)
            after = entry.revision

    # ---- In the connection's thread ----

    async def _check(self, link: Link) -> None:
        try:
            await super()._check(link)
        except Incomplete as incomplete:
            if self.id not in ("", incomplete.journal_id):
                raise OtherJournal(f"the stream {self._name} holds another journal now") from None
            self.id = incomplete.journal_id

    async def _missing(self, link: Link) -> StreamInfo:
        if self.id:
            raise Unavailable(f"the stream {self._name} is gone")
        config = jetstream_stream.wanted(self._options, self._journal_id)
        metadata = {**(config.metadata or {}), COPYING: "true"}
        return await link.js.add_stream(
            config, metadata=metadata, duplicate_window=FORGET_IDS, first_seq=self._first
        )

    async def _mark(self, *, whole: bool) -> bool:
        """Mark the stream as whole or not; return True if it was whole."""
        link = await self._connection.link()
        config = (await self._info()).config
        before = config.metadata or {}
        metadata = {**before, COPYING: "true"}
        if whole:
            del metadata[COPYING]
        window = DUPLICATE_WINDOW if whole else FORGET_IDS
        await link.js.update_stream(config, metadata=metadata, duplicate_window=window)
        return COPYING not in before

    async def _last(self) -> Entry | None:
        link = await self._connection.link()
        try:
            found = await link.js.get_last_msg(self._name, ">")
        except NotFoundError:
            return None
        return entry_of(found.seq or 0, found.subject or "", found.headers or {}, found.data or b"")

    async def _purge(self) -> None:
        link = await self._connection.link()
        await link.js.purge_stream(self._name, subject=self._gap)

    async def _publish(self, after: int, messages: Sequence[Message]) -> None:
        """Publish messages in batches; each is taken if all before it were.

        Raises:
            Unavailable: at least one batch was not taken.
        """
        client = (await self._connection.link()).client
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        try:
            starts = range(0, len(messages), TOGETHER)
            for start in starts:
                batch = messages[start : start + TOGETHER]
                await _send(client, batch, inbox, expected=after + start)
            for _ in starts:
                answer = json.loads((await _next(answers)).data)
                if error := answer.get("error"):
                    raise Unavailable(f"JetStream refuses entries: {error['description']}")
        finally:
            await answers.unsubscribe()


async def _next(answers: Subscription) -> Msg:
    """Wait for the next answer, unless the connection is closed. `run` limits the time."""
    while True:
        with suppress(NatsTimeout):  # only now and then does it see a connection that was closed
            return await answers.next_msg(LOOK_AGAIN)


async def _send(client: Client, batch: Sequence[Message], inbox: str, *, expected: int) -> None:
    batch_id = uuid4().hex[:8]  # kept with each message
    for number, (subject, body, headers) in enumerate(batch, start=1):
        headers |= {BATCH: batch_id, NUMBER: str(number)}
        if number == 1:
            headers[EXPECTED] = str(expected)
        is_last = number == len(batch)
        if is_last:
            headers[COMMIT] = "1"
        await client.publish(subject, body, inbox if is_last else "", headers)
