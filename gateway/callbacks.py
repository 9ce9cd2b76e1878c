"""The callback URL, free of any server: who may call, what is kept, what became of it.

The request: docs/callbacks.md. Must not know what a callback means.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from falcon.uri import parse_query_string

from gateway.acknowledgements import Outcome
from gateway.authentication import Authenticator, Parameters, Refused
from gateway.complaints import Complaints
from gateway.paths import check_callback_path
from gateway.readiness import Readiness
from journal.append import Append, Done
from journal.callback import COMMAND, examine
from journal.entry import NewEntry
from journal.errors import AppendTimedOut, JournalError, Overloaded
from journal.port import Journal

BUDGET = 1.5
"""Seconds from the arrival of a request to its answer. Desk expects one within about 2 s
(docs/callbacks.md); what is left is for the network and a proxy."""

MAX_BODY = 256 * 1024
"""Bytes of a body; Desk's own are a few KiB."""

MAX_PARAMETER = 128
"""Characters kept of `RequestID`, `ClientIP` and `OptPlatform`."""

# Control characters and lone surrogates, which neither SQLite nor protobuf takes as text.
_NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the gateway is told by its operator.

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
    """Takes callbacks.

    A server of ours asks `serves`, `accept`, `deadline`, `submit`, and, when it is told, `judge`;
    the app, which waits, `accept` and `append`.

    Args:
        journal: where callbacks are kept.
        options: whose callbacks, and where.
        readiness: is told how appends went.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        journal: Journal,
        options: Options,
        readiness: Readiness,
        clock: Callable[[], float],
    ) -> None:
        self._path = options.path
        self._journal = journal
        self._readiness = readiness
        self._clock = clock
        self._complaints = Complaints()
        self._authenticator = Authenticator(options.sdk_app_ids, options.tokens)

    def serves(self, method: str, path: str) -> bool:
        """Whether a request is for us. As for Falcon, a path begins with any number of slashes."""
        return method == "POST" and "/" + path.lstrip("/") == self._path

    def accept(self, query: str, encoding: str, body: bytes) -> tuple[NewEntry, str]:
        """Return what is to be kept of a request, and why it is no callback; "" if it is one.

        Args:
            query: of the URL, without the question mark.
            encoding: the value of `Content-Encoding`; "" for none, several joined by commas.
            body: all of it.

        Raises:
            Rejected: nothing is.
        """
        if encoding and encoding.lower() != "identity":
            raise Rejected(Outcome.ENCODED)
        if len(body) > MAX_BODY:
            raise Rejected(Outcome.TOO_LARGE)
        now = self._clock()
        parameters = parse_query_string(query, keep_blank=True)
        sdk_app_id = self._authenticate(parameters, now)
        if parameters.get("CallbackCommand") != COMMAND:
            self._complaints.log("callback_not_ours", sdk_app_id=sdk_app_id)
            raise Rejected(Outcome.NOT_OUR_COMMAND)
        received_at = int(now * 1000)
        identity, fault = examine(sdk_app_id, body, received_at)
        if fault:
            self._complaints.log("callback_malformed", reason=fault, sdk_app_id=sdk_app_id)
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

    def deadline(self, entry: NewEntry, arrived: float) -> float:
        """Return until when an entry must be kept that arrived then, both `time.monotonic`.

        Raises:
            Rejected: it is too late.
        """
        deadline = arrived + BUDGET
        if deadline <= monotonic():
            self._complaints.log("callback_overdue", sdk_app_id=entry.sdk_app_id)
            raise Rejected(Outcome.OVERLOADED)
        return deadline

    def append(self, entry: NewEntry, *, timeout: float) -> None:
        """Keep it, and wait for that.

        Raises:
            Rejected: it could not be kept.
        """
        try:
            self._journal.append(entry, timeout=timeout)
        except JournalError as error:
            raise Rejected(self._not_kept(entry, error)) from None
        self._readiness.append_succeeded()

    def submit(self, entry: NewEntry, done: Done) -> Append:
        """Begin to keep it; see `journal.port.Journal.submit`.

        Raises:
            Rejected: it could not be kept.
        """
        try:
            return self._journal.submit(entry, done)
        except JournalError as error:
            raise Rejected(self._not_kept(entry, error)) from None

    def judge(self, append: Append) -> Outcome | None:
        """Return what came instead of keeping it, in the time there was; None: it is kept."""
        outcome = append.outcome
        if outcome is None:
            append.withdrawn = True
            return self._not_kept(append.entry, AppendTimedOut())
        if isinstance(outcome, JournalError):
            return self._not_kept(append.entry, outcome)
        self._readiness.append_succeeded()
        return None

    def _authenticate(self, parameters: Parameters, now: float) -> int:
        try:
            return self._authenticator.authenticate(parameters, now)
        except Refused as refused:
            self._complaints.log(
                "callback_refused",
                reason=refused.reason.value,
                sdk_app_id=refused.sdk_app_id,
                age=refused.age,
            )
        raise Rejected(Outcome.FORBIDDEN)

    def _not_kept(self, entry: NewEntry, error: JournalError) -> Outcome:
        self._readiness.append_failed()
        why = type(error).__name__
        self._complaints.log("callback_not_kept", reason=why, sdk_app_id=entry.sdk_app_id)
        return Outcome.OVERLOADED if isinstance(error, Overloaded) else Outcome.UNAVAILABLE


def _text(parameters: Parameters, name: str) -> str:
    """A parameter that only describes; of a repeated one, the first value."""
    value = parameters.get(name, "")
    if isinstance(value, list):
        value = value[0]
    value = value[:MAX_PARAMETER]
    return value if value.isprintable() else _NOT_TEXT.sub("\ufffd", value)
