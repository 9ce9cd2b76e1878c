"""Parameter types of `desk simulate`: shares, callback URLs, the token."""

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from yarl import URL

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?|\.\d{1,6})(%?)")

TOKEN_VARIABLE = "DESK_SIMULATE_TOKEN"  # noqa: S105 (its name, not its value)


class Share(click.ParamType[float]):
    """A share, such as `10%` or `0.1`."""

    name = "share"

    def __init__(self, *, below_one: bool = False) -> None:
        self._below_one = below_one

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the share as a number from 0 to 1."""
        if isinstance(value, float):
            return value
        match = _SHARE.fullmatch(str(value))
        if not match:
            self.fail(f"{value!r} is not a share such as 10% or 0.1", param, ctx)
        share = float(match[1]) / (100 if match[2] else 1)
        if share > 1 or (self._below_one and share == 1):
            limit = "must be below 100%" if self._below_one else "is more than 100%"
            self.fail(f"{value!r} {limit}", param, ctx)
        return share


class CallbackUrl(click.ParamType[str]):
    """An http or https URL; it may have a path and a query of its own."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the URL and return it unchanged."""
        try:
            url = URL(value)
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host or url.user or url.password:
            self.fail(f"{value!r} is not a URL such as http://host:8080/path", param, ctx)
        return str(value)


NOW = -1
"""The begin of a day whose events happen when they are sent."""


class BeginOfDay(click.ParamType[int]):
    """A time, as Unix time in milliseconds, or `NOW`."""

    name = "time|now"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the time; one without a zone is in UTC."""
        if isinstance(value, int):
            return value
        if value == "now":
            return NOW
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither a time such as 2026-03-01 nor now", param, ctx)
        begin = round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
        if begin < 0:
            self.fail(f"{value!r} is before 1970", param, ctx)
        return begin


def read_token(file: Path | None) -> str:
    """Return the token for callback authentication. It is not in argv, which anyone can read."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise _bad_file(f"cannot read {file}: {reason}") from None
    if not token:
        raise _bad_file(f"{file} is empty")
    return token


def _bad_file(message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint="--token-file")
