"""The commands against a service with TLS and clients: every one, with options and variables."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.clients import Clients
from tests.support.commands import catch_up, invoke
from tests.support.feed_server import FeedServer, serving
from tests.support.processes import DEADLINE, SDK_APP_ID, RunningDesk, run, start
from tests.support.waiting import eventually, last_answer

NOTHING = "desk: no callback is rejected\n"

BEGIN = {
    "CallbackCommand": "Desk.SessionEventNotify",
    "SessionId": "a-session",
    "Event": "SessionBegin",
    "EventTime": 1725540020000,
}


class Protected:
    """A running `desk serve` with TLS and a clients file, and what its clients need."""

    def __init__(self, folder: Path, desk: RunningDesk, authority: Authority) -> None:
        self.folder = folder
        self.desk = desk
        self.authority = authority

    def tls(self) -> dict[str, str]:
        return {"DESK_CLIENT_TLS_CA": str(self.authority.file)}

    def client(self) -> dict[str, str]:
        return {**self.tls(), "DESK_CLIENT_KEY_FILE": str(self.folder / "key")}

    def run(self, *arguments: str, **settings: str) -> Any:
        return invoke(*arguments, target=self.desk.target, **settings)


@contextmanager
def protected(folder: Path, **more: str) -> Iterator[Protected]:
    authority, clients = Authority(folder), Clients(folder)
    (folder / "key").write_text(clients.add("all"))
    (folder / "narrow").write_text(clients.add("narrow", apps=[1], scopes=("sessions.read",)))
    server = authority.issue("server")
    with start(
        "serve",
        data_dir=folder / "data",
        DESK_GRPC_TLS_CERT=str(server.chain),
        DESK_GRPC_TLS_KEY=str(server.key),
        DESK_CLIENTS_FILE=str(clients.path),
        **more,
    ) as desk:
        desk.post(BEGIN)
        yield Protected(folder, desk, authority)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Protected]:
    with protected(tmp_path_factory.mktemp("shared")) as running:
        catch_up(running.desk.target, **running.client())
        yield running


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("sessions", "list"),
        ("sessions", "get", "a-session"),
        ("sessions", "count"),
        ("sessions", "explain", "a-session"),
        ("sessions", "wait", "a-session", "--state", "CHATBOT"),
        ("rejections",),
    ],
)
def test_every_command_takes_the_files_from_variables(shared, arguments):
    def answer() -> tuple[int, str]:
        done = shared.run(*arguments, **shared.client())
        return done.returncode, done.stderr

    # On a busy machine the status may say that a process has just been silent.
    expected = (0, ""), (0, NOTHING)
    assert last_answer(answer, expected.__contains__) in expected


def test_options_do_the_same_as_the_variables(shared):
    options = ("--tls-ca", str(shared.authority.file), "--key-file", str(shared.folder / "key"))
    assert shared.run("status", *options).returncode == 0
    wrong = {"DESK_CLIENT_TLS_CA": "/no/such", "DESK_CLIENT_KEY_FILE": "/no/such"}
    assert shared.run("status", *options, **wrong).returncode == 0


@pytest.mark.parametrize("option", ["--tls-ca", "--tls-cert", "--tls-key", "--key-file"])
def test_a_file_that_is_not_there_is_named_with_its_option(option):
    done = run("status", option, "/no/such")
    assert done.returncode == 2
    assert f"'{option}'" in done.stderr
    assert "File '/no/such' does not exist" in done.stderr


def test_watch_takes_them_too(shared):
    done = shared.run("watch", "--from-start", "--target", shared.desk.target, **shared.tls())
    assert done.returncode == 1
    assert "see --key-file (UNAUTHENTICATED)" in done.stderr


def test_health_needs_tls_and_no_key(shared):
    def health(**settings: str) -> int:
        return run("health", "service", shared.desk.target, **settings).returncode

    # On a busy machine a process may just have been silent.
    eventually(lambda: health(**shared.tls()) == 0)
    eventually(lambda: health(**shared.client()) == 0)
    assert health() == 1
    named = {**shared.tls(), "DESK_CLIENT_TLS_NAME": "other.example"}
    assert health(**named) == 1
    named["DESK_CLIENT_TLS_NAME"] = "localhost"
    eventually(lambda: health(**named) == 0)


def test_a_simulation_is_verified_with_a_key(shared):
    url = "http://{}:{}".format(*shared.desk.http)
    arguments = ("simulate", url, "--app", str(SDK_APP_ID), "--sessions", "3")
    verify = ("--verify", shared.desk.target)
    done = run(*arguments, *verify, **shared.client())
    assert done.returncode == 0, done
    done = run(*arguments, *verify, **shared.tls())
    assert done.returncode == 1
    assert "UNAUTHENTICATED" in done.stdout


@pytest.mark.parametrize(
    ("key", "arguments", "reason"),
    [
        (None, ("status",), "see --key-file (UNAUTHENTICATED)"),
        ("narrow", ("status",), "(PERMISSION_DENIED, SCOPE_MISSING)"),
        (
            "narrow",
            ("sessions", "list", "--app", "2"),
            "no other app than 1 (PERMISSION_DENIED, APP_NOT_ALLOWED)",
        ),
    ],
)
def test_a_denial_is_one_line_with_its_reason(shared, key, arguments, reason):
    settings = {"DESK_CLIENT_KEY_FILE": str(shared.folder / key)} if key else {}
    done = shared.run(*arguments, **shared.tls(), **settings)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(reason)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({}, "it closed the connection; if it uses TLS, pass --tls-ca"),
        (
            {"DESK_CLIENT_TLS_CA": "{folder}/stranger.pem"},
            "no authority in --tls-ca has signed its certificate",
        ),
        (
            {"DESK_CLIENT_TLS_CA": "{authority}", "DESK_CLIENT_TLS_NAME": "other.example"},
            "its certificate has another name: see --tls-name",
        ),
    ],
)
def test_a_connection_that_fails_for_its_tls_is_one_line_that_says_what_to_do(
    shared, settings, cause
):
    Authority(shared.folder, "stranger")
    paths = {"folder": shared.folder, "authority": shared.authority.file}
    given = {name: text.format(**paths) for name, text in settings.items()}
    done = run("status", target=shared.desk.target, **given)
    assert done.returncode == 3
    assert done.stderr == f"desk: cannot reach {shared.desk.target}: {cause} (UNAVAILABLE)\n"


async def test_tls_to_a_service_without_it_is_one_line_that_says_what_to_do(shared):
    async with serving(FeedServer()) as port:
        target = f"127.0.0.1:{port}"
        done = await asyncio.to_thread(run, "status", target=target, **shared.tls())
    cause = "it does not use TLS: leave out --tls-ca"
    assert done.stderr == f"desk: cannot reach {target}: {cause} (UNAVAILABLE)\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DESK_CLIENT_TLS_CA": "/no/such"}, "'DESK_CLIENT_TLS_CA'): File '/no/such' does not"),
        ({"DESK_CLIENT_TLS_CERT": "{key}"}, "a client certificate and its key belong together"),
        ({"DESK_CLIENT_TLS_NAME": "x"}, "--tls-name needs --tls-ca"),
        ({"DESK_CLIENT_KEY_FILE": "/dev/null"}, "/dev/null has no key"),
        (
            {"DESK_CLIENT_KEY_FILE": "{key}", "DESK_TARGET": "desk.example:1"},
            "a key is sent over TLS only, or to this machine, not to desk.example:1",
        ),
    ],
)
def test_wrong_options_are_wrong_usage(shared, settings, message):
    given = {name: value.format(key=shared.folder / "key") for name, value in settings.items()}
    done = run("status", **given)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.tools
def test_with_an_authority_of_clients_each_command_shows_its_certificate(tmp_path):
    with protected(tmp_path, DESK_GRPC_CLIENT_CA=str(tmp_path / "authority.pem")) as running:
        done = running.run("status", **running.client())
        assert done.returncode == 3, done
        own = running.authority.issue("client")
        shown = {"DESK_CLIENT_TLS_CERT": str(own.chain), "DESK_CLIENT_TLS_KEY": str(own.key)}
        assert running.run("status", **running.client(), **shown).returncode == 0

        def health() -> int:
            at = ("service", running.desk.target)
            return run("health", *at, **running.tls(), **shown).returncode

        eventually(lambda: health() == 0)


def test_the_console_of_serve_signs_in_at_a_service_with_tls_and_keys(tmp_path: Path) -> None:
    client = {
        "DESK_CLIENT_TLS_CA": str(tmp_path / "authority.pem"),
        "DESK_CLIENT_KEY_FILE": str(tmp_path / "key"),
        "DESK_CONSOLE_LISTEN": "127.0.0.1:0",
    }
    with protected(tmp_path, **client) as service:
        page = f"http://{service.desk.ready()['console']}/sessions.json"

        def shown() -> bool:
            try:
                with urllib.request.urlopen(page, timeout=DEADLINE) as answer:
                    return bool(json.load(answer)["sessions"])
            except urllib.error.HTTPError:  # the service is not asked yet, or not in time
                return False

        eventually(shown)
