"""The state machine as a drawing: a box for each state, an arrow for each change of the state."""

from collections import defaultdict
from collections.abc import Mapping
from math import hypot, log10
from typing import Any

from callback.catalogue import LIVE, EventType, State

Point = tuple[float, float]

WIDTH, HEIGHT = 1130, 440
BOX = (124.0, 40.0)
PLACES: dict[State, Point] = {
    State.NEW: (66, 225),
    State.CHATBOT: (260, 225),
    State.TRANSFERRING: (470, 80),
    State.QUEUED: (470, 370),
    State.WITH_AGENT: (610, 225),
    State.FORWARDED: (830, 225),
    State.CLOSING: (1050, 110),
    State.ENDED: (1050, 340),
}
"""Centres of the boxes, in pixels."""

FRAME = (170, 30, 750, 380)
"""Frame around the states of a session that goes on: left, top, width, height. An arrow from the
frame stands for arrows from its states."""

APART = 9.0
"""Half the distance of two arrows between the same boxes, in opposite directions."""

LABEL, LABEL_AT = 12.0, 0.4
"""Distance of a label from its arrow, and the part of the arrow before it."""

STEEP = 0.6
"""Least slant of an arrow whose label begins, or ends, beside it."""

FRAMED = "going on"

Taken = Mapping[tuple[str, str], int]
"""Accepted callbacks by event and state before."""


def diagram_of(taken: Taken) -> dict[str, Any]:
    """Return the drawing, with the number of callbacks that took each arrow."""
    left, top, width, height = FRAME
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "frame": {"x": left, "y": top, "width": width, "height": height, "name": FRAMED},
        "boxes": [
            {"state": state.value, "x": x - BOX[0] / 2, "y": y - BOX[1] / 2}
            for state, (x, y) in PLACES.items()
        ],
        "box": {"width": BOX[0], "height": BOX[1]},
        "arrows": _arrows(taken),
    }


def _arrows(taken: Taken) -> list[dict[str, Any]]:
    events: dict[tuple[State | None, State], list[str]] = defaultdict(list)
    numbers: dict[tuple[State | None, State], int] = defaultdict(int)
    for event in EventType:
        for sources, to, _ in event.row.transitions:
            for source in sources:
                if to and to is not source:
                    pair = (None if source in LIVE and to not in LIVE else source, to)
                    numbers[pair] += taken.get((event, source), 0)
                    if event not in events[pair]:
                        events[pair].append(event.value)
    return [
        {
            "from": source.value if source else FRAMED,
            "to": to.value,
            "events": names,
            "taken": numbers[source, to],
            "weight": round(1 + log10(1 + numbers[source, to]), 1),
            **_line(source, to, is_double=source is not None and (to, source) in events),
        }
        for (source, to), names in list(events.items())
    ]


def _line(source: State | None, to: State, *, is_double: bool) -> dict[str, float | str]:
    """Return the ends of an arrow, and the place of its label at its left."""
    end = PLACES[to]
    start = PLACES[source] if source else (FRAME[0] + FRAME[2], end[1])
    length = hypot(end[0] - start[0], end[1] - start[1])
    across = ((end[1] - start[1]) / length, (start[0] - end[0]) / length)
    shift = APART if is_double else 0.0
    start, end = _moved(start, across, shift), _moved(end, across, shift)
    tail = _border(start, end, PLACES[source]) if source else start
    head = _border(end, start, PLACES[to])
    place = _moved(tail, (head[0] - tail[0], head[1] - tail[1]), LABEL_AT)
    label = _moved(place, across, LABEL)
    (x1, y1), (x2, y2), (x, y) = tail, head, label
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "x": x, "y": y}
    anchor = "middle" if abs(across[0]) < STEEP else "start" if across[0] > 0 else "end"
    return {**{name: round(number, 1) for name, number in ends.items()}, "anchor": anchor}


def _moved(point: Point, direction: Point, distance: float) -> Point:
    return point[0] + distance * direction[0], point[1] + distance * direction[1]


def _border(start: Point, end: Point, centre: Point) -> Point:
    """Return the point at which the line from `start`, which lies in a box, leaves the box."""
    parts = [1.0]
    for axis in (0, 1):
        if way := end[axis] - start[axis]:
            side = centre[axis] + BOX[axis] / 2 * (1 if way > 0 else -1)
            parts.append((side - start[axis]) / way)
    part = min(parts)
    return start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1])
