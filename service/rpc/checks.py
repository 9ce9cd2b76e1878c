"""Checks of the values in a request: sizes, names, numbers, times. All faults are collected."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from desk.v1.session_pb2 import TimeRange
from service.rpc.errors import CallRefused, ErrorReason
from service.view.selection import Between

MAX_VALUES = 100
"""Values in one field of a filter."""

MAX_VALUE_BYTES = 256
"""Bytes of one value of a filter in UTF-8; session ids may have `MAX_ID_BYTES`."""

MAX_ID_BYTES = 1_024
"""Bytes of a session id in UTF-8."""

DEFAULT_PAGE = 100
MAX_PAGE = 1_000

FEW = 5
"""Wrong numbers of one field in an error."""

LATEST = 253_402_300_799
"""Seconds: the end of the year 9999, the last that a Timestamp may hold."""

T = TypeVar("T", int, str)


class Check:
    """The faults of one request: (field, description)."""

    def __init__(self) -> None:
        self.violations: list[tuple[str, str]] = []

    def wrong(self, field: str, description: str) -> None:
        self.violations.append((field, description))

    def not_negative(self, field: str, value: int) -> int:
        if value < 0:
            self.wrong(field, "must not be negative")
        return value

    def size(self, field: str, value: int, *, default: int, most: int) -> int:
        """Return the size of a message or page: the default for 0, at most `most`."""
        return min(self.not_negative(field, value) or default, most)

    def page_size(self, value: int, default: int = DEFAULT_PAGE) -> int:
        return self.size("page_size", value, default=default, most=MAX_PAGE)

    def names(
        self, field: str, given: Sequence[str], *, most: int = MAX_VALUE_BYTES
    ) -> tuple[str, ...]:
        """Return the names in a filter's field, sorted, each once."""
        names = self._distinct(field, given)
        for name in names:
            self.short(field, name, most)
        return names

    def numbers(
        self, field: str, given: Sequence[int], known: Mapping[Any, str]
    ) -> tuple[int, ...]:
        """Return the enum values in a filter's field, likewise; all must be known."""
        numbers = self._distinct(field, given)
        if unknown := [number for number in numbers if number not in known]:
            choice = ", ".join(known.values())
            self.wrong(field, f"cannot have {_some(unknown)}: choose from {choice}")
        return numbers

    def apps(self, field: str, given: Sequence[int]) -> tuple[int, ...]:
        """Return the SDKAppIDs in a filter's field, likewise."""
        apps = self._distinct(field, given)
        if unknown := [app for app in apps if app < 1]:
            self.wrong(field, f"cannot have {_some(unknown)}: an SDKAppID is greater than 0")
        return apps

    def required(self, field: str, value: str, most: int) -> str:
        """Return a value that must not be empty."""
        if not value:
            self.wrong(field, "is required")
        self.short(field, value, most)
        return value

    def short(self, field: str, value: str, most: int) -> None:
        size = len(value.encode())
        if size > most:
            self.wrong(field, f"must not have {size:,} bytes: {most:,} at most")

    def _distinct(self, field: str, given: Sequence[T]) -> tuple[T, ...]:
        if len(given) > MAX_VALUES:
            self.wrong(field, f"must not have more than {MAX_VALUES} values")
            return ()
        return tuple(sorted(set(given)))

    def between(self, field: str, asked: TimeRange, *, present: bool) -> Between:
        """Return a time range in milliseconds."""
        if not present:
            return Between()
        start = self._bound(f"{field}.start_time", asked, "start_time")
        end = self._bound(f"{field}.end_time", asked, "end_time")
        if start is None and end is None:
            self.wrong(field, "must have a start_time or an end_time")
        elif start is not None and end is not None and not _is_later(asked):
            self.wrong(f"{field}.end_time", "must be later than start_time")
        return Between(start, end)

    def _bound(self, field: str, asked: TimeRange, end: str) -> int | None:
        if not asked.HasField(end):  # type: ignore[arg-type]
            return None
        return self.time(field, getattr(asked, end))

    def time(self, field: str, time: Timestamp) -> int:
        """Return a time in milliseconds, rounded up: exclusive ends and inclusive beginnings."""
        return -(-self.nanoseconds(field, time) // 1_000_000)

    def nanoseconds(self, field: str, time: Timestamp) -> int:
        if abs(time.seconds) > LATEST or not 0 <= time.nanos < 1_000_000_000:
            self.wrong(field, "is not a time")
        return time.seconds * 1_000_000_000 + time.nanos


@contextmanager
def checking() -> Iterator[Check]:
    """Collect the faults of one request; raises INVALID_REQUEST with all at the end."""
    check = Check()
    yield check
    if check.violations:
        raise CallRefused(
            ErrorReason.INVALID_REQUEST,
            " ".join(check.violations[0]),
            violations=tuple(check.violations),
        )


def _some(values: Sequence[int]) -> str:
    more = f" and {len(values) - FEW:,} more" if len(values) > FEW else ""
    return ", ".join(map(str, values[:FEW])) + more


def _is_later(asked: TimeRange) -> bool:
    start, end = asked.start_time, asked.end_time
    return (end.seconds, end.nanos) > (start.seconds, start.nanos)
