"""Two `desk service` on one stream: killed in turn while a subscriber follows them."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from pathlib import Path

import pytest

from desk.client import Client
from tests.support.loopback import reserved_port
from tests.support.nats import MIB, NatsServer
from tests.support.processes import DEADLINE, RunningDesk, run, start, wait_until

pytestmark = pytest.mark.tools


@contextmanager
def load(gateway: RunningDesk) -> Iterator[list[str]]:
    """Send callbacks for as long as the block runs; gives the sessions that were acknowledged."""
    stop, kept = threading.Event(), list[str]()

    def send() -> None:
        while not stop.wait(0.005):
            session = f"s{len(kept)}"
            body = {
                "CallbackCommand": "Desk.SessionEventNotify",
                "SessionId": session,
                "Event": "SessionBegin",
                "EventTime": 1725540020000 + len(kept),
            }
            with suppress(OSError):
                if gateway.post(body)[0] == 200:
                    kept.append(session)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield kept
    finally:
        stop.set()
        thread.join(DEADLINE)


async def test_a_subscriber_misses_nothing_while_the_replicas_are_killed_in_turn(
    own_nats: NatsServer, tmp_path: Path
) -> None:
    settings = {"DESK_JOURNAL": own_nats.url, "DESK_NATS_MAX_BYTES": str(64 * MIB)}
    with ExitStack() as stack:
        gateway = stack.enter_context(start("gateway", data_dir=tmp_path / "g", **settings))
        gateway.ready()

        ports = {name: stack.enter_context(reserved_port()) for name in ("one", "two")}
        targets = ",".join(f"127.0.0.1:{port}" for port in ports.values())

        def service(name: str) -> RunningDesk:
            listen = {"DESK_GRPC_LISTEN": f"127.0.0.1:{ports[name]}"}
            return stack.enter_context(
                start("service", data_dir=tmp_path / name, **settings, **listen)
            )

        running = {name: service(name) for name in ports}
        for each in running.values():
            each.ready()
        seen: list[str] = []
        with ExitStack() as loading:
            kept = loading.enter_context(load(gateway))
            async with Client(targets, reconnect_delay=0.05) as client:
                updates = client.subscribe(after_revision=0)
                async with aclosing(updates), asyncio.timeout(4 * DEADLINE):

                    async def follow(number: int) -> None:
                        while len(seen) < number:
                            update = await anext(updates)
                            seen.extend(each.event.session_id for each in update.records)

                    for name in ("one", "two", "one"):
                        await follow(len(seen) + 50)
                        await asyncio.to_thread(running[name].kill)
                        await follow(len(seen) + 50)
                        running[name] = service(name)
                        await asyncio.to_thread(running[name].ready)
                    loading.close()
                    await follow(len(kept))
        assert seen[: len(kept)] == kept
        wait_until(lambda: _agree(targets))


def _agree(targets: str) -> bool:
    answer = run("status", target=targets)
    assert "different" not in answer.stderr
    rows = [line.split()[1:] for line in answer.stdout.splitlines()[1:]]
    return answer.returncode == 0 and len({tuple(row) for row in rows}) == 1
