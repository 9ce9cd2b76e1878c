"""Publishes batches of entries until each entry is acknowledged.

Many entries are one atomic batch (NATS ADR-50), for which JetStream syncs once and answers once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic, sleep
from uuid import uuid4

import msgspec

from journal.entry import Appended, NewEntry
from journal.errors import AppendTimedOut, JournalError, TooLarge, Unavailable
from journal.jetstream_access import Access
from journal.jetstream_connection import Connection, one_line
from journal.jetstream_message import headers_of, subject_of
from journal.jetstream_wire import FAILURES, Wire, header_block
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

_LARGER_THAN_PAYLOAD = _Error(
    err_code=TOO_LARGE[0], description="larger than max_payload of the server"
)


class Publisher:
    """Publishes over a socket of its own to the server that `connection` uses.

    Not safe for use by several threads at once.
    """

    def __init__(self, connection: Connection, access: Access, stream: str) -> None:
        self._connection = connection
        self._access = access
        self._stream = stream
        self._wire: Wire | None = None
        self._reason = ""
        self._tokens = count()
        self._asked: dict[str, Sequence[_Append]] = {}
        self._open: set[str] = set()  # tokens of the attempt that have no answer

    def publish(self, entries: Sequence[NewEntry]) -> list[Outcome]:
        """Return the outcome of each entry, in order.

        An entry that is published again, because the answer was lost, is a duplicate.
        """
        appends: dict[bytes, _Append] = {}
        for entry in entries:
            appends.setdefault(entry.id, _Append(entry))
        try:
            problem = self._publish(list(appends.values()))
        finally:
            self._asked.clear()
        outcomes = [(appends[entry.id], entry) for entry in entries]
        return [
            _of_copy(append.outcome or problem, is_first=append.entry is entry)
            for append, entry in outcomes
        ]

    def keep_alive(self) -> None:
        """Answer the server's pings. For times without anything to publish."""
        if not self._wire:
            return
        self._wire.end = monotonic() + ATTEMPT
        try:
            while self._wire.receive(monotonic()):
                pass  # a late answer
        except FAILURES:
            self.close()

    def close(self) -> None:
        wire, self._wire = self._wire, None
        if wire:
            wire.close()

    def _publish(self, appends: Sequence[_Append]) -> JournalError:
        """Find out the outcomes of appends; return that of the others."""
        end = monotonic() + PUBLISH_WITHIN
        self._reason = ""
        while True:
            try:
                self._attempt(appends, end)
            except Unavailable as error:
                return error
            except FAILURES as error:
                if not (self._reason and isinstance(error, TimeoutError)):  # a refusal says more
                    self._reason = one_line(str(error) or type(error).__name__)
                self.close()
            if not _unknown(appends):
                break
            sleep(AGAIN)
            if monotonic() + AGAIN > end:  # too late for another attempt
                self.close()  # it may be dead
                break
        reason = self._reason or "nothing was answered"
        return AppendTimedOut(f"NATS did not confirm the entry in time: {reason}")

    def _attempt(self, appends: Sequence[_Append], end: float) -> None:
        """Publish once the entries whose outcomes are not known, and note the answers.

        An answer to an earlier attempt counts as well.

        Raises:
            Unavailable: there is no connection.
        """
        wire = self._connected(end)
        self._open.clear()
        self._ask(wire, appends)
        until = min(end, monotonic() + ATTEMPT)
        while self._open and (answer := wire.receive(until)):
            self._note(wire, *answer)

    def _connected(self, end: float) -> Wire:
        """Return a connection on which the exchange ends at a time."""
        self._connection.wait_until_usable(end - monotonic())
        if self._wire and self._wire.server != self._connection.server:
            self.close()
        if not self._wire:
            server = self._connection.server
            try:
                self._wire = Wire(self._access, server, end - monotonic())
            except FAILURES:
                self._connection.leave(server)
                raise
        self._wire.end = end
        return self._wire

    def _ask(self, wire: Wire, appends: Sequence[_Append]) -> None:
        """Publish the entries whose outcomes are not known."""
        appends = _unknown(appends)
        size = len(appends) if len(appends) >= TOGETHER else 1
        for start in range(0, len(appends), size):
            self._send(wire, appends[start : start + size])
        wire.flush()

    def _send(self, wire: Wire, appends: Sequence[_Append]) -> None:
        messages = self._messages(appends)
        # The server closes the connection of a client that sends more.
        if any(len(block) + len(body) > wire.max_payload for _, block, body in messages):
            self._split(wire, appends, _LARGER_THAN_PAYLOAD)
            return
        token = str(next(self._tokens))
        self._asked[token] = appends
        self._open.add(token)
        for message in messages[:-1]:
            wire.publish(*message)
        wire.publish(*messages[-1], token)

    def _messages(self, appends: Sequence[_Append]) -> list[tuple[str, str, bytes]]:
        """Return subject, block of headers and body of each message."""
        batch = uuid4().hex[:8]  # kept with each message
        messages = []
        for number, append in enumerate(appends, start=1):
            headers = headers_of(append.entry)
            if len(appends) > 1:
                headers |= {BATCH: batch, NUMBER: str(number)}
            if 1 < number == len(appends):
                headers[COMMIT] = "1"
            subject = subject_of(self._stream, append.entry)
            messages.append((subject, header_block(headers), append.entry.body))
        return messages

    def _note(self, wire: Wire, token: str, body: bytes) -> None:
        """Note an answer, if it is to an attempt of this batch."""
        appends = self._asked.get(token, ())
        try:
            answer = _ANSWER.decode(body)
        except msgspec.DecodeError:  # nobody answers for the stream
            answer = _Answer(error=_Error(NOT_NOW[1], description="the stream has no leader"))
        if answer.error is None:
            _note_revisions(appends, answer)
        elif token in self._open:
            self._split(wire, appends, answer.error)
        self._open.discard(token)

    def _split(self, wire: Wire, appends: Sequence[_Append], error: _Error) -> None:
        """Note a refusal. A batch with a repetition is refused as a whole: publish its halves."""
        self._reason = one_line(error.description)
        if error.asks_for_another():
            return
        if len(appends) > 1:
            half = len(appends) // 2
            self._ask(wire, appends[:half])
            self._ask(wire, appends[half:])
        elif appends[0].outcome is None:
            kind = TooLarge if error.err_code in TOO_LARGE else Unavailable
            appends[0].outcome = kind(f"JetStream refuses entries: {self._reason}")


def _unknown(appends: Sequence[_Append]) -> list[_Append]:
    return [each for each in appends if each.outcome is None]


def _note_revisions(appends: Sequence[_Append], answer: _Answer) -> None:
    """Note the outcomes of acknowledged entries, unless the answer is not to all of them."""
    first = answer.seq - len(appends) + 1
    if answer.count != len(appends) or first < 1:
        return
    for revision, append in enumerate(appends, first):
        if not isinstance(append.outcome, Appended):
            append.outcome = Appended(revision, answer.duplicate)
            DUPLICATES.values[("append",)] += answer.duplicate


def _of_copy(outcome: Outcome, *, is_first: bool) -> Outcome:
    """Return the outcome of an entry that has that of the first copy in its batch."""
    if is_first or not isinstance(outcome, Appended):
        return outcome
    DUPLICATES.values[("append",)] += 1
    return Appended(outcome.revision, duplicate=True)
