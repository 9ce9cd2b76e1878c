"""Reads the callback in a request: who sent it, and the journal entry that keeps it.

The request: docs/callbacks.md. Knows neither HTTP nor what a callback means.
"""

import re

from callback.decoder import COMMAND, read
from gateway.answers import Answer, RequestRejected
from gateway.authentication import Authenticator, Parameters
from journal.entry import NewEntry

MAX_PARAMETER = 128
"""Characters kept of `RequestID`, `ClientIP` and `OptPlatform`."""

# Control characters and lone surrogates: neither SQLite nor protobuf takes them as text.
_NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def read_callback(
    authenticator: Authenticator, parameters: Parameters, body: bytes, now: float
) -> tuple[NewEntry, str]:
    """Return the entry for a request, and the fault of a malformed callback ("" for none).

    Args:
        authenticator: knows the apps and their tokens.
        parameters: of the URL.
        body: all of it.
        now: Unix time in seconds.

    Raises:
        RequestRejected: the request is not authentic, or is of another command.
    """
    sdk_app_id = authenticator.authenticate(parameters, now)
    _check_command(parameters, sdk_app_id)
    received_at = int(now * 1000)
    reading = read(sdk_app_id, body, received_at)
    entry = NewEntry(
        id=reading.identity,
        sdk_app_id=sdk_app_id,
        received_at=received_at,
        request_id=_text(parameters, "RequestID"),
        client_ip=_text(parameters, "ClientIP"),
        platform=_text(parameters, "OptPlatform"),
        body=body,
    )
    return entry, reading.problem


def _check_command(parameters: Parameters, sdk_app_id: int) -> None:
    command = parameters.get("CallbackCommand")
    if command != COMMAND:
        answer = Answer.WRONG_COMMAND if command else Answer.NO_COMMAND
        raise RequestRejected(answer, "callback_command_refused", sdk_app_id=sdk_app_id)


def _text(parameters: Parameters, name: str) -> str:
    """Return a descriptive parameter as bounded text; of a repeated one, the first value."""
    value = parameters.get(name, "")
    if isinstance(value, list):
        value = value[0]
    value = value[:MAX_PARAMETER]
    return value if value.isprintable() else _NOT_TEXT.sub("\ufffd", value)
