"""The addresses of the processes of this machine, for the commands that ask them.

Reads single variables, not `command.settings`: who only asks needs no complete configuration.
"""

import os

from dotenv import dotenv_values

from command.address import Address

HTTP, GRPC = "127.0.0.1:8080", "127.0.0.1:50051"
"""Their default addresses."""


def gateway_address() -> Address:
    """Return where a client on this machine reaches the gateway.

    Raises:
        ValueError: DESK_HTTP_LISTEN is no address, or `.env` no text.
        OSError: there is a `.env` that cannot be read.
    """
    return _listening("DESK_HTTP_LISTEN", HTTP)


def service_address() -> Address:
    """Return where a client on this machine reaches the service.

    Raises:
        ValueError: DESK_GRPC_LISTEN is no address, or `.env` no text.
        OSError: there is a `.env` that cannot be read.
    """
    return _listening("DESK_GRPC_LISTEN", GRPC)


def _listening(variable: str, default: str) -> Address:
    value = os.environ.get(variable) or _from_file(variable) or default
    try:
        return Address.parse(value).from_here()
    except ValueError as error:
        raise ValueError(f"{variable} {error}") from None


def _from_file(variable: str) -> str | None:
    """Return what `.env` in the working directory says, which the servers read as well."""
    try:
        given = dotenv_values(".env")
    except UnicodeDecodeError:
        raise ValueError(".env is not UTF-8") from None
    return next((value for name, value in given.items() if name.upper() == variable), None)
