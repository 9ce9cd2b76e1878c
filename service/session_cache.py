"""The sessions that the projection has in memory, bounded in number and in bytes."""

from typing import Any

import msgspec

from service import records
from service.history import History
from service.session import SessionKey
from service.session_message import SessionMessage
from service.view.rows import SavedKey, SessionRow

COPIES = 6
"""Times that a session's serialised size is in memory: as a message, with texts that it has
replaced, with the parts that it is made of, and as bytes."""


class CachedSession(msgspec.Struct):
    """A session in memory.

    Attributes:
        message: the session as desk.v1 shows it after `revision`.
        first_revision: of its first callback; 0 if there is none.
        number: the revision that began it; None until then.
        revision: of its last callback; 0 if none has come since it was read from the view.
        is_full: True if it has no room for more callbacks.
        saved_key: its row of `session_keys`; None if there is none.
        saved_place: its place in the indexes of `sessions`; empty if it is not there.
        weight: approximate bytes that it takes, as the cache has counted them.
    """

    key: SessionKey
    history: History
    message: SessionMessage
    first_revision: int = 0
    number: int | None = None
    revision: int = 0
    is_full: bool = False
    saved_key: SavedKey | None = None
    saved_place: tuple[Any, ...] = ()
    weight: int = 0

    def key_row(self) -> SavedKey:
        """Make its row of `session_keys`."""
        app, session_id = self.key
        return SavedKey(session_id, app, self.first_revision, self.number, self.is_full)

    def row(self, number: int) -> SessionRow:
        """Make its row of `sessions`, once it has begun and has its number."""
        session = self.history.session
        return SessionRow(
            number,
            *self.key,
            self.first_revision,
            records.STATES[session.state],
            records.END_REASONS[session.end_reason],
            session.client_user_id,
            session.channel_type,
            session.agent_id,
            msgspec.json.encode(session.agent_ids).decode(),
            session.begun_at,
            session.ended_at,
            session.last_event_at,
            session.state_since,
            session.satisfaction,
            session.queue_wait,
            session.first_response,
            session.handle_time,
            session.forwards,
            session.rejected_events,
            session.never_answered,
            self.message.bytes,
            self.history.save(),
        )


class SessionCache:
    """Sessions by their keys, the least recently used first."""

    def __init__(self, max_sessions: int, max_bytes: int) -> None:
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._sessions: dict[SessionKey, CachedSession] = {}
        self._bytes = 0

    def take(self, key: SessionKey) -> CachedSession | None:
        """Take a session out, so that it stays in memory; its bytes still count."""
        return self._sessions.pop(key, None)

    def release(self, session: CachedSession) -> None:
        """Count the bytes of a session that was taken out no longer."""
        self._bytes -= session.weight

    def put_back(self, sessions: dict[SessionKey, CachedSession]) -> None:
        """Put sessions in, as the most recently used ones."""
        for session in sessions.values():
            session.history.trim()
            self._bytes -= session.weight
            session.weight = session.history.weight + COPIES * len(session.message.bytes)
            self._bytes += session.weight
        self._sessions |= sessions
        self.make_room()

    def make_room(self, extra: int = 0) -> None:
        """Drop the least recently used sessions, until there is room for `extra` bytes."""
        room = self._max_bytes - extra
        while self._sessions and (len(self._sessions) > self._max_sessions or self._bytes > room):
            self._bytes -= self._sessions.pop(next(iter(self._sessions))).weight
