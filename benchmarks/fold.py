"""Fold and view: callbacks per second, in order and with 30 % out of order.

The bodies are those of the simulator's lives, interleaved over hundreds of sessions, in the largest
batches that a follower takes, into a fresh view. The floor decodes the same bodies and writes as
many rows of the same size into the same tables, in a transaction per batch; for a known session it
only updates the row. It is the lower bound of any fold that stores its results in SQLite.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw

from benchmarks import callbacks
from benchmarks.measurement import Goal, Measurement
from benchmarks.work import directory
from callback.decoder import read
from journal.entry import Entry, numbered
from service.follower import BATCH
from service.projection import Projection
from service.view import store
from service.view.writer import SAVE_IN_PLACE, ViewWriter

OURS = "fold and view"
FLOOR = "decode and insert"
REFERENCE = FLOOR
IN_ORDER = "callbacks/s in order"
LATE = "callbacks/s, 30 % out of order"
GOALS = (
    Goal(what=IN_ORDER, subject=OURS, bound=25_000),
    Goal(what=IN_ORDER, subject=OURS, bound=0.5, of=FLOOR),
    Goal(what=LATE, subject=OURS, bound=0.5, of=OURS, of_what=IN_ORDER),
)

COUNT, QUICK_COUNT = 16_000, 10_000

FEED = "SELECT * FROM feed WHERE position >= ? AND position < ? ORDER BY position"
SESSION = """
SELECT sessions.* FROM session_keys CROSS JOIN sessions USING (number)
WHERE session_keys.sdk_app_id = ? AND session_keys.session_id = ?
"""

Rows = list[tuple[Any, ...]]
Batch = tuple[Sequence[Entry], Rows, Rows]
"""Entries, and the rows of `feed` and `sessions` that come of them."""


def measure(run: int, *, quick: bool) -> Iterator[Measurement]:
    """Measure fold and floor by turns."""
    for what, late in ((IN_ORDER, 0.0), (LATE, 0.3)):
        entries = _entries(QUICK_COUNT if quick else COUNT, late)
        with directory("fold") as data_dir:
            ours = _timed(_fold, entries, data_dir)
            batches = list(_batches(entries, data_dir))
        with directory("floor") as data_dir:
            floor = _timed(_insert, batches, data_dir)
        for subject, seconds in ((OURS, ours), (FLOOR, floor)):
            yield Measurement("fold", what, subject, len(entries) / seconds, "1/s", run)


def _entries(count: int, late: float) -> list[Entry]:
    return [numbered(each, n) for n, each in enumerate(callbacks.traffic(count, late=late), 1)]


def _timed(work: Callable[..., None], *arguments: Any) -> float:
    """Return the seconds of a call, without the garbage of earlier ones."""
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    work(*arguments)
    seconds = time.perf_counter() - began
    gc.unfreeze()
    return seconds


def _fold(entries: Sequence[Entry], data_dir: Path) -> None:
    with closing(ViewWriter(data_dir)) as writer:
        projection = Projection(writer, "0" * 32)
        for batch in _cut(entries):
            projection.apply(batch, head=batch[-1].revision, behind_since=None)


def _cut(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    return (entries[start : start + BATCH] for start in range(0, len(entries), BATCH))


def _batches(entries: Sequence[Entry], data_dir: Path) -> Iterator[Batch]:
    """Read the written rows, per batch: its feed, and its sessions in their last state.

    The state after the batch had the same columns and indexes.
    """
    with closing(store.open_reader(store.locate(data_dir))) as db:
        for batch in _cut(entries):
            span = (batch[0].revision << 20, batch[-1].revision + 1 << 20)
            feed = list(db.execute(FEED, span))
            keys = sorted({row[2:4] for row in feed})
            sessions = [row for key in keys for row in db.execute(SESSION, key)]
            yield batch, feed, sessions


def _insert(batches: Sequence[Batch], data_dir: Path) -> None:
    begun: set[int] = set()
    with closing(store.open_writer(store.locate(data_dir))) as db:
        for entries, feed, sessions in batches:
            for entry in entries:
                read(entry.sdk_app_id, entry.body, entry.received_at)
            new = [row for row in sessions if row[0] not in begun]
            known = [row for row in sessions if row[0] in begun]
            keys = [(row[2], row[1], row[3], row[0], 0) for row in new]
            begun.update(row[0] for row in new)
            with db:
                _insert_rows(db, "feed", feed)
                _insert_rows(db, "session_keys", keys)
                _insert_rows(db, "sessions", new)
                db.executemany(SAVE_IN_PLACE, known)


def _insert_rows(db: apsw.Connection, table: str, rows: Rows) -> None:
    if rows:
        db.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)


def late_sessions() -> None:
    """Print the cost of long sessions in the worst order: `python -m benchmarks.fold`."""
    for count in (2_500, 5_000, 10_000):
        _print_late(f"{count:,} callbacks, newest first", _newest_first(count))
    _print_late("60 that flip 5,000 others", _flips(5_000, 60))
    _print_late("60 that change the state before 10,000 others", _states(10_000, 60))
    _print_late("600 for 12 sessions of 18,000 in turn", _in_turn(12, 18_000, 600))
    _print_late("600 for 12 full sessions in turn", _in_turn(12, 20_000, 600))


def _newest_first(count: int) -> Iterator[tuple[str, str, int]]:
    """Yield a session in reverse order, each callback followed by one of another session."""
    for number in range(count, 0, -1):
        yield "long", "ChatBot.UserSendMsg", 10 * number
        yield f"other-{number}", "SessionBegin", 10 * number
    yield "long", "SessionBegin", 1


def _flips(others: int, late: int) -> Iterator[tuple[str, str, int]]:
    yield "long", "SessionBegin", 0
    for number in range(others):
        yield "long", "ChatBot.UserSendMsg", 100_000 + number
    for number in range(late):
        kinds = ("TransferringToHuman", "TransferToHumanSuccess", "AgentForward")
        yield "long", kinds[number % 3], 1 + number


def _states(others: int, late: int) -> Iterator[tuple[str, str, int]]:
    yield "long", "SessionBegin", 0
    yield "long", "TransferringToHuman", 1
    for number in range(others):
        yield "long", "Human.UserSendMsg", 100_000 + number
    for number in range(late):
        kinds = ("TransferringToHumanWait", "TransferringToHuman")
        yield "long", kinds[number % 2], 2 + number


def _in_turn(sessions: int, each: int, late: int) -> Iterator[tuple[str, str, int]]:
    """Yield late callbacks of long sessions by turns; no session is in the cache."""
    for name in map(str, range(sessions)):
        yield name, "SessionBegin", 0
        for number in range(1, each):
            yield name, "ChatBot.UserSendMsg", 100_000 + number
    for number in range(late):
        yield str(number % sessions), "ChatBot.UserSendMsg", number


def _print_late(what: str, made: Iterator[tuple[str, str, int]]) -> None:
    """Fold in a follower's batches. Print the time of a callback and of a batch."""
    entries = [
        numbered(callbacks.one(name, event, callbacks.START + time), revision)
        for revision, (name, event, time) in enumerate(made, 1)
    ]
    longest = 0.0
    with directory("late") as data_dir:
        with closing(ViewWriter(data_dir)) as writer:
            projection = Projection(writer, "0" * 32)
            began = time.perf_counter()
            while (applied := projection.progress.applied_revision) < len(entries):
                batch_began = time.perf_counter()
                batch = entries[applied : applied + BATCH]
                projection.apply(batch, head=len(entries), behind_since=None)
                longest = max(longest, time.perf_counter() - batch_began)
            done = time.perf_counter() - began
        size = store.locate(data_dir).stat().st_size / 1e6
    each = done / len(entries) * 1e6
    print(f"{what}: {done:.2f} s, {each:.0f} us each, longest batch {longest:.2f} s, {size:.0f} MB")


if __name__ == "__main__":
    late_sessions()
