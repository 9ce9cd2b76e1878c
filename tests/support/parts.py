"""Small processes for a real supervisor: `python -m tests.support.parts <scenario>`."""

import signal
import sys
import threading
import time

import structlog

from command import logs
from command.notifier import Notifier
from command.settings import Settings
from command.signals import on_stop_request
from command.supervised import ProcessSpec
from command.supervisor import Supervisor

log = structlog.get_logger()


def obedient(notifier: Notifier, settings: Settings, name: str) -> None:
    """Work, and give signs of life, until asked to stop."""
    logs.configure(settings, name)
    stop = threading.Event()
    on_stop_request(stop.set, reload=lambda: log.info("reloaded"))
    notifier.ready()
    while not stop.wait(0.1):
        notifier.alive()
    log.info("ended")


def stubborn(notifier: Notifier, settings: Settings) -> None:
    """Ignore every request to stop."""
    logs.configure(settings, "stubborn")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    notifier.ready()
    while True:
        time.sleep(60)


def mute(notifier: Notifier, settings: Settings) -> None:
    """Hang during the start."""
    time.sleep(3600)


def crashing(notifier: Notifier, settings: Settings) -> None:
    """Exit during the start."""
    notifier.trouble("stumbled over\nits own feet")
    raise SystemExit(7)


def hopeless(notifier: Notifier, settings: Settings) -> None:
    """Report that it can never work."""
    notifier.failed("the disk is made of cheese")
    raise SystemExit(1)


def scenario(name: str, settings: Settings) -> list[ProcessSpec]:
    """Return the processes of a scenario."""
    plain = (settings,)
    return {
        "two-stages": [
            ProcessSpec(name="last", run=obedient, arguments=(settings, "last"), stage=2),
            ProcessSpec(name="first", run=obedient, arguments=(settings, "first"), stage=1),
        ],
        "stubborn": [ProcessSpec(name="stubborn", run=stubborn, arguments=plain)],
        "living": [ProcessSpec(name="living", run=obedient, arguments=(settings, "living"))],
        "mute": [ProcessSpec(name="mute", run=mute, arguments=plain)],
        "crashing": [ProcessSpec(name="crashing", run=crashing, arguments=plain)],
        "hopeless": [
            ProcessSpec(name="other", run=obedient, arguments=(settings, "other")),
            ProcessSpec(name="hopeless", run=hopeless, arguments=plain),
        ],
    }[name]


def main() -> None:
    settings = Settings.load()
    logs.configure(settings, "supervisor")
    supervisor = Supervisor(
        scenario(sys.argv[1], settings),
        on_ready=lambda: log.info("ready"),
        on_silent=lambda names: log.info("told", names=sorted(names)),
        stop_within=float(sys.argv[2]) if len(sys.argv) > 2 else 9.0,
        hang_timeout=settings.hang_timeout,
        silent_after=2.5,
        start_within=1.0 if sys.argv[1] == "mute" else 60.0,
    )
    code = supervisor.run()
    print(supervisor.failure)
    sys.exit(code)


if __name__ == "__main__":
    main()
