"""Writes callbacks as Desk writes them, meaningless defaults included."""

from random import Random
from typing import Any

import msgspec

from callback.catalogue import Field, carriers
from simulator import texts
from simulator.scripts import MALFORMED

BEGIN_AHEAD = 5_000
"""Milliseconds by which `SessionBegin` counts as older than it says (docs/callbacks.md)."""

PLATFORMS = ("RESTAPI", "Web", "Android", "iOS", "Windows", "Mac", "iPad", "Unknown")


class Happening(msgspec.Struct, frozen=True):
    """An event of a life.

    Attributes:
        at: its `EventTime`, ms.
        before, after: the states around it in time order.
        reason: the reason of its rejection; "" if it must be accepted.
        contact: the agent contacted the user.
        again: it replaces the last message of the same side, and has its `MsgKey`.
    """

    event: str
    at: int
    before: str
    after: str
    reason: str = ""
    agent: str = ""
    previous_agent: str = ""
    stars: int = 0
    contact: bool = False
    again: bool = False

    @property
    def place(self) -> int:
        """The event's position in the session's time order, ms."""
        return self.at - BEGIN_AHEAD if self.event == "SessionBegin" else self.at


class Made(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A callback, ready to be sent.

    Attributes:
        session_id: "" if malformed.
        at: its EventTime, ms.
        body: the HTTP body.
        reason: the reason of its rejection; "" if it must be accepted.
        before, after: the states around it in time order.
    """

    session_id: str
    at: int
    body: bytes
    client_ip: str
    platform: str
    reason: str = ""
    before: str = ""
    after: str = ""


class CallbackWriter:
    """Writes one session's callbacks as Desk writes them, meaningless defaults included."""

    def __init__(self, random: Random, session_id: str, user: str = "") -> None:
        self._random = random
        self.session_id = session_id
        self._channel = random.choice(("SDK", "Web (H5)"))
        self._user = user or f"user_{random.getrandbits(40):x}"
        self._service = f"@customer_service_{random.randint(1, 3)}"
        self._platform = random.choice(PLATFORMS)
        self._client_ip = f"203.0.113.{random.randint(1, 254)}"
        self._messages = 0
        self._keys: dict[str, str] = {}

    @property
    def customer(self) -> tuple[str, str, str]:
        """`client_user_id`, `customer_service_id`, `channel_type`."""
        return self._user, self._service, self._channel

    def write(self, happening: Happening) -> Made:
        """Make the callback of an event."""
        return Made(
            session_id=self.session_id,
            at=happening.at,
            body=msgspec.json.encode(self._document(happening)),
            client_ip=self._client_ip,
            platform=self._platform,
            reason=happening.reason,
            before=happening.before,
            after=happening.after,
        )

    def spoil(self, callback: Made) -> Made:
        """Make a body that is no callback: cut off, without a time, or not an object.

        The cut is behind the session id: a body that is the same in every run is a duplicate.
        """
        body, name = callback.body, self.session_id.encode()
        broken = self._random.choice(
            (
                body[: self._random.randrange(body.index(name) + len(name), len(body))],
                body.replace(b'"EventTime":', b'"EventTimed":'),
                b"[" + body + b"]",
            )
        )
        return Made(
            session_id="",
            at=callback.at,
            body=broken,
            client_ip=callback.client_ip,
            platform=callback.platform,
            reason=MALFORMED,
        )

    def _document(self, happening: Happening) -> dict[str, Any]:
        document = {
            "CallbackCommand": "Desk.SessionEventNotify",
            "SessionId": self.session_id,
            "Event": happening.event,
            "EventTime": happening.at,
            "ChannelType": self._channel,
            "ClientUserId": self._user,
            "CustomerServiceId": self._service,
            "AgentId": self._agent(happening),
            "IsContactUser": happening.contact,
            "SatisfactionSelected": happening.stars,
        }
        return document | self._message(happening) | self._forward(happening)

    def _agent(self, happening: Happening) -> str:
        if happening.event in _WITH_AGENT:
            return happening.agent
        return self._random.choice(("", texts.STRANGER))

    def _message(self, happening: Happening) -> dict[str, Any]:
        if happening.event not in _WITH_MESSAGE:
            return self._random.choice(({}, {"MsgKey": "", "MsgBody": [], "CloudCustomData": ""}))
        return {
            "MsgKey": self._key(happening),
            "MsgBody": texts.message(self._random, _LINES.get(happening.event, texts.USER)),
            "CloudCustomData": self._random.choice(("", '{"order":4417,"vip":true}')),
        }

    def _key(self, happening: Happening) -> str:
        if happening.again:
            return self._keys[happening.event]
        self._messages += 1
        key = f"{self._messages}_{happening.at // 1000}_{self._random.getrandbits(32):x}"
        if not happening.reason:  # a rejected message is never changed
            self._keys[happening.event] = key
        return key

    def _forward(self, happening: Happening) -> dict[str, Any]:
        if happening.event not in _WITH_PREVIOUS_AGENT:
            return {}
        return {"ForwardFromAgentId": happening.previous_agent}


_WITH_AGENT = carriers(Field.AGENT)
_WITH_PREVIOUS_AGENT = carriers(Field.PREVIOUS_AGENT)
_WITH_MESSAGE = carriers(Field.MESSAGE)
_LINES = {"ChatBot.RobotSendMsg": texts.ROBOT, "Human.AgentSendMsg": texts.AGENT}
"""The texts of events that carry a message, where it is not a user's."""
