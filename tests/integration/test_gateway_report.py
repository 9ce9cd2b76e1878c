"""The gateway's report: for the service, and for the log."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from structlog.testing import capture_logs

from gateway.authentication import Authenticator
from gateway.reporter import start_reporter
from metrics.report import FILES, AppReport, GatewayReport, load
from tests.support.callbacks import APP
from tests.support.gateway import gateway, numbered
from tests.support.waiting import eventually

SIGNED = 4711
AUTHENTICATOR = Authenticator(frozenset({APP, SIGNED}), {SIGNED: ("secret",)})
NOW = 1_725_540_000


def apps(folder: Path) -> dict[int, AppReport]:
    report = load(folder, GatewayReport)
    return {app.sdk_app_id: app for app in report.apps} if report else {}


@contextmanager
def reporting(folder: Path, **periods: float) -> Iterator[None]:
    stop = start_reporter(AUTHENTICATOR, folder, **periods)
    try:
        yield
    finally:
        stop.set()


def test_the_report_has_the_traffic_of_each_app(tmp_path: Path) -> None:
    with reporting(tmp_path, save_every=0.02):
        before = eventually(lambda: apps(tmp_path))[APP].outcomes.get("kept", 0)
        assert apps(tmp_path)[SIGNED].signatures_checked
        assert not apps(tmp_path)[APP].signatures_checked
        with gateway(now=NOW) as running:
            for number in range(3):
                running.post(numbered(number)).assert_ok()
            running.ask("POST", "/else").assert_fail(404)
        eventually(lambda: apps(tmp_path)[APP].outcomes.get("kept") == before + 3)
        assert apps(tmp_path)[APP].last_callback_at == NOW * 1000
        assert apps(tmp_path)[SIGNED].last_callback_at == 0
        eventually(lambda: 0 in apps(tmp_path) and apps(tmp_path)[0].outcomes.get("wrong_path"))


def test_a_report_that_is_damaged_counts_as_none(tmp_path: Path) -> None:
    assert load(tmp_path, GatewayReport) is None
    (tmp_path / FILES[GatewayReport]).write_bytes(b'{"started_at": 1')
    assert load(tmp_path, GatewayReport) is None


def test_the_log_has_a_line_after_traffic_and_none_without(tmp_path: Path) -> None:
    with capture_logs() as lines, reporting(tmp_path, summary_every=0.05):
        with gateway() as running:
            running.post(b"nonsense").assert_fail(400)
            for number in range(2):
                running.post(numbered(number)).assert_ok()

        def summaries() -> list[dict[str, int]]:
            return [dict(line) for line in lines if line["event"] == "callbacks"]

        eventually(lambda: sum(line["total"] for line in summaries()) == 3)
        assert sum(line.get("malformed", 0) for line in summaries()) == 1
        assert sum(line.get("kept", 0) for line in summaries()) == 2
        assert all(line["total"] for line in summaries())
