"""Reports the gateway's traffic: a file for the service, and a line in the log each minute."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway.authentication import Authenticator
from gateway.measurement import LAST_CALLBACKS
from metrics.definitions import CALLBACKS, OTHER
from metrics.report import AppReport, GatewayReport, save

SAVE_EVERY = 5.0
"""Seconds between two reports, if anything has changed."""

SUMMARY_EVERY = 60.0
"""Seconds between two lines in the log, if there was traffic."""

_log = structlog.get_logger(__name__)


def start_reporter(
    authenticator: Authenticator,
    data_dir: Path,
    *,
    save_every: float = SAVE_EVERY,
    summary_every: float = SUMMARY_EVERY,
) -> threading.Event:
    """Report from now on, in threads that end with the process, or when the flag is set."""
    reporter, stop = _Reporter(authenticator, data_dir), threading.Event()
    for act, pause in ((reporter.save, save_every), (reporter.log_summary, summary_every)):
        arguments = (act, pause, stop)
        threading.Thread(target=_repeat, args=arguments, name="report", daemon=True).start()
    return stop


class _Reporter:
    def __init__(self, authenticator: Authenticator, data_dir: Path) -> None:
        self._authenticator = authenticator
        self._data_dir = data_dir
        self._started_at = _now()
        self._saved: list[AppReport] = []
        self._logged = _counted()

    def save(self) -> None:
        """Save a report if it is another one than before."""
        apps = self._apps()
        if apps != self._saved:
            self._saved = apps
            report = GatewayReport(started_at=self._started_at, reported_at=_now(), apps=apps)
            save(report, self._data_dir)

    def log_summary(self) -> None:
        """Log the number of requests by outcome since the last time, if there were any."""
        counted = _counted()
        if new := counted - self._logged:
            self._logged = counted
            _log.info("callbacks", total=new.total(), **new)

    def _apps(self) -> list[AppReport]:
        by_app: dict[str, dict[str, int]] = {}
        for (app, outcome), number in sorted(CALLBACKS.values.items()):
            if number:
                by_app.setdefault(app, {})[outcome] = int(number)
        ours = [
            AppReport(
                sdk_app_id=app,
                signatures_checked=self._authenticator.checks(app),
                last_callback_at=LAST_CALLBACKS.get(app, 0),
                outcomes=by_app.get(str(app), {}),
            )
            for app in sorted(self._authenticator.sdk_app_ids)
        ]
        others = by_app.get(OTHER)
        return [*ours, AppReport(sdk_app_id=0, outcomes=others)] if others else ours


def _counted() -> Counter[str]:
    """Return the number of requests so far by outcome."""
    counted: Counter[str] = Counter()
    for (_, outcome), number in tuple(CALLBACKS.values.items()):
        counted[outcome] += int(number)
    return counted


def _repeat(act: Callable[[], None], pause: float, stop: threading.Event) -> None:
    while not stop.is_set():
        act()
        stop.wait(pause)


def _now() -> int:
    return time.time_ns() // 1_000_000
