"""Filters as SQL conditions, and as predicates that agree with them.

Callers check the values. Knows nothing of protobuf or gRPC.
"""

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from service.records import forgotten_sessions, is_forgotten

Values = tuple[int, ...] | tuple[str, ...]

IndexKey = tuple[str, int | str]
"""A column of the feed and a value."""

ANY: IndexKey = ("", "")
"""The key of filters that name no value."""

COLUMNS = ("session_id", "client_user_id", "agent_id", "channel_type", "type", "sdk_app_id")
"""Columns of the feed that filters select by, the most selective first. The field of an
`EventSelection` is the plural."""

APP = "feed.sdk_app_id"

_values_of = attrgetter(*COLUMNS)


class LiveRow(NamedTuple):
    """A row of the feed with the columns that filters select by; see schema.sql."""

    position: int
    record: bytes
    session: bytes | None
    sdk_app_id: int
    session_id: str
    type: int
    verdicts: int
    agent_id: str
    client_user_id: str
    channel_type: str

    def index_keys(self) -> tuple[IndexKey, ...]:
        """Return the keys of all filters that may select the row."""
        return (*zip(COLUMNS, _values_of(self), strict=True), ANY)


class Where(NamedTuple):
    """Conditions that follow a WHERE clause, and the values to bind."""

    sql: str
    values: tuple[int | str, ...]


class EventSelection(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of records. Empty = any.

    A row of a FORGET entry is selected by its app and its sessions alone.

    Attributes:
        verdicts: mask of bits `1 << verdict`; a record with any of them is selected.
        reasons: rejection reasons; `predicate` does not check them.
    """

    sdk_app_ids: tuple[int, ...] = ()
    session_ids: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    agent_ids: tuple[str, ...] = ()
    client_user_ids: tuple[str, ...] = ()
    channel_types: tuple[str, ...] = ()
    verdicts: int = 0
    reasons: tuple[int, ...] = ()

    def where(self) -> Where:
        """Return the conditions on the feed's columns."""
        columns = {f"feed.{column}": values for column, values in self._wanted().items()}
        apps = one_of({APP: columns.pop(APP, ())})
        others = one_of(columns | {"feed.reason": self.reasons})
        sql, values = apps.sql, apps.values + others.values
        if others.sql:
            sql += f" AND (feed.revised = 3 OR (TRUE{others.sql}))"
        if self.verdicts:  # a row of a FORGET entry has all bits
            sql, values = f"{sql} AND feed.verdicts & ? != 0", (*values, self.verdicts)
        return Where(sql, values)

    def index_keys(self) -> list[IndexKey]:
        """Return the keys of the most selective field; each selected row has one of them."""
        for column, values in self._wanted().items():
            return [(column, value) for value in values]
        return [ANY]

    def predicate(self) -> Callable[[LiveRow], bool]:
        """Return the same conditions as `where`, except `reasons`, for a row in memory."""
        wanted = [
            (LiveRow._fields.index(column), frozenset(values))
            for column, values in self._wanted().items()
        ]
        mask = self.verdicts or -1

        def selects(row: LiveRow) -> bool:
            if is_forgotten(row.record):
                return self._selects_forgotten(row)
            for column, values in wanted:
                if row[column] not in values:
                    return False
            return row.verdicts & mask != 0

        return selects

    def _selects_forgotten(self, row: LiveRow) -> bool:
        if self.sdk_app_ids and row.sdk_app_id not in self.sdk_app_ids:
            return False
        sessions = forgotten_sessions(row.record)
        return not self.session_ids or not sessions.isdisjoint(self.session_ids)

    def _wanted(self) -> dict[str, Values]:
        return {column: values for column in COLUMNS if (values := getattr(self, f"{column}s"))}


class Between(msgspec.Struct, frozen=True):
    """A half-open interval of milliseconds. None = open."""

    start: int | None = None
    end: int | None = None


class SessionSelection(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of sessions. Empty = any."""

    sdk_app_ids: tuple[int, ...] = ()
    states: tuple[int, ...] = ()
    agent_ids: tuple[str, ...] = ()
    client_user_ids: tuple[str, ...] = ()
    channel_types: tuple[str, ...] = ()
    end_reasons: tuple[int, ...] = ()
    begun: Between = Between()
    ended: Between = Between()
    active: Between = Between()

    def where(self) -> Where:
        """Return the conditions on the columns of `sessions`."""
        listed = one_of(
            {
                "sdk_app_id": self.sdk_app_ids,
                "state": self.states,
                "agent_id": self.agent_ids,
                "client_user_id": self.client_user_ids,
                "channel_type": self.channel_types,
                "end_reason": self.end_reasons,
            }
        )
        times = _within(
            {"begun_at": self.begun, "ended_at": self.ended, "last_event_at": self.active}
        )
        return Where(listed.sql + times.sql, listed.values + times.values)


class SnapshotSelection(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of present sessions, for `sessions_first`. Empty = any."""

    sdk_app_ids: tuple[int, ...] = ()
    session_ids: tuple[str, ...] = ()
    agent_ids: tuple[str, ...] = ()
    client_user_ids: tuple[str, ...] = ()
    channel_types: tuple[str, ...] = ()

    def where(self) -> Where:
        """Return the conditions on the columns of `sessions`."""
        return one_of(self._wanted())

    def selects(self, session: Any) -> bool:
        """Apply the same conditions to a desk.v1.Session."""
        return all(
            not values or getattr(session, name) in values
            for name, values in self._wanted().items()
        )

    def _wanted(self) -> dict[str, Values]:
        # Our fields are the plurals of the columns and of the message's fields.
        return {
            name.removesuffix("s"): values for name, values in msgspec.structs.asdict(self).items()
        }


def one_of(columns: dict[str, Values]) -> Where:
    """Return the condition that each column has one of its values; no values = any."""
    listed = {column: values for column, values in columns.items() if values}
    sql = "".join(
        f" AND {column} IN ({','.join('?' * len(values))})" for column, values in listed.items()
    )
    return Where(sql, _flat(listed.values()))


def _within(columns: dict[str, Between]) -> Where:
    bounds = [
        (f" AND {column} {sign} ?", bound)
        for column, between in columns.items()
        for sign, bound in ((">=", between.start), ("<", between.end))
        if bound is not None
    ]
    return Where("".join(sql for sql, _ in bounds), tuple(bound for _, bound in bounds))


def _flat(lists: Iterable[Values]) -> tuple[int | str, ...]:
    return tuple(value for values in lists for value in values)
