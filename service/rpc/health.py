"""grpc.health.v1: the library's servicer, with a queue for each watcher."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

messages: Any = health_pb2  # its published types lack the newest messages


class Health(aio.HealthServicer):
    """The health of services that start and stop together.

    Args:
        names: of the services; "" is the worker as a whole.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names

    async def report(self, *, serving: bool) -> None:
        """Report all services as serving or not, until `enter_graceful_shutdown`."""
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.set(name, status)

    async def List(self, _request: Any, call: Any) -> Any:
        asked = {name: HealthCheckRequest(service=name) for name in self._names}
        statuses = {name: await self.Check(request, call) for name, request in asked.items()}
        return messages.HealthListResponse(statuses=statuses)

    async def Watch(self, request: HealthCheckRequest, call: Any) -> None:
        """Send the status of a service now and whenever it changes."""
        # The library writes under a lock: a watcher that reads nothing would block all others.
        statuses: asyncio.Queue[HealthCheckResponse] = asyncio.Queue()
        outbox: Any = SimpleNamespace(write=statuses.put)
        watching = asyncio.create_task(super().Watch(request, outbox))
        try:
            while True:
                await call.write(await statuses.get())
        finally:
            watching.cancel()
