"""Channels to the replicas of a service. Calls go to the replica that answered last."""

import random
from collections.abc import Callable, Sequence
from typing import Any

Method = Callable[..., Any]


def targets_of(target: str) -> list[str]:
    """Return the targets in a text with commas between them; gRPC has lists of its own as well."""
    if target.startswith(("ipv4:", "ipv6:")):
        return [target]
    return [part.strip() for part in target.split(",")]


class Replicas:
    """Channels to replicas of one service. A stub takes it for a channel.

    Attributes:
        current: place of the replica that calls go to.
    """

    def __init__(self, channels: Sequence[Any]) -> None:
        self._channels = channels
        self.current = random.randrange(len(channels))  # noqa: S311 (spreads load)

    def __len__(self) -> int:
        return len(self._channels)

    def leave(self, replica: int) -> None:
        """Send further calls to the next replica, unless `replica` is no longer the current one."""
        if replica == self.current:
            self.current = (replica + 1) % len(self._channels)

    def unary_unary(self, *description: Any, **options: Any) -> Method:
        return self._method([each.unary_unary(*description, **options) for each in self._channels])

    def unary_stream(self, *description: Any, **options: Any) -> Method:
        return self._method([each.unary_stream(*description, **options) for each in self._channels])

    def hopping(self, method: Method) -> Method:
        """Wrap a method so that each call goes to another replica than the call before."""
        before: list[int] = []

        def call(*arguments: Any, **options: Any) -> Any:
            for replica in before:
                self.leave(replica)
            before[:] = [self.current]
            return method(*arguments, **options)

        return call

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    def _method(self, methods: Sequence[Method]) -> Method:
        return lambda *arguments, **options: methods[self.current](*arguments, **options)
