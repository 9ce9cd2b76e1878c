"""Authenticates requests by `SdkAppid`, `Sign` and `RequestTime`.

Sources: the vendor's page (verify that the SDKAppID is yours) and its callback authentication,
`Sign = hex(sha256(Token + RequestTime))`. Pure: the time is an argument. `Sign` covers neither body
nor URL; only TLS in front of the gateway protects those.
"""

import hmac
import re
from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256

from gateway.answers import Answer, RequestRejected

MAX_SKEW = 60
"""Seconds that `RequestTime` may be away from now, either way (the vendor's rule)."""

Parameters = Mapping[str, str | list[str]]
"""A query as Falcon parses it: a parameter that is repeated is a list."""

_APP_ID = re.compile(r"[1-9][0-9]{0,18}")

# The whole value must match before anything is hashed: the signature is open to length extension,
# and this pattern refuses `RequestTime + padding + more digits`.
_REQUEST_TIME = re.compile(r"[0-9]{10}")

# The vendor writes lower case. Upper case is the same number: refusing it would lose callbacks.
_SIGN = re.compile(r"[0-9a-fA-F]{64}")


class AuthenticationFault(StrEnum):
    """Reasons of `NotAuthenticated`. `BAD_…`: missing, repeated, or not in the vendor's form."""

    BAD_APP = "bad_app"
    NOT_OUR_APP = "not_our_app"
    BAD_REQUEST_TIME = "bad_request_time"
    STALE = "stale"
    BAD_SIGN = "bad_sign"
    WRONG_SIGN = "wrong_sign"


_OUTCOMES = {
    AuthenticationFault.BAD_APP: "refused_app",
    AuthenticationFault.NOT_OUR_APP: "refused_app",
    AuthenticationFault.STALE: "stale",
}


class NotAuthenticated(RequestRejected):
    """A request that is not from Desk, or not for one of the operator's apps."""

    def __init__(self, fault: AuthenticationFault, **facts: object) -> None:
        super().__init__(
            Answer.FORBIDDEN,
            "callback_refused",
            reason=fault.value,
            outcome=_OUTCOMES.get(fault, ""),
            **facts,
        )


class Authenticator:
    """The operator's apps and their tokens.

    Attributes:
        sdk_app_ids: the operator's apps.

    Args:
        tokens: see `replace`.
    """

    def __init__(self, sdk_app_ids: frozenset[int], tokens: Mapping[int, tuple[str, ...]]) -> None:
        self.sdk_app_ids = sdk_app_ids
        self._last_used: dict[tuple[int, bytes], float] = {}
        self.replace(tokens)

    def replace(self, tokens: Mapping[int, tuple[str, ...]]) -> None:
        """Put other tokens in force. May be called by any thread.

        Args:
            tokens: valid tokens by app, several during a rotation. An app without an entry needs no
                signature; one whose entry is empty is refused.

        Raises:
            ValueError: a token is empty. Anybody could sign with it.
        """
        if not all(all(valid) for valid in tokens.values()):
            raise ValueError("an app has an empty token")
        self._tokens = {
            app: tuple(token.encode() for token in valid) for app, valid in tokens.items()
        }
        in_force = {(app, token) for app, valid in self._tokens.items() for token in valid}
        for token in self._last_used.keys() - in_force:
            self._last_used.pop(token, None)

    def checks(self, sdk_app_id: int) -> bool:
        """Return True if the callbacks of an app need a signature."""
        return sdk_app_id in self._tokens

    def last_used(self) -> dict[tuple[str, ...], float]:
        """Return the Unix time of the last use of each token in force; 0 if it was never used.

        A token is shown as its app and its place among the app's tokens, from 1.
        """
        return {
            (str(app), str(place)): self._last_used.get((app, token), 0.0)
            for app, tokens in self._tokens.items()
            for place, token in enumerate(tokens, 1)
        }

    def authenticate(self, parameters: Parameters, now: float) -> int:
        """Return the SDKAppID of an authentic request.

        Args:
            parameters: of the URL.
            now: Unix time in seconds.

        Raises:
            NotAuthenticated: the request is not authentic.
        """
        claim = _matching(parameters, "SdkAppid", _APP_ID)
        if claim is None:
            raise NotAuthenticated(AuthenticationFault.BAD_APP)
        sdk_app_id = int(claim)
        if sdk_app_id not in self.sdk_app_ids:
            raise NotAuthenticated(AuthenticationFault.NOT_OUR_APP, sdk_app_id=sdk_app_id)
        if (tokens := self._tokens.get(sdk_app_id)) is not None:
            token = _signed_with(parameters, sdk_app_id, tokens, now)
            self._last_used[sdk_app_id, token] = now
        return sdk_app_id


def _signed_with(
    parameters: Parameters, sdk_app_id: int, tokens: tuple[bytes, ...], now: float
) -> bytes:
    """Return the token that a request is signed with; raises NotAuthenticated."""
    request_time = _matching(parameters, "RequestTime", _REQUEST_TIME)
    if request_time is None:
        raise NotAuthenticated(AuthenticationFault.BAD_REQUEST_TIME, sdk_app_id=sdk_app_id)
    age = now - int(request_time)
    if abs(age) > MAX_SKEW:
        raise NotAuthenticated(AuthenticationFault.STALE, sdk_app_id=sdk_app_id, age=int(age))
    sign = _matching(parameters, "Sign", _SIGN)
    if sign is None:
        raise NotAuthenticated(AuthenticationFault.BAD_SIGN, sdk_app_id=sdk_app_id)
    found = None
    for token in tokens:  # always all of them: the time must not reveal which one matches
        expected = sha256(token + request_time.encode()).hexdigest()
        found = token if hmac.compare_digest(expected, sign.lower()) else found
    if found is None:
        raise NotAuthenticated(AuthenticationFault.WRONG_SIGN, sdk_app_id=sdk_app_id)
    return found


def _matching(parameters: Parameters, name: str, pattern: re.Pattern[str]) -> str | None:
    """Return a parameter that is there exactly once and matches in full, or None."""
    value = parameters.get(name)
    return value if type(value) is str and pattern.fullmatch(value) else None
