"""The result of a verification: differences, and the number of things compared."""

from typing import Any

from display.texts import count_of

MAX_DETAILS = 20
"""Differences that are described; the others are only counted."""


class Report:
    """The result of a verification, filled while it runs.

    Attributes:
        differences: number of differences.
        details: the first differences, a sentence each.
        sessions, callbacks: numbers compared.
        stories: sessions whose explanation was compared, callback by callback.
        rejected: callbacks that were rejected as expected.
        unknown_kept, unknown_lost: callbacks without an answer that the service has, or has not.
        revision: that was compared.
        figures: figures of board and report that were compared.
        figures_skipped: True if they were not: sessions were skipped, or the app has others.
        skipped: sessions not compared, because some of their callbacks never arrived.
        forgotten: sessions not compared, because they were forgotten meanwhile.
    """

    def __init__(self) -> None:
        self.differences = 0
        self.details: list[str] = []
        self.sessions = self.callbacks = self.stories = self.rejected = 0
        self.revision = self.figures = 0
        self.figures_skipped = False
        self.unknown_kept = self.unknown_lost = self.skipped = self.forgotten = 0

    def differ(self, detail: str) -> None:
        """Add a difference."""
        self.differences += 1
        if len(self.details) < MAX_DETAILS:
            self.details.append(detail)

    def compare(self, subject: str, *, expected: object, found: object) -> None:
        """Add a difference unless the two are equal."""
        if expected != found:
            self.differ(f"{subject}: expected {expected!r}, found {found!r}")

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def as_text(self) -> str:
        compared = (
            f"{count_of(self.sessions, 'session')}, {count_of(self.callbacks, 'callback')}, "
            f"{self.rejected} rejected as expected"
        )
        if self.figures:
            compared += f", {count_of(self.figures, 'figure')} of board and report"
        lines = [*self.details]
        if self.differences > len(self.details):
            lines.append(f"… and {self.differences - len(self.details)} more")
        if self.unknown_kept or self.unknown_lost:
            lines.append(
                f"callbacks without an answer: {self.unknown_kept} found, {self.unknown_lost} "
                f"not; {count_of(self.skipped, 'session')} not compared"
            )
        if self.forgotten:
            lines.append(
                f"forgotten meanwhile, not compared: {count_of(self.forgotten, 'session')}"
            )
        if self.figures_skipped:
            why = "not all sessions were" if self.skipped else "the app has other sessions as well"
            lines.append(f"board and report not compared: {why}")
        found = count_of(self.differences, "difference") if self.differences else "no difference"
        return "\n".join([*lines, f"{found}: {compared}"])
