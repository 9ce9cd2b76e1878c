"""Rows of the view's tables, as the follower writes them and reads them back; see schema.sql."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

OWN, REVISED, NO_HISTORY, FORGOTTEN = range(4)
"""Values of the column `revised`; see schema.sql."""

PLACE = ("state", "client_user_id", "agent_id", "begun_at", "ended_at", "state_since")
"""Indexed columns of a session, except its key and the time of its last event. The state is first.

If none of these has changed, all others are updated in place.
"""


class FeedRow(NamedTuple):
    """A row of the table `feed`, column by column."""

    position: int
    event_revision: int
    sdk_app_id: int
    session_id: str
    first_revision: int
    revised: int
    type: int
    verdict: int
    reason: int
    verdicts: int
    agent_id: str
    client_user_id: str
    channel_type: str
    received_at: int
    record: bytes
    event_at: int
    session: bytes | None


class SessionRow(NamedTuple):
    """A row of the table `sessions`, column by column."""

    number: int
    sdk_app_id: int
    session_id: str
    first_revision: int
    state: int
    end_reason: int
    client_user_id: str
    channel_type: str
    agent_id: str
    agent_ids: str
    begun_at: int | None
    ended_at: int | None
    last_event_at: int | None
    state_since: int | None
    satisfaction: int
    queue_wait: int | None
    first_response: int | None
    handle_time: int | None
    forwards: int
    rejected_events: int
    never_answered: bool
    session: bytes
    fold: bytes


class SavedKey(NamedTuple):
    """A row of the table `session_keys`, column by column."""

    session_id: str
    sdk_app_id: int
    first_revision: int
    number: int | None
    full: bool


class SavedSession(NamedTuple):
    """A session that a callback has named.

    Attributes:
        first_revision: of its first callback.
        number: its key in `sessions`; None while it has not begun.
        full: True if it has used up a limit.
        fold: the bytes of `History.save`; None while it has not begun.
        place: the values of `PLACE`; empty while it has not begun.
    """

    first_revision: int
    number: int | None
    full: bool
    fold: bytes | None
    place: tuple[Any, ...]


place: Callable[[SessionRow], tuple[Any, ...]] = attrgetter(*PLACE)
"""Returns the values of `PLACE`."""
