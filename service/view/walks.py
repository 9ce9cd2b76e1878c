"""Pages of sessions along an index: by key, never by offset, and in bounded work at any depth.

A filter that an index can drive is walked value by value, and the walks are merged; everything else
is looked at row by row. A walk stops after its share of `SCAN_ROWS`, found or not.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from service.view import queries
from service.view.reader import SCAN_ROWS, Reader, take_bytes
from service.view.selection import SessionSelection, Where

Place = tuple[int, int]
"""A place in an order: the column's value (ms) and the session's number."""


class Order(NamedTuple):
    """A column that sessions are ordered by."""

    column: str
    descending: bool

    def sort_key(self, place: Place) -> Place:
        """What makes places sort in this order."""
        return (-place[0], -place[1]) if self.descending else place


class Page(NamedTuple):
    """Serialised sessions in order, and the place after which the next page begins, if any."""

    sessions: list[bytes]
    following: Place | None


class Walk(NamedTuple):
    """A way along one index, from and to places that `bounded` adds."""

    order: Order
    along: str
    where: Where

    def bounded(self, after: Place | None, until: Place | None) -> "Walk":
        """The same way, after a place and up to and including another."""
        before, behind = ("<", ">") if self.order.descending else (">", "<")
        sql, values = self.where
        for place, sign in ((after, before), (until, f"{behind}=")):
            if place is not None:
                sql += f" AND ({self.order.column}, number) {sign} (?, ?)"
                values = (*values, *place)
        return self._replace(where=Where(sql, values))

    def sql(self, query: str, filters: str = "") -> str:
        """The statement that goes this way."""
        return query.format(
            order=self.order.column,
            index=self.along,
            where=f"TRUE{self.where.sql}{filters}",
            direction="DESC" if self.order.descending else "ASC",
        )


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


def page(
    reader: Reader, selection: SessionSelection, order: Order, after: Place | None, size: int
) -> Page:
    """Read a page; inside a snapshot."""
    ways, rest = ways_of(selection, order)
    filters = rest.where()
    share = SCAN_ROWS // len(ways)
    found: list[Place] = []
    ends: list[Place] = []
    for way in ways:
        places, end = _walk(reader, way, filters, after, (share, size))
        found += places
        ends += [end] if end else []
    return _merge(reader, order, found, ends, size)


def ways_of(selection: SessionSelection, order: Order) -> tuple[list[Walk], SessionSelection]:
    """The walks that together pass by every selected session, and what they leave to be asked."""
    span = _RANGES[order.column]
    between = getattr(selection, span)
    rest = msgspec.structs.replace(selection, **{span: type(between)()})
    bounds = SessionSelection(**{span: between}).where()
    if order.column == "ended_at":
        bounds = bounds._replace(sql=f" AND ended_at IS NOT NULL{bounds.sql}")
    for field, column, index in _DRIVING if order.column == "begun_at" else ():
        if values := getattr(selection, field):
            rest = msgspec.structs.replace(rest, **{field: ()})
            return [
                Walk(order, index, Where(f" AND {column} = ?{bounds.sql}", (v, *bounds.values)))
                for v in values
            ], rest
    return [Walk(order, _PLAIN[order.column], bounds)], rest


def _walk(
    reader: Reader, way: Walk, filters: Where, after: Place | None, limits: tuple[int, int]
) -> tuple[list[Place], Place | None]:
    """Go one way; returns the places found and the one up to which they are all there are."""
    share, size = limits
    start = way.bounded(after, None)
    horizon = reader.walk(start.sql(queries.SESSIONS_HORIZON), start.where, share - 1)
    end = horizon[0] if horizon else None
    stretch = way.bounded(after, end)
    values = Where("", (*stretch.where.values, *filters.values))
    # One more than wanted tells whether a page is the last.
    places = reader.walk(stretch.sql(queries.SESSIONS_WALK, filters.sql), values, size + 1)
    return places, places[-1] if len(places) > size else end


def _merge(reader: Reader, order: Order, found: list[Place], ends: list[Place], size: int) -> Page:
    end = min(ends, key=order.sort_key, default=None)
    known = sorted(found, key=order.sort_key)
    if end is not None:
        known = [place for place in known if order.sort_key(place) <= order.sort_key(end)]
    chosen = known[:size]
    blobs, cut_off = take_bytes(_sessions(reader, chosen), lambda row: len(row[0]))
    if cut_off or len(known) > size:
        end = chosen[len(blobs) - 1]
    return Page([blob for (blob,) in blobs], end)


def _sessions(reader: Reader, places: list[Place]) -> Iterator[tuple[bytes]]:
    for _, number in places:
        yield (reader.by_number(number),)
