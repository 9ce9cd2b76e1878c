"""Journals for properties: possible and impossible lives, late, long and malformed callbacks."""

import json
from random import Random
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from callback.decoder import identify
from journal.entry import Entry
from tests.support.callbacks import EVENTS, NOON, body, entry
from tests.support.model import DAY, TABLE, YEAR_2015

ANY = [*EVENTS, "SomethingNew"]
MANY = [f"agent-{number}" for number in range(25)]
NAMES = ["", "agent-a", "agent-b", "half \ud83d", "é" * 128, "é" * 129]
KEYS = ["", "k1", "k2", "k" * 257]


def callback(random: Random, event: str, time: int) -> bytes:
    """Return a callback's body with random values in the fields that the fold reads."""
    agents = random.choice([NAMES, MANY])
    fields: dict[str, Any] = {
        "Event": event,
        "SessionId": "s1" if random.random() < 0.96 else "s2",
        "AgentId": random.choice(agents),
        "ForwardFromAgentId": random.choice(agents),
        "IsContactUser": random.random() < 0.2,
        "SatisfactionSelected": random.choice([0, 1, 5, "5", None]),
        "ClientUserId": random.choice(["", "user-1", "user-2"]),
        "ChannelType": random.choice(["", "SDK", "é" * 129]),
        "MsgKey": random.choice(KEYS),
    }
    return json.dumps(json.loads(body("", time)) | fields).encode()


def walk(random: Random, steps: int) -> list[bytes]:
    """Return a life of mostly possible steps, some of them at the same time."""
    state, time, bodies = "NEW", NOON, []
    for _ in range(steps):
        event = likely(random, state) if random.random() < 0.9 else random.choice(ANY)
        bodies.append(callback(random, event, time))
        time += random.choice([0, 0, 1, 1000, 5000])
        state = TABLE.get((event, state), state)
    return bodies


def likely(random: Random, state: str) -> str:
    """Return an event that may come next, rarely one that ends the session."""
    possible = [event for event, source in TABLE if source == state]
    lively = [event for event in possible if TABLE[event, state] not in ("CLOSING", "ENDED")]
    return random.choice(lively if lively and random.random() < 0.9 else possible)


def handovers(random: Random, steps: int) -> list[bytes]:
    """Return a life with many agents."""
    events = ["SessionBegin", "TransferringToHuman", "TransferToHumanSuccess"]
    events += random.choices(["AgentForward", "AgentForward", "Human.AgentSendMsg"], k=25 + steps)
    return [
        body(event, NOON + 1000 * place, session_id="s1", AgentId=random.choice(MANY))
        for place, event in enumerate(events)
    ]


def noise(random: Random) -> bytes:
    """Return any callback at nearly any time, or none."""
    event = random.choice([*ANY, "Half\ud83d"])
    far = [YEAR_2015, YEAR_2015 - 1, NOON + DAY, NOON + DAY + 1, NOON // 1000]
    near = [NOON + each for each in (0, 1, 1000, 4999, 5000, 5001, 60_000)]
    whole = callback(random, event, random.choice(near * 3 + far))
    return whole if random.random() < 0.95 else whole[:-1]


@st.composite
def journals(draw: st.DrawFn, most: int = 30) -> list[Entry]:
    """Draw entries of different ids, numbered with gaps, in any order of time.

    Drawn from a seed: drawn one by one, the choices would rarely lead deep into the table.
    """
    random = Random(draw(st.integers(0, 2**64 - 1)))
    life = draw(st.sampled_from([walk, walk, walk, handovers]))
    bodies = life(random, draw(st.sampled_from([1, 3, most // 4, most // 2, *[most] * 4])))
    bodies += [noise(random) for _ in range(draw(st.sampled_from([0, 0, 2, most // 4])))]
    for _ in range(draw(st.integers(0, 8))):
        late = bodies.pop(random.randrange(len(bodies)))
        bodies.insert(random.randrange(len(bodies) + 1), late)
    received = [NOON] * 9 + [NOON - DAY + 1000]
    arrived = [entry(1, each, received_at=random.choice(received)) for each in bodies]
    return renumbered(random, list({each.id: each for each in arrived}.values()))


def renumbered(random: Random, entries: list[Entry]) -> list[Entry]:
    """Number entries in ascending order, mostly without gaps."""
    revision, numbered = 0, []
    for each in entries:
        revision += random.choice([1, 1, 1, 2, 40])
        numbered.append(replace(each, revision=revision))
    return numbered


@st.composite
def repetitive(draw: st.DrawFn) -> list[Entry]:
    """Draw a journal with repeated entries whose later copies differ a little."""
    entries = draw(journals())
    random = Random(draw(st.integers(0, 2**64 - 1)))
    for _ in range(draw(st.integers(1, 12))):
        source = random.randrange(len(entries))
        entries.insert(source + random.randint(1, 30), again(random, entries[source]))
    return renumbered(random, entries)


def again(random: Random, entry: Entry) -> Entry:
    """Return another delivery of the same callback, with another clock and more white space."""
    spaced = b" " + entry.body
    same = identify(entry.sdk_app_id, spaced) == entry.id
    return replace(
        entry,
        received_at=entry.received_at + random.choice([-2, 2]) * DAY,
        request_id="again",
        body=spaced if same else entry.body,
    )


def first_copies(entries: list[Entry]) -> list[Entry]:
    first: dict[bytes, Entry] = {}
    for each in entries:
        first.setdefault(each.id, each)
    return list(first.values())


@st.composite
def batches(draw: st.DrawFn, entries: list[Entry]) -> list[list[Entry]]:
    """Cut a journal into batches."""
    cut = []
    while entries:
        size = draw(st.integers(1, 9))
        cut.append(entries[:size])
        entries = entries[size:]
    return cut
