"""Keyset pagination of sessions: pages along an index, in bounded work at any depth.

If a filter has an index, that index is scanned for each value of the filter, and the scans are
merged. The other filters are applied to every row. A scan ends after its share of `Bounds.rows`.
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


class Scan(NamedTuple):
    """A scan of one index, between two exclusive places.

    There is one bound on either side: of two, SQLite would use one to seek and read every row up to
    the other.
    """

    order: Order
    index_name: str
    where: Where
    lower: Place
    upper: Place

    def after(self, place: Place) -> "Scan":
        """Return the rest of the scan, after a place."""
        if self.order.descending:
            return self._replace(upper=min(self.upper, place))
        return self._replace(lower=max(self.lower, place))

    def until(self, place: Place) -> "Scan":
        """Return the beginning of the scan, up to and including a place."""
        time, number = place
        if self.order.descending:
            return self._replace(lower=max(self.lower, (time, number - 1)))
        return self._replace(upper=min(self.upper, (time, number + 1)))

    def sql(self, query: str, filters: str = "") -> str:
        return query.format(
            order=self.order.column,
            index=self.index_name,
            where=f"{self.where.sql}{filters}",
            direction="DESC" if self.order.descending else "ASC",
        )

    def values(self, *filters: int | str) -> tuple[int | str, ...]:
        """Return the values to bind to the statement."""
        return (*self.lower, *self.upper, *self.where.values, *filters)


_PLAIN = {
    "begun_at": "sessions_by_begun",
    "last_event_at": "sessions_by_last_event",
    "ended_at": "sessions_by_ended",
}
_RANGES = {"begun_at": "begun", "last_event_at": "active", "ended_at": "ended"}
# In the order of preference: the field that selects fewest first.
_INDEXED = (
    ("client_user_ids", "client_user_id", "sessions_by_user"),
    ("agent_ids", "agent_id", "sessions_by_agent"),
    ("states", "state", "sessions_by_state"),
)
_STATES = tuple(number for number in STATES.values() if number)


def page(
    reader: Reader, selection: SessionSelection, order: Order, after: Place | None, size: int
) -> Page:
    """Read a page; inside a snapshot."""
    scans, rest = scans_of(selection, order)
    filters = rest.where()
    share = reader.bounds.rows // len(scans)
    found: list[Place] = []
    ends: list[Place] = []
    for scan in scans:
        places, end = _run(reader, scan.after(after) if after else scan, filters, (share, size))
        found += places
        ends += [end] if end else []
    return _merge(reader, order, found, ends, size)


def scans_of(selection: SessionSelection, order: Order) -> tuple[list[Scan], SessionSelection]:
    """Return scans that together find every selected session, and the remaining conditions."""
    if order.column == "state_since":
        return [
            Scan(order, "sessions_by_stay", Where(" AND state = ?", (state,)), FIRST, LAST)
            for state in selection.states or _STATES
        ], msgspec.structs.replace(selection, states=())
    span = _RANGES[order.column]
    between = getattr(selection, span)
    rest = msgspec.structs.replace(selection, **{span: type(between)()})
    lower = FIRST if between.start is None else (between.start, 0)
    upper = LAST if between.end is None else (between.end, 0)
    for field, column, index in _INDEXED if order.column == "begun_at" else ():
        if values := getattr(selection, field):
            rest = msgspec.structs.replace(rest, **{field: ()})
            return [
                Scan(order, index, Where(f" AND {column} = ?", (value,)), lower, upper)
                for value in values
            ], rest
    present = " AND ended_at IS NOT NULL" if order.column == "ended_at" else ""
    return [Scan(order, _PLAIN[order.column], Where(present, ()), lower, upper)], rest


def _run(
    reader: Reader, scan: Scan, filters: Where, limits: tuple[int, int]
) -> tuple[list[Place], Place | None]:
    """Return the places that a scan finds, and the last place that it examined; None at its end."""
    share, size = limits
    if not filters.sql:
        # Every examined row is found: the limit alone bounds the work.
        most = min(size + 1, share)
        places = reader.places(scan.sql(queries.SESSIONS_SCAN), scan.values(), most)
        return places, places[-1] if len(places) == most else None
    horizon = reader.places(scan.sql(queries.SESSIONS_HORIZON), scan.values(), share - 1)
    end = horizon[0] if horizon else None
    part = scan.until(end) if end else scan
    sql = part.sql(queries.SESSIONS_SCAN, filters.sql)
    # One more than wanted tells whether a page is the last.
    places = reader.places(sql, part.values(*filters.values), size + 1)
    return places, places[-1] if len(places) > size else end


def _merge(reader: Reader, order: Order, found: list[Place], ends: list[Place], size: int) -> Page:
    """Make a page of the first places, none after the first end: there, places may be missing."""
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
