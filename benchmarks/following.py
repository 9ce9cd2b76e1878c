"""A follower in a process of its own, until SIGTERM.

`python -m benchmarks.following DATA_DIR [NATS…]` follows the journal in the directory, or that on
nats-servers.
"""

import json
import signal
import sys
import threading
import time
from pathlib import Path

from benchmarks.nats import options
from journal.jetstream import JetStreamReader
from journal.port import JournalReader
from journal.sqlite import SqliteReader
from service.follower import Follower


def main() -> None:
    """Follow the journal. Print the start time (monotonic seconds) as JSON."""
    data_dir, *servers = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    print(json.dumps({"began": time.monotonic()}), flush=True)
    journal: JournalReader
    if servers:
        journal = JetStreamReader(options(servers))
    else:
        journal = SqliteReader(Path(data_dir, "journal.db"))
    Follower(journal, Path(data_dir)).run(stop)
    journal.close()


if __name__ == "__main__":
    main()
