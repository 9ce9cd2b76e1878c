"""`desk keys`: the clients file is edited and checked."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.clients import digest_of, id_of, read_clients
from tests.support.commands import invoke
from tests.support.processes import run

NEW = ("--app", "7", "--scope", "sessions.read")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clients.toml"


def keys(file: Path, *arguments: str) -> "tuple[int, str, str]":
    done = invoke("keys", *arguments, cwd=file.parent, DESK_CLIENTS_FILE=file.name)
    return done.returncode, done.stdout, done.stderr


def test_a_created_key_is_printed_once_and_stored_as_its_hash(file):
    code, out, err = keys(file, "create", "board", *NEW, "--not-after", "2027-03-31")
    key = out.strip()
    (client,) = read_clients(file)
    assert code == 0
    assert (client.name, client.apps, client.scopes) == ("board", (7,), ("sessions.read",))
    assert [(each.id, each.sha256) for each in client.keys] == [(id_of(key), digest_of(key))]
    assert key not in err + file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_second_key_keeps_comments_and_mode_and_a_fourth_is_refused(file):
    keys(file, "create", "board", *NEW)
    file.write_text("# ours\n" + file.read_text())
    file.chmod(0o640)
    assert keys(file, "create", "board")[0] == 0
    assert keys(file, "create", "board")[0] == 0
    before = file.read_text()
    code, out, err = keys(file, "create", "board")
    assert (code, out) == (1, "")
    assert err.startswith("desk: clients.toml: Expected `array` of length <= 3")
    assert file.read_text() == before
    assert before.startswith("# ours\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("new",), "new is new: --app or --all-apps, and --scope"),
        (("board", "--app", "8"), "board exists: change its apps and scopes in the file"),
        (("new", "--app", "8", "--all-apps"), "--app and --all-apps exclude each other"),
    ],
)
def test_a_client_is_made_with_its_rights_and_its_rights_are_changed_in_the_file(
    file, arguments, message
):
    keys(file, "create", "board", *NEW)
    code, _, err = keys(file, "create", *arguments)
    assert code == 2
    assert message in err


def test_the_list_has_no_secret_and_the_check_finds_the_owner_of_a_key(file):
    key = keys(file, "create", "board", *NEW)[1].strip()
    (file.parent / "key").write_text(key + "\n")
    listed = keys(file, "list")[1]
    assert key not in listed
    assert digest_of(key) not in listed
    assert listed.splitlines() == [
        *("board", "  apps    7", "  scopes  sessions.read"),
        f"  key     {id_of(key)}, no end",
    ]
    code, out, _ = keys(file, "check", "--key-file", "key")
    assert (code, out.splitlines()) == (0, ["1 client, 1 key", "key is a key of board"])


def test_the_check_fails_for_a_broken_file_and_for_a_key_that_is_wrong_or_has_ended(file):
    (file.parent / "key").write_text(keys(file, "create", "old", *NEW)[1])
    text = file.read_text()
    file.write_text(text.replace('"}', '", not_after = 2020-01-01}'))
    code, _, err = keys(file, "check", "--key-file", "key")
    assert code == 1
    assert "ended after 2020-01-01" in err
    file.write_text(text.replace("sha256", "sha"))
    code, _, err = keys(file, "check")
    assert code == 1
    assert err.startswith("desk: clients.toml: Object")
    file.write_text("")
    code, _, err = keys(file, "check", "--key-file", "key")
    assert code == 1
    assert "is of no client" in err


def test_without_a_file_the_command_names_the_option(file):
    done = run("keys", "list", cwd=file.parent)
    assert done.returncode == 2
    assert "--file" in done.stderr


def test_keys_that_are_made_at_the_same_time_are_all_kept(file):
    def create(number):
        arguments = ("keys", "create", f"client-{number}", *NEW)
        return run(*arguments, cwd=file.parent, DESK_CLIENTS_FILE=file.name).stdout.strip()

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(create, range(4)))
    assert sorted(map(id_of, made)) == sorted(
        key.id for client in read_clients(file) for key in client.keys
    )
