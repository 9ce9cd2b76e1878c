"""A follower in a process of its own: `python -m benchmarks.following DATA_DIR`, until SIGTERM."""

import json
import signal
import sys
import threading
import time
from pathlib import Path

from journal.sqlite import SqliteReader
from service.follower import Follower


def main() -> None:
    """Follow the journal in the directory. Print the start time (monotonic seconds) as JSON."""
    data_dir = Path(sys.argv[1])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    print(json.dumps({"began": time.monotonic()}), flush=True)
    journal = SqliteReader(data_dir / "journal.db")
    Follower(journal, data_dir).run(stop)
    journal.close()


if __name__ == "__main__":
    main()
