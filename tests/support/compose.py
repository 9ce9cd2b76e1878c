"""A compose file without Docker: its services are processes, its names are loopback addresses.

Read as compose does, as far as ours go: anchors and `${…}`. What a container would find in its own
file system lies in a directory, and texts that name it are changed to say so.
"""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.support.loopback import own_address
from tests.support.processes import DEADLINE, ROOT, environment

FILE = ROOT / "docker-compose.yml"

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[-?])(?P<text>[^}]*))?\}")

Translate = Callable[[str], str]


class Refused(Exception):
    """A required variable is not set; the message says which."""


def read_compose(file: Path = FILE, /, **variables: str) -> dict[str, Any]:
    """The file with `variables` filled in.

    Raises:
        Refused: as `docker compose` would.
    """
    document = YAML(typ="safe", pure=True).load(file)
    filled: dict[str, Any] = _fill(document, variables)
    return filled


def _fill(part: Any, variables: Mapping[str, str]) -> Any:
    """Compose fills in after it has parsed: a value is a string, whatever it looks like."""
    if isinstance(part, dict):
        return {key: _fill(value, variables) for key, value in part.items()}
    if isinstance(part, list):
        return [_fill(value, variables) for value in part]
    if isinstance(part, str):
        return _VARIABLE.sub(lambda match: _value(variables, **match.groupdict()), part)
    return part


def _value(variables: Mapping[str, str], name: str, how: str, text: str) -> str:
    if variables.get(name):
        return variables[name]
    if how == "-":
        return text
    raise Refused(f"{name}: {text}")


class Project:
    """The services of a compose file on this machine.

    Attributes:
        directory: for volumes, logs, and what is in the containers' own file systems.
        hosts: the address of each service.

    Args:
        compose: from `read_compose`.
        programs: the words that stand here for a program, or for an image that starts one.
        folders: directories that the images have.
        rewrite: changes the text of the file that is mounted at this path.
    """

    def __init__(
        self,
        directory: Path,
        compose: Mapping[str, Any],
        *,
        programs: Mapping[str, Sequence[str]],
        folders: Sequence[str] = (),
        rewrite: Mapping[str, Translate] | None = None,
    ) -> None:
        self.directory = directory
        self._services = compose["services"]
        self._secrets = compose.get("secrets", {})
        self._programs = programs
        self._folders = folders
        self._rewrite = rewrite or {}
        self._translations: dict[str, Translate] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.hosts = {name: own_address() for name in self._services}

    @property
    def names(self) -> list[str]:
        """The services that `up` starts: those of no profile."""
        return [name for name, each in self._services.items() if "profiles" not in each]

    def address(self, name: str, port: int) -> str:
        """Return where a service listens. Ports that need root are 10,000 higher."""
        return f"{self.hosts[name]}:{port if port >= 1024 else port + 10_000}"

    def start(self, name: str) -> None:
        service = self._services[name]
        started = service.get("entrypoint") or [service["image"].rpartition(":")[0]]
        self._translations[name] = self._mount(name)
        self._running[name] = self._run(name, *started, *service.get("command", ()))

    def kill(self, name: str) -> None:
        """Kill all processes of a service."""
        process = self._running.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)

    def processes(self) -> dict[str, int]:
        """Return the process id of each service that runs."""
        return {name: process.pid for name, process in self._running.items()}

    def restart_ended(self) -> list[str]:
        """Start again what has ended by itself, as `restart: unless-stopped` does."""
        ended = [name for name, each in self._running.items() if each.poll() is not None]
        for name in ended:
            self.kill(name)
            self.start(name)
        return ended

    def is_healthy(self, name: str) -> bool:
        """Run the service's own health check."""
        kind, *words = self._services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        return self._run(name, *words).wait(DEADLINE) == 0

    def stop(self, name: str) -> int:
        """Stop a service as `docker stop` does; return the exit code."""
        process = self._running.pop(name)
        process.terminate()
        return process.wait(DEADLINE)

    def stop_all(self) -> None:
        for process in self._running.values():
            process.terminate()
        for name in tuple(self._running):
            self.stop(name)

    def _run(self, name: str, program: str, *words: str) -> subprocess.Popen[bytes]:
        here = self._translations[name]
        variables = self._services[name].get("environment", {})
        # The program itself is none of the container's files, wherever it lies.
        executable, *options = self._programs.get(program, [here(program)])
        with (self.directory / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [executable, *map(here, (*options, *words))],
                env=environment({key: here(value) for key, value in variables.items()}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _mount(self, name: str) -> Translate:
        """Make what the service finds in its container; return what translates texts from there."""
        service = self._services[name]
        inside = [*self._folders, *(each.partition(":")[0] for each in service.get("tmpfs", ()))]
        places = {path: self._folder(name + path) for path in inside}
        for each in service.get("secrets", ()):
            secret = {"source": each, "target": f"/run/secrets/{each}"}
            secret = each if isinstance(each, dict) else secret
            places[secret["target"]] = Path(self._secrets[secret["source"]]["file"])
        files = {}
        for outside, path, *_ in (each.split(":") for each in service.get("volumes", ())):
            if (ROOT / outside).is_file():
                files[path] = self._rewrite.get(path, str)((ROOT / outside).read_text())
                places[path] = self._folder(name + str(Path(path).parent)) / Path(path).name
            else:
                places[path] = ROOT / outside if outside[0] in "./" else self._folder(outside)
        here = partial(self._translate, name, places)
        for path, text in files.items():
            places[path].write_text(here(text))
        return here

    def _folder(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _translate(self, name: str, places: Mapping[str, Path], text: str) -> str:
        """Replace paths, addresses and nginx's ports of a container by those of this machine."""

        def address(match: re.Match[str]) -> str:
            host, port = match.groups()
            return self.address(host if host in self.hosts else name, int(port))

        paths = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
        text = re.sub(rf"(?<![\w./-])({paths})(?![\w.-])", lambda path: str(places[path[1]]), text)
        hosts = "|".join(map(re.escape, ["0.0.0.0", "127.0.0.1", *self.hosts]))
        text = re.sub(rf"(?<![\w.-])({hosts}):(\d+)", address, text)
        return re.sub(
            r"(listen )(\d+)(?=[ ;])", lambda port: port[1] + self.address(name, int(port[2])), text
        )
