"""The limit of open files, and so of connections, of the processes."""

import resource
from contextlib import suppress

ENOUGH = 512
"""Below this many it is worth a warning."""

RESERVED = 40
"""Files of a process that are no connections: its sockets, databases, pipes."""

FOR_EACH_CHILD = 4
"""Files of the supervisor for each of its children."""

MOST = 1 << 20
"""Limit to set at most: where it is a billion, some programs try to close them all."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one, also for the children; return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a sandbox may forbid it; then it stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return MOST if soft == resource.RLIM_INFINITY else soft


def least_limit(children: int) -> int:
    """Return the limit below which a supervisor with that many children cannot work."""
    return RESERVED + FOR_EACH_CHILD * children
