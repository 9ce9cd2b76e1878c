"""The transition table, and what this service's callbacks have made of it."""

from callback.catalogue import EventType, Guard, State
from console.page import Document, Page
from console.query import Query

GUARDS = {
    Guard.AGENT_CONTACTED_USER: "if the agent contacted the user",
    Guard.NO_END_REASON_YET: "while there is no end reason yet",
}


class Table(Page):
    """The transition table."""

    path = "/table"
    title = "Table"
    template = "table.html"
    rows = "transitions"
    columns = ("event", "sources", "to", "guard")

    async def document(self, query: Query) -> Document:
        """Return every transition: what is not among them is impossible."""
        return {
            "states": [state.value for state in State],
            "transitions": [
                {
                    "event": event.value,
                    "sources": [State(source).value for source in sources],
                    "to": to.value if to else "",
                    "guard": GUARDS[guard] if guard else "",
                }
                for event in EventType
                for sources, to, guard in event.row.transitions
            ],
        }
