"""Keeps a table of all sessions in SQLite up to date.

    python consumer.py 127.0.0.1:50051 sessions.db

Stop it and start it again: it resumes from the position that it stored, in one transaction with
the sessions. So each change takes effect exactly once, whichever side stops or crashes.
"""

import asyncio
import contextlib
import logging
import sqlite3
import sys

from desk.client import Client, JournalMismatch, OutOfRange, Update
from desk.v1.event_pb2 import Forgotten
from desk.v1.session_pb2 import Session, SessionState

SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    sdk_app_id INTEGER, session_id TEXT, state TEXT, agent_id TEXT, begun_at TEXT,
    PRIMARY KEY (sdk_app_id, session_id)
);
CREATE TABLE IF NOT EXISTS position (
    id INTEGER PRIMARY KEY CHECK (id = 1), journal_id TEXT, revision INTEGER
);
"""


class Copy:
    """The table of sessions, and the position in the feed that it reflects."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path)
        self._database.executescript(SCHEMA)

    def position(self) -> tuple[str, int] | None:
        """Return journal id and revision; None before the first copy is complete."""
        row = self._database.execute("SELECT journal_id, revision FROM position").fetchone()
        return row and (row[0], row[1])

    def clear(self) -> None:
        """Forget everything, to start over."""
        with self._database:
            self._database.execute("DELETE FROM sessions")
            self._database.execute("DELETE FROM position")

    def save(self, update: Update, *, complete: bool) -> None:
        """Store an update's sessions and, once the copy is complete, its position."""
        with self._database:  # one transaction
            for session in update.sessions:
                self._put(session)
            for record in update.records:
                if record.HasField("session"):
                    self._put(record.session)
            if update.forgotten:
                self._delete(update.forgotten)
            if complete:
                self._database.execute(
                    "INSERT OR REPLACE INTO position VALUES (1, ?, ?)",
                    (update.journal_id, update.revision),
                )

    def _put(self, session: Session) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?)",
            (
                session.sdk_app_id,
                session.session_id,
                SessionState.Name(session.state),
                session.agent_id,
                session.begun_at.ToJsonString(),
            ),
        )

    def _delete(self, forgotten: Forgotten) -> None:
        """Delete what must not be kept any longer: that is why it was forgotten."""
        keys = [(forgotten.sdk_app_id, session_id) for session_id in forgotten.session_ids]
        sql = "DELETE FROM sessions WHERE sdk_app_id = ? AND session_id = ?"
        self._database.executemany(sql, keys)


async def load(client: Client, copy: Copy) -> None:
    """Copy the sessions as they are now, then follow their changes."""
    copy.clear()
    complete = False
    updates = client.subscribe(  # without texts, which the table does not have
        sessions_first=True, include_session=True, omit_message=True, omit_raw_body=True
    )
    async with contextlib.aclosing(updates):
        async for update in updates:
            if update.resumed and not complete:  # the sessions come again from the start
                copy.clear()
            complete = complete or update.sessions_complete
            copy.save(update, complete=complete)


async def resume(client: Client, copy: Copy, journal_id: str, revision: int) -> None:
    """Follow the changes after a position."""
    updates = client.subscribe(
        journal_id=journal_id,
        after_revision=revision,
        skip_forgotten=True,  # the copy has them, and is told to delete them
        include_session=True,
        omit_message=True,
        omit_raw_body=True,
    )
    async with contextlib.aclosing(updates):
        async for update in updates:
            copy.save(update, complete=True)


async def main(target: str, path: str) -> None:
    copy = Copy(path)
    async with Client(target) as client:
        while True:
            position = copy.position()
            try:
                await (resume(client, copy, *position) if position else load(client, copy))
            except (JournalMismatch, OutOfRange) as error:
                # Another journal, or records that are no longer kept.
                logging.warning("starting over: %s", error)
                copy.clear()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
