"""What a verification found: differences, and how much was compared."""

from typing import Any

MOST_DETAILS = 20
"""Differences that are told one by one; the others are only counted."""


def count_of(number: int, noun: str) -> str:
    """Return the number with its noun, such as `1 callback` and `2 callbacks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Report:
    """The outcome of a verification, filled while it goes on.

    Attributes:
        differences: how many there are.
        details: the first of them, a sentence each.
        sessions, callbacks: how many were compared.
        stories: sessions of which each callback was compared at its place in time order.
        rejected: callbacks that were rejected and had to be.
        unknown_kept, unknown_lost: callbacks without an answer that the service has, or has not.
        skipped: sessions not compared, because callbacks of theirs never arrived.
    """

    def __init__(self) -> None:
        self.differences = 0
        self.details: list[str] = []
        self.sessions = self.callbacks = self.stories = self.rejected = 0
        self.unknown_kept = self.unknown_lost = self.skipped = 0

    def differ(self, what: str) -> None:
        """Note a difference."""
        self.differences += 1
        if len(self.details) < MOST_DETAILS:
            self.details.append(what)

    def compare(self, what: str, *, expected: object, found: object) -> None:
        """Note a difference unless the two are equal."""
        if expected != found:
            self.differ(f"{what}: expected {expected!r}, found {found!r}")

    def as_json(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return dict(vars(self))

    def as_text(self) -> str:
        """All of it, for people."""
        compared = (
            f"{count_of(self.sessions, 'session')}, {count_of(self.callbacks, 'callback')}, "
            f"{self.rejected} rejected as expected"
        )
        lines = [*self.details]
        if self.differences > len(self.details):
            lines.append(f"… and {self.differences - len(self.details)} more")
        if self.unknown_kept or self.unknown_lost:
            lines.append(
                f"callbacks without an answer: {self.unknown_kept} there, {self.unknown_lost} not; "
                f"{count_of(self.skipped, 'session')} not compared for it"
            )
        found = count_of(self.differences, "difference") if self.differences else "no difference"
        return "\n".join([*lines, f"{found}: {compared}"])
