"""Makes journal entries: ordinary traffic, and many short sessions for a large view.

The same arguments give the same bytes.
"""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import count as numbers
from itertools import islice
from random import Random
from uuid import UUID

import msgspec

from benchmarks.work import SDK_APP_ID
from callback.decoder import identify
from journal.entry import NewEntry
from simulator.lives import SPAN, make_lives
from simulator.traffic import deliveries

START = 1_760_000_000_000
"""Unix time in milliseconds of the first event."""

LIVES_PER_SPAN = 8_000
"""Sessions that begin in 20 minutes: some 75 callbacks per second, 800 sessions open at once."""

AGENTS = 50
USERS = 500

WHALE = "user_whale"
"""The user of one session in a hundred."""

_SHAPES = {  # events after SessionBegin, and the number of sessions in a hundred with them
    (): 92,
    ("SessionUserEnd", "SessionEnd"): 2,
    ("SessionEnd",): 2,
    ("TransferringToHuman", "TransferToHumanSuccess"): 2,
    ("TransferringToHuman", "TransferringToHumanWait"): 2,
}


def traffic(count: int, *, late: float = 0) -> Iterator[NewEntry]:
    """Yield `count` callbacks of the simulator's lives in the order of arrival.

    Args:
        count: number of callbacks.
        late: share that arrives late, by up to a minute.
    """
    return islice(_endless(late), count)


def _endless(late: float) -> Iterator[NewEntry]:
    for span in numbers():
        now = START + span * SPAN
        lives = make_lives(LIVES_PER_SPAN, seed=span, run="benchmark", now=now)
        for each in deliveries(lives, seed=span, shuffle=late):
            callback = each.callback
            yield entry(callback.body, callback.at, request_id=each.request_id)


def begins(count: int, *, start: int = START) -> Iterator[NewEntry]:
    """Yield `count` callbacks, each of which begins a session."""
    for number in range(count):
        at = start + number
        yield entry(_body(Random(at), session_id(at), "SessionBegin", at), at)


def short_sessions(count: int) -> Iterator[NewEntry]:
    """Yield the callbacks of `count` sessions, a second apart; most have only begun."""
    for number in range(count):
        random, name = Random(number), session_id(number)
        (shape,) = random.choices(list(_SHAPES), weights=list(_SHAPES.values()))
        user = WHALE if number % 100 == 0 else f"user_{random.randrange(USERS)}_{number % 100}"
        agent = f"agent{random.randrange(AGENTS)}@desk.example"
        channel = random.choices(("SDK", "Web (H5)", "WhatsApp"), weights=(70, 29, 1))[0]
        for place, event in enumerate(("SessionBegin", *shape)):
            at = START + number * 1000 + place * 300
            body = _body(random, name, event, at, user, agent, channel)
            yield entry(body, at)


def entry(body: bytes, at: int, *, request_id: str = "") -> NewEntry:
    """Return the gateway's journal entry for a body that arrives at a time in ms."""
    return NewEntry(
        id=identify(SDK_APP_ID, body),
        sdk_app_id=SDK_APP_ID,
        received_at=at,
        request_id=request_id or f"{at:016x}",
        client_ip="203.0.113.7",
        platform="Web",
        body=body,
    )


def one(name: str, event: str, at: int) -> NewEntry:
    """Return the entry of an event, received at the time of the event."""
    return entry(_body(Random(at), name, event, at), at)


def session_id(number: int) -> str:
    """Return the id of a short session. Numbers start at 0."""
    return str(UUID(bytes=blake2b(b"%d" % number, digest_size=16).digest(), version=4))


def _body(
    random: Random,
    name: str,
    event: str,
    at: int,
    user: str = "user_1",
    agent: str = "",
    channel: str = "SDK",
) -> bytes:
    return msgspec.json.encode(
        {
            "CallbackCommand": "Desk.SessionEventNotify",
            "SessionId": name,
            "Event": event,
            "EventTime": at,
            "ChannelType": channel,
            "ClientUserId": user,
            "CustomerServiceId": "@customer_service_1",
            "AgentId": agent if event == "TransferToHumanSuccess" else "",
            "IsContactUser": False,
            "SatisfactionSelected": 0,
            "MsgKey": f"1_{at // 1000}_{random.getrandbits(32):x}",
            "MsgBody": [],
            "CloudCustomData": "",
        }
    )
