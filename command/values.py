"""Values of settings: how they are read from text, and shown in errors."""

import re
from datetime import UTC, timedelta, tzinfo
from typing import Annotated, Any, NamedTuple, Self
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from command.address import Address

MAX_SDK_APP_ID = 2**63 - 1

MAX_RETENTION = 36_500
"""Guard against a typing error: days of DESK_RETENTION."""

MAX_WAIT = 24 * 60 * 60
"""Guard against a typing error: seconds of DESK_SERVICE_LEVEL and DESK_SHORT_ABANDON."""


def whole_number(text: str, lowest: int, highest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text) or not lowest <= int(text) <= highest:
        raise ValueError(f"must be a whole number from {lowest} to {highest}, not {shown(text)}")
    return int(text)


def number(lowest: int, highest: int) -> BeforeValidator:
    """Make a validator that reads a whole number within bounds."""
    return parsed(lambda text: whole_number(text, lowest, highest))


def parsed(read: Any) -> BeforeValidator:
    """Make a validator that applies `read` to text and leaves a parsed value as it is."""
    return BeforeValidator(lambda value: read(value) if isinstance(value, str) else value)


def time_zone(name: str) -> tzinfo:
    """Find a time zone of the IANA database.

    Raises:
        ValueError: there is no such zone.
    """
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (OSError, LookupError):
        raise ValueError("no such zone") from None


def require_all_or_none(**values: object) -> None:
    """Raise ValueError if some of the variables are set and others are not."""
    given = [name for name, value in values.items() if value]
    missing = [name for name, value in values.items() if not value]
    if given and missing:
        raise ValueError(f"{given[0]} needs {missing[0]} as well")


def shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _read_app_ids(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if "" in parts:
        raise ValueError("has an empty entry: separate the ids by single commas")
    return tuple(sorted({whole_number(part, 1, MAX_SDK_APP_ID) for part in parts}))


def _read_days(text: str) -> timedelta:
    if not text.endswith("d"):
        raise ValueError(f"must be a number of days such as 400d, not {shown(text)}")
    return timedelta(days=whole_number(text.removesuffix("d"), 1, MAX_RETENTION))


def _read_time_zone(text: str) -> str:
    try:
        time_zone(text)
    except ValueError:
        raise ValueError(f"must be a time zone such as Asia/Shanghai, not {shown(text)}") from None
    return text


class ServiceLevel(NamedTuple):
    """A target: percent of users who are answered within so many seconds."""

    percent: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.percent}/{self.seconds}"

    @classmethod
    def parse(cls, text: str) -> Self:
        percent, slash, seconds = text.partition("/")
        if not slash:
            raise ValueError(f"must be like 80/30 (percent within seconds), not {shown(text)}")
        return cls(whole_number(percent, 1, 100), whole_number(seconds, 0, MAX_WAIT))


AppIds = Annotated[tuple[int, ...], NoDecode, parsed(_read_app_ids)]
Days = Annotated[timedelta, NoDecode, parsed(_read_days)]
TimeZone = Annotated[str, parsed(_read_time_zone)]

Listen = Annotated[Address, NoDecode, parsed(Address.parse)]
"""An address as `host:port`."""
