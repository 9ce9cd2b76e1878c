"""The sockets that the supervisor binds for its children. What travels over them is theirs."""

import socket

from command.address import Address

BACKLOG = 1024
"""Connections that may wait to be accepted, also while the gateway is being restarted."""


class CannotListen(OSError):
    """The address cannot be listened on; the message says which and why."""


def listen(address: Address) -> socket.socket:
    """Return a listening socket. Port 0 becomes a free port.

    Raises:
        CannotListen: taken, not an address of this machine, or not resolvable.
    """
    sock = _bind(address, share=False)
    sock.listen(BACKLOG)
    return sock


def reserve(address: Address) -> socket.socket:
    """Return a bound socket that does not listen: others of this user may then share its port.

    The kernel gives connections only to sockets that listen, so this one takes none; it keeps the
    port ours while workers come and go.

    Raises:
        CannotListen: as in `listen`, and if anybody listens there already.
    """
    # With SO_REUSEPORT a second service of the same user would silently share the port with the
    # first. Without it the kernel refuses, so ask once without.
    _bind(address, share=False).close()
    return _bind(address, share=True)


def bound_address(sock: socket.socket) -> Address:
    """Where the socket is bound: a numeric host and the real port."""
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
