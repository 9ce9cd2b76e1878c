"""The transition table as rows with numbers, which pages link to."""

from typing import Any

from callback.catalogue import EventType, Guard, State

GUARDS = {
    Guard.AGENT_CONTACTED_USER: "if the agent contacted the user",
    Guard.NO_END_REASON_YET: "while there is no end reason yet",
}


def _table() -> list[dict[str, Any]]:
    """Return the rows: of each event its transitions, and then the states that reject it."""
    rows: list[dict[str, Any]] = []
    for event in EventType:
        left = list(State)
        for sources, to, guard in event.row.transitions:
            left = [state for state in left if state not in sources]
            rows.append(
                {
                    "event": event.value,
                    "sources": [State(source).value for source in sources],
                    "possible": True,
                    "to": to.value if to else "",
                    "guard": GUARDS[guard] if guard else "",
                }
            )
        rest = {"sources": [state.value for state in left], "possible": False}
        rows.append({"event": event.value, **rest, "to": "", "guard": ""})
    return [{"row": number, **row} for number, row in enumerate(rows, 1)]


TABLE = _table()
ROWS: dict[tuple[str, str], int] = {
    (row["event"], source): row["row"] for row in TABLE for source in row["sources"]
}
"""The number of the row that decides, by event and state."""


def row_of(event: str, state: str | int) -> int:
    """Return the row that decides on an event in one of a document's states; 0: none does."""
    return ROWS.get((event, state_of(state)), 0)


def state_of(name: str | int) -> str:
    """Return the state of a document: no state is that before the session begins."""
    name = str(name).removeprefix("SESSION_STATE_")
    return State.NEW.value if name == "UNSPECIFIED" else name


def event_of(type_name: str | int) -> str:
    """Return Desk's name for a document's event type; "" if that is not in the table."""
    name = str(type_name).removeprefix("EVENT_TYPE_")
    return EventType[name].value if name in EventType.__members__ else ""
