"""Callback tokens that change and end while the gateway runs."""

import os
import shutil
import signal
import time
from hashlib import sha256
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from command.settings import Settings
from command.tokens import CallbackTokens
from tests.support.certificates import Authority
from tests.support.clients import Clients
from tests.support.processes import SDK_APP_ID, run, start, wait_until

BEGIN = {
    "CallbackCommand": "Desk.SessionEventNotify",
    "SessionId": "a-session",
    "Event": "SessionBegin",
    "EventTime": 1725540020000,
}


def post(desk, token):
    now = str(int(time.time()))
    sign = sha256((token + now).encode()).hexdigest()
    status, _ = desk.post(BEGIN, RequestTime=now, Sign=sign)
    return status


def put(path, text):
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


@pytest.mark.tools
def test_a_running_gateway_follows_its_tokens_and_never_switches_the_check_off(tmp_path):
    file = tmp_path / "tokens"
    put(file, f"{SDK_APP_ID}=old\n")
    data_dir = tmp_path / "data"
    with start("gateway", data_dir=data_dir, DESK_CALLBACK_TOKENS_FILE=str(file)) as desk:
        assert (post(desk, "old"), post(desk, "new"), desk.post(BEGIN)[0]) == (200, 403, 403)
        put(file, f"{SDK_APP_ID}=old\n{SDK_APP_ID}=new\n")
        wait_until(lambda: post(desk, "new") == 200)
        assert post(desk, "old") == 200
        put(file, f"{SDK_APP_ID}=new\n")
        wait_until(lambda: post(desk, "old") == 403)
        for broken in ("", "new", f"{SDK_APP_ID}=", "1=new"):
            before = refusals(desk)
            put(file, broken)
            wait_until(lambda before=before: refusals(desk) > before)
            assert (post(desk, "new"), desk.post(BEGIN)[0]) == (200, 403)
        before = refusals(desk)
        desk.process.send_signal(signal.SIGHUP)  # read again though it did not change
        wait_until(lambda: refusals(desk) > before)
        put(file, f"{SDK_APP_ID}=new;until=2020-01-01")
        wait_until(lambda: post(desk, "new") == 403)
        assert desk.wait_for(lambda record: record["event"] == "callback_tokens_ended")
        assert desk.terminate() == 0
        assert '"old"' not in desk.output
    with start("gateway", data_dir=data_dir, DESK_CALLBACK_TOKENS_FILE=str(file)) as desk:
        assert (post(desk, "new"), desk.post(BEGIN)[0]) == (403, 403)


@pytest.mark.tools
def test_a_gateway_that_is_started_again_reads_its_tokens_again(tmp_path):
    file = tmp_path / "tokens"
    put(file, f"{SDK_APP_ID}=old\n")
    data_dir = tmp_path / "data"
    with start("gateway", data_dir=data_dir, DESK_CALLBACK_TOKENS_FILE=str(file)) as desk:
        assert post(desk, "old") == 200
        put(file, f"{SDK_APP_ID}=new\n")
        wait_until(lambda: post(desk, "new") == 200)
        os.kill(gateway_of(desk), signal.SIGKILL)
        wait_until(lambda: starts(desk) == 2)
        assert (post(desk, "new"), post(desk, "old")) == (200, 403)


def gateway_of(desk):
    (pid,) = (pid for pid in desk.children() if title_of(pid).startswith(b"desk: gateway"))
    return pid


def title_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def starts(desk):
    return sum(record["event"] == "process_ready" for record in desk.records)


def refusals(desk):
    return sum(record["event"] == "callback_tokens_not_reloaded" for record in desk.records)


@pytest.fixture
def environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("DESK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return monkeypatch.setenv


def test_a_token_ends_after_its_last_day_without_a_change_of_the_file(environment):
    environment("DESK_SDK_APP_IDS", "1,2,3")
    environment("DESK_CALLBACK_TOKENS", "1=old;until=2026-12-31,1=new,2=only;until=2026-12-31")
    end = 1798761600  # 2027-01-01T00:00:00Z
    tokens = CallbackTokens(Settings.load())
    with capture_logs() as lines:
        assert tokens.refresh(end - 1) == {1: ("old", "new"), 2: ("only",)}
        assert tokens.refresh(end - 1) == {1: ("old", "new"), 2: ("only",)}
        assert tokens.refresh(end) == {1: ("new",), 2: ()}
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("callback_tokens_in_force", "info"),
        ("callback_tokens_in_force", "info"),
        ("callback_tokens_ended", "error"),
    ]
    assert lines[0]["signatures_not_checked"] == [3]
    assert (lines[1]["tokens"], lines[2]["sdk_app_id"]) == ({1: 1, 2: 0}, 2)


def test_the_last_day_of_the_calendar_is_no_error(environment):
    environment("DESK_SDK_APP_IDS", "1")
    environment("DESK_CALLBACK_TOKENS", "1=token;until=9999-12-31")
    assert CallbackTokens(Settings.load()).refresh(0.0) == {1: ("token",)}


def test_a_gateway_warns_of_an_app_without_a_token_wherever_it_listens(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.touch()
    settings = {"DESK_CALLBACK_TOKENS_FILE": str(tokens), "DESK_ALLOW_UNSIGNED": "false"}
    with start("gateway", data_dir=tmp_path / "data", **settings) as desk:
        warning = desk.wait_for(lambda record: record["level"] == "warning")
        assert warning["problem"].startswith(
            f"DESK_CALLBACK_TOKENS_FILE has no token for app {SDK_APP_ID}"
        )


@pytest.mark.tools
def test_a_running_service_follows_its_clients_and_its_certificate(tmp_path):
    ours, theirs, clients = Authority(tmp_path), Authority(tmp_path, "other"), Clients(tmp_path)
    (tmp_path / "key").write_text(clients.add("ours"))
    server, renewed = ours.issue("server"), theirs.issue("server")
    with start(
        "serve",
        data_dir=tmp_path / "data",
        DESK_GRPC_TLS_CERT=str(server.chain),
        DESK_GRPC_TLS_KEY=str(server.key),
        DESK_CLIENTS_FILE=str(clients.path),
    ) as desk:

        def status(authority):
            return run(
                "status",
                target=desk.target,
                DESK_CLIENT_TLS_CA=str(authority.file),
                DESK_CLIENT_KEY_FILE=str(tmp_path / "key"),
            ).returncode

        assert (status(ours), status(theirs)) == (0, 3)
        shutil.copy(renewed.chain, server.chain)
        shutil.copy(renewed.key, server.key)
        desk.process.send_signal(signal.SIGHUP)
        wait_until(lambda: status(theirs) == 0)
        clients.remove("ours")
        wait_until(lambda: status(theirs) == 1)
        assert desk.terminate() == 0
