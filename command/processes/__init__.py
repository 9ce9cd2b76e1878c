"""The processes of the server commands, and the order in which they stop.

A module here has the work of one process. Only that process imports it, so that the gateway does
not load gRPC, nor the service waitress.
"""

import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command.address import Address
from command.processes.child import run_child
from command.runtime import read_silent
from command.settings import Settings
from command.supervised import ProcessSpec

if TYPE_CHECKING:
    from console.protection import Access

ASIDE = ("console", "gateway", "snapshots")
"""Processes on which the answers of gRPC do not depend."""


def gateway_processes(
    settings: Settings, runtime: Path, listener: socket.socket
) -> list[ProcessSpec]:
    """Return the gateway. It stops first, so that all acknowledged callbacks are still served."""
    return [_process("gateway", 0, settings, runtime, listener)]


def service_processes(settings: Settings, runtime: Path, address: Address) -> list[ProcessSpec]:
    """Return the follower and the rpc workers, which stop together."""
    silent = partial(silent_of_service, runtime)
    names = [f"rpc-{number}" for number in range(1, settings.rpc_workers + 1)]
    workers = [
        _process(name, 1, settings, runtime, address, silent, runtime, name) for name in names
    ]
    publishes = settings.is_on_nats and settings.snapshot_hours
    snapshots = [_process("snapshots", 1, settings, runtime)] if publishes else []
    return [_process("follower", 1, settings, runtime), *workers, *snapshots]


def console_processes(
    settings: Settings,
    runtime: Path,
    listener: socket.socket,
    target: Address,
    access: "Access",
) -> list[ProcessSpec]:
    """Return the console of a service at `target`. It stops with the gateway."""
    return [_process("console", 0, settings, runtime, listener, target, access)]


def silent_of_service(runtime: Path) -> list[str]:
    """Return the processes without a sign of life for which health is NOT_SERVING."""
    return [name for name in read_silent(runtime) if name not in ASIDE]


def _process(
    name: str, stage: int, settings: Settings, runtime: Path, *arguments: Any
) -> ProcessSpec:
    """Return a process with the work of the module that its name begins with."""
    module = f"{__name__}.{name.partition('-')[0]}"
    return ProcessSpec(
        name=name,
        run=run_child,
        arguments=(module, name, settings, runtime, *arguments),
        stage=stage,
    )
