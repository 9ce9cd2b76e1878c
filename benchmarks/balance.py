"""A simulation of the balance of several streams: sessions are divided by their hash, or by app.

`python -m benchmarks.balance` prints a table. The sessions of the busiest hour are those of the
simulator; one in a hundred is twenty times as long. The same seed gives the same table.
"""

from collections.abc import Iterator, Sequence
from random import Random
from uuid import UUID

from journal.entry import NewEntry
from journal.jetstream_message import subject_of
from simulator.lives import make_lives

SESSIONS = 100_000
LONG, TIMES = 0.01, 20
"""Share of long sessions, and how many times as long they are."""

LIVES = 500
"""Different sessions."""

APPS = 20
"""Apps; the number of sessions of one is inverse to its rank."""

HOUR, MINUTE = 3_600_000, 60_000

PARTS = 256
"""Values of the two hex digits in a subject."""

STREAMS = (2, 4, 8, 16, 32)


def table() -> Iterator[str]:
    """Yield the lines of a Markdown table: how much more the busiest stream has than the mean."""
    by_minute, by_app = _simulate(Random(1))
    by_hour = [sum(minutes) for minutes in by_minute]
    yield "| streams | by hash, in the hour | by hash, in the worst minute | by app, in the hour |"
    yield "|---:|---:|---:|---:|"
    for streams in STREAMS:
        worst = max(
            _excess(_joined([minutes[at] for minutes in by_minute], streams))
            for at in range(HOUR // MINUTE)
        )
        shares = _excess(_joined(by_hour, streams)), worst, _excess(_packed(by_app, streams))
        yield f"| {streams} | {' | '.join(f'{share:.2f}' for share in shares)} |"


def _simulate(random: Random) -> tuple[list[list[int]], list[int]]:
    """Return the callbacks by part and minute, and by app."""
    lives = [
        [made.at - life.callbacks[0].at for made in life.callbacks]
        for life in make_lives(LIVES, seed=1, run="balance", now=0)
    ]
    weights = [1 / rank for rank in range(1, APPS + 1)]
    by_minute = [[0] * (HOUR // MINUTE) for _ in range(PARTS)]
    by_app = [0] * APPS
    for app in random.choices(range(APPS), weights, k=SESSIONS):
        minutes = by_minute[_part(str(UUID(int=random.getrandbits(128), version=4)))]
        life, times = random.choice(lives), TIMES if random.random() < LONG else 1
        begin = random.randrange(HOUR)
        for turn in range(times):
            for offset in life:
                # What comes after the hour stands for what came from before it.
                minutes[(begin + turn * life[-1] + offset) % HOUR // MINUTE] += 1
        by_app[app] += times * len(life)
    return by_minute, by_app


def _part(session_id: str) -> int:
    """Return the number in the subject of a session's callbacks."""
    body = b'{"SessionId":"%s"}' % session_id.encode()
    entry = NewEntry(id=bytes(16), sdk_app_id=1, received_at=0, body=body)
    return int(subject_of("desk", entry).rpartition(".")[2], 16)


def _joined(parts: Sequence[int], streams: int) -> list[int]:
    """Return the callbacks by stream; each has a range of the parts."""
    size = PARTS // streams
    return [sum(parts[start : start + size]) for start in range(0, PARTS, size)]


def _packed(apps: Sequence[int], streams: int) -> list[int]:
    """Return the callbacks by stream; each app, the largest first, goes to the emptiest stream."""
    loads = [0] * streams
    for callbacks in sorted(apps, reverse=True):
        loads[loads.index(min(loads))] += callbacks
    return loads


def _excess(loads: Sequence[int]) -> float:
    """Return the greatest load, where the mean is 1."""
    return max(loads) * len(loads) / sum(loads)


if __name__ == "__main__":
    print("\n".join(table()))
