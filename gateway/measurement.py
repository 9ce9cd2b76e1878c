"""Counts requests by outcome, and measures their durations.

An app is a label only once it is known to be one of the operator's.
"""

from collections.abc import Iterable
from http import HTTPMethod
from time import monotonic

from metrics.definitions import CALLBACK_OUTCOMES, CALLBACKS, OTHER, REQUEST_DURATION

ARRIVED = "gateway.arrived"
"""WSGI environ, optional: when the request's last byte arrived, `time.monotonic`. Without it, a
request has no duration."""

LAST_CALLBACKS: dict[int, int] = {}
"""By app, when the last callback that is in the journal was received, Unix time in ms."""

_METHODS = frozenset(map(str, HTTPMethod))


def start_counting(sdk_app_ids: Iterable[int]) -> None:
    """Begin all counts at 0: Prometheus sees no increase in a counter that begins at 1."""
    for app in (*map(str, sdk_app_ids), OTHER):
        for outcome in CALLBACK_OUTCOMES:
            CALLBACKS.values[app, outcome] += 0


def count(outcome: str, sdk_app_id: object = None) -> None:
    """Count a request to the callback URL, or to an unknown one.

    Args:
        outcome: one of those of `desk_callbacks_total`; "" is not counted.
        sdk_app_id: one of the configured apps, or None.
    """
    if outcome:
        CALLBACKS.values[OTHER if sdk_app_id is None else str(sdk_app_id), outcome] += 1


def observe(method: str, route: str | None, status: str, arrived: float) -> None:
    """Note the duration of a request that is answered now."""
    labels = method if method in _METHODS else "_OTHER", route or "", status
    REQUEST_DURATION.of[labels].observe(monotonic() - arrived)
