"""Days, hours and quarters in a time zone, as bounds in Unix milliseconds."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import IntEnum

QUARTER, HOUR = 900_000, 3_600_000


class Length(IntEnum):
    """As desk.v1.IntervalLength."""

    WHOLE = 0
    QUARTER = 1
    HOUR = 2
    DAY = 3


_STEPS = {Length.QUARTER: QUARTER, Length.HOUR: HOUR}


def day_of(time: int, zone: tzinfo) -> tuple[int, int]:
    """Return the start and the end of the day that a time lies in."""
    day = datetime.fromtimestamp(time // 1000, UTC).astimezone(zone).date()
    return _midnight(day, zone), _midnight(day + timedelta(days=1), zone)


def bounds(start: int, end: int, length: Length, zone: tzinfo) -> list[int]:
    """Return the starts of all intervals that a range touches, and the end of the last one."""
    if length is Length.WHOLE:
        return [start, end]
    every = list(_bounds(start, end, length, zone))
    first = max(place for place, bound in enumerate(every) if bound <= start)
    last = min(place for place, bound in enumerate(every) if bound >= end)
    return every[first : last + 1]


def _bounds(start: int, end: int, length: Length, zone: tzinfo) -> Iterator[int]:
    midnight, following = day_of(start, zone)
    while midnight < end:
        yield from range(midnight, following, _STEPS.get(length, following - midnight))
        midnight, following = following, day_of(following, zone)[1]
    yield midnight


def _midnight(day: date, zone: tzinfo) -> int:
    # Where the clock skips midnight, this is the first time after the gap.
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000
