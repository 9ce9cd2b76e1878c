"""The sockets that the supervisor binds for its children."""

import os
import socket

from command.address import Address

BACKLOG = 1024
"""Connections that may wait to be accepted, also while the gateway restarts."""


SYSTEMD_SOCKET = 3
"""The descriptor of the first socket that systemd passes on; see sd_listen_fds(3)."""


class CannotListen(OSError):
    """An address cannot be listened on. The message names it and the reason."""


def listen(address: Address) -> socket.socket:
    """Return a new listening socket. Port 0 becomes a free port.

    Raises:
        CannotListen: the address is in use, not of this machine, or not resolvable.
    """
    sock = _bind(address, share=False)
    sock.listen(BACKLOG)
    return sock


def listen_or_inherit(address: Address) -> socket.socket:
    """Return the listening socket that systemd has passed on, or else a new one.

    systemd keeps its socket open: connections wait there while this command restarts.

    Raises:
        CannotListen: as in `listen`, or the socket is not for TCP.
    """
    receiver, number = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    if (receiver, number) != (str(os.getpid()), "1"):
        return listen(address)
    sock = socket.socket(fileno=SYSTEMD_SOCKET)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise CannotListen("the socket that systemd has passed on must have an IP address")
    return sock


def reserve(address: Address) -> socket.socket:
    """Return a bound socket that does not listen. Other processes of this user may share its port.

    The kernel gives connections only to listening sockets. This one keeps the port reserved while
    workers restart.

    Raises:
        CannotListen: as in `listen`, or another process listens there.
    """
    # With SO_REUSEPORT a second service of the same user would silently share the port with the
    # first. Without it the kernel refuses, so bind once without.
    _bind(address, share=False).close()
    return _bind(address, share=True)


def bound_address(sock: socket.socket) -> Address:
    """Return the address of a bound socket: a numeric host and the real port."""
    return Address(*sock.getsockname()[:2])


def _bind(address: Address, *, share: bool) -> socket.socket:
    try:
        family, *_, target = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(target)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {error.strerror or error}") from None
    return sock
