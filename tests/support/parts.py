"""Small parts for a real supervisor: `python -m tests.support.parts <scenario>`."""

import signal
import sys
import threading
import time

import structlog

from command import logs
from command.settings import Settings
from command.signals import when_told_to_stop
from command.supervisor import Part, Report, Supervisor

log = structlog.get_logger()


def obedient(report: Report, settings: Settings, name: str) -> None:
    """Works until told to stop."""
    logs.configure(settings, name)
    stop = threading.Event()
    when_told_to_stop(stop.set)
    report.ready()
    stop.wait()
    log.info("ended")


def stubborn(report: Report, settings: Settings) -> None:
    """Does not listen."""
    logs.configure(settings, "stubborn")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    report.ready()
    while True:
        time.sleep(60)


def crashing(report: Report, settings: Settings) -> None:
    """Dies while it starts."""
    report.trouble("stumbled over\nits own feet")
    raise SystemExit(7)


def hopeless(report: Report, settings: Settings) -> None:
    """Knows that it will never work."""
    report.failed("the disk is made of cheese")
    raise SystemExit(1)


def scenario(name: str, settings: Settings) -> list[Part]:
    """The parts of a scenario."""
    plain = (settings,)
    return {
        "two-stages": [
            Part(name="last", run=obedient, arguments=(settings, "last"), stage=2),
            Part(name="first", run=obedient, arguments=(settings, "first"), stage=1),
        ],
        "stubborn": [Part(name="stubborn", run=stubborn, arguments=plain)],
        "crashing": [Part(name="crashing", run=crashing, arguments=plain)],
        "hopeless": [
            Part(name="other", run=obedient, arguments=(settings, "other")),
            Part(name="hopeless", run=hopeless, arguments=plain),
        ],
    }[name]


def main() -> None:
    settings = Settings.load()
    logs.configure(settings, "supervisor")
    supervisor = Supervisor(
        scenario(sys.argv[1], settings),
        on_ready=lambda: log.info("ready"),
        stop_within=float(sys.argv[2]) if len(sys.argv) > 2 else 9.0,
    )
    code = supervisor.run()
    print(supervisor.failure)
    sys.exit(code)


if __name__ == "__main__":
    main()
