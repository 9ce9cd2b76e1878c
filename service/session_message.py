"""Builds a desk.v1.Session, serialised, and keeps it up to date: most callbacks change few fields.

Deterministic, as `service.records` is.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from callback.catalogue import EndReason, State
from desk.v1 import session_pb2
from service.records import END_REASONS, STATES, set_time
from service.session import MAX_STAYS, Session, Stay

_FIELDS = session_pb2.Session.DESCRIPTOR.fields_by_name
_NUMBERS: dict[str, dict[Any, Any]] = {"state": STATES, "end_reason": END_REASONS}

Show = Callable[[session_pb2.Session, str, Any], None]
"""Copies one field of the fold's session into the message."""


def _show(name: str) -> Show:
    """Return the function for the field with this name."""
    field = _FIELDS[name]
    if field.message_type is not None:
        return _show_time
    if field.is_repeated:
        return _show_list
    return _show_number if name in _NUMBERS else setattr


def _show_time(shown: session_pb2.Session, name: str, value: int | None) -> None:
    if value is None:
        shown.ClearField(name)  # type: ignore[arg-type]
    else:  # not by `set_time`: most callbacks come here
        time = getattr(shown, name)
        time.seconds = value // 1000
        time.nanos = value % 1000 * 1_000_000


def _show_list(shown: session_pb2.Session, name: str, value: Sequence[str]) -> None:
    getattr(shown, name)[:] = value


def _show_number(shown: session_pb2.Session, name: str, value: State | EndReason) -> None:
    setattr(shown, name, _NUMBERS[name][value])


DERIVED = {
    "queue_wait": ("queue_time", "queue_stays"),
    "handle_time": ("handled_time", "handled_stays"),
    "state_since": ("live_since", "closing_at", "ended_at"),
    "first_response": ("first_agent_reply_at", "transfer_requested_at", "agent_joined_at"),
}
"""Fields of a session as it is shown, by the fields of the fold that they are computed from."""

_SHOWN_BY = {
    name: (
        type(getattr(Session(), name)) in (str, tuple),
        [
            (each, _show(each))
            for each in _FIELDS
            if (each == name or name in DERIVED.get(each, ())) and each != "stays"
        ],
    )
    for name in Session.__struct_fields__
}
"""By field of the fold's session: True if it has texts; the fields that show it, and functions."""

REPLACED = 8
"""Texts that are replaced in a message before it is made anew: protobuf frees a replaced text only
together with the message."""


class SessionMessage:
    """A desk.v1.Session that is kept up to date.

    Attributes:
        bytes: the desk.v1.Session, serialised.
    """

    def __init__(self, sdk_app_id: int, session_id: str) -> None:
        self.bytes = b""
        self._message = session_pb2.Session(sdk_app_id=sdk_app_id, session_id=session_id)
        self._replaced = 0  # texts
        self._stays: Sequence[Stay] = ()  # as shown

    def update(
        self, session: Session, revision: int, changed: Iterable[str] = Session.__struct_fields__
    ) -> bytes:
        """Show `session` as it is after `revision`, the last one that belongs to it.

        Args:
            session: to be shown.
            revision: of its last callback.
            changed: the fields that may have changed since the last update.
        """
        shown = self._message
        for field in changed:
            has_texts, shown_by = _SHOWN_BY[field]
            self._replaced += has_texts
            for name, show in shown_by:
                show(shown, name, getattr(session, name))
        if session.stays is not self._stays:
            self._show_stays(session.stays)
        shown.revision = revision
        self.bytes = shown.SerializeToString()
        if self._replaced > REPLACED:
            self._message = session_pb2.Session.FromString(self.bytes)
            self._replaced = 0
        return self.bytes

    def _show_stays(self, stays: Sequence[Stay]) -> None:
        """Show the new stays; all of them if a late callback has changed one."""
        shown, known = self._message.stays, len(self._stays)
        if stays[:known] != self._stays:
            del shown[:]
            self._replaced += known
            known = 0
        for place, stay in enumerate(stays[known:], known):
            if place:
                set_time(shown[place - 1].end_time, stay.start)
            if place == 1 and stay.start < stays[0].start:
                # A SessionBegin stands in the order before its own time.
                set_time(shown[0].start_time, stay.start)
            if place < MAX_STAYS:
                added = shown.add()
                added.state = STATES[stay.state]
                added.agent_id = stay.agent_id
                set_time(added.start_time, stay.start)
        self._stays = stays
