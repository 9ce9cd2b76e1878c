"""The snapshots process: publishes a snapshot of the view now and then, with low priority."""

import os
import threading
from contextlib import closing

from command.engines import open_snapshots, open_stream
from command.notifier import Notifier
from command.processes.child import report_ready
from command.processes.liveness import run_in_thread
from command.processes.opening import open_with_retries
from command.settings import Settings
from command.signals import on_stop_request
from metrics import definitions
from service.snapshots.publisher import Publisher

METRICS = (definitions.SNAPSHOTS,)

NICE = 10
"""Priority, as nice(1) takes it: nobody waits for this process."""


def run(notifier: Notifier, settings: Settings) -> None:
    os.nice(NICE)
    stop = threading.Event()
    on_stop_request(stop.set)
    with (
        closing(open_with_retries(lambda: open_stream(settings), stop, notifier)) as journal,
        closing(
            open_with_retries(
                lambda: open_snapshots(settings, journal, settings.data_dir), stop, notifier
            )
        ) as snapshots,
    ):
        report_ready(notifier)
        publisher, hours = Publisher(snapshots), settings.snapshot_hours
        run_in_thread(notifier, lambda: publisher.keep_published(stop, hours))
