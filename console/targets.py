"""The five cards of the board: each figure with its target and its threshold."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from console.query import BadQuery, Query
from desk.client import FORMULAS
from display.texts import format_seconds

_PAIR = re.compile(r"(\d{1,6})/(\d{1,6})")


class Bounds(NamedTuple):
    """A target, which should be met, and a threshold, beyond which somebody has to act."""

    target: float
    threshold: float


def cards_of(board: Mapping[str, Any], query: Query, now: datetime) -> list[dict[str, Any]]:
    """Return the cards.

    Args:
        board: the message as a document.
        query: may have other bounds, each as `target/threshold`: waiting, wait (s), level (%),
            abandonment (%), unanswered (s).
        now: the time that waits last until.
    """
    total = board["total"]
    today = total.get("today", {})
    percent = board["thresholds"]["answer_percent"]
    within = board["thresholds"].get("answer_within_seconds", 0)
    return [
        _card("Waiting now", total["waiting"], _bounds(query, "waiting", Bounds(5, 15)), "",
              "sessions that are transferring or queued"),
        _card("Longest wait", _since(total.get("longest_waiting_since"), now),
              _bounds(query, "wait", Bounds(within, 2 * within)), "s",
              "now - the start of the longest wait"),
        _card("Service level today", _percent(today.get("service_level")),
              _bounds(query, "level", Bounds(percent, max(0, percent - 20))), "%",
              f"{FORMULAS['service_level']}, within {format_seconds(within)}"),
        _card("Abandonment today", _percent(today.get("abandonment_rate")),
              _bounds(query, "abandonment", Bounds(5, 10)), "%", FORMULAS["abandonment_rate"]),
        _card("Longest unanswered", _since(total.get("longest_unanswered_since"), now),
              _bounds(query, "unanswered", Bounds(60, 180)), "s",
              "now - the user's last message, where the agent owes an answer"),
    ]  # fmt: skip


def check_bounds(query: Query) -> None:
    """Raise BadQuery if a card's bounds are wrong."""
    for name in ("waiting", "wait", "level", "abandonment", "unanswered"):
        _bounds(query, name, Bounds(0, 0))


def _card(
    name: str, value: float | None, bounds: Bounds, unit: str, formula: str
) -> dict[str, Any]:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "target": bounds.target,
        "threshold": bounds.threshold,
        "status": _status(value, bounds),
        "formula": formula,
    }


def _status(value: float | None, bounds: Bounds) -> str:
    if value is None:
        return "none"
    sign = 1 if bounds.target <= bounds.threshold else -1  # of a figure where less is worse
    if sign * value <= sign * bounds.target:
        return "good"
    return "warning" if sign * value <= sign * bounds.threshold else "bad"


def _bounds(query: Query, name: str, default: Bounds) -> Bounds:
    text = query.text(name)
    if not text:
        return default
    if not (pair := _PAIR.fullmatch(text)):
        raise BadQuery(f"{name}: {text[:40]!r} is not like 5/15, a target and a threshold")
    return Bounds(int(pair[1]), int(pair[2]))


def _since(moment: str | None, now: datetime) -> float:
    if not moment:
        return 0.0
    return max(0.0, round((now - datetime.fromisoformat(moment)).total_seconds(), 1))


def _percent(share: float | None) -> float | None:
    return None if share is None else round(share * 100, 1)
