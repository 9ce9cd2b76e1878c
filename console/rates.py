"""Rates of what the gateways answer, from the counts that the console has seen."""

from collections import deque
from datetime import datetime, timedelta
from typing import NamedTuple

from desk.v1.status_pb2 import GatewayStatus

RATE_OVER = timedelta(minutes=5)
"""Time that a rate is the mean of."""

SHORTEST = timedelta(seconds=10)
MINUTE = timedelta(minutes=1)

Outcome = tuple[int, str]
"""An app, and an outcome of its requests."""


class _Sample(NamedTuple):
    moment: datetime
    started_at: int
    numbers: dict[Outcome, int]


class GatewayRates:
    """The counts that the gateway of each replica had in the last minutes."""

    def __init__(self) -> None:
        self._samples: dict[str, deque[_Sample]] = {}

    def note(self, target: str, gateway: GatewayStatus, moment: datetime) -> None:
        """Keep the counts of a replica's gateway at a moment."""
        samples = self._samples.setdefault(target, deque())
        samples.append(_sample(gateway, moment))
        while samples[0].moment < moment - RATE_OVER:
            samples.popleft()

    def per_minute(
        self, target: str, gateway: GatewayStatus, moment: datetime
    ) -> dict[Outcome, float]:
        """Return the rates of outcomes up to a moment; none until there is enough to compare."""
        now = _sample(gateway, moment)
        for before in self._samples.get(target, ()):
            passed = now.moment - before.moment
            if before.started_at == now.started_at and passed >= SHORTEST:
                return {
                    outcome: round((n - before.numbers.get(outcome, 0)) * MINUTE / passed, 1)
                    for outcome, n in now.numbers.items()
                }
        return {}


def _sample(gateway: GatewayStatus, moment: datetime) -> _Sample:
    numbers = {
        (app.sdk_app_id, each.outcome): each.number for app in gateway.apps for each in app.outcomes
    }
    return _Sample(moment, gateway.started_at.ToMilliseconds(), numbers)
