"""The connection of commands to the service: options of TLS and key, texts of errors.

It imports the client when it is needed: `desk health` has to be quick.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from desk.client import Client, ClientError

SYSTEM = "system"
"""Value of --tls-ca for gRPC's own list of authorities."""

_CAUSES = {
    "WRONG_VERSION_NUMBER": "it does not use TLS: leave out --tls-ca",
    "CERTIFICATE_VERIFY_FAILED": "no authority in --tls-ca has signed its certificate",
    "Hostname Verification": "its certificate has another name: see --tls-name",
    "Socket closed": "it closed the connection; if it uses TLS, pass --tls-ca",
}
"""Causes that gRPC states in words of its own, by a part of these."""

_HINTS = {"SDK_APP_ID_REQUIRED": "pass --app", "UNAUTHENTICATED": "see --key-file"}
"""Options that help, by the service's reason."""

MAX_MESSAGE = 300
"""Characters of an error message, which is always one line."""


_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


class _FileOrSystem(click.ParamType[Path]):
    name = "file"

    def convert(self, value: Any, *context: Any) -> Path:
        return Path(SYSTEM) if value == SYSTEM else _FILE.convert(value, *context)


def _path(
    option: str, variable: str, text: str, kind: click.ParamType[Any] = _FILE
) -> Callable[[Any], Any]:
    return click.option(option, type=kind, envvar=variable, show_envvar=True, help=text)


_OPTIONS = [
    _path(
        "--tls-ca",
        "DESK_CLIENT_TLS_CA",
        f"Use TLS. File of the authorities to trust, or `{SYSTEM}` for the public ones.",
        _FileOrSystem(),
    ),
    _path("--tls-cert", "DESK_CLIENT_TLS_CERT", "File of the client's certificate. Uses TLS."),
    _path("--tls-key", "DESK_CLIENT_TLS_KEY", "File of that certificate's key."),
    click.option(
        "--tls-name",
        envvar="DESK_CLIENT_TLS_NAME",
        show_envvar=True,
        help="Name in the service's certificate, if the target is another.",
    ),
    _path("--key-file", "DESK_CLIENT_KEY_FILE", "File of the API key."),
]


def security_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options. The command gets `security`, the arguments of `Client` that they make."""

    @functools.wraps(command)
    def with_security(
        *args: Any,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_name: str | None,
        key_file: Path | None,
        **kwargs: Any,
    ) -> Any:
        try:
            security = security_of(tls_ca, tls_cert, tls_key, tls_name, key_file)
        except OSError as error:
            raise click.UsageError(f"{error.filename}: {error.strerror}") from None
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        return command(*args, security=security, **kwargs)

    decorated: Callable[..., Any] = with_security
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def security_of(
    ca: Path | None, cert: Path | None, key: Path | None, name: str | None, key_file: Path | None
) -> dict[str, Any]:
    """Return the arguments of `Client` for TLS and a key; raises OSError and ValueError."""
    if not (ca or cert or key or name or key_file):
        return {"credentials": None, "server_name": "", "key": ""}
    from desk.client import read_key, tls_credentials

    credentials = None
    if ca or cert or key:
        own = None if ca is None or str(ca) == SYSTEM else ca
        credentials = tls_credentials(ca=own, cert=cert, key=key)
    elif name:
        raise ValueError("--tls-name needs --tls-ca")
    return {
        "credentials": credentials,
        "server_name": name or "",
        "key": read_key(key_file) if key_file else "",
    }


def connect(target: str, security: dict[str, Any], **options: Any) -> "Client":
    """Make a client; `security` comes from the options."""
    from desk.client import Client

    if not target or target.startswith(("http:", "https:")):
        raise click.UsageError(f"{target!r} is not the host:port of a service")
    try:
        return Client(target, **security, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def failure_text(error: "ClientError", target: str) -> str:
    """Return one line about a call that failed, with the option that may help."""
    from desk.client import TimedOut, Unavailable

    detail = error.detail
    if isinstance(error, Unavailable) and not error.reason:
        detail = f"cannot reach {target}: {_cause(detail)}"
    if isinstance(error, TimedOut) and not error.reason:
        detail = f"{target} did not answer in time"
    fields = [f"{name}: {text}" for name, text in error.fields.items() if text not in detail]
    hints = [_HINTS[error.reason]] if error.reason in _HINTS else []
    status = ", ".join(dict.fromkeys(filter(None, (error.code.name, error.reason))))
    return f"{_one_line('; '.join([detail, *fields, *hints]))} ({status})"


def _cause(detail: str) -> str:
    """Return why a service cannot be reached, from the words of gRPC."""
    causes = (cause for sign, cause in _CAUSES.items() if sign in detail)
    return next(causes, detail.rpartition(": ")[2].rstrip("]"))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"
