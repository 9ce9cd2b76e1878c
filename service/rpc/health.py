"""grpc.health.v1: whether this worker serves.

grpc_health's own servicer sends under a lock: one watcher that reads nothing would silence it for
all others, and hold up the drain.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from service.rpc.calls import Call

messages: Any = health_pb2  # its published types lack what came last


class Health:
    """Answers for some services, all of which serve or do not serve together.

    Args:
        names: of the services; "" is the worker as a whole.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._serving = False
        self._changed = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether the worker serves; watchers are told of changes."""
        return self._serving

    @serving.setter
    def serving(self, serving: bool) -> None:
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: HealthCheckRequest, call: Call) -> HealthCheckResponse:  # noqa: N802
        """Return the status of a service; NOT_FOUND if it is unknown."""
        if request.service not in self._names:
            await call.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return self._answer(request.service)

    async def List(self, _request: Any, _call: Call) -> Any:  # noqa: N802
        """Return the status of every service."""
        statuses = {name: self._answer(name) for name in self._names}
        return messages.HealthListResponse(statuses=statuses)

    async def Watch(self, request: HealthCheckRequest, call: Call) -> None:  # noqa: N802
        """Send the status of a service now and whenever it changes."""
        while True:
            changed = self._changed
            await call.write(self._answer(request.service))
            await changed.wait()

    def _answer(self, service: str) -> HealthCheckResponse:
        if service not in self._names:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        if self._serving:
            return HealthCheckResponse(status=HealthCheckResponse.SERVING)
        return HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING)
