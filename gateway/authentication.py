"""Decides whether a request comes from Desk: `SdkAppid`, `Sign` and `RequestTime`.

Sources: the vendor's page (verify that the SDKAppID is yours) and its callback authentication,
`Sign = hex(sha256(Token + RequestTime))`. Pure: the time is an argument. `Sign` covers neither body
nor URL: those are protected by TLS in front, or not at all.
"""

import hmac
import re
from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256

MAX_SKEW = 60
"""Seconds that `RequestTime` may be away from now, either way (the vendor's rule)."""

Parameters = Mapping[str, str | list[str]]
"""A query as Falcon parses it: a parameter that is repeated is a list."""

_APP_ID = re.compile(r"[1-9][0-9]{0,18}")

# In full, in ASCII, and before anything is hashed: the signature is open to length extension, and
# only this pattern keeps out `RequestTime + padding + more digits`.
_REQUEST_TIME = re.compile(r"[0-9]{10}")

# The vendor writes lower case. Upper case is the same number: refusing it would lose callbacks.
_SIGN = re.compile(r"[0-9a-fA-F]{64}")


class Reason(StrEnum):
    """Why a request was refused: for the log only, because the sender gets one answer for all."""

    BAD_APP = "bad_app"
    NOT_OUR_APP = "not_our_app"
    BAD_REQUEST_TIME = "bad_request_time"
    STALE = "stale"
    BAD_SIGN = "bad_sign"
    WRONG_SIGN = "wrong_sign"


class NotAuthenticated(Exception):
    """The request is not from Desk, or not for us.

    Attributes:
        reason: why. `BAD_…`: missing, repeated, or not of the form that Desk gives it.
        sdk_app_id: the app it claims, if that has the form of one, or None.
        age: seconds by which `RequestTime` is behind now (negative: ahead), if it is stale.
    """

    def __init__(
        self, reason: Reason, *, sdk_app_id: int | None = None, age: int | None = None
    ) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.sdk_app_id = sdk_app_id
        self.age = age


class Authenticator:
    """Knows the apps that are ours, and their tokens.

    Args:
        sdk_app_ids: the apps that are ours.
        tokens: per app the tokens that are valid: several during a rotation. An app without an
            entry is not asked for a signature.
    """

    def __init__(self, sdk_app_ids: frozenset[int], tokens: Mapping[int, tuple[str, ...]]) -> None:
        self._sdk_app_ids = sdk_app_ids
        self._tokens = {
            app: tuple(token.encode() for token in valid) for app, valid in tokens.items()
        }

    def authenticate(self, parameters: Parameters, now: float) -> int:
        """Return the SDKAppID of a request that comes from Desk.

        Args:
            parameters: of the URL.
            now: Unix time in seconds.

        Raises:
            NotAuthenticated: it does not.
        """
        sdk_app_id = self._claimed_app(parameters)
        if tokens := self._tokens.get(sdk_app_id):
            _check_signature(parameters, sdk_app_id, tokens, now)
        return sdk_app_id

    def _claimed_app(self, parameters: Parameters) -> int:
        claim = _matching(parameters, "SdkAppid", _APP_ID)
        if claim is None:
            raise NotAuthenticated(Reason.BAD_APP)
        sdk_app_id = int(claim)
        if sdk_app_id not in self._sdk_app_ids:
            raise NotAuthenticated(Reason.NOT_OUR_APP, sdk_app_id=sdk_app_id)
        return sdk_app_id


def _check_signature(
    parameters: Parameters, sdk_app_id: int, tokens: tuple[bytes, ...], now: float
) -> None:
    request_time = _matching(parameters, "RequestTime", _REQUEST_TIME)
    if request_time is None:
        raise NotAuthenticated(Reason.BAD_REQUEST_TIME, sdk_app_id=sdk_app_id)
    age = now - int(request_time)
    if not abs(age) <= MAX_SKEW:
        raise NotAuthenticated(Reason.STALE, sdk_app_id=sdk_app_id, age=int(age))
    sign = _matching(parameters, "Sign", _SIGN)
    if sign is None:
        raise NotAuthenticated(Reason.BAD_SIGN, sdk_app_id=sdk_app_id)
    if not _is_signed(sign.lower(), request_time.encode(), tokens):
        raise NotAuthenticated(Reason.WRONG_SIGN, sdk_app_id=sdk_app_id)


def _is_signed(sign: str, request_time: bytes, tokens: tuple[bytes, ...]) -> bool:
    matches = False
    for token in tokens:  # all of them: the time it takes must not tell which one it was
        expected = sha256(token + request_time).hexdigest()
        matches |= hmac.compare_digest(expected, sign)
    return matches


def _matching(parameters: Parameters, name: str, pattern: re.Pattern[str]) -> str | None:
    """The parameter's value, if it is there exactly once and matches in full."""
    value = parameters.get(name)
    return value if type(value) is str and pattern.fullmatch(value) else None
