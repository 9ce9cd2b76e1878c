"""The figures of a run."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Figures:
    """Counts and latencies of a run, filled while it runs.

    Attributes:
        sent: deliveries, each counted once however often it was retried.
        accepted: answered with 200.
        refused: answered with another status below 500, by status; with the malformed bodies.
        as_expected: of the refused, those that had to be (malformed bodies, 400).
        unknown: not answered, or only with 5xx: the service may have them or not.
        misnumbered: of the accepted, those whose `Desk-Revision` was not a positive number.
        retries: attempts beyond the first.
        latencies: seconds from the due time of a delivery to its last answer.
        seconds: duration of the sending.
        interrupted: True if the run was cut short.
    """

    sent: int = 0
    accepted: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    as_expected: int = 0
    unknown: int = 0
    misnumbered: int = 0
    retries: int = 0
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    seconds: float = 0
    interrupted: bool = False

    @property
    def failed(self) -> int:
        """Number of deliveries that did not end as expected."""
        refused = sum(self.refused.values()) - self.as_expected
        return self.unknown + refused + self.misnumbered

    def as_json(self) -> dict[str, Any]:
        """Return the figures for JSON: latencies in milliseconds, rates per second."""
        return {
            "sent": self.sent,
            "accepted": self.accepted,
            "refused": {str(status): count for status, count in sorted(self.refused.items())},
            "refused_as_expected": self.as_expected,
            "unknown": self.unknown,
            "misnumbered": self.misnumbered,
            "retries": self.retries,
            "seconds": round(self.seconds, 3),
            "per_second": round(self.sent / self.seconds, 1) if self.seconds else 0.0,
            "latency_ms": percentiles(self.latencies),
            "interrupted": self.interrupted,
        }


_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """Return nearest-rank percentiles in milliseconds; empty without latencies."""
    ordered = sorted(latencies)
    last = len(ordered) - 1
    return {
        name: round(ordered[min(last, int(share * len(ordered)))] * 1000, 3)
        for name, share in _PERCENTILES.items()
        if ordered
    }


def as_text(figures: Figures) -> str:
    return "\n".join(_lines(figures.as_json()))


def _lines(figures: dict[str, Any]) -> list[str]:
    refused = ", ".join(f"{status}: {count}" for status, count in figures["refused"].items())
    latency = "  ".join(f"{name} {value:g} ms" for name, value in figures["latency_ms"].items())
    expected = figures["refused_as_expected"]
    lines = [
        f"sent      {figures['sent']} in {figures['seconds']:g} s ({figures['per_second']:g}/s)"
        f"{', interrupted' if figures['interrupted'] else ''}",
        f"accepted  {figures['accepted']}",
        f"refused   {refused or 0}{f' ({expected} as expected)' if expected else ''}",
        f"retries   {figures['retries']}",
    ]
    if figures["unknown"]:
        lines.append(f"unknown   {figures['unknown']} (the service may have them or not)")
    if figures["misnumbered"]:
        lines.append(
            f"misnumbered {figures['misnumbered']} (Desk-Revision is not a positive number)"
        )
    if latency:
        lines.append(f"latency   {latency}")
    return lines
