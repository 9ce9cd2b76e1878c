"""Addresses of 127.0.0.0/8: all of them are this machine.

A program with an address of its own listens on the ports that its shipped files name, whatever else
is running.
"""

import random
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from command.address import Address
from command.sockets import bound_address, reserve


def own_address() -> str:
    """Return an address that nobody else uses."""
    return ".".join(["127", *(str(random.randint(1, 254)) for _ in range(3))])


@contextmanager
def reserved_port() -> Iterator[int]:
    """Give a port that the kernel gives to nobody else until the block is left.

    Any process may listen there, end, and listen again. Meanwhile connections are refused.
    """
    with closing(reserve(Address("127.0.0.1", 0))) as reserved:
        yield bound_address(reserved).port


def listens(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False
