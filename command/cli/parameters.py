"""Parameter types of the command line: enum values and moments."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from google.protobuf.descriptor import EnumDescriptor

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"(\d{1,6})([smhd])")


class EnumName(click.ParamType[int]):
    """A value of a protobuf enum, by its name without the prefix.

    Case, `_`, `-` and `.` do not matter, so that Desk's own spelling of an event works too.
    """

    def __init__(self, enum: EnumDescriptor, *, zero: str = "") -> None:
        """Accept the names of `enum` and, if given, `zero` as the name of its zero value."""
        prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
        self.name = prefix.strip("_").lower()
        self._values = {
            value.name.removeprefix(prefix): value.number for value in enum.values if value.number
        }
        if zero:
            self._values[zero] = 0

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of the value."""
        if isinstance(value, int):
            return value
        numbers = {_normalized(name): number for name, number in self._values.items()}
        if _normalized(value) not in numbers:
            self.fail(f"{value!r} is not one of {', '.join(self._values)}", param, ctx)
        return numbers[_normalized(value)]


def _normalized(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


class Moment(click.ParamType[datetime]):
    """A point in time: ISO 8601 (UTC without an offset), or an age such as `15m`."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the moment with its time zone."""
        if isinstance(value, datetime):
            return value
        if ago := _AGO.fullmatch(value):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither like 2025-04-07T11:32:06Z nor like 15m", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
