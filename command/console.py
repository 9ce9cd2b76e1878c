"""Settings of the console: who may see it."""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from command.address import Address
from storage.changes import FileProblem, read_file

if TYPE_CHECKING:
    from console.protection import Access

MAX_PASSWORDS = 64 * 1024
"""Bytes of the file of passwords, at most."""


class ConsoleError(ValueError):
    """The console cannot be shown so. The message says what to set."""


def read_passwords(path: Path) -> dict[str, str]:
    """Return the passwords by user: a `user:password` on each line, `#` begins a comment.

    Raises:
        ConsoleError: the file cannot be read, or a line is something else.
    """
    try:
        lines = read_file(path, most=MAX_PASSWORDS).decode().splitlines()
    except FileProblem as problem:
        raise ConsoleError(str(problem)) from None
    except UnicodeDecodeError:
        raise ConsoleError(f"{path} is not UTF-8") from None
    passwords = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, password = line.partition(":")
        if not (colon and user and password):
            raise ConsoleError(f"line {number} of {path} is not like user:password")
        passwords[user] = password
    if not passwords:
        raise ConsoleError(f"{path} has no user")
    return passwords


def access_to(
    address: Address, passwords: Mapping[str, str], user_header: str, proxies: str
) -> "Access":
    """Return who may see a console that listens on an address.

    Raises:
        ConsoleError: anybody on the network could, or the proxies are no addresses.
    """
    from console.protection import Access

    if not (address.is_loopback or passwords or user_header):
        raise ConsoleError(
            f"{address} leaves this machine and anybody may look: set DESK_CONSOLE_PASSWORD_FILE "
            "or DESK_CONSOLE_USER_HEADER, or listen on loopback"
        )
    listed = [proxy.strip() for proxy in proxies.split(",") if proxy.strip()]
    for proxy in listed:
        try:
            ip_address(proxy)
        except ValueError:
            raise ConsoleError(f"DESK_CONSOLE_PROXIES: {proxy[:60]!r} is no address") from None
    return Access(passwords=passwords, user_header=user_header, proxies=listed)
