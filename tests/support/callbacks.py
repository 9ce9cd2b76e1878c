"""Callbacks for tests: bodies as Desk writes them, and journal entries made of them."""

import json
from typing import Any

from hypothesis import strategies as st

from callback.catalogue import EventType
from callback.decoder import Callback, Malformed, identify, read
from journal.entry import Entry

APP = 1600012345
SESSION = "2baf4d84-beb4-4607-a1ea-6ebcaef3e0e6"
NOON = 1_725_540_000_000

EVENTS = [event.value for event in EventType]


def body(event: str, event_time: int, *, session_id: str = SESSION, **fields: Any) -> bytes:
    """Make a callback's body, with the meaningless defaults that Desk fills in."""
    document: dict[str, Any] = {
        "CallbackCommand": "Desk.SessionEventNotify",
        "SessionId": session_id,
        "Event": event,
        "EventTime": event_time,
        "ChannelType": "SDK",
        "ClientUserId": "user-1",
        "CustomerServiceId": "@service",
        "AgentId": "default-agent",
        "MsgKey": "",
        "MsgBody": [],
        "CloudCustomData": "",
        "IsContactUser": False,
        "SatisfactionSelected": 5,
    }
    return json.dumps(document | fields, ensure_ascii=False).encode()


def decode(body: bytes, received_at: int) -> Callback:
    """Read a body as a callback; raise `Malformed` if it is none."""
    reading = read(APP, body, received_at)
    if reading.callback is None or reading.problem:
        raise Malformed(reading.problem)
    return reading.callback


def entry(revision: int, body: bytes, *, sdk_app_id: int = APP, received_at: int = 0) -> Entry:
    """Make a journal entry."""
    return Entry(
        revision=revision,
        id=identify(sdk_app_id, body),
        sdk_app_id=sdk_app_id,
        received_at=received_at or NOON + revision,
        request_id=f"request-{revision}",
        client_ip="127.0.0.1",
        platform="Web",
        body=body,
    )


def entries(bodies: list[bytes]) -> list[Entry]:
    """Make a journal of these bodies in this order, each once."""
    return [entry(revision, each) for revision, each in enumerate(dict.fromkeys(bodies), 1)]


def life(*events: str, session_id: str = SESSION, start: int = NOON, **fields: Any) -> list[bytes]:
    """Make a session's callbacks, ten seconds apart."""
    return [
        body(event, start + 10_000 * place, session_id=session_id, **fields)
        for place, event in enumerate(events)
    ]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Draw any callback: mostly of known types, with few sessions, agents and times."""
    event = draw(st.sampled_from([*EVENTS, "SomethingNew"]) | st.sampled_from(EVENTS[:8]))
    fields: dict[str, Any] = {
        "AgentId": draw(st.sampled_from(["", "agent-a", "agent-b"])),
        "ForwardFromAgentId": draw(st.sampled_from(["", "agent-c"])),
        "IsContactUser": draw(st.booleans()),
        "SatisfactionSelected": draw(st.sampled_from([0, 1, 5, "5", None])),
        "ClientUserId": draw(st.sampled_from(["", "user-1", "user-2"])),
        "MsgKey": draw(st.sampled_from(["", "k1", "k2"])),
    }
    time = NOON + draw(st.sampled_from([0, 1, 2, 3, 1_000, 4_999, 5_000, 5_001, 60_000]))
    session_id = draw(st.sampled_from(["s1", "s1", "s1", "s2"]))
    whole = body(event, time, session_id=session_id, **fields)
    return draw(st.sampled_from([whole] * 20 + [whole[:-1]]))
