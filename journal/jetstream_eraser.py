"""Forgetting in a journal's stream, beside its writers.

The servers overwrite a message and all its replicas ("secure delete"): each time they write the
block of some MB that has it anew, and take nothing else meanwhile.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

from nats.js.errors import APIError, NotFoundError

from journal.entry import NewEntry, validate
from journal.errors import JournalError
from journal.jetstream import JetStreamOptions, JetStreamReader
from journal.jetstream_publisher import Publisher

DELETE_WITHIN = 10.0
"""Seconds that NATS has for a deletion: a slow disk writes some MB, on several servers."""

REST = 1.0
"""Length of the pause after a deletion, as a multiple of its own."""


class JetStreamEraser(JetStreamReader):
    """`journal.port.Eraser` on a stream."""

    def __init__(self, options: JetStreamOptions) -> None:
        """Connect.

        Raises:
            Unavailable, Unreadable: as `JetStreamReader`.
        """
        super().__init__(options)
        self._publisher = Publisher(self._connection, options.access, self._name)
        self._forgetting = threading.Lock()  # a publisher takes one batch at a time

    def forget(self, entry: NewEntry) -> int:
        validate(entry)
        with self._forgetting:
            (outcome,) = self._publisher.publish([entry])
            self._publisher.close()  # nothing answers the server's pings until the next time
        if isinstance(outcome, JournalError):
            raise outcome
        return outcome.revision

    def delete(self, revisions: Sequence[int]) -> None:
        for revision in revisions:
            began = monotonic()
            self._delete(revision)
            time.sleep(REST * (monotonic() - began))

    def sweep(self) -> None:
        """Leave the rest to the servers: their Raft logs have the messages for some minutes."""

    def _delete(self, revision: int) -> None:
        async def work() -> None:
            link = await self._connection.link()
            try:
                await link.js.delete_msg(self._name, revision)
            except APIError:  # of several kinds if it is gone already
                with suppress(NotFoundError):
                    await link.js.get_msg(self._name, revision)
                    raise

        self._connection.run(work, timeout=DELETE_WITHIN)
