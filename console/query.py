"""The query of a URL: filters and places, as the API wants them."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from urllib.parse import urlencode

from google.protobuf.timestamp_pb2 import Timestamp

from desk.v1.event_pb2 import EventFilter, EventType, Verdict
from desk.v1.session_pb2 import EndReason, SessionFilter, SessionState, TimeRange

MAX_VALUES = 100
"""Values of one parameter, as in the API."""

MAX_ROWS = 1_000
"""Rows of a page, as in the API."""

YEARS = range(2, 9999)
"""Years that times may have: no time zone leads out of the calendar from there."""

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class BadQuery(Exception):
    """A parameter cannot be used. The message is a sentence for people."""


class Query:
    """The parameters of one request. A parameter may come several times.

    Attributes:
        zone: of times that have none, and of the times shown.
    """

    def __init__(self, parameters: Mapping[str, str | list[str]], zone: tzinfo = UTC) -> None:
        self.zone = zone
        self._values = {
            name: [text.strip() for text in ([value] if isinstance(value, str) else value)]
            for name, value in parameters.items()
        }

    def texts(self, name: str) -> list[str]:
        """Return the values of a parameter, without the empty ones of a form."""
        values = [text for text in self._values.get(name, ()) if text]
        if len(values) > MAX_VALUES:
            raise BadQuery(f"{name}: at most {MAX_VALUES} values")
        return values

    def text(self, name: str, default: str = "") -> str:
        """Return the first value of a parameter."""
        return next(iter(self.texts(name)), default)

    def has(self, names: Iterable[str]) -> bool:
        """Return True if one of the parameters is there."""
        return any(map(self.texts, names))

    def number(self, name: str, default: int = 0, *, most: int = 2**63 - 1) -> int:
        """Return a whole number from 0 to `most`."""
        text = self.text(name)
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most):
            raise BadQuery(f"{name}: {text[:40]!r} is not a whole number from 0 to {most}")
        return int(text)

    def numbers(self, name: str) -> list[int]:
        return [Query({name: text}).number(name) for text in self.texts(name)]

    def flag(self, name: str) -> bool:
        """Return True for 1, False for 0."""
        return self.number(name, most=1) == 1

    def enums(self, name: str, enum: Any) -> list[int]:
        """Return values of a protobuf enum, given by name without the prefix; NONE is zero."""
        return [_enum_value(name, text, enum) for text in self.texts(name)]

    def time(self, name: str) -> Timestamp | None:
        """Return a time: ISO 8601, or an age such as `15m`."""
        text = self.text(name)
        if not text:
            return None
        try:
            moment = _moment(text, self.zone)
        except (ValueError, OverflowError):
            raise BadQuery(
                f"{name}: {text[:40]!r} is neither like 2025-04-07T11:32 nor like 15m"
            ) from None
        timestamp = Timestamp()
        timestamp.FromDatetime(moment)
        return timestamp

    def range(self, name: str) -> TimeRange | None:
        """Return the range from `<name>_since` to `<name>_until`."""
        since, until = self.time(f"{name}_since"), self.time(f"{name}_until")
        if since is None and until is None:
            return None
        return TimeRange(start_time=since, end_time=until)

    def encoded(self, **changes: Any) -> str:
        """Return the query as a string, with some parameters changed; None takes one away."""
        values: dict[str, Any] = {**self._values, **changes}
        pairs = {
            name: value if isinstance(value, list) else [str(value)]
            for name, value in values.items()
            if value is not None
        }
        kept = {name: [text for text in texts if text] for name, texts in sorted(pairs.items())}
        return urlencode(kept, doseq=True)

    def without(self, name: str) -> "Query":
        """Return the query without a parameter."""
        kept = {each: values for each, values in self._values.items() if each != name}
        return Query(kept, self.zone)

    def paging(self, rows: int) -> dict[str, Any]:
        """Return the fields of a request that choose a page, by default of so many rows."""
        size = self.number("rows", rows, most=MAX_ROWS)
        return {"page_size": size, "page_token": self.text("page")}

    def session_filter(self) -> SessionFilter:
        """Return the filter of sessions."""
        return SessionFilter(
            sdk_app_ids=self.numbers("app"),
            states=self.enums("state", SessionState),  # type: ignore[arg-type]
            agent_ids=self.texts("agent"),
            client_user_ids=self.texts("user"),
            channel_types=self.texts("channel"),
            end_reasons=self.enums("end_reason", EndReason),  # type: ignore[arg-type]
            begun=self.range("begun"),
            ended=self.range("ended"),
            active=self.range("active"),
            ever_agent_ids=self.texts("ever_agent"),
            ratings=self.numbers("rating"),
            min_forwards=self.number("min_forwards"),
            min_rejected_events=self.number("min_rejected"),
            never_answered=self.flag("never_answered"),
        )

    def event_filter(self) -> EventFilter:
        """Return the filter of events."""
        return EventFilter(
            sdk_app_ids=self.numbers("app"),
            session_ids=self.texts("session"),
            types=self.enums("type", EventType),  # type: ignore[arg-type]
            agent_ids=self.texts("agent"),
            client_user_ids=self.texts("user"),
            channel_types=self.texts("channel"),
            verdicts=self.enums("verdict", Verdict),  # type: ignore[arg-type]
        )


def names_of(enum: Any) -> list[str]:
    """Return the names of an enum's values without the prefix and without the zero value."""
    return [name.removeprefix(_prefix(enum)) for name, number in enum.items() if number]


def _prefix(enum: Any) -> str:
    return str(enum.Name(0).removesuffix("UNSPECIFIED"))


def _enum_value(parameter: str, text: str, enum: Any) -> int:
    if text.upper() == "NONE":
        return 0
    try:
        return int(enum.Value(_prefix(enum) + text.upper()))
    except ValueError:
        names = ", ".join(names_of(enum))
        raise BadQuery(f"{parameter}: {text[:40]!r} is none of {names}") from None


def _moment(text: str, zone: tzinfo) -> datetime:
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    moment = datetime.fromisoformat(text)
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    if moment.year not in YEARS:
        raise OverflowError
    return moment
