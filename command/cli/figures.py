"""Options, texts and columns that board and report share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from command.cli.parameters import Parsed
from command.cli.printers import Column, Value, cell_text
from command.cli.tables import field_value
from command.values import MAX_WAIT, ServiceLevel
from desk.client import FORMULAS
from desk.v1.figures_pb2 import ServiceFigures, Thresholds
from display.texts import format_duration

Command = TypeVar("Command", bound=Callable[..., Any])


class Share(float):
    """A number from 0 to 1 that people read in percent."""


def share_text(share: float) -> str:
    return f"{100 * share:.1f}%"


def figure_text(value: Value) -> str:
    """Return a figure as the text of a cell."""
    if isinstance(value, Share):
        return share_text(value)
    return f"{value:.2f}" if isinstance(value, float) else cell_text(value)


def thresholds_text(thresholds: Thresholds) -> str:
    within = format_duration(thresholds.answer_within)
    short = format_duration(thresholds.short_abandon)
    return f"target {thresholds.answer_percent}% within {within}, short abandons up to {short}"


LEGEND = "\n".join(
    ["\b", "Formulas:", *(f"  {name} = {formula}" for name, formula in FORMULAS.items())]
)
"""The part of a command's help that has the formula of each figure."""


def threshold_options(command: Command) -> Command:
    """Add --service-level and --short-abandon; `thresholds_of` reads them."""
    level = click.option(
        "--service-level",
        type=Parsed("X/Y", ServiceLevel.parse),
        help="Target: X percent are answered within Y seconds. Default: that of the service.",
    )
    short = click.option(
        "--short-abandon",
        type=click.IntRange(0, MAX_WAIT),
        help="Seconds: a user who leaves within them does not count. Default: that of the service.",
    )
    return level(short(command))


def thresholds_of(service_level: ServiceLevel | None, short_abandon: int | None) -> Thresholds:
    asked = Thresholds()
    if service_level is not None:
        asked.answer_percent = service_level.percent
        asked.answer_within.FromSeconds(service_level.seconds)
    if short_abandon is not None:
        asked.short_abandon.FromSeconds(short_abandon)
    return asked


def figure_columns(
    of: Callable[[Any], Any], names: dict[str, str], shares: frozenset[str] = frozenset()
) -> list[Column[Any]]:
    """Return columns of a message's fields, by the names of fields, with their titles."""

    def value(row: Any, name: str) -> Value:
        message = of(row)
        found = None if message is None else field_value(message, name)
        return Share(found) if name in shares and isinstance(found, float) else found

    return [
        Column(name, lambda row, name=name: value(row, name), title, right=True)  # type: ignore[misc]
        for name, title in names.items()
    ]


SERVICE = {
    "offered": "OFFERED",
    "waiting": "WAITING",
    "answered": "ANSWERED",
    "answered_within": "IN TIME",
    "abandoned": "ABANDONED",
    "short_abandons": "SHORT",
    "sent_back": "SENT BACK",
    "ended_otherwise": "ENDED OTHERWISE",
    "service_level": "SERVICE LEVEL",
    "abandonment_rate": "ABANDONMENT",
    "raw_abandonment_rate": "RAW ABANDONMENT",
    "forwarded": "FORWARDED",
    "transfer_rate": "TRANSFER RATE",
}
SERVICE_SHARES = frozenset(
    ("service_level", "abandonment_rate", "raw_abandonment_rate", "transfer_rate")
)
WAITS = {"mean": "ASA", "median": "MEDIAN", "p90": "P90", "p99": "P99", "max": "LONGEST"}


def service_columns(of: Callable[[Any], ServiceFigures | None]) -> list[Column[Any]]:
    """Return the columns of the service's figures, with those of the speed of answer."""

    def speed(row: Any) -> Any:
        figures = of(row)
        return None if figures is None else figures.speed_of_answer

    return [
        *figure_columns(of, SERVICE, SERVICE_SHARES),
        *(column._replace(name=f"answer_{column.name}") for column in figure_columns(speed, WAITS)),
    ]
