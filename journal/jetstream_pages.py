"""Pages of a stream by Direct Get, over a socket that the calling thread reads.

nats-py takes several times as long for a message, and the fold would wait for that (ADR 26).
"""

import json
from collections import deque

from nats.errors import Error as NatsError

from journal.entry import Entry
from journal.errors import Unavailable
from journal.jetstream_access import Access
from journal.jetstream_message import entry_of
from journal.jetstream_wire import Wire
from journal.port import READ_BYTES

_FAILURES = (OSError, ValueError, LookupError, NatsError)


class Pages:
    """Reads from one of the servers at a time. Not safe for use by several threads at once."""

    def __init__(self, access: Access, stream: str) -> None:
        self._access = access
        self._servers = deque(access.servers)
        self._subject = f"$JS.API.DIRECT.GET.{stream}"
        self._wire: Wire | None = None

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
            except _FAILURES as error:
                problem = str(error) or type(error).__name__
                self.close()
                self._servers.rotate(-1)
        raise Unavailable(f"reading from NATS: {problem}")

    def close(self) -> None:
        """Close the connection. Another thread that reads from it gets an error."""
        wire, self._wire = self._wire, None
        if wire:
            wire.close()

    def _page(self, wire: Wire, after: int, limit: int) -> list[Entry]:
        request = {"seq": after + 1, "batch": limit, "max_bytes": READ_BYTES, "next_by_subj": ">"}
        entries: list[Entry] = []
        previous = 0
        for headers, body in wire.ask(self._subject, json.dumps(request).encode()):
            if int(headers["Nats-Last-Sequence"]) == previous:
                previous = int(headers["Nats-Sequence"])
                entries.append(entry_of(previous, headers["Nats-Subject"], headers, body))
        return entries
