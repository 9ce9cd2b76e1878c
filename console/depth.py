"""The depth of the queue over the last hours, which the service does not keep."""

from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

from desk.v1.board_service_pb2 import Board, BoardOptions

SAMPLE_EVERY = 30
"""Seconds between two looks at the queue, and at the gateways' counts."""

DEPTH_FOR = timedelta(hours=2)
DEPTH_STEP = 120
"""Time that the queue's depth is shown for, and seconds of a row."""


class QueueDepth:
    """The number of waiting users over the last two hours, by app and channel.

    The console looks at the board every `SAMPLE_EVERY` seconds.
    """

    def __init__(self) -> None:
        size = int(DEPTH_FOR.total_seconds()) // SAMPLE_EVERY
        self._samples: deque[tuple[datetime, dict[tuple[int, str], int]]] = deque(maxlen=size)

    def note(self, moment: datetime, board: Board) -> None:
        waiting = {
            (group.sdk_app_id, group.channel_type): group.figures.waiting for group in board.groups
        }
        self._samples.append((moment, waiting))

    def rows(self, options: BoardOptions) -> list[dict[str, Any]]:
        """Return the most that waited at once, for each two minutes, ascending."""
        depths: dict[int, int] = {}
        for moment, waiting in self._samples:
            depth = sum(number for group, number in waiting.items() if _is_selected(group, options))
            step = int(moment.timestamp()) // DEPTH_STEP * DEPTH_STEP
            depths[step] = max(depths.get(step, 0), depth)
        return [
            {"time": datetime.fromtimestamp(step, UTC).isoformat(), "waiting": depth}
            for step, depth in depths.items()
        ]


def _is_selected(group: tuple[int, str], options: BoardOptions) -> bool:
    app, channel = group
    return (not options.sdk_app_ids or app in options.sdk_app_ids) and (
        not options.channel_types or channel in options.channel_types
    )
