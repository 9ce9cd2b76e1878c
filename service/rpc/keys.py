"""Keys of sessions in a request, and the app that is meant if none is named."""

from collections.abc import Sequence

from desk.v1 import session_pb2 as pb
from service.rpc.checks import MAX_ID_BYTES, MAX_VALUES, checking
from service.rpc.errors import CallRefused, ErrorReason
from service.session import SessionKey

MAX_KEYS = 1_000
"""Keys in one BatchGetSessions."""


class Apps:
    """The configured SDKAppIDs; 0 in a request stands for the only one."""

    def __init__(self, sdk_app_ids: Sequence[int]) -> None:
        self.ids = tuple(sorted(sdk_app_ids))

    def key(self, sdk_app_id: int, session_id: str, prefix: str = "") -> SessionKey:
        """Check the key of a session, and replace 0.

        Raises:
            CallRefused: INVALID_REQUEST, SDK_APP_ID_REQUIRED.
        """
        with checking() as check:
            check.not_negative(f"{prefix}sdk_app_id", sdk_app_id)
            check.required(f"{prefix}session_id", session_id, MAX_ID_BYTES)
        return sdk_app_id or self.only(), session_id

    def keys(self, keys: Sequence[pb.SessionKey]) -> list[SessionKey]:
        """Check the keys of many sessions; returns each once, in the order given."""
        with checking() as check:
            if not 1 <= len(keys) <= MAX_KEYS:
                check.wrong("keys", f"must have 1 to {MAX_KEYS} elements")
        named = (
            self.key(key.sdk_app_id, key.session_id, f"keys[{i}].") for i, key in enumerate(keys)
        )
        return list(dict.fromkeys(named))

    def only(self) -> int:
        """Return the app that 0 stands for; raises SDK_APP_ID_REQUIRED."""
        if len(self.ids) != 1:
            raise CallRefused(
                ErrorReason.SDK_APP_ID_REQUIRED,
                "sdk_app_id may be left out only where one app is configured; here: "
                f"{', '.join(map(str, self.ids[:MAX_VALUES]))}",
            )
        return self.ids[0]
