"""The record of a run: callbacks sent, their answers, and the expected sessions."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import msgspec

from simulator.callbacks import Made
from simulator.expectation import Expectation, Stayed
from simulator.figures import Visit
from simulator.lives import Life
from simulator.sender import Fate
from simulator.traffic import Delivery

_STRENGTH = {Fate.REFUSED: 0, Fate.UNKNOWN: 1, Fate.KEPT: 2}


class SentCallback(msgspec.Struct, gc=False):
    """A callback and the result of all its deliveries.

    Attributes:
        callback: without its body.
        fate: None if it was never sent. KEPT if one of several deliveries was kept.
        revisions: the revisions in the answers, each once; 0 for an answer without one.
    """

    callback: Made
    fate: Fate | None = None
    revisions: tuple[int, ...] = ()


class Ledger:
    """The callbacks of a run, and the sessions that are expected of them.

    Attributes:
        sdk_app_id: the app of all callbacks.
        callbacks: by identity, 32 hexadecimal digits; without their bodies.
        sessions: by id; None where there must be no session.
        stays: of the sessions, likewise.
    """

    def __init__(self, sdk_app_id: int) -> None:
        self.sdk_app_id = sdk_app_id
        self.callbacks: dict[str, SentCallback] = {}
        self.sessions: dict[str, Expectation | None] = {}
        self.stays: dict[str, tuple[Stayed, ...]] = {}

    def record(self, lives: Iterable[Life]) -> Iterator[Life]:
        """Yield the lives, and add each to the ledger."""
        for life in lives:
            self.sessions[life.session_id] = life.expectation
            self.stays[life.session_id] = life.stays
            for callback in life.callbacks:
                self.callbacks[self.identify(callback.body)] = SentCallback(_without_body(callback))
            yield life

    def note(self, delivery: Delivery, fate: Fate, revision: int | None = None) -> None:
        """Note the fate of a delivery and, after a 200, the revision in the answer (0: none)."""
        sent = self.callbacks[self.identify(delivery.callback.body)]
        if sent.fate is None or _STRENGTH[fate] > _STRENGTH[sent.fate]:
            sent.fate = fate
        if revision is not None and revision not in sent.revisions:
            sent.revisions = (*sent.revisions, revision)

    def leave_out(self, session_ids: Iterable[str]) -> int:
        """Drop all that is known of some sessions; return the number of those that were there."""
        gone = self.sessions.keys() & set(session_ids)
        for session_id in gone:
            del self.sessions[session_id], self.stays[session_id]
        self.callbacks = {
            identity: sent
            for identity, sent in self.callbacks.items()
            if sent.callback.session_id not in gone
        }
        return len(gone)

    def spooled(self) -> set[str]:
        """Return the identities of what was acknowledged before it had a revision."""
        return {
            identity
            for identity, sent in self.callbacks.items()
            if sent.fate is Fate.KEPT and not sent.revisions
        }

    def visits(self) -> list[Visit]:
        """Return the sessions that are expected, with their stays."""
        return [
            Visit(session_id, session, self.stays[session_id])
            for session_id, session in self.sessions.items()
            if session
        ]

    def identify(self, body: bytes) -> str:
        """Return a callback's identity as in docs/callbacks.md, without the service's own code."""
        try:
            content = msgspec.json.encode(msgspec.json.decode(body), order="sorted")
        except ValueError:
            content = body
        return blake2b(b"%d\n%b" % (self.sdk_app_id, content), digest_size=16).hexdigest()


def _without_body(callback: Made) -> Made:
    """Drop the fields that only sending needs: a run may be long."""
    return msgspec.structs.replace(callback, body=b"", client_ip="", platform="")
