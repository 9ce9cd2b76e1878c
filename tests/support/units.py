"""The units of deploy/systemd, run as systemd runs them: command, environment, account, secret."""

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.support.processes import DEADLINE, ROOT

SYSTEMD = ROOT / "deploy" / "systemd"
UNITS = ("desk-gateway.service", "desk-service.service", "desk-console.service")
COMMON = SYSTEMD / "desk-.service.d" / "common.conf"

NOBODY = 65534


def directives(unit: str) -> dict[str, list[str]]:
    """Return the values by directive: of the unit, of the common drop-in, of the unit's own.

    An empty value takes back those before.
    """
    files = (SYSTEMD / unit, COMMON, *(SYSTEMD / f"{unit}.d").glob("*.conf"))
    found: dict[str, list[str]] = {}
    for line in "".join(file.read_text() for file in files).splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name] = [*found.get(name, ()), value] if value else []
    return found


class Installation:
    """An installation below a directory, on one address; as root, run by another user.

    Args:
        directory: everybody may enter it. Below it are `etc` and `data`.
        environment: in place of /opt/desk.
        host: in place of 127.0.0.1.
    """

    def __init__(self, directory: Path, *, environment: Path, host: str) -> None:
        self.host = host
        self.etc = directory / "etc"
        self.data = directory / "data"
        self._places = {
            "/opt/desk/": f"{environment}/",
            "/var/lib/desk": str(self.data),
            "/etc/desk/": f"{self.etc}/",
            "%d/": f"{self.etc}/",  # where a copy would be
            "127.0.0.1": host,
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.etc.mkdir()
        self.data.mkdir(mode=0o700)
        self.hand_over(self.data)

    def hand_over(self, *paths: Path) -> None:
        """Make files those of the account that the units run as."""
        if os.geteuid() == 0:
            for path in paths:
                os.chown(path, NOBODY, NOBODY)

    def start(self, unit: str, *, stderr: int | None = None) -> None:
        """Run a unit; its log goes to stderr."""
        (command,) = directives(unit)["ExecStart"]
        self._processes[unit] = subprocess.Popen(
            self._here(command).split(),
            env=self._variables(unit),
            cwd=self.data,
            stderr=stderr,
            **another_user(),
        )

    def pid(self, unit: str) -> int:
        return self._processes[unit].pid

    def stop(self, unit: str) -> None:
        process = self._processes.pop(unit)
        process.terminate()
        assert process.wait(DEADLINE) == 0

    def stop_all(self) -> None:
        for unit in tuple(self._processes):
            self.stop(unit)

    def _variables(self, unit: str) -> dict[str, str]:
        """Return defaults, the unit's variables, and the file's; the later ones win."""
        found = directives(unit)
        (file,) = found["EnvironmentFile"]
        listen = {"HTTP": 8080, "GRPC": 50051, "METRICS": 9464, "CONSOLE": 8081}
        lines = [f"DESK_{name}_LISTEN={self.host}:{port}" for name, port in listen.items()]
        lines += map(self._here, found["Environment"])
        lines += Path(self._here(file)).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")

    def _here(self, text: str) -> str:
        for shipped, here in self._places.items():
            text = text.replace(shipped, here)
        return text


def another_user() -> dict[str, Any]:
    """Return the options with which root starts a process as another user; none unless root."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
