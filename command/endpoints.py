"""The addresses of the processes of this machine, and their directory, for other commands.

Reads single variables, not `command.settings`: a client needs no complete configuration. All
functions raise OSError if `.env` cannot be read, and ValueError if it or a value is malformed.
"""

import os
from pathlib import Path

from dotenv import dotenv_values

from command.address import (
    DEFAULT_CONSOLE,
    DEFAULT_DATA_DIR,
    DEFAULT_GRPC,
    DEFAULT_HTTP,
    Address,
)


def gateway_address() -> Address:
    return _listening("DESK_HTTP_LISTEN", DEFAULT_HTTP)


def service_address() -> Address:
    return _listening("DESK_GRPC_LISTEN", DEFAULT_GRPC)


def console_address() -> Address:
    return _listening("DESK_CONSOLE_LISTEN", DEFAULT_CONSOLE)


def data_directory() -> Path:
    """Return the directory of journal and view."""
    return Path(setting("DESK_DATA_DIR") or DEFAULT_DATA_DIR).absolute()


def _listening(variable: str, default: Address) -> Address:
    """Return the address of a process for a client on this machine."""
    value = setting(variable) or str(default)
    try:
        return Address.parse(value).from_here()
    except ValueError as error:
        raise ValueError(f"{variable} {error}") from None


def setting(variable: str) -> str | None:
    """Return the value in the environment, or in `.env`, which the servers read as well."""
    if value := os.environ.get(variable):
        return value
    try:
        given = dotenv_values(".env")
    except UnicodeDecodeError:
        raise ValueError(".env is not UTF-8") from None
    return next((value for name, value in given.items() if name.upper() == variable), None)
