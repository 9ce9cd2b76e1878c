"""A follower in a process of its own, to be killed: `python -m tests.support.follow DIR`."""

import signal
import sys
from pathlib import Path
from threading import Event

from journal.sqlite import SqliteReader
from service.follower import Follower


def main(folder: Path) -> None:
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    journal = SqliteReader(folder / "journal.db")
    Follower(journal, folder).run(stop)
    journal.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
