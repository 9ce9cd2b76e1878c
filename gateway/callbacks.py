"""Decides which requests are callbacks of ours, and what is kept of them.

The request: docs/callbacks.md. Knows neither the journal nor what a callback means.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from callback.decoder import COMMAND, examine
from gateway.acknowledgements import Outcome
from gateway.authentication import Authenticator, NotAuthenticated, Parameters
from gateway.paths import check_callback_path
from gateway.throttled_log import ThrottledLog
from journal.entry import NewEntry

MAX_BODY = 256 * 1024
"""Bytes of a body; Desk's own are a few KiB."""

MAX_PARAMETER = 128
"""Characters kept of `RequestID`, `ClientIP` and `OptPlatform`."""

# Control characters and lone surrogates, which neither SQLite nor protobuf takes as text.
_NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The operator's settings.

    Attributes:
        sdk_app_ids: the apps that are ours.
        tokens: per app the callback tokens that are valid; no entry: no signature is asked for.
        path: the path of the callback URL.

    Raises:
        ValueError: an app that cannot be, a token that protects nothing, or a path that cannot
            be served.
    """

    sdk_app_ids: frozenset[int]
    tokens: Mapping[int, tuple[str, ...]] = field(repr=False)
    path: str = "/"

    def __post_init__(self) -> None:
        if not all(0 < app < 2**63 for app in self.sdk_app_ids):
            raise ValueError("an SDKAppID is a number from 1 to 2^63 - 1")
        if not self.tokens.keys() <= self.sdk_app_ids:
            raise ValueError("there is a token for an app that is not among the SDKAppIDs")
        if not all(valid and all(valid) for valid in self.tokens.values()):
            raise ValueError("an app has an empty token or an empty list of tokens")
        check_callback_path(self.path)


class Rejected(Exception):
    """The request ends here.

    Attributes:
        outcome: how.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.name)
        self.outcome = outcome


class Callbacks:
    """Decides what is kept.

    Args:
        options: whose callbacks.
        log: for the reasons of refusals.
        clock: Unix time in seconds.
    """

    def __init__(self, options: Options, log: ThrottledLog, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._authenticator = Authenticator(options.sdk_app_ids, options.tokens)

    def accept(self, parameters: Parameters, body: bytes) -> tuple[NewEntry, str]:
        """Return what is to be kept of a request, and why it is no callback; "" if it is one.

        Args:
            parameters: of the URL.
            body: all of it.

        Raises:
            Rejected: nothing is kept.
        """
        now = self._clock()
        sdk_app_id = self._authenticate(parameters, now)
        self._check_command(parameters, sdk_app_id)
        received_at = int(now * 1000)
        identity, fault = examine(sdk_app_id, body, received_at)
        if fault:
            self._log.log("callback_malformed", reason=fault, sdk_app_id=sdk_app_id)
        entry = NewEntry(
            id=identity,
            sdk_app_id=sdk_app_id,
            received_at=received_at,
            request_id=_text(parameters, "RequestID"),
            client_ip=_text(parameters, "ClientIP"),
            platform=_text(parameters, "OptPlatform"),
            body=body,
        )
        return entry, fault

    def _authenticate(self, parameters: Parameters, now: float) -> int:
        try:
            return self._authenticator.authenticate(parameters, now)
        except NotAuthenticated as refused:
            self._log.log(
                "callback_refused",
                reason=refused.reason.value,
                sdk_app_id=refused.sdk_app_id,
                age=refused.age,
            )
        raise Rejected(Outcome.FORBIDDEN)

    def _check_command(self, parameters: Parameters, sdk_app_id: int) -> None:
        command = parameters.get("CallbackCommand")
        if command == COMMAND:
            return
        reason = "not ours" if command else "missing"
        self._log.log("callback_command_refused", reason=reason, sdk_app_id=sdk_app_id)
        raise Rejected(Outcome.NOT_OUR_COMMAND if command else Outcome.NO_COMMAND)


def _text(parameters: Parameters, name: str) -> str:
    """Return a parameter that only describes; of a repeated one, the first value."""
    value = parameters.get(name, "")
    if isinstance(value, list):
        value = value[0]
    value = value[:MAX_PARAMETER]
    return value if value.isprintable() else _NOT_TEXT.sub("\ufffd", value)
