"""TLS and key of a client of the service: options of commands, and the arguments of `Client`.

It imports the client when it is needed: `desk health` has to be quick.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

SYSTEM = "system"
"""Value of --tls-ca for gRPC's own list of authorities."""

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


class _FileOrSystem(click.Path):
    def convert(self, value: Any, *context: Any) -> Any:
        return Path(SYSTEM) if value == SYSTEM else super().convert(value, *context)


def _path(option: str, variable: str, text: str, kind: click.Path = _FILE) -> Callable[[Any], Any]:
    return click.option(option, type=kind, envvar=variable, show_envvar=True, help=text)


_OPTIONS = [
    _path(
        "--tls-ca",
        "DESK_CLIENT_TLS_CA",
        f"Use TLS. File of the authorities to trust, or `{SYSTEM}` for the public ones.",
        _FileOrSystem(path_type=Path, exists=True, dir_okay=False),
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
