"""Values of settings: how they are read from text, and shown in errors."""

import re
from datetime import UTC, tzinfo
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from command.address import Address


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


def shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


Listen = Annotated[Address, NoDecode, parsed(Address.parse)]
"""An address as `host:port`."""
