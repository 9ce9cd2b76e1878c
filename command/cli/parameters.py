"""Parameter types of the command line: enum values, moments and time zones."""

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from google.protobuf.descriptor import EnumDescriptor

from command.values import time_zone

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"(\d{1,6})([smhd])")
_ZONE = "command.cli.zone"

T = TypeVar("T")


class Parsed(click.ParamType[T]):
    """A value that a function reads from text; the function's ValueError says what is wrong."""

    def __init__(self, name: str, read: Callable[[str], T]) -> None:
        """Accept what `read` does; `name` stands for the value in the help."""
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        try:
            return self._read(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


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
        if isinstance(value, int):
            return value
        numbers = {_normalized(name): number for name, number in self._values.items()}
        if _normalized(value) not in numbers:
            self.fail(f"{value!r} is not one of {', '.join(self._values)}", param, ctx)
        return numbers[_normalized(value)]


def _normalized(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


class Moment(click.ParamType[datetime]):
    """A point in time: ISO 8601 (in --time-zone without an offset), or an age such as `15m`."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the moment in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            return _moment(value).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is neither like 2025-04-07T11:32:06Z or 2025-04-07 nor like 15m",
                param,
                ctx,
            )


def _moment(text: str) -> datetime:
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=current_zone())


def _keep_zone(ctx: click.Context, param: click.Parameter, name: str) -> None:
    """Keep the zone for `current_zone`. An unusable TZ, unlike the option, is only a warning."""
    try:
        ctx.meta[_ZONE] = time_zone(name.removeprefix(":"))  # TZ may have the colon
    except ValueError:
        problem = f"{name!r} is not a time zone such as Asia/Shanghai"
        given = param.name and ctx.get_parameter_source(param.name)
        if given is ParameterSource.ENVIRONMENT and os.environ.get("TZ") == name:
            click.echo(f"desk: TZ: {problem}: times are in UTC", err=True)
        else:
            raise click.BadParameter(problem) from None


def current_zone() -> tzinfo:
    """Return the zone of --time-zone in the command that runs; otherwise UTC."""
    context = click.get_current_context(silent=True)
    zone: tzinfo = context.meta.get(_ZONE, UTC) if context else UTC
    return zone


def time_zone_option_of(*variables: str) -> Callable[[Any], Any]:
    """Return the option --time-zone. The first of the variables that is set is its default."""
    return click.option(
        "--time-zone",
        metavar="NAME",
        envvar=variables,
        default="UTC",
        show_default=True,
        show_envvar=True,
        is_eager=True,  # the zone is known before times are read
        expose_value=False,
        callback=_keep_zone,
        help="Time zone of the times shown, and of times given without an offset, such as "
        "Asia/Shanghai.",
    )


time_zone_option = time_zone_option_of("TZ")
