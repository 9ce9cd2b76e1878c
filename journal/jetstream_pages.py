"""Pages of a stream by Direct Get, over a socket that the calling thread reads.

nats-py takes several times as long for a message, and the fold would wait for that (ADR 26).
"""

import json
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from journal.entry import Entry
from journal.errors import Unavailable
from journal.jetstream_access import Access
from journal.jetstream_message import entry_of
from journal.jetstream_wire import FAILURES, Message, Wire
from journal.port import READ_BYTES

AHEAD = 1_000
"""Entries of a page from which on the next page is asked for at once: a reader catches up."""

HEADERS = 320
"""Bytes of the headers of a message, about. JetStream counts them as bytes of an answer, too."""


class _Question(NamedTuple):
    """A question after a revision, and the messages of its answer."""

    after: int
    limit: int
    messages: Iterator[Message]


class Pages:
    """Reads from one of the servers at a time. Not safe for use by several threads at once."""

    def __init__(self, access: Access, stream: str) -> None:
        self._access = access
        self._servers = deque(access.servers)
        self._subject = f"$JS.API.DIRECT.GET.{stream}"
        self._wire: Wire | None = None
        self._ahead: _Question | None = None

    def read(self, after: int, limit: int) -> list[Entry]:
        """Return entries after a revision, up to the first that did not arrive.

        Raises:
            Unavailable: no server answers, or not as it should.
        """
        problem = ""
        for _ in range(1 + len(self._servers)):  # the first one may have been started again
            try:
                wire = self._wire = self._wire or Wire(self._access, self._servers[0])
                return self._page(wire, after, limit)
            except FAILURES as error:
                problem = str(error) or type(error).__name__
                self.close()
                self._servers.rotate(-1)
        raise Unavailable(f"reading from NATS: {problem}")

    def close(self) -> None:
        """Close the connection. Another thread that reads from it gets an error."""
        wire, self._wire, self._ahead = self._wire, None, None
        if wire:
            wire.close()

    def _page(self, wire: Wire, after: int, limit: int) -> list[Entry]:
        entries: list[Entry] = []
        previous, left, room = 0, 0, READ_BYTES
        question = self._question(wire, after, limit)
        for headers, body in question.messages:
            if room > 0 and int(headers["Nats-Last-Sequence"]) == previous:
                room -= len(body)
                previous, left = int(headers["Nats-Sequence"]), int(headers["Nats-Num-Pending"])
                entries.append(entry_of(previous, headers["Nats-Subject"], headers, body))
        if left and len(entries) == question.limit >= AHEAD:
            # A follower applies all but the last, and reads the last one that it applied again.
            self._ahead = self._ask(wire, entries[-2].revision - 1, limit)
        return entries

    def _question(self, wire: Wire, after: int, limit: int) -> _Question:
        """Return the question that was asked ahead, if it fits, or ask."""
        ahead, self._ahead = self._ahead, None
        if ahead and ahead.after == after and ahead.limit <= limit:
            return ahead
        for _ in ahead.messages if ahead else ():
            pass
        return self._ask(wire, after, limit)

    def _ask(self, wire: Wire, after: int, limit: int) -> _Question:
        max_bytes = READ_BYTES + limit * HEADERS
        request = {"seq": after + 1, "batch": limit, "max_bytes": max_bytes, "next_by_subj": ">"}
        return _Question(after, limit, wire.ask(self._subject, json.dumps(request).encode()))
