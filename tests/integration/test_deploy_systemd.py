"""deploy/systemd: the units are valid, and what they name exists."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command.address import DEFAULT_HTTP
from command.cli import COMMANDS
from command.settings import Settings
from command.supervisor import STOP_WITHIN
from journal.sqlite import SqliteWriter
from tests.support.commands import invoke
from tests.support.units import COMMON, SYSTEMD, UNITS, directives

pytestmark = pytest.mark.tools

SERVERS = UNITS[:2]
"""The units that use the journal or the view, and follow their files."""

BACKUP = ("desk-backup.service", "desk-backup.timer")

SETTINGS = {f"DESK_{field.upper()}" for field in Settings.model_fields}


def desk() -> Path:
    """Return the `desk` command of the environment that the tests run in."""
    return Path(sys.executable).with_name("desk")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    shutil.copytree(SYSTEMD, tmp_path, dirs_exist_ok=True)
    for unit in (*UNITS, *BACKUP):  # it wants the command to exist
        file = tmp_path / unit
        file.write_text(file.read_text().replace("/opt/desk/bin/desk", str(desk())))

    checked = subprocess.run(
        ["systemd-analyze", "verify", *UNITS, *BACKUP, "desk-gateway.socket"],
        cwd=tmp_path,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_runs_the_command_that_it_is_named_after(unit: str) -> None:
    (started,) = directives(unit)["ExecStart"]

    program, command = started.split()
    assert program == "/opt/desk/bin/desk"
    assert unit == f"desk-{command}.service"
    assert command in COMMANDS


def test_the_address_of_the_gateway_is_kept_open_while_it_restarts() -> None:
    found = directives("desk-gateway.service")
    assert found["Requires"] == ["desk-gateway.socket"]
    assert found["Also"] == ["desk-gateway.socket"]  # enabled and disabled together
    assert f"ListenStream={DEFAULT_HTTP}" in (SYSTEMD / "desk-gateway.socket").read_text()


@pytest.mark.parametrize("unit", UNITS)
def test_every_variable_of_a_unit_is_a_setting(unit: str) -> None:
    variables = {value.partition("=")[0] for value in directives(unit)["Environment"]}

    assert variables <= SETTINGS


@pytest.mark.parametrize("unit", SERVERS)
def test_a_reload_reaches_the_command(unit: str) -> None:
    assert directives(unit)["ExecReload"] == ["kill -HUP $MAINPID"]


def test_the_console_cannot_read_the_journal_and_is_not_ended_by_a_reload() -> None:
    console, service = directives("desk-console.service"), directives("desk-service.service")
    accounts = re.findall(r"^u (\S+)", (SYSTEMD / "desk.sysusers.conf").read_text(), re.MULTILINE)

    assert service["User"] == service["Group"] == accounts[:1]
    assert (service["StateDirectory"], service["StateDirectoryMode"]) == (["desk"], ["0700"])
    assert console["User"][-1:] == console["Group"][-1:] == accounts[1:]
    assert console["StateDirectory"] == console["ExecReload"] == []
    (own,) = (SYSTEMD / "desk-console.service.d").iterdir()
    assert own.name > COMMON.name  # systemd reads drop-ins in the order of their names


def test_no_two_units_serve_metrics_at_one_address() -> None:
    listening = {
        value
        for unit in UNITS
        for value in directives(unit)["Environment"]
        if value.startswith("DESK_METRICS_LISTEN=")
    }
    assert len(listening) == len(UNITS) - 1  # the gateway has the default
    scraped = (SYSTEMD.parent / "prometheus" / "prometheus.yml").read_text()
    assert all(f'"{each.partition("=")[2]}"' in scraped for each in listening)


def test_the_timer_starts_a_backup_of_the_journal_that_ends(tmp_path: Path) -> None:
    found = directives("desk-backup.service")
    program, *arguments = found["ExecStart"][0].split()
    assert program == "/opt/desk/bin/desk"
    (writable,) = found["ReadWritePaths"]
    SqliteWriter(tmp_path / "data" / "journal.db").close()
    words = [str(tmp_path) if word == writable else word for word in arguments]
    assert invoke(*words, DESK_DATA_DIR=str(tmp_path / "data")).returncode == 0
    assert len(list(tmp_path.glob("journal-*.db"))) == 1
    assert "Restart" not in found


def test_every_variable_of_the_example_file_is_a_setting() -> None:
    named = re.findall(r"^#? ?(DESK_\w+)=", (SYSTEMD / "desk.env").read_text(), flags=re.MULTILINE)

    assert named
    assert set(named) <= SETTINGS


def test_only_the_gateway_is_given_the_tokens() -> None:
    assert directives("desk-gateway.service")["LoadCredential"] == [
        "callback_tokens:/etc/desk/callback_tokens"
    ]
    assert not any("LoadCredential" in directives(unit) for unit in UNITS[1:])


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_has_the_time_it_needs_to_stop_in_order(unit: str) -> None:
    found = directives(unit)

    assert float(found["TimeoutStopSec"][0]) > STOP_WITHIN + 1
    assert found["KillMode"] == ["mixed"]  # the command tells its processes to stop, in order
    assert found["KillSignal"] == ["SIGTERM"]


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_started_again_unless_its_settings_are_wrong(unit: str) -> None:
    found = directives(unit)

    assert found["Restart"] == ["always"]
    assert found["RestartPreventExitStatus"] == ["2"]
    assert found["StartLimitIntervalSec"] == ["0"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
@pytest.mark.parametrize("unit", [*UNITS, BACKUP[0]])
def test_systemd_finds_a_unit_well_confined(unit: str, tmp_path: Path) -> None:
    shutil.copytree(SYSTEMD, tmp_path, dirs_exist_ok=True)

    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", f"./{unit}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert rated.returncode == 0, rated.stdout[-500:]
