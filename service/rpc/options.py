"""The options of a worker: settings, and functions that reach what is not in the view."""

from collections.abc import Callable, Sequence
from datetime import UTC

import msgspec

from service.clients import Clients
from service.forget_targets import Append
from service.rpc.limits import Limits
from service.rpc.live_board import Centre
from service.rpc.tls import Tls
from service.rpc.workers import Workers

JournalBacklog = Callable[[int], tuple[int, int | None]]
"""Returns, for a revision, the journal's head and the time (ms) at which the first entry after the
revision was received; None if there is none."""


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one worker.

    Attributes:
        sdk_app_ids: the configured apps.
        journal_backlog: called in a thread, and given up after `Limits.backlog_seconds`.
        journal_size: returns the bytes of the journal's database and of its WAL.
        silent_processes: returns the processes of the service that give no sign of life.
        forget: appends a FORGET entry to the journal.
        workers: the processes that share the address, of which this is one.
        tls: of the port; None = plain text.
        clients: who may call; None lets everybody read everything.
        centre: the contact centre's settings, for board and reports.
        limits: of the worker.
    """

    sdk_app_ids: Sequence[int]
    journal_backlog: JournalBacklog
    journal_size: Callable[[], tuple[int, int]] = lambda: (0, 0)
    silent_processes: Callable[[], Sequence[str]] = lambda: ()
    forget: Append
    workers: Workers = Workers()
    tls: Tls | None = None
    clients: Clients | None = None
    centre: Centre = Centre(UTC)
    limits: Limits = Limits()
