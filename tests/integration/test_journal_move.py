"""An installation moves to NATS and back while callbacks arrive, as docs/cluster.md says."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.support.copies import Place
from tests.support.nats import NatsServer
from tests.support.processes import DEADLINE, SDK_APP_ID, RunningDesk, run, start
from tests.support.waiting import eventually

QUERY = urlencode({"SdkAppid": SDK_APP_ID, "CallbackCommand": "Desk.SessionEventNotify"})


@contextmanager
def callbacks(port: int) -> Iterator[list[str]]:
    """Send callbacks, each again until it is acknowledged; give the sessions of those that are."""
    acknowledged: list[str] = []
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            session = f"s{len(acknowledged)}"
            if post(port, session) == 200:
                acknowledged.append(session)
            else:
                stop.wait(0.05)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        thread.join(60)


def post(port: int, session: str) -> int:
    body = {"SessionId": session, "Event": "SessionBegin", "EventTime": 1_725_540_020_000}
    with (
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as connection,
        suppress(OSError, http.client.HTTPException),
    ):
        connection.request("POST", f"/?{QUERY}", json.dumps(body))
        return connection.getresponse().status
    return 0


def more(acknowledged: list[str], count: int = 50) -> None:
    """Wait for more acknowledged callbacks."""
    enough = len(acknowledged) + count
    eventually(lambda: len(acknowledged) >= enough)


def waits_for_the_copy(desk: RunningDesk, component: str) -> None:
    desk.wait_for(
        lambda record: "desk journal copy" in str(record) and record.get("process") == component
    )


def logged(desk: RunningDesk, event: str) -> bool:
    return any(record["event"] == event for record in desk.records)


def sessions(desk: RunningDesk) -> set[str]:
    listed = run("sessions", "list", "--all", "--json", target=desk.target).stdout
    return {json.loads(line)["session_id"] for line in listed.splitlines()}


@pytest.mark.tools
def test_an_installation_moves_to_nats_and_back_and_no_callback_is_lost(
    nats: NatsServer, tmp_path: Path
) -> None:
    place = Place(nats, tmp_path / "data")
    on_nats = {**place.settings(), "DESK_JOURNAL": nats.url}
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        callbacks(listener.getsockname()[1]) as acknowledged,
    ):
        with start("serve", data_dir=place.data, listener=listener) as desk:
            more(acknowledged)
            assert place.to_nats().returncode == 1
            more(acknowledged)
            assert desk.terminate() == 0
        with start("serve", data_dir=place.data, listener=listener, **on_nats) as desk:
            waits_for_the_copy(desk, "follower")
            more(acknowledged)  # they are spooled
            assert place.to_nats().returncode == 0
            desk.wait_for(lambda record: record["event"] == "spooling_ended")
            more(acknowledged)
            assert desk.terminate() == 0
            assert not logged(desk, "view_discarded")
        for _ in range(5):  # a busy machine may spool again just before the end
            if not logged(desk, "spool_left"):
                break
            with start("serve", data_dir=place.data, listener=listener, **on_nats) as desk:
                more(acknowledged)
                assert desk.terminate() == 0
                assert not logged(desk, "view_discarded")
        assert not logged(desk, "spool_left")
        assert place.back(place.data).returncode == 0
        with start("serve", data_dir=place.data, listener=listener) as desk:
            more(acknowledged)
            sent = set(acknowledged)
            eventually(lambda: sessions(desk) >= sent)
            assert not logged(desk, "view_discarded")
