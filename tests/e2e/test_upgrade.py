"""An upgrade to a version with another transition table, and back, while clients are at work.

`make upgrade-trial` does it with 200,000 callbacks, and shows what the clients noticed.
"""

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.callbacks import traffic
from benchmarks.populations import write_journal
from service.view import store
from tests.support.loopback import reserved_port
from tests.support.processes import RunningDesk, run, start, wait_until
from tests.support.through_upgrade import Clients
from tests.support.trees import compile_tree, copy_tree, settings

CALLBACKS = int(os.environ.get("DESK_TEST_CALLBACKS", "3000"))

TIMEOUT = 60 + CALLBACKS / 500
"""Seconds that a view may take to be built on a busy machine."""

OLD_ROW = "Transition((*HANDLED, _S.CLOSING, _S.ENDED))"
NEW_ROW = "Transition((_S.CLOSING, _S.ENDED))"

pytestmark = [pytest.mark.tools, pytest.mark.timeout(120 + 4 * TIMEOUT)]


@pytest.fixture
def newer(tmp_path: Path) -> dict[str, str]:
    """The environment of a newer version: one row of the transition table is another."""
    tree = tmp_path / "newer"
    copy_tree(tree)
    catalogue = tree / "callback" / "catalogue.py"
    text = catalogue.read_text()
    assert OLD_ROW in text
    catalogue.write_text(text.replace(OLD_ROW, NEW_ROW))
    compile_tree(tree)
    return settings(tree)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a journal, and no view."""
    (tmp_path / "data").mkdir(mode=0o700)
    write_journal(tmp_path / "data", traffic(CALLBACKS))
    return tmp_path / "data"


def is_complete(view: Path, revision: int) -> bool:
    try:
        with closing(store.open_reader(view)) as db:
            row = db.execute("SELECT complete, applied_revision FROM progress").fetchone()
    except store.ViewUnavailable:
        return False
    return row is not None and row[0] == 1 and row[1] >= revision


def first_session(view: Path) -> str:
    with closing(store.open_reader(view)) as db:
        return str(db.execute("SELECT session_id FROM sessions LIMIT 1").get)


def followed_from(desk: RunningDesk) -> int:
    """Return the revision that a start found its view at."""
    return int(desk.wait_for(lambda record: record["event"] == "follower_started")["revision"])


def test_an_upgrade_and_a_rollback_lose_and_double_nothing(
    tmp_path: Path, data: Path, newer: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1024) as listener,  # kept open as by systemd
        reserved_port() as port,
        start(
            "serve", data_dir=data, listener=listener, DESK_GRPC_LISTEN=f"127.0.0.1:{port}"
        ) as old,
    ):
        grpc = {"DESK_GRPC_LISTEN": old.target}
        ours, old_view = {"DESK_DATA_DIR": str(data)}, store.locate(data)
        wait_until(lambda: is_complete(old_view, CALLBACKS), timeout=TIMEOUT)
        http, target, known = old.http, old.target, first_session(old_view)
        with Clients(http, target, known, rate=50) as clients:
            wait_until(lambda: len(clients.received) > CALLBACKS, timeout=TIMEOUT)
            built = run("view", "build", cwd=tmp_path, timeout=TIMEOUT, **ours, **newer)
            assert built.returncode == 0, built.stderr
            (new_view,) = store.others(data)
            assert old.terminate() == 0
            with start("serve", data_dir=data, listener=listener, **grpc, **newer) as new:
                assert followed_from(new) >= CALLBACKS
                goes_on(clients)
                report(clients, "upgrade", capsys)
                assert new.terminate() == 0
            with start("serve", data_dir=data, listener=listener, **grpc) as back:
                assert followed_from(back) >= CALLBACKS
                goes_on(clients)
                report(clients, "upgrade and rollback", capsys)
                clients.stop_sending()
                last = clients.acknowledged[-1]
                wait_until(lambda: clients.received[-1][0] >= last)
                assert run("view", "drop", **ours).stdout == (f"{new_view.name}: deleted\n")
                assert back.terminate() == 0
    assert clients.errors == []
    assert clients.desk.failed == 0
    assert clients.refused < 20  # each takes a busy machine 1.5 s
    assert clients.received == sorted(set(clients.received))
    own = [revision for revision, ordinal in clients.received if ordinal == 0]
    assert own == list(range(1, len(own) + 1))
    assert len(clients.acknowledged) == len(set(clients.acknowledged))
    assert set(clients.acknowledged) == set(own[CALLBACKS:])


def goes_on(clients: Clients) -> None:
    """Wait until each client has been served anew."""
    counts = [len(clients.acknowledged), clients.poller.made, clients.impatient.made]
    before = [count + 20 for count in counts]
    wait_until(
        lambda: (
            len(clients.acknowledged) >= before[0]
            and clients.poller.made >= before[1]
            and clients.impatient.made >= before[2]
            and clients.received[-1][0] >= clients.acknowledged[-20]
        )
    )


def report(clients: Clients, title: str, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{title} (load average {os.getloadavg()[0]:.1f})")
        print(f"  callbacks:            {clients.desk}")
        print(f"  calls with retries:   {clients.poller}")
        print(f"  calls without:        {clients.impatient}")
