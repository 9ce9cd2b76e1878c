"""The states of a session over time, as lanes of a drawing. Idle time is folded."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

LANES = ("CHATBOT", "TRANSFERRING", "QUEUED", "WITH_AGENT", "FORWARDED", "CLOSING", "ENDED")
WIDTH, LANE, LEFT = 960, 26, 120
"""Pixels: of the drawing, of a lane's height, of the names of the lanes."""

IDLE = 120.0
"""Seconds without a callback that are drawn to scale; what is longer is folded."""

FOLDED = 30.0
"""Seconds that a folded stretch takes in the drawing."""


def lanes_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the drawing of a session; None if it has not begun.

    Args:
        records: its callbacks in time order, as JSON documents.
    """
    steps = [
        (_seconds(record), _state(record["state_after"]), record)
        for record in records
        if record["verdict"] != "VERDICT_REJECTED" and record["state_after"]
    ]
    steps = [step for step in steps if step[1] in LANES]
    if not steps:
        return None
    places, folds = _places([at for at, _, _ in steps])
    scale = (WIDTH - LEFT - 10) / max(places[-1], 1.0)
    xs = [LEFT + place * scale for place in places]
    return {
        "width": WIDTH,
        "height": LANE * len(LANES) + 24,
        "left": LEFT,
        "lanes": [
            {"name": name, "y": LANE * row, "height": LANE} for row, name in enumerate(LANES)
        ],
        "stays": list(_stays(steps, xs)),
        "folds": [{"x": round((xs[i] + xs[i + 1]) / 2, 1), "seconds": gap} for i, gap in folds],
        "events": [
            {
                "x": round(x, 1),
                "y": LANE * LANES.index(state) + LANE // 2,
                "name": record["event"]["type_name"],
                "time": record["event"]["event_time"],
            }
            for x, (_, state, record) in zip(xs, steps, strict=True)
        ],
        "first": records[0]["event"].get("event_time", ""),
        "last": records[-1]["event"].get("event_time", ""),
    }


def _places(times: Sequence[float]) -> tuple[list[float], list[tuple[int, float]]]:
    """Return the place of each time, in seconds of the drawing, and the folded stretches."""
    places, folds = [0.0], []
    for index, (before, after) in enumerate(pairwise(times)):
        gap = max(0.0, after - before)
        if gap > IDLE:
            folds.append((index, gap))
            gap = FOLDED
        places.append(places[-1] + gap)
    return places, folds


def _stays(
    steps: Sequence[tuple[float, str, Mapping[str, Any]]], xs: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """Yield one rectangle for each stay in a state."""
    start = 0
    for index in range(1, len(steps) + 1):
        if index < len(steps) and steps[index][1] == steps[start][1]:
            continue
        state = steps[start][1]
        end = min(index, len(steps) - 1)
        yield {
            "state": state,
            "x": round(xs[start], 1),
            "width": round(max(3.0, xs[end] - xs[start]), 1),
            "y": LANE * LANES.index(state) + 4,
            "height": LANE - 8,
            "seconds": steps[end][0] - steps[start][0],
        }
        start = index


def _seconds(record: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(record["event"]["event_time"]).timestamp()


def _state(name: str | int) -> str:
    return str(name).removeprefix("SESSION_STATE_")
