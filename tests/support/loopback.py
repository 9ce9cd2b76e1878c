"""Addresses of 127.0.0.0/8: all of them are this machine.

A program with an address of its own listens on the ports that its shipped files name, whatever else
is running.
"""

import random
import socket
from contextlib import suppress


def own_address() -> str:
    """Return an address that nobody else uses."""
    return ".".join(["127", *(str(random.randint(1, 254)) for _ in range(3))])


def listens(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False
