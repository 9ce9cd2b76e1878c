"""Writes docs/states.md from the transition table; with --check, says whether it is up to date."""

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from service.machine import TABLE, State, Transition

PAGE = Path(__file__).parent.parent / "docs" / "states.md"

HEAD = """<!-- Generated from service/machine.py by `make diagram`; do not edit. -->

# The life of a session

What is not on this page is impossible, and is rejected with its reason. Where the table comes from
is told in [callbacks.md](callbacks.md).
"""

Moves = dict[tuple[str, State], list[str]]

LIVE_NAME = "LIVE"
LIVE = {"CHATBOT", "TRANSFERRING", "QUEUED", "WITH_AGENT", "FORWARDED"}

GUARDS = {
    "": "",
    "agent_contacted_user": "only if the agent contacted the user (`IsContactUser` true on this"
    " event or on the session's `SessionBegin`)",
    "no_end_reason_yet": "only while the session has no end reason yet",
}


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, "```mermaid", *diagram(), "```", "", "## The table", "", *table(), ""])


def diagram() -> list[str]:
    """The steps that move a session, as a mermaid state diagram; the table has all of them."""
    inside: Moves = defaultdict(list)
    outside: Moves = defaultdict(list)
    for event, sources, dest, guard in TABLE:
        for source in starts(sources):
            if dest and dest != source:
                moves = inside if {source, dest} <= LIVE else outside
                moves[source, dest].append(event.value + (" (guarded)" if guard else ""))
    return [
        "stateDiagram-v2",
        *arrows(outside, "    "),
        f"    {State.ENDED} --> [*]",
        f"    state {LIVE_NAME} {{",
        *arrows(inside, "        "),
        "    }",
    ]


def starts(sources: Iterable[State]) -> list[str]:
    """The states that arrows start from; where all live ones do the same, the box around them."""
    names = {"[*]" if source is State.NEW else str(source) for source in sources}
    return sorted(names - LIVE | {LIVE_NAME} if names >= LIVE else names)


def arrows(moves: Moves, indent: str) -> list[str]:
    """One arrow for each pair of states, labelled with all events that take it."""
    return [
        f"{indent}{source} --> {dest}: {' / '.join(events)}"
        for (source, dest), events in moves.items()
    ]


def table() -> list[str]:
    """One row per transition of the table."""
    return ["| event | from | to | |", "|---|---|---|---|", *map(row, TABLE)]


def row(transition: Transition) -> str:
    """One transition as a row of a Markdown table."""
    event, sources, dest, guard = transition
    condition = GUARDS[guard.__name__ if guard else ""]
    return f"| `{event}` | {', '.join(sources)} | {dest or 'same'} | {condition} |"


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` compare it. Returns the exit status."""
    if "--check" not in arguments:
        PAGE.write_text(page())
        return 0
    if PAGE.exists() and PAGE.read_text() == page():
        return 0
    print(f"{PAGE.name} is out of date: run `make diagram`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
