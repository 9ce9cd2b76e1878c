"""The console process: shows in a browser what the service answers."""

import socket

from command.address import Address
from command.notifier import Notifier
from command.processes.child import report_ready
from command.processes.liveness import serving
from command.settings import Settings
from command.settings_console import client_security
from command.values import time_zone
from console.protection import Access
from console.server import serve
from desk.client import Client

METRICS = ()


async def run(
    notifier: Notifier,
    settings: Settings,
    listener: socket.socket,
    target: Address,
    access: Access,
) -> None:
    """Show what the service at `target` answers."""
    security = client_security()  # here: gRPC's credentials do not pass from process to process
    async with serving(notifier) as stop:
        await serve(
            listener,
            str(target),
            connect=lambda each: Client(each, **security),
            access=access,
            zone=time_zone(settings.time_zone),
            settings=settings.described(),
            settings_of="desk serve: gateway, service and this console",
            stop=stop,
            on_ready=lambda: report_ready(notifier),
        )
