"""Keyset pagination of sessions: pages along an index, in bounded work at any depth.

If an index can drive a filter, each of its values is walked along that index, and the walks are
merged. Other filters are asked about every row. A walk stops after its share of `Bounds.rows`.
"""

from typing import NamedTuple

import msgspec

from service.records import STATES
from service.view import queries
from service.view.bounds import take_bytes
from service.view.reader import Reader
from service.view.selection import SessionSelection, Where

Place = tuple[int, int]
"""A place in an order: the column's value (ms) and the session's number, which is 1 or more."""

FIRST, LAST = (-(1 << 63), 0), ((1 << 63) - 1, 0)
"""Places before and after every session."""


class Order(NamedTuple):
    """A column that sessions are ordered by."""

    column: str
    descending: bool

    def sort_key(self, place: Place) -> Place:
        """Return a key that sorts places in this order."""
        return (-place[0], -place[1]) if self.descending else place


class Page(NamedTuple):
    """Serialised sessions in order, and the place after which the next page begins, if any."""

    sessions: list[bytes]
    following: Place | None


class Walk(NamedTuple):
    """A way along one index, between two places that are not part of it.

    There is one bound on either side: of two, SQLite would use one to seek and read every row up to
    the other.
    """

    order: Order
    along: str
    where: Where
    lower: Place
    upper: Place

    def after(self, place: Place) -> "Walk":
        """Return the rest of the way behind a place."""
        if self.order.descending:
            return self._replace(upper=min(self.upper, place))
        return self._replace(lower=max(self.lower, place))

    def until(self, place: Place) -> "Walk":
        """Return the way up to and including a place."""
        time, number = place
        if self.order.descending:
            return self._replace(lower=max(self.lower, (time, number - 1)))
        return self._replace(upper=min(self.upper, (time, number + 1)))

    def sql(self, query: str, filters: str = "") -> str:
        """Return the statement that goes this way."""
        return query.format(
            order=self.order.column,
            index=self.along,
            where=f"{self.where.sql}{filters}",
            direction="DESC" if self.order.descending else "ASC",
        )

    def values(self, *filters: int | str) -> tuple[int | str, ...]:
        """Return the values to bind to it."""
        return (*self.lower, *self.upper, *self.where.values, *filters)


_PLAIN = {
    "begun_at": "sessions_by_begun",
    "last_event_at": "sessions_by_last_event",
    "ended_at": "sessions_by_ended",
}
_RANGES = {"begun_at": "begun", "last_event_at": "active", "ended_at": "ended"}
# In the order of preference: the field that selects fewest first.
_DRIVING = (
    ("client_user_ids", "client_user_id", "sessions_by_user"),
    ("agent_ids", "agent_id", "sessions_by_agent"),
    ("states", "state", "sessions_by_state"),
)
_STATES = tuple(number for number in STATES.values() if number)


def page(
    reader: Reader, selection: SessionSelection, order: Order, after: Place | None, size: int
) -> Page:
    """Read a page; inside a snapshot."""
    ways, rest = ways_of(selection, order)
    filters = rest.where()
    share = reader.bounds.rows // len(ways)
    found: list[Place] = []
    ends: list[Place] = []
    for way in ways:
        places, end = _walk(reader, way.after(after) if after else way, filters, (share, size))
        found += places
        ends += [end] if end else []
    return _merge(reader, order, found, ends, size)


def ways_of(selection: SessionSelection, order: Order) -> tuple[list[Walk], SessionSelection]:
    """Return walks that together pass every selected session, and the remaining conditions."""
    if order.column == "state_since":
        return [
            Walk(order, "sessions_by_stay", Where(" AND state = ?", (state,)), FIRST, LAST)
            for state in selection.states or _STATES
        ], msgspec.structs.replace(selection, states=())
    span = _RANGES[order.column]
    between = getattr(selection, span)
    rest = msgspec.structs.replace(selection, **{span: type(between)()})
    lower = FIRST if between.start is None else (between.start, 0)
    upper = LAST if between.end is None else (between.end, 0)
    for field, column, index in _DRIVING if order.column == "begun_at" else ():
        if values := getattr(selection, field):
            rest = msgspec.structs.replace(rest, **{field: ()})
            return [
                Walk(order, index, Where(f" AND {column} = ?", (value,)), lower, upper)
                for value in values
            ], rest
    present = " AND ended_at IS NOT NULL" if order.column == "ended_at" else ""
    return [Walk(order, _PLAIN[order.column], Where(present, ()), lower, upper)], rest


def _walk(
    reader: Reader, way: Walk, filters: Where, limits: tuple[int, int]
) -> tuple[list[Place], Place | None]:
    """Walk, and return the places found and the last place that was looked at, None at the end."""
    share, size = limits
    if not filters.sql:
        # Every row that is looked at is found: the limit alone bounds the work.
        most = min(size + 1, share)
        places = reader.places(way.sql(queries.SESSIONS_WALK), way.values(), most)
        return places, places[-1] if len(places) == most else None
    horizon = reader.places(way.sql(queries.SESSIONS_HORIZON), way.values(), share - 1)
    end = horizon[0] if horizon else None
    stretch = way.until(end) if end else way
    sql = stretch.sql(queries.SESSIONS_WALK, filters.sql)
    # One more than wanted tells whether a page is the last.
    places = reader.places(sql, stretch.values(*filters.values), size + 1)
    return places, places[-1] if len(places) > size else end


def _merge(reader: Reader, order: Order, found: list[Place], ends: list[Place], size: int) -> Page:
    end = min(ends, key=order.sort_key, default=None)
    known = sorted(found, key=order.sort_key)
    if end is not None:
        known = [place for place in known if order.sort_key(place) <= order.sort_key(end)]
    chosen = known[:size]
    sessions = reader.by_number(number for _, number in chosen)
    blobs, cut_off = take_bytes(sessions, lambda row: len(row[0]), reader.bounds.size)
    if cut_off or len(known) > size:
        end = chosen[len(blobs) - 1]
    return Page([blob for (blob,) in blobs], end)
