"""A journal's directory and a stream of a real nats-server, and the commands between them."""

import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from journal.copying import entries_of
from journal.entry import Entry, NewEntry, numbered
from journal.jetstream import JetStreamReader
from journal.jetstream_message import headers_of, subject_of
from journal.jetstream_stream import DUPLICATE_WINDOW
from journal.sqlite import SqliteReader, SqliteWriter
from journal.sqlite_copy import FileTarget
from tests.support.callbacks import NOON, body, entry
from tests.support.commands import Answer, invoke
from tests.support.nats import MIB, NatsServer
from tests.support.waiting import eventually


def real_entry(number: int) -> NewEntry:
    made = entry(1, body("SessionBegin", NOON + number, session_id=f"s{number}"))
    return NewEntry(id=made.id, sdk_app_id=made.sdk_app_id, received_at=NOON, body=made.body)


def append_real(path: Path, first: int, last: int) -> None:
    """Append entries to a file that nobody writes; make it if there is none."""
    SqliteWriter(path).close()
    with closing(SqliteReader(path)) as journal:
        journal_id = journal.id
    with closing(FileTarget(path, journal_id, oldest=1)) as file:
        file.write(first - 1, [numbered(real_entry(each), each) for each in range(first, last + 1)])


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


class Place:
    """Two places of one journal.

    Attributes:
        data: the directory.
        stream: name of the stream.
    """

    def __init__(self, nats: NatsServer, data: Path) -> None:
        self.nats = nats
        self.stream = f"desk-{uuid4().hex[:8]}"
        self.data = data

    @property
    def file(self) -> Path:
        return self.data / "journal.db"

    def settings(self) -> dict[str, str]:
        return {
            "DESK_DATA_DIR": str(self.data),
            "DESK_NATS_STREAM": self.stream,
            "DESK_NATS_MAX_BYTES": str(64 * MIB),
        }

    def desk(self, *arguments: object, **settings: str) -> Answer:
        return invoke(*map(str, arguments), **{**self.settings(), **settings})

    def desk_on_nats(self, *arguments: object) -> Answer:
        return self.desk(*arguments, DESK_JOURNAL=self.nats.url)

    def to_nats(self) -> Answer:
        return self.desk("journal", "copy", f"sqlite:{self.data}", self.nats.url)

    def back(self, data: Path) -> Answer:
        return self.desk("journal", "copy", self.nats.url, f"sqlite:{data}")

    def file_entries(self, data: Path | None = None) -> tuple[str, list[Entry]]:
        with closing(SqliteReader((data or self.data) / "journal.db")) as journal:
            return journal.id, list(entries_of(journal))

    def stream_entries(self) -> tuple[str, list[Entry]]:
        with closing(JetStreamReader(self.nats.options(self.stream))) as journal:
            return journal.id, list(entries_of(journal))

    def messages(self) -> int:
        async def count(js: JetStreamContext) -> int:
            try:
                return (await js.stream_info(self.stream)).state.messages
            except NotFoundError:
                return 0

        return self.nats.manage(count)

    def publish(
        self, payload: bytes, *, subject: str = "1", headers: dict[str, str] | None = None
    ) -> None:
        """Add a message that is no entry."""

        async def publish(js: JetStreamContext) -> None:
            await js.publish(f"{self.stream}.{subject}.aa", payload, headers=headers)

        self.nats.manage(publish)

    def publish_entry(self, entry: NewEntry) -> bool:
        """Add an entry; return False if NATS has it already."""
        subject, headers = subject_of(self.stream, entry), headers_of(entry)

        async def publish(js: JetStreamContext) -> bool:
            return not (await js.publish(subject, entry.body, headers=headers)).duplicate

        return self.nats.manage(publish)

    def repeat(self, entry: NewEntry) -> None:
        """Add an entry once more, after NATS has forgotten the first copy."""

        def set_window(seconds: float) -> None:
            async def change(js: JetStreamContext) -> None:
                config = (await js.stream_info(self.stream)).config
                await js.update_stream(config, duplicate_window=seconds)

            self.nats.manage(change)

        set_window(0.1)
        eventually(lambda: self.publish_entry(entry))
        set_window(DUPLICATE_WINDOW)
