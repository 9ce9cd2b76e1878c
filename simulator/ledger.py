"""Remembers what was sent, what became of it, and what the service must make of it."""

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b

import msgspec

from simulator.callbacks import Made
from simulator.expectation import Expectation
from simulator.lives import Life
from simulator.sender import Fate
from simulator.traffic import Delivery

_STRENGTH = {Fate.REFUSED: 0, Fate.UNKNOWN: 1, Fate.KEPT: 2}


class Planned(msgspec.Struct, gc=False):
    """A callback and what became of all its deliveries.

    Attributes:
        callback: without its body.
        fate: None = never sent. One delivery that was kept is enough, whatever became of the
            others.
        revisions: which ones the answers named, each once; 0 = an answer named none.
    """

    callback: Made
    fate: Fate | None = None
    revisions: tuple[int, ...] = ()


class Ledger:
    """What a run sends.

    Attributes:
        sdk_app_id: the app that it is sent for.
        callbacks: by identity, 32 hexadecimal digits; their bodies are not kept.
        sessions: by id; None where there must be no session.
    """

    def __init__(self, sdk_app_id: int) -> None:
        self.sdk_app_id = sdk_app_id
        self.callbacks: dict[str, Planned] = {}
        self.sessions: dict[str, Expectation | None] = {}

    def record(self, lives: Iterable[Life]) -> Iterator[Life]:
        """Pass lives through, and remember them."""
        for life in lives:
            self.sessions[life.session_id] = life.expectation
            for callback in life.callbacks:
                self.callbacks[self.identify(callback.body)] = Planned(_without_body(callback))
            yield life

    def note(self, delivery: Delivery, fate: Fate, revision: int | None = None) -> None:
        """Remember what became of a delivery, and the revision that a 200 named (0 = none)."""
        planned = self.callbacks[self.identify(delivery.callback.body)]
        if planned.fate is None or _STRENGTH[fate] > _STRENGTH[planned.fate]:
            planned.fate = fate
        if revision is not None and revision not in planned.revisions:
            planned.revisions = (*planned.revisions, revision)

    def identify(self, body: bytes) -> str:
        """Return a callback's identity, by docs/callbacks.md and not by the service's own code."""
        try:
            content = json.dumps(
                json.loads(body), ensure_ascii=False, separators=(",", ":"), sort_keys=True
            ).encode()
        except ValueError:
            content = body
        return blake2b(b"%d\n%b" % (self.sdk_app_id, content), digest_size=16).hexdigest()


def _without_body(callback: Made) -> Made:
    """A run may be long, and its bodies have served their purpose."""
    return msgspec.structs.replace(callback, body=b"", client_ip="", platform="")
