"""The users of deploy/nats/nats.conf on a real nats-server: each can do its work, and no more."""

import asyncio
import io
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import nats
import pytest

from journal.errors import Unavailable
from journal.forgetting import forget_entry
from journal.jetstream import JetStreamOptions, JetStreamReader, JetStreamWriter
from journal.jetstream_copy import JetStreamTarget
from journal.jetstream_eraser import JetStreamEraser
from journal.jetstream_objects import ObjectStore
from tests.support.cluster import USERS, new_nkey
from tests.support.journals import PATIENCE, append
from tests.support.nats import NatsServer, nats_server
from tests.support.processes import ROOT

STREAM = "desk"

API = "$JS.API.STREAM"

DESTRUCTIVE = [
    f"{API}.DELETE.{STREAM}",
    f"{API}.PURGE.{STREAM}",
    f"{API}.UPDATE.{STREAM}",
    f"{API}.RESTORE.{STREAM}",
    f"$JS.API.CONSUMER.CREATE.{STREAM}",
]

FORBIDDEN = {
    "gateway": [
        *DESTRUCTIVE,
        f"{API}.MSG.DELETE.{STREAM}",
        f"{STREAM}.1.forget",
        f"$JS.API.DIRECT.GET.{STREAM}",
        f"{API}.PURGE.OBJ_desk-views",
        "$O.desk-views.C.x",
    ],
    "service": [*DESTRUCTIVE, f"{API}.CREATE.{STREAM}", f"{STREAM}.1.aa"],
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    conf = (ROOT / "deploy/nats/nats.conf").read_text()
    (users,) = re.findall(r"^authorization \{.*?^\}", conf, re.DOTALL | re.MULTILINE)
    for user in USERS:
        users = users.replace(f"$NATS_{user.upper()}", new_nkey(tmp_path / f"{user}.nk"))
    with nats_server(tmp_path / "nats", users) as server:
        yield server


def as_user(server: NatsServer, directory: Path, user: str) -> JetStreamOptions:
    options = server.options(STREAM)
    return replace(options, access=replace(options.access, nkey=directory / f"{user}.nk"))


def test_a_gateway_makes_the_stream_and_a_service_reads_it_forgets_and_keeps_snapshots(
    server: NatsServer, tmp_path: Path
) -> None:
    service = as_user(server, tmp_path, "service")
    with closing(JetStreamWriter(as_user(server, tmp_path, "gateway"))) as writer:
        revision = append(writer).revision
        with closing(JetStreamReader(service)) as reader:
            assert reader.wait(0, timeout=PATIENCE)
            assert [each.revision for each in reader.read(0, limit=9)] == [revision]
            assert reader.read(revision, limit=9) == []
            append(writer, "more")
            assert reader.wait(revision, timeout=PATIENCE)
        with closing(JetStreamEraser(service)) as eraser:
            forgotten = eraser.forget(forget_entry(1, 1, session_ids=["a"]))
            eraser.delete([revision, revision + 1])
            assert [each.revision for each in eraser.read(0, limit=9)] == [forgotten]
    with closing(ObjectStore(service.access, service.stream)) as objects:
        assert objects.claim("view")
        stored = objects.put("view", io.BytesIO(b"abc"), {})
        assert objects.open(stored).read(9) == b"abc"
        objects.delete_incomplete("view")
        objects.delete(stored)
        assert objects.all() == []


def test_the_operator_copies_a_journal(server: NatsServer, tmp_path: Path) -> None:
    operator = as_user(server, tmp_path, "operator")
    with closing(JetStreamTarget(operator, "0" * 32, first=5)) as target:
        target.begin()
        assert target.head() == 4
        target.finish()
    with closing(JetStreamWriter(as_user(server, tmp_path, "gateway"))) as writer:
        assert append(writer).revision == 5


@pytest.mark.parametrize(
    ("user", "subject"), [(user, each) for user in FORBIDDEN for each in FORBIDDEN[user]]
)
def test_a_user_can_do_nothing_else(
    server: NatsServer, tmp_path: Path, user: str, subject: str
) -> None:
    with closing(JetStreamWriter(as_user(server, tmp_path, "gateway"))) as writer:
        append(writer)

    async def ask() -> None:
        told = asyncio.Event()

        async def note(error: Exception) -> None:
            if subject.lower() in str(error).lower():
                told.set()

        seed = str(tmp_path / f"{user}.nk")
        client = await nats.connect(server.url, nkeys_seed=seed, error_cb=note)
        request = json.dumps({"name": STREAM}).encode()
        asked = asyncio.create_task(client.request(subject, request, timeout=PATIENCE))
        async with asyncio.timeout(PATIENCE):
            await told.wait()
        assert not asked.done()  # the error came first, and nothing is to answer
        asked.cancel()
        await client.close()

    asyncio.run(ask())


def test_a_service_cannot_make_the_stream(server: NatsServer, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="there is no stream desk yet"):
        JetStreamReader(as_user(server, tmp_path, "service"))
