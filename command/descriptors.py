"""The limit of open files of the processes, which also limits their connections."""

import resource
from contextlib import suppress

FEW_FILES = 512
"""Limit below which a warning is logged."""

RESERVED_FILES = 40
"""Files of a process that are not connections: its sockets, databases, pipes."""

FILES_PER_CHILD = 4
"""Files of the supervisor for each of its children."""

HIGHEST_LIMIT = 1 << 20
"""Highest limit to set. Some programs try to close every possible file of a larger one."""


def raise_limit() -> int:
    """Raise the soft limit to the hard one, also for the children. Return the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = HIGHEST_LIMIT if hard == resource.RLIM_INFINITY else min(hard, HIGHEST_LIMIT)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return HIGHEST_LIMIT if soft == resource.RLIM_INFINITY else soft


def required_limit(children: int) -> int:
    """Return the lowest limit with which a supervisor of that many children works."""
    return RESERVED_FILES + FILES_PER_CHILD * children
