"""`desk gateway`, `desk service` and `desk serve` with the journal on a real nats-server."""

import http.client
import json
from pathlib import Path
from typing import Any

import pytest
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from tests.support.nats import MIB, NatsServer
from tests.support.processes import DEADLINE, SDK_APP_ID, RunningDesk, run, start, wait_until
from tests.support.scrape import Page, scrape
from tests.support.waiting import eventually

pytestmark = pytest.mark.tools

BEGIN: dict[str, Any] = {
    "CallbackCommand": "Desk.SessionEventNotify",
    "SessionId": "a-session",
    "Event": "SessionBegin",
    "EventTime": 1725540020000,
}

COUNTERS = "desk_journal_append_duration_seconds_count", "desk_journal_duplicates_total"


def on(nats: NatsServer) -> dict[str, str]:
    return {"DESK_JOURNAL": nats.url, "DESK_NATS_MAX_BYTES": str(64 * MIB)}


def readiness(desk: RunningDesk) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*desk.http, timeout=DEADLINE)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_two_gateways_and_a_service_share_a_journal(own_nats: NatsServer, tmp_path: Path) -> None:
    settings = on(own_nats)
    with (
        start("gateway", data_dir=tmp_path / "one", **settings) as one,
        start("gateway", data_dir=tmp_path / "two", **settings) as two,
        start("service", data_dir=tmp_path / "three", **settings) as service,
    ):
        assert [gateway.post(BEGIN)[0] for gateway in (one, two, one)] == [200] * 3
        assert two.post(BEGIN | {"SessionId": "another"})[0] == 200
        target = service.target
        wait_until(lambda: "head revision     2\n" in run("status", target=target).stdout)
        wait_until(lambda: "applied revision  2\n" in run("status", target=target).stdout)
        listed = run("sessions", "list", target=target).stdout
        assert "a-session" in listed
        assert "another" in listed
        status = json.loads(run("status", "--json", target=target).stdout)
        assert int(status["disk_usage"]["journal_bytes"]) > 100


def test_without_a_spool_the_gateway_is_ready_only_while_nats_answers(
    own_nats: NatsServer, tmp_path: Path
) -> None:
    settings = on(own_nats) | {"DESK_METRICS_LISTEN": "127.0.0.1:0", "DESK_SPOOL": "off"}
    with start("gateway", data_dir=tmp_path / "data", **settings) as gateway:
        assert [gateway.post(BEGIN)[0] for _ in range(2)] == [200, 200]

        def page() -> Page | None:
            """Return the page; a busy machine may be late for it with the gateway."""
            found = scrape(gateway.ready()["metrics"])
            return found if found.value("desk_journal_size_bytes") > 100 else None

        def counted_once() -> bool:
            """Send the callback again, and compare the figures."""
            before = eventually(page)
            assert gateway.post(BEGIN)[0] == 200
            after = eventually(page)
            assert after.value("desk_journal_head_revision") == 1
            return [after.value(name) - before.value(name) for name in COUNTERS] == [1, 1]

        # A busy machine may be late for the callback, or for NATS: it is appended again.
        assert any(counted_once() for _ in range(5))
        wait_until(lambda: readiness(gateway)[0] == 200)
        own_nats.stop()
        wait_until(lambda: readiness(gateway)[0] == 503)
        assert "NATS at nats://127.0.0.1" in readiness(gateway)[1]
        assert gateway.post(BEGIN)[0] == 503
        own_nats.start()
        wait_until(lambda: readiness(gateway)[0] == 200)
        assert gateway.post(BEGIN)[0] == 200
        assert gateway.terminate() == 0


def test_a_stream_that_cannot_be_used_ends_the_start_in_one_line(
    nats: NatsServer, tmp_path: Path
) -> None:
    async def make(js: JetStreamContext) -> None:
        await js.add_stream(StreamConfig(name="unusable", subjects=["unusable.*.*"]))

    nats.manage(make)
    found = run(
        "gateway",
        DESK_DATA_DIR=str(tmp_path),
        DESK_SDK_APP_IDS=str(SDK_APP_ID),
        DESK_HTTP_LISTEN="127.0.0.1:0",
        DESK_METRICS_LISTEN="",
        DESK_NATS_STREAM="unusable",
        **on(nats),
    )
    assert found.returncode == 1
    assert "the stream unusable is not a journal: it has no desk-journal-id" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("command", [["restore", "/dev/null"], ["journal", "import", "/dev/null"]])
def test_a_command_for_a_file_says_that_the_journal_is_on_nats(command: list[str]) -> None:
    found = run(*command, DESK_JOURNAL="nats://nats:4222")
    assert found.returncode == 1
    assert found.stderr == (
        "desk: DESK_JOURNAL is on NATS: this command is for a journal in DESK_DATA_DIR\n"
    )
