"""An rpc worker process: answers gRPC from the view."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from command.address import Address
from command.engines import append_forget_entry, journal_figures
from command.notifier import Notifier
from command.processes.child import report_ready
from command.processes.liveness import serving
from command.settings import Settings
from command.values import time_zone
from metrics import definitions
from service.clients import follow_clients
from service.rpc.limits import Limits
from service.rpc.live_board import Centre
from service.rpc.options import WorkerOptions
from service.rpc.server import serve
from service.rpc.tls import Tls
from service.rpc.workers import Workers
from service.tally import Thresholds
from service.view.store import locate

METRICS = (definitions.RPC,)


async def run(
    notifier: Notifier,
    settings: Settings,
    address: Address,
    silent: Callable[[], list[str]],
    runtime: Path,
    name: str,
) -> None:
    files = settings.certificate_files()
    tls = Tls(files) if files else None
    clients = follow_clients(settings.clients_file) if settings.clients_file else None

    def reload() -> None:
        for each in (tls, clients):
            if each:
                each.reload()

    backlog, size = journal_figures(settings)
    options = WorkerOptions(
        sdk_app_ids=settings.sdk_app_ids,
        journal_backlog=backlog,
        journal_size=size,
        silent_processes=silent,
        forget=partial(append_forget_entry, settings),
        workers=Workers(runtime if settings.rpc_workers > 1 else None, name, settings.rpc_workers),
        tls=tls,
        clients=clients,
        centre=_centre(settings),
        limits=Limits(lag_seconds=settings.max_lag or math.inf),
    )
    view = locate(settings.data_dir)
    async with serving(notifier, reload) as stop:
        await serve(
            view, str(address), options, stop=stop, on_ready=lambda _: report_ready(notifier)
        )


def _centre(settings: Settings) -> Centre:
    percent, seconds = settings.service_level
    thresholds = Thresholds(percent, seconds * 1000, settings.short_abandon * 1000)
    return Centre(time_zone(settings.time_zone), settings.time_zone, thresholds)
