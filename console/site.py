"""The client, the templates and their words, which all pages share."""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from console.depth import QueueDepth
from console.rates import GatewayRates
from console.transitions import event_of, row_of
from desk.client import Client
from display.texts import count_of, format_seconds, format_size, format_time, printable

NAVIGATION = (
    ("/board", "Board"),
    ("/sessions", "Sessions"),
    ("/rejections", "Rejections"),
    ("/feed", "Feed"),
    ("/reports", "Reports"),
    ("/subscribers", "Subscribers"),
    ("/health", "Health"),
    ("/table", "Table"),
)

_PREFIXES = (
    *("SESSION_STATE_", "END_REASON_", "REJECTION_REASON_", "VERDICT_", "EVENT_TYPE_"),
    *("INTERVAL_LENGTH_", "REPORT_GROUP_"),
)
"""Prefixes of enum values, which people need not see."""


class Site:
    """The client and the templates, which all pages share.

    Attributes:
        client: of the service, or of its replicas.
        replicas: a client for each, by address.
        zone: of the times shown.
        depth: of the queue, over the last hours.
        assets: name of the present version of the static files.
        rates: of what the gateways answer, over the last minutes.
        settings: names, values and sources of the settings, secrets masked.
        settings_of: the command that has read them, and what it runs.
    """

    def __init__(
        self,
        client: Client,
        *,
        replicas: Mapping[str, Client],
        zone: tzinfo = UTC,
        settings: Sequence[Mapping[str, str]] = (),
        settings_of: str = "",
    ) -> None:
        self.client = client
        self.replicas = replicas
        self.zone = zone
        self.settings = settings
        self.settings_of = settings_of
        self.depth = QueueDepth()
        self.assets = _assets_version()
        self.rates = GatewayRates()
        self._templates = Environment(
            loader=PackageLoader("console"),
            autoescape=select_autoescape(default=True, default_for_string=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "time": self.time,
            "clock": self.clock,
            "brief": self.brief,
            "duration": duration,
            "wall": self.wall,
            "seconds_to": seconds_to,
            "word": word,
            "share": share,
            "size": format_size,
            "visible": visible,
            "decoded": decoded,
            "counted": count_of,
        }
        self._templates.globals |= {
            "navigation": NAVIGATION,
            "assets": self.assets,
            "now": self.now,
            "row_of": row_of,
            "event_of": event_of,
        }

    def render(self, template: str, **variables: Any) -> str:
        """Return a page, or a part of one."""
        return self._templates.get_template(template).render(site=self, **variables)

    def now(self) -> str:
        """Return the present time as it is shown."""
        return format_time(datetime.now(self.zone))

    def time(self, text: str, precision: str = "seconds") -> str:
        """Return a document's time in the zone of the console."""
        if not text:
            return "–"
        moment = datetime.fromisoformat(text).astimezone(self.zone)
        return format_time(moment, precision=precision)

    def brief(self, text: str, *, seconds: bool = True) -> str:
        """Return a document's time of today without its day, another one without its seconds."""
        moment = datetime.fromisoformat(text).astimezone(self.zone)
        is_today = moment.date() == datetime.now(self.zone).date()
        if is_today:
            return f"{moment:%H:%M:%S}" if seconds else f"{moment:%H:%M}"
        return f"{moment:%Y-%m-%d %H:%M}"

    def wall(self, text: str) -> float:
        """Return a document's time as seconds since 1970 of the zone's clock, for charts."""
        moment = datetime.fromisoformat(text).astimezone(self.zone)
        return moment.replace(tzinfo=UTC).timestamp()

    def clock(self, text: str) -> str:
        """Return a document's time without its day, with milliseconds."""
        return self.time(text, "milliseconds")[len("2025-04-07 ") :] if text else "–"


def duration(text: str | float | None) -> str:
    """Return a document's duration, such as `12.5s`, or seconds, in one or two units."""
    if text is None or text == "":
        return "–"
    return format_seconds(float(text.removesuffix("s") if isinstance(text, str) else text))


def seconds_to(text: str, other: str) -> float:
    """Return the seconds from one of a document's times to another."""
    passed = datetime.fromisoformat(other) - datetime.fromisoformat(text)
    return round(passed.total_seconds(), 1)


def share(part: float | None) -> str:
    """Return a share from 0 to 1 as a percentage."""
    return "–" if part is None else f"{part * 100:.1f} %"


def word(name: str | int) -> str:
    """Return the name of an enum's value for people: `SESSION_STATE_WITH_AGENT`: with agent."""
    text = str(name)
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    return "–" if text == "UNSPECIFIED" else text.replace("_", " ").lower()


def visible(text: str) -> str:
    """Return a text with every character that does not show replaced: no order is reversed."""
    return "\n".join(map(printable, text.split("\n")))


def decoded(raw: str) -> str:
    """Return the text of a document's bytes."""
    return base64.b64decode(raw).decode(errors="replace")


def _assets_version() -> str:
    """Return a name for the present style and script: browsers keep them until it changes."""
    folder = files("console").joinpath("static")
    names = sorted(file.name for file in folder.iterdir())
    digest = sha256(b"".join(folder.joinpath(name).read_bytes() for name in names))
    return digest.hexdigest()[:12]
