"""Writes docs/states.md from the catalogue of event types; with --check, compares it."""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from callback.catalogue import LIVE, Effect, EndReason, EventType, Guard, State

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "states.md"
PROTO = ROOT / "proto" / "desk" / "v1" / "event.proto"

HEAD = """<!-- Generated from callback/catalogue.py by `make diagram`; do not edit. -->

# The life of a session

Any transition that is not on this page is impossible: the event is rejected, with the reason.
[callbacks.md](callbacks.md) explains the decisions behind the tables.
"""

GUARDS = {
    Guard.AGENT_CONTACTED_USER: "only if the agent contacted the user (`IsContactUser` true on this"
    " event or on the session's `SessionBegin`)",
    Guard.NO_END_REASON_YET: "only while the session has no end reason yet",
}

EFFECTS = {
    Effect.BEGIN: "remembers whether the agent contacted the user",
    Effect.USER_MESSAGE: "counts a message of the user",
    Effect.ROBOT_MESSAGE: "counts a message of the chatbot",
    Effect.AGENT_MESSAGE: "counts a message of the agent, who has the session unless `CLOSING`",
    Effect.RELEASE: "leaves the session without an agent",
    Effect.JOIN: "gives the session to the agent",
    Effect.FORWARD: "counts a forward; gives the session to the new agent",
    Effect.RATE: "sets the rating",
}

Moves = dict[tuple[str, State], list[str]]


def page() -> str:
    diagram_lines = ["```mermaid", *diagram(), "```"]
    transition_lines = ["## Transitions", "", *transitions()]
    type_lines = ["## Event types", "", TYPES, "", *types(), ""]
    return "\n".join([HEAD, *diagram_lines, "", *transition_lines, "", *type_lines])


def diagram() -> list[str]:
    """Draw the transitions to another state as a mermaid state diagram."""
    inside: Moves = defaultdict(list)
    outside: Moves = defaultdict(list)
    for event in EventType:
        for sources, to, guard in event.row.transitions:
            for source in starts(sources):
                if to and to != source:
                    moves = inside if {source, to} <= set(LIVE) else outside
                    moves[source, to].append(event + (" (guarded)" if guard else ""))
    return [
        "stateDiagram-v2",
        *arrows(outside, "    "),
        f"    {State.ENDED} --> [*]",
        "    state LIVE {",
        *arrows(inside, "        "),
        "    }",
    ]


def starts(sources: Iterable[State]) -> list[str]:
    """Name the states that arrows start from; `LIVE` stands for all live ones."""
    names = {"[*]" if source is State.NEW else str(source) for source in sources}
    return sorted(names - set(LIVE) | {"LIVE"} if names >= set(LIVE) else names)


def arrows(moves: Moves, indent: str) -> list[str]:
    """Draw one arrow for each pair of states, labelled with its events."""
    return [
        f"{indent}{source} --> {to}: {' / '.join(events)}" for (source, to), events in moves.items()
    ]


def transitions() -> Iterator[str]:
    """Yield a Markdown table with a row for each transition."""
    yield from ("| event | from | to | |", "|---|---|---|---|")
    for event in EventType:
        for sources, to, guard in event.row.transitions:
            condition = GUARDS[guard] if guard else ""
            yield f"| `{event}` | {', '.join(sources)} | {to or 'same'} | {condition} |"


TYPES = """`EventTime` orders the events of a session; *rank* orders those of the same millisecond.
The *fields* mean something in these events only; elsewhere Desk fills in defaults."""


def types() -> Iterator[str]:
    """Yield a Markdown table with a row for each event type."""
    yield from ("| event | meaning | rank | fields | effect |", "|---|---|---|---|---|")
    comments = meanings()
    if missing := {event.name for event in EventType} - comments.keys():
        raise SystemExit(f"{PROTO.name} has no number for {', '.join(sorted(missing))}")
    for event in EventType:
        row = event.row
        fields = ", ".join(f"`{field}`" for field in row.carries)
        yield f"| `{event}` | {comments[event.name]} | {row.rank} | {fields} | {effect_of(event)} |"


def effect_of(event: EventType) -> str:
    effect = event.row.effect
    if isinstance(effect, EndReason):
        return f"sets the end reason `{effect}`"
    return EFFECTS[effect] if effect else ""


def meanings() -> dict[str, str]:
    """Read the sentence on each event type from the comments of event.proto."""
    found = re.findall(r"((?:  //.*\n)+)  EVENT_TYPE_(\w+) = ", PROTO.read_text())
    return {
        name: re.sub(r" \([^)]*\)\.$", ".", " ".join(comment.replace("//", "").split()))
        for comment, name in found
    }


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
