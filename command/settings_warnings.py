"""Warnings of settings that are allowed, but probably a mistake: one line each."""

import difflib
import math
import stat
import time
from datetime import UTC, datetime

from command.settings import Settings
from command.settings_errors import PREFIX
from command.token_file import tokens_variable
from command.values import shown

CERTIFICATE_DAYS = 14
"""Days before the end of a certificate in which it is warned of."""

CLIENT_SETTINGS = (
    *("target", "simulate_token"),
    *("client_tls_ca", "client_tls_cert", "client_tls_key", "client_tls_name", "client_key_file"),
)
"""Settings that only commands for clients read."""


def warnings_of(settings: Settings, *, gateway: bool = True) -> list[str]:
    """Return one line for each setting that is probably a mistake.

    Args:
        settings: of the command.
        gateway: one of the processes takes callbacks.
    """
    return [
        *(_unsigned_apps(settings) if gateway else []),
        *_refused_keys(settings),
        *_ending_certificate(settings),
        *_writable_by_all(settings),
        *_unknown_variables(settings),
    ]


def _unsigned_apps(settings: Settings) -> list[str]:
    unsigned = [str(app) for app in settings.sdk_app_ids if app not in settings.callback_tokens]
    if not unsigned or settings.allow_unsigned or settings.is_trial:
        return []
    variable = tokens_variable(settings.callback_tokens_file)
    apps = ", ".join(unsigned[:10]) + (", …" if unsigned[10:] else "")
    return [
        f"{variable} has no token for app {apps}: whoever reaches the gateway can "
        "add callbacks; DESK_ALLOW_UNSIGNED=true if that is meant"
    ]


def _refused_keys(settings: Settings) -> list[str]:
    if not settings.clients_file or settings.grpc_tls_cert or settings.grpc_listen.is_loopback:
        return []
    return ["DESK_CLIENTS_FILE without DESK_GRPC_TLS_CERT: only keys from loopback are taken"]


def _ending_certificate(settings: Settings) -> list[str]:
    files = settings.certificate_files()
    ends_at = files.read().ends_at if files else math.inf
    left = ends_at - time.time()
    if left > CERTIFICATE_DAYS * 86_400:
        return []
    word = "ends" if left > 0 else "ended"
    return [f"DESK_GRPC_TLS_CERT {word} at {datetime.fromtimestamp(ends_at, UTC):%Y-%m-%d %H:%M}Z"]


def _writable_by_all(settings: Settings) -> list[str]:
    files = ("callback_tokens_file", "clients_file", "grpc_tls_key", "grpc_client_ca")
    given = ((field, getattr(settings, field)) for field in files)
    return [
        f"{PREFIX}{field.upper()} can be written by every user of this machine"
        for field, path in given
        if path and path.stat().st_mode & stat.S_IWOTH
    ]


def _unknown_variables(settings: Settings) -> list[str]:
    known = [PREFIX + field.upper() for field in (*type(settings).model_fields, *CLIENT_SETTINGS)]
    given = {name.upper() for source in settings.variables().values() for name in source}
    unknown = (name for name in sorted(given - {*known}) if name.startswith(PREFIX))
    return [f"{shown(name)[1:-1]} is not a setting{_closest(name, known)}" for name in unknown]


def _closest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
