"""Any journals, for properties: lives as they happen and as they cannot, late, long, malformed."""

import json
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from journal.callback import identify
from journal.entry import Entry
from tests.support.callbacks import EVENTS, NOON, body, entry
from tests.support.model import DAY, TABLE, YEAR_2015

MANY = [f"agent-{number}" for number in range(25)]
NAMES = ["", "agent-a", "agent-b", "half \ud83d", "é" * 128, "é" * 129]
KEYS = ["", "k1", "k2", "k" * 257]


@st.composite
def callbacks(draw: st.DrawFn, event: str, time: int) -> bytes:
    """A callback's body, with fields that matter to somebody."""
    agents = draw(st.sampled_from([NAMES, MANY]))
    fields: dict[str, Any] = {
        "SessionId": draw(st.sampled_from(["s1"] * 6 + ["s2"])),
        "AgentId": draw(st.sampled_from(agents)),
        "ForwardFromAgentId": draw(st.sampled_from(agents)),
        "IsContactUser": draw(st.booleans()),
        "SatisfactionSelected": draw(st.sampled_from([0, 1, 5, "5", None])),
        "ClientUserId": draw(st.sampled_from(["", "user-1", "user-2"])),
        "ChannelType": draw(st.sampled_from(["", "SDK", "é" * 129])),
        "MsgKey": draw(st.sampled_from(KEYS)),
    }
    return json.dumps(json.loads(body(event, time)) | fields).encode()


@st.composite
def walks(draw: st.DrawFn, most: int) -> list[bytes]:
    """A life that mostly goes on as the table allows, sometimes with several steps at one time."""
    state, time, bodies = "NEW", NOON, []
    for _ in range(draw(st.integers(1, most))):
        possible = [event for event, source in TABLE if source == state]
        event = draw(st.sampled_from(possible) | st.sampled_from([*EVENTS, "SomethingNew"]))
        bodies.append(draw(callbacks(event, time)))
        time += draw(st.sampled_from([0, 0, 1, 1000, 5000]))
        state = TABLE.get((event, state), state)
    return bodies


@st.composite
def noise(draw: st.DrawFn) -> bytes:
    """Any callback at nearly any time, or none."""
    event = draw(st.sampled_from([*EVENTS, "SomethingNew", "Half\ud83d"]))
    times = [0, 1, 1000, 4999, 5000, 5001, 60_000]
    far = [YEAR_2015, YEAR_2015 - 1, NOON + DAY, NOON + DAY + 1, NOON // 1000]
    time = draw(st.sampled_from([NOON + each for each in times] * 3 + far))
    whole = draw(callbacks(event, time))
    return draw(st.sampled_from([whole] * 20 + [whole[:-1]]))


@st.composite
def journals(draw: st.DrawFn, most: int = 30) -> list[Entry]:
    """Entries of different ids, numbered with gaps, in no order of time in particular."""
    bodies = draw(walks(most)) + draw(st.lists(noise(), max_size=most // 3))
    late = draw(st.lists(st.tuples(index(bodies), index(bodies)), max_size=6))
    for source, target in late:
        bodies.insert(target, bodies.pop(source))
    received = st.sampled_from([NOON] * 9 + [NOON - DAY + 1000])
    arrived = [entry(1, each, received_at=draw(received)) for each in bodies]
    return renumbered(draw, list({each.id: each for each in arrived}.values()))


def index(items: list[bytes]) -> st.SearchStrategy[int]:
    return st.integers(0, len(items) - 1)


def renumbered(draw: st.DrawFn, entries: list[Entry]) -> list[Entry]:
    """Number entries in ascending order, mostly without gaps."""
    revision, numbered = 0, []
    for each in entries:
        revision += draw(st.sampled_from([1, 1, 1, 2, 40]))
        numbered.append(replace(each, revision=revision))
    return numbered


@st.composite
def repetitive(draw: st.DrawFn) -> list[Entry]:
    """A journal that holds some entries several times, the later copies not quite alike."""
    entries = draw(journals())
    for source, later in draw(st.lists(st.tuples(index(entries), st.integers(1, 30)), max_size=12)):
        entries.insert(source + later, again(entries[source]))
    return renumbered(draw, entries)


def again(entry: Entry) -> Entry:
    """Return another delivery of the same callback, two days later, with more white space."""
    spaced = b" " + entry.body
    same = identify(entry.sdk_app_id, spaced) == entry.id
    return replace(
        entry,
        received_at=entry.received_at + 2 * DAY,
        request_id="again",
        body=spaced if same else entry.body,
    )


def first_copies(entries: list[Entry]) -> list[Entry]:
    return list({each.id: each for each in reversed(entries)}.values())[::-1]


@st.composite
def batches(draw: st.DrawFn, entries: list[Entry]) -> list[list[Entry]]:
    """Cut a journal anywhere."""
    cut = []
    while entries:
        size = draw(st.integers(1, 9))
        cut.append(entries[:size])
        entries = entries[size:]
    return cut
