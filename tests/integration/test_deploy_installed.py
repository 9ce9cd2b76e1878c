"""Desk Sessions as docs/install.md installs it: from wheels, behind nginx, with Prometheus."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from tests.support import nginx, prometheus, wheels
from tests.support.certificates import Authority
from tests.support.loopback import own_address
from tests.support.processes import DEADLINE, ROOT, SDK_APP_ID, descendants
from tests.support.units import UNITS, Installation, another_user
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(not nginx.NGINX, reason="there is no nginx"),
    pytest.mark.skipif(not prometheus.PROMETHEUS, reason="there is no Prometheus"),
    pytest.mark.timeout(900),
]

TOKEN = "xxxxyyyy"

WITHIN = 90.0
"""Seconds until an alert fires or ends: many times what it takes on a quiet machine."""

GATEWAY, SERVICE, CONSOLE = UNITS
TARGET_DOWN = "DeskTargetDown"
PROCESS_MISSING = "DeskProcessMissing"


class Site:
    """The units of an installation from the wheels, nginx and Prometheus."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.host = own_address()
        self.grpc = f"{self.host}:50051"
        self.desk = self._install()
        self.units = Installation(directory, environment=self.desk.parents[1], host=self.host)
        stack.callback(self.units.stop_all)
        self.authority = Authority(self.units.etc)
        self.certificate = self.authority.issue("grpc", f"IP:{self.host}")
        self._seeds = count()
        self._configure()
        for unit in UNITS:
            self.units.start(unit)
        self.healthy()
        self.nginx = ExitStack()
        stack.push(self.nginx)
        self.start_nginx()
        watched = prometheus.running(self._folder("prometheus"), watching=self.host)
        self.prometheus = stack.enter_context(watched)

    def _folder(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir(exist_ok=True)
        return folder

    def _install(self) -> Path:
        """Install what docs/install.md says; return the `desk` command."""
        built = wheels.build(self._folder("dist"))
        pinned = ("--require-hashes", "--requirement", ROOT / "constraints.txt")
        python = wheels.environment(self.directory / "venv", *pinned, python=usable_python())
        wheels.pip(python, "install", "--no-deps", *built.values())
        return python.with_name("desk")

    def _configure(self) -> None:
        """Have callbacks signed, gRPC speak TLS, and clients show a key."""
        tokens, clients = self.units.etc / "callback_tokens", self.units.etc / "clients.toml"
        tokens.write_text(f"{SDK_APP_ID}={TOKEN}\n")
        created = self.run(
            *("keys", "create", "--file", str(clients), "board", "--all-apps"),
            *("--scope", "sessions.read", "--scope", "feed.read", "--scope", "messages.read"),
            *("--scope", "status.read"),
        )
        self.key = self.units.etc / "board.key"
        self.key.write_text(created.stdout)
        self.units.hand_over(tokens, clients, self.certificate.key, self.key)
        (self.units.etc / "desk.env").write_text(
            f"DESK_SDK_APP_IDS={SDK_APP_ID}\n"
            f"DESK_GRPC_TLS_CERT={self.certificate.chain}\n"
            f"DESK_GRPC_TLS_KEY={self.certificate.key}\n"
            f"DESK_CLIENTS_FILE={clients}\n"
            f"DESK_CLIENT_TLS_CA={self.authority.file}\n"  # the console's
            f"DESK_CLIENT_KEY_FILE={self.key}\n"
            "DESK_HANG_TIMEOUT=600\n"  # so that a test decides when a stopped process goes on
        )

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the installation as a client."""
        variables |= {"DESK_TARGET": self.grpc, "COLUMNS": "80"}
        return subprocess.run(
            [self.desk, *arguments],
            env=variables | {"DESK_CLIENT_TLS_CA": str(self.authority.file)},
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )

    def simulate(self, sessions: int, *options: str, token: str = TOKEN) -> str:
        """Send callbacks as Desk does, through HTTPS; return what the command says at last."""
        done = self.run(
            *("simulate", f"https://127.0.0.1:{self.proxy.https}", *options),
            *("--sessions", str(sessions), "--seed", str(next(self._seeds))),
            SSL_CERT_FILE=str(self.proxy.certificates.authority.file),
            DESK_SIMULATE_TOKEN=token,
            DESK_CLIENT_KEY_FILE=str(self.key),
        )
        return (done.stdout + done.stderr).splitlines()[-1]

    def healthy(self) -> None:
        """Wait until all units are ready."""
        gateway, console = (f"http://{self.host}:{port}" for port in (8080, 8081))
        for check in (("gateway", gateway), ("service", self.grpc), ("console", console)):
            eventually(partial(self._is_healthy, *check), within=WITHIN)

    def _is_healthy(self, process: str, address: str) -> bool:
        return self.run("health", process, address).returncode == 0

    def start_nginx(self) -> None:
        folder = self._folder("nginx")
        addresses = {"gateway": f"{self.host}:8080", "service": self.grpc}
        self.proxy = self.nginx.enter_context(nginx.running(folder, **addresses))

    def replace_certificate(self, *, days: int) -> None:
        """Put another certificate in the place of that of gRPC."""
        other = self.authority.issue("other", f"IP:{self.host}", days=days)
        self.certificate.replace(other)
        self.units.hand_over(self.certificate.key)

    def expect(self, *alerts: tuple[str, str]) -> None:
        """Wait until these alerts fire, and no others."""
        firing: set[tuple[str, str]] | None = None

        def as_expected() -> bool:
            nonlocal firing
            firing = self.prometheus.firing()
            return firing == set(alerts)

        with suppress(AssertionError):
            eventually(as_expected, within=WITHIN)
        assert firing == set(alerts)


def usable_python() -> str:
    """Return a Python that the account of the units can run."""
    enough = ("-c", "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))")
    for python in (sys.executable, "/usr/bin/python3"):
        with suppress(OSError):
            if (
                subprocess.run([python, *enough], cwd="/", check=False, **another_user()).returncode
                == 0
            ):
                return python
    pytest.skip("there is no Python that another user can run")


def test_an_installation_works_and_each_alert_fires_alone_and_ends() -> None:
    with tempfile.TemporaryDirectory(prefix="desk-") as directory, ExitStack() as stack:
        Path(directory).chmod(0o755)
        site = Site(Path(directory), stack)
        send_callbacks_through_https_and_read_them_with_a_key(site)
        for provoke in (
            stop_the_gateway,
            stop_the_console,
            hang_the_follower,
            guess_tokens_while_nobody_reads_the_log,
            take_a_certificate_that_ends_in_five_days,
            cut_the_gateway_off_and_hold_the_view,
        ):
            provoke(site)
            site.expect()


def send_callbacks_through_https_and_read_them_with_a_key(site: Site) -> None:
    verified = site.simulate(20, "--shuffle", "20%", "--duplicates", "5%", "--verify", site.grpc)

    assert verified.startswith("no difference")
    assert site.run("sessions", "list").returncode != 0  # without the key
    page = urllib.request.Request(f"http://{site.host}:8081/sessions.json")
    page.add_header("Host", "localhost")
    with urllib.request.urlopen(page, timeout=DEADLINE) as answer:
        assert len(json.load(answer)["sessions"]) == 20
    eventually(lambda: site.prometheus.value("sum(desk_callbacks_total)") > 0)
    eventually(lambda: site.prometheus.value('count(up{job="desk"} == 1)') == 2)
    site.expect()
    assert {path.stat().st_mode & 0o77 for path in site.units.data.iterdir()} == {0}


def stop_the_gateway(site: Site) -> None:
    site.units.stop(GATEWAY)
    site.expect((TARGET_DOWN, f"{site.host}:9464"), (PROCESS_MISSING, "gateway"))

    site.units.start(GATEWAY)


def stop_the_console(site: Site) -> None:
    site.units.stop(CONSOLE)
    site.expect(("DeskConsoleMissing", ""))

    site.units.start(CONSOLE)


def hang_the_follower(site: Site) -> None:
    (follower,) = pids(site, "desk: follower")
    os.kill(follower, signal.SIGSTOP)
    site.expect((PROCESS_MISSING, "follower"))

    os.kill(follower, signal.SIGCONT)


def guess_tokens_while_nobody_reads_the_log(site: Site) -> None:
    site.units.stop(GATEWAY)
    reader, writer = os.pipe()
    os.close(reader)
    site.units.start(GATEWAY, stderr=writer)
    os.close(writer)
    site.healthy()
    alerts = {("DeskRefusals", "refused_signature"), ("DeskLogRecordsDropped", "gateway")}

    def guess() -> bool:
        site.simulate(1, token="guessed")
        return site.prometheus.firing() == alerts

    eventually(guess, within=WITHIN)

    site.units.stop(GATEWAY)
    site.units.start(GATEWAY)


def take_a_certificate_that_ends_in_five_days(site: Site) -> None:
    site.replace_certificate(days=5)
    site.expect(("DeskCertificateEnding", f"{site.host}:9465"))

    site.replace_certificate(days=30)


def cut_the_gateway_off_and_hold_the_view(site: Site) -> None:
    site.simulate(10)  # more than 30 callbacks: yesterday Desk was sending
    (view,) = site.units.data.glob("view-*.db")
    with closing(sqlite3.connect(view, DEADLINE, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        site.simulate(1)
        site.nginx.close()
        site.expect(("DeskFollowerBehind", "follower"), ("DeskCallbacksStopped", ""))

    site.start_nginx()
    assert site.simulate(1, "--verify", site.grpc).startswith("no difference")


def pids(site: Site, title: str) -> list[int]:
    """Return the processes of the service with a title."""
    return [
        pid
        for pid in descendants(site.units.pid(SERVICE))
        if Path(f"/proc/{pid}/cmdline").read_text().startswith(title)
    ]
