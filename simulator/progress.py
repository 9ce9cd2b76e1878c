"""Progress bars of a run, on a terminal only."""

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from simulator.lives import Life


class ProgressBars:
    """Two bars on stderr: the lives sent, and the view's revision up to the journal's head."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._sent = self._bars.add_task("sessions", total=None, visible=False)
        self._reached = self._bars.add_task("revision", total=None, visible=False)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def count(self, lives: Iterable[Life], total: int) -> Iterator[Life]:
        """Yield the lives, and show their number."""
        self._bars.update(self._sent, total=total, visible=True)
        for life in lives:
            self._bars.advance(self._sent, life.expectation is not None)
            yield life

    def caught_up(self, reached: int, head: int) -> None:
        """Show the view's revision and the journal's."""
        self._bars.update(self._reached, completed=reached, total=head, visible=True)
