"""Publishes of nats-py into the stream of a journal, with the size and headers of a callback.

`python -m benchmarks.peers.raw_publishes SERVERS IN_FLIGHT SECONDS`; prints the acknowledgements
per second as JSON.
"""

import asyncio
import json
import os
import sys
import time
from itertools import count

import nats
from nats.js.api import PubAck

from benchmarks.nats import STREAM
from benchmarks.work import SDK_APP_ID
from journal.jetstream_message import CLIENT_IP, ID, PLATFORM, RECEIVED_AT

BODY = bytes(480)
"""As large as a callback of the other subjects."""

WARM_UP = 0.5
"""Seconds before the measurement."""


async def main(servers: list[str], in_flight: int, seconds: float) -> None:
    """Publish, with as many unanswered at once as given, and count the answers."""
    client = await nats.connect(servers)
    js = client.jetstream(publish_async_max_pending=in_flight)
    run = os.urandom(6).hex()
    answered = 0

    def count_answer(answer: asyncio.Future[PubAck]) -> None:
        nonlocal answered
        answer.result()
        answered += 1

    async def publish_until(end: float) -> None:
        while time.monotonic() < end:
            number = next(numbers)
            headers = {
                ID: f"{run}{number:020x}",
                RECEIVED_AT: str(time.time_ns() // 1_000_000),
                CLIENT_IP: "127.0.0.1",
                PLATFORM: "RESTAPI",
            }
            subject = f"{STREAM}.{SDK_APP_ID}.{number % 256:02x}"
            future = await js.publish_async(subject, BODY, headers=headers)
            future.add_done_callback(count_answer)

    numbers = count()
    await publish_until(time.monotonic() + WARM_UP)
    began, before = time.monotonic(), answered
    await publish_until(began + seconds)
    rate = (answered - before) / (time.monotonic() - began)
    print(json.dumps({"rate": rate}), flush=True)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1].split(","), int(sys.argv[2]), float(sys.argv[3])))
