"""Settings of the console: its address, its users, and its TLS and key as a client of gRPC."""

import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from pydantic_settings import BaseSettings

from command.address import DEFAULT_CONSOLE, Address
from command.client_security import security_of
from command.endpoints import setting
from command.values import Listen
from storage.changes import FileProblem, read_file

if TYPE_CHECKING:
    from console.protection import Access

MAX_PASSWORDS = 64 * 1024
"""Bytes of the file of passwords, at most."""

MIN_PASSWORD = 12
"""Characters of a password, at least: nothing limits how often one is guessed."""

_HEADER = re.compile("[A-Za-z0-9-]+")

DEFAULT_PROXIES = "127.0.0.1,::1"
"""Default of DESK_CONSOLE_PROXIES."""


class ConsoleSettings(BaseSettings):
    """The settings of the console that `desk serve` runs; a part of `Settings`.

    Attributes:
        console_listen: address of the console; None: there is none.
        console_password_file: file of users and passwords; None: no password is needed.
        console_user_header: header in which a proxy names the user; None: there is no such proxy.
        console_proxies: addresses or networks of such proxies, with commas between them.
    """

    console_listen: Listen | None = Field(default=DEFAULT_CONSOLE, validate_default=True)
    console_password_file: Path | None = None
    console_user_header: str | None = None
    console_proxies: str = DEFAULT_PROXIES

    def console_access(self, address: Address) -> "Access":
        """Return who may see the console at an address; raises ConsoleError."""
        file = self.console_password_file
        passwords = read_passwords(file) if file else {}
        return access_to(address, passwords, self.console_user_header or "", self.console_proxies)


def client_security() -> dict[str, Any]:
    """Return TLS and key of a client, from the variables that client commands read.

    Raises:
        ConsoleError: they cannot be used.
    """
    names = ("TLS_CA", "TLS_CERT", "TLS_KEY", "KEY_FILE")
    ca, cert, key, key_file = (_path(f"DESK_CLIENT_{name}") for name in names)
    try:
        return security_of(ca, cert, key, setting("DESK_CLIENT_TLS_NAME"), key_file)
    except OSError as error:
        raise ConsoleError(f"DESK_CLIENT_…: {error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise ConsoleError(f"DESK_CLIENT_…: {error}") from None


class ConsoleError(ValueError):
    """The settings do not allow the console to run. The message says which ones to change."""


def _path(variable: str) -> Path | None:
    value = setting(variable)
    return Path(value) if value else None


def read_passwords(path: Path) -> dict[str, str]:
    """Return the passwords by user: a `user:password` on each line, `#` begins a comment.

    Raises:
        ConsoleError: the file cannot be read, or a line is something else.
    """
    try:
        lines = read_file(path, most=MAX_PASSWORDS).decode().splitlines()
    except FileProblem as problem:
        raise ConsoleError(f"DESK_CONSOLE_PASSWORD_FILE: {problem}") from None
    except UnicodeDecodeError:
        raise ConsoleError(f"{path} is not UTF-8") from None
    passwords = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, password = line.partition(":")
        if not (colon and user and password):
            raise ConsoleError(f"line {number} of {path} is not like user:password")
        if len(password) < MIN_PASSWORD:
            raise ConsoleError(
                f"line {number} of {path}: a password has at least {MIN_PASSWORD} characters"
            )
        passwords[user] = password
    if not passwords:
        raise ConsoleError(f"{path} has no user")
    return passwords


def access_to(
    address: Address, passwords: Mapping[str, str], user_header: str, proxies: str
) -> "Access":
    """Return who may see a console that listens on an address.

    Raises:
        ConsoleError: everybody on the network could look, or the settings contradict each other.
    """
    from console.protection import Access

    if not (address.is_loopback or passwords or user_header):
        raise ConsoleError(
            f"DESK_CONSOLE_LISTEN {address} leaves this machine and anybody may look: set "
            "DESK_CONSOLE_PASSWORD_FILE or DESK_CONSOLE_USER_HEADER, or listen on loopback"
        )
    if passwords and user_header:
        raise ConsoleError(
            "DESK_CONSOLE_PASSWORD_FILE and DESK_CONSOLE_USER_HEADER are set; set one of them"
        )
    if user_header and not _HEADER.fullmatch(user_header):
        raise ConsoleError(f"DESK_CONSOLE_USER_HEADER: {user_header[:60]!r} is no header")
    listed = [proxy.strip() for proxy in proxies.split(",") if proxy.strip()]
    for proxy in listed:
        try:
            ip_network(proxy)
        except ValueError:
            raise ConsoleError(
                f"DESK_CONSOLE_PROXIES: {proxy[:60]!r} is no address and no network"
            ) from None
    return Access(passwords=passwords, user_header=user_header, proxies=listed)
