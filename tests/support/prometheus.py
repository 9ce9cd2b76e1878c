"""Prometheus with the files of deploy/prometheus, for which a minute passes in a second."""

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support.debian import program
from tests.support.loopback import listens, own_address
from tests.support.processes import DEADLINE, ROOT, wait_until

SHIPPED = ROOT / "deploy" / "prometheus"

PROMETHEUS, PROMTOOL = program("prometheus", "promtool"), program("promtool", "promtool")
"""The programs; None if there are none."""

PORT = 9090

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class RunningPrometheus:
    """Prometheus that runs.

    Args:
        host: where its API is.
    """

    def __init__(self, host: str) -> None:
        self._api = f"http://{host}:{PORT}/api/v1"

    def firing(self) -> set[tuple[str, str]]:
        """Return the alerts that fire, each with its process, instance or outcome, if any.

        Without those of the disk: that of this machine may be full.
        """
        labels = [each["labels"] for each in self._get("alerts")["alerts"] if _fires(each)]
        found = {(each["alertname"], _subject(each)) for each in labels}
        return {each for each in found if not each[0].startswith("DeskDisk")}

    def value(self, expression: str) -> float:
        """Return the value of an expression; NaN if it has none."""
        result = self._get("query?" + urlencode({"query": expression}))["result"]
        return float(result[0]["value"][1]) if result else float("nan")

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._api}/{path}", timeout=DEADLINE) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data


def _fires(alert: dict[str, Any]) -> bool:
    return bool(alert["state"] == "firing")


def _subject(labels: dict[str, str]) -> str:
    return labels.get("process") or labels.get("instance") or labels.get("outcome") or ""


@contextmanager
def running(directory: Path, *, watching: str) -> Iterator[RunningPrometheus]:
    """Run Prometheus until the block is left.

    Args:
        directory: for its files.
        watching: the host to scrape in place of 127.0.0.1.
    """
    host = own_address()
    config = (SHIPPED / "prometheus.yml").read_text().replace("127.0.0.1", watching)
    (directory / "prometheus.yml").write_text(re.sub(r"(_interval:) 15s", r"\1 1s", config))
    rules = (SHIPPED / "desk.rules.yml").read_text()
    (directory / "desk.rules.yml").write_text(hasten(rules))
    process = subprocess.Popen(
        [
            str(PROMETHEUS),
            f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address={host}:{PORT}",
        ],
        stderr=(directory / "log").open("w"),
    )
    try:
        wait_until(lambda: process.poll() is not None or listens(host, PORT))
        assert process.poll() is None, (directory / "log").read_text()
        yield RunningPrometheus(host)
    finally:
        process.terminate()
        process.wait(DEADLINE)


def hasten(rules: str) -> str:
    """Return the rules with ranges and delays a sixtieth as long; yesterday was 40 s ago."""

    def shorter(match: re.Match[str]) -> str:
        before, number, unit = match.groups()
        return f"{before}{max(1, int(number) * _SECONDS[unit] // 60)}s"

    rules = re.sub(r"(\[|for: )(\d+)([smhd])\b", shorter, rules)
    return rules.replace("offset 1d", "offset 40s")
