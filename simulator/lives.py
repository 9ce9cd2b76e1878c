"""Makes lives: the callbacks of a session, the verdict expected on each, the session expected.

The same seed, run and start give the same bytes.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import pairwise
from random import Random

import msgspec

from callback.catalogue import EventType
from simulator import texts
from simulator.callbacks import BEGIN_AHEAD, CallbackWriter, Happening, Made
from simulator.expectation import Expectation, Stayed, expect, stays_of
from simulator.scripts import (
    AFTER_END,
    ALREADY_BEGUN,
    CHATBOT,
    ENDED,
    IMPOSSIBLE,
    IMPOSSIBLE_IN_STATE,
    NEW,
    NOT_BEGUN,
    SCRIPTS,
    Step,
)

SPAN = 1_200_000
"""Milliseconds over which the lives of one run begin."""

BEFORE_NOW = 1_800_000
"""Milliseconds before now at which the first life begins."""

_STRAY = ("ChatBot.UserSendMsg", "Human.AgentSendMsg", "SessionEnd")

_UNFINISHED = 0.1  # share of lives that are cut off before their end


class Life(msgspec.Struct, frozen=True):
    """A session's callbacks in time order, and the session expected in the end, or None."""

    session_id: str
    callbacks: tuple[Made, ...]
    expectation: Expectation | None
    stays: tuple[Stayed, ...] = ()


def make_lives(
    count: int, *, seed: int, run: str, now: int, impossible: float = 0, malformed: float = 0
) -> Iterator[Life]:
    """Yield `count` lives, roughly ascending by the time at which they begin.

    Some strays are added: sessions that never begin.

    Args:
        count: number of lives.
        seed: of all that is random.
        run: makes session ids unique; they are derived from seed, run and number.
        now: Unix time in milliseconds.
        impossible: share of callbacks that are impossible at their place, 0 to below 1.
        malformed: share of callbacks beside which a broken copy is sent, 0 to 1.
    """
    for number in range(count):
        random = Random(f"{seed}/{number}")  # noqa: S311 (repeatable, not secret)
        start = now - BEFORE_NOW + number * SPAN // count
        yield _life(random, session_id_of(seed, run, number), start, impossible, malformed)
        if random.random() < impossible / len(_STRAY):
            yield _stray(random, session_id_of(seed, run, number, "stray"), start)


def session_id_of(*parts: object) -> str:
    """Return the session id that belongs to seed, run and number."""
    name = "/".join(map(str, parts)).encode()
    return str(uuid.UUID(bytes=blake2b(name, digest_size=16).digest(), version=4))


def _life(random: Random, session_id: str, start: int, impossible: float, malformed: float) -> Life:
    script = [step for step in random.choice(list(SCRIPTS.values())) if _takes_place(random, step)]
    if random.random() < _UNFINISHED:
        del script[random.randint(1, len(script)) :]
    legal = _happen(random, list(_with_unscripted(random, script)), start)
    return life_of(random, CallbackWriter(random, session_id), legal, impossible, malformed)


def life_of(
    random: Random,
    writer: CallbackWriter,
    legal: list[Happening],
    impossible: float,
    malformed: float,
) -> Life:
    """Return the life of legal happenings, with impossible and malformed ones added."""
    happenings = [*legal, *_intruders(random, legal, impossible)]
    happenings.sort(key=lambda happening: happening.place)
    callbacks = [writer.write(happening) for happening in happenings]
    callbacks += [writer.spoil(callback) for callback in callbacks if random.random() < malformed]
    expectation = expect(happenings, customer=writer.customer)
    return Life(writer.session_id, tuple(callbacks), expectation, stays_of(happenings))


def _stray(random: Random, session_id: str, start: int) -> Life:
    """Make a session whose `SessionBegin` never comes."""
    writer = CallbackWriter(random, session_id)
    happenings = [
        Happening(event, start + place * 4_000, NEW, NEW, NOT_BEGUN, texts.STRANGER)
        for place, event in enumerate(_STRAY)
    ]
    return Life(session_id, tuple(map(writer.write, happenings)), None)


def _takes_place(random: Random, step: Step) -> bool:
    return not step.optional or random.random() < 0.5


def _unscripted() -> Mapping[str, list[str]]:
    """List, by state, the event types that no script names and that change nothing there."""
    scripted = {step.event for script in SCRIPTS.values() for step in script}
    found = defaultdict(list)
    for event in EventType:
        if event in scripted or event.row.effect is not None:
            continue
        for sources, to, guard in event.row.transitions:
            if to is None and guard is None:
                for state in sources:
                    found[state.value].append(event.value)
    return found


_UNSCRIPTED = _unscripted()


def _with_unscripted(random: Random, script: Iterable[Step]) -> Iterator[Step]:
    """Add events that no script names, so that a new event type is sent without a script."""
    state = NEW
    for step in script:
        yield step
        state = step.to or state
        for event in _UNSCRIPTED.get(state, ()):
            if random.random() < 0.5:
                yield Step(event)


def _happen(random: Random, script: list[Step], start: int) -> list[Happening]:
    """Give each step its time, its states and its agent."""
    agents = random.sample(texts.AGENTS, 4)
    at, state, agent = start, NEW, 0
    happenings = []
    for step in script:
        at += round(random.uniform(*step.gap) * 1000)
        agent += step.event == "AgentForward"
        after = step.to or state
        happenings.append(
            Happening(
                step.event,
                at,
                before=state,
                after=after,
                agent=agents[agent],
                previous_agent=agents[agent - 1] if step.event == "AgentForward" else "",
                stars=random.randint(1, 5),
                contact=step.contact,
                again=step.again,
            )
        )
        state = after
    return happenings


def _intruders(random: Random, legal: list[Happening], share: float) -> Iterator[Happening]:
    """Yield impossible events that make up about `share` of all."""
    # There is a slot more than there are events, and the strays come on top of all.
    odds = share / (1 - share) * (len(legal) - 1) / (len(legal) + 1)
    edges = [legal[0].place - 60_000, *(happening.place for happening in legal)]
    edges.append(edges[-1] + 30_000)
    states = [NEW, *(happening.after for happening in legal)]
    for state, (start, end) in zip(states, pairwise(edges), strict=True):
        if end - start > 2 and random.random() < odds:
            yield _intruder(random, state, random.randrange(start + 1, end))


def _intruder(random: Random, state: str, place: int) -> Happening:
    if state == NEW:
        event, reason = random.choice(IMPOSSIBLE[CHATBOT]), NOT_BEGUN
    elif random.random() < 0.15:
        event, reason = "SessionBegin", ALREADY_BEGUN
    else:
        event = random.choice(IMPOSSIBLE[state])
        reason = AFTER_END if state == ENDED else IMPOSSIBLE_IN_STATE
    at = place + BEGIN_AHEAD if event == "SessionBegin" else place
    return Happening(event, at, state, state, reason, texts.STRANGER, stars=1)
