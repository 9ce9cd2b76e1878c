"""The text of `desk serve`, with its commands run as printed; and the command itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command.address import Address
from command.cli import COMMANDS
from command.cli.guide import getting_started
from command.settings import TrialSettings
from tests.support.commands import invoke
from tests.support.processes import DEADLINE, environment, run, start, wait_until

pytestmark = pytest.mark.tools


BEGIN_AT = 1_725_540_020_000

TERMINAL = "tests.support.on_terminal"

CURL = f"""#!{sys.executable}
import sys, urllib.request
option, url, data, body = sys.argv[1:]
assert (option, data) == ("-sS", "-d")
print(urllib.request.urlopen(url, body.encode(), timeout=60).read().decode())
"""
"""As much of curl as the guide uses."""


def path_with_curl(directory):
    """The PATH; where there is no curl, with one."""
    if shutil.which("curl"):
        return os.environ["PATH"]
    curl = directory / "bin" / "curl"
    curl.parent.mkdir()
    curl.write_text(CURL)
    curl.chmod(0o755)
    return f"{curl.parent}:{os.environ['PATH']}"


def guide(running):
    """Return the text that `serve` shows on a terminal when it is ready."""
    wait_until(lambda: any("desk watch" in line for line in running.stdout))
    return "\n".join(running.stdout)


@pytest.mark.parametrize("tokens", ["", "1600012345=xxxxyyyy"])
def test_what_serve_suggests_works_as_it_stands(tmp_path, tokens):
    data = tmp_path / "data"
    with start("serve", data_dir=data, module=TERMINAL, DESK_CALLBACK_TOKENS=tokens) as desk:
        text = guide(desk)
        wanted = re.compile(r"(T=|curl |\S*desk sessions explain )")
        lines = [line.strip() for line in text.splitlines() if wanted.match(line.strip())]
        *sending, explain = lines
        path = path_with_curl(tmp_path)

        def shell(*commands):
            return subprocess.run(
                ["bash", "-ec", "\n".join(commands)],
                env=environment({"TOKEN": "xxxxyyyy", "PATH": path}),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=DEADLINE,
                check=False,
            ).stdout

        # A busy machine may not keep a callback in time; it takes the same one again.
        wait_until(lambda: shell(*sending).count('"ActionStatus":"OK"') == 2)
        wait_until(lambda: "2 callbacks at revision 2: CHATBOT" in shell(explain))
    assert "xxxxyyyy" not in text


def test_commands_are_named_so_that_the_shell_finds_them(tmp_path, monkeypatch):
    bin_dir = Path(sys.executable).parent
    paths = {"desk": f"{bin_dir}:{os.environ['PATH']}", str(bin_dir / "desk"): os.defpath}
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("DESK_")]:
        monkeypatch.delenv(variable)
    for name, path in paths.items():
        monkeypatch.setenv("PATH", path)
        text = getting_started(TrialSettings.load(), Address("::1", 1), Address("::1", 2), None)
        assert f"\n  {name} watch --target [::1]:2\n" in text


def test_serve_can_be_tried_without_any_setting_and_says_which_app_it_takes(tmp_path):
    with start("serve", data_dir=tmp_path / "data", DESK_SDK_APP_IDS="") as desk:
        desk.ready()
        assert desk.post(b"{}")[0] == 400
        assert desk.stderr[0] == (
            "desk: DESK_SDK_APP_IDS is not set: using the sample app 1600012345"
        )
        assert desk.terminate() == 0
        assert desk.stdout == []  # no terminal, no guide


def test_serve_works_where_its_output_cannot_be_written(tmp_path):
    full = "tests.support.output_full"
    with start("serve", data_dir=tmp_path / "data", module=full) as desk:
        desk.ready()
        assert (
            desk.post({"SessionId": "a", "Event": "SessionBegin", "EventTime": BEGIN_AT})[0] == 200
        )
        assert desk.terminate() == 0
        assert "No space left" not in desk.output


def test_the_version_is_that_of_the_package():
    answer = invoke("--version")
    assert answer.returncode == 0
    assert re.fullmatch(r"desk, version \d+\.\d+\.\d+\n", answer.stdout)


def test_help_lists_every_command_without_loading_one():
    code = (
        "import sys, command.cli\n"
        "try: command.cli.main(['--help'])\n"
        "finally: print([name for name in ('grpc', 'pydantic', 'rich') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment({}),
        capture_output=True,
        text=True,
        check=True,
    )
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert "Exit codes:" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    answer = invoke(name, "--help")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(f"Usage: desk {name} ")


@pytest.mark.parametrize("command", ["serve", "gateway", "service"])
@pytest.mark.parametrize("directory", ["{tmp}/file/data", "/proc"])
def test_a_data_directory_that_cannot_be_used_is_one_line(tmp_path, command, directory):
    (tmp_path / "file").write_text("")
    data_dir = directory.format(tmp=tmp_path)
    answer = run(command, DESK_DATA_DIR=data_dir, DESK_SDK_APP_IDS="1", cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert answer.stderr.startswith(f"desk: DESK_DATA_DIR {data_dir} cannot be written to: ")


@pytest.mark.parametrize("command", ["serve", "gateway", "service"])
def test_a_file_that_is_no_journal_is_one_line_and_stays_as_it_is(tmp_path, command):
    journal = tmp_path / "data" / "journal.db"
    journal.parent.mkdir()
    journal.write_bytes(b"my diary " * 1000)
    with start(command, data_dir=tmp_path / "data") as desk:
        assert desk.wait() == 1
        assert desk.stderr[-1].startswith("desk: ")
        assert desk.stderr[-1].endswith("journal.db is not a journal")
        assert "Traceback" not in desk.output
    assert journal.read_bytes() == b"my diary " * 1000


def test_data_is_readable_by_its_owner_only(tmp_path):
    with start("gateway", data_dir=tmp_path / "data") as desk:
        desk.ready()
        made = [tmp_path / "data", *(tmp_path / "data").iterdir()]
        assert [oct(path.stat().st_mode & 0o077) for path in made] == ["0o0"] * len(made)
        assert Path(tmp_path / "data" / "journal.db") in made
        assert os.access(made[0], os.W_OK)
