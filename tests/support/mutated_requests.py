"""Mutated requests, read by our parser and by h11: a strict one of other people.

`python -m tests.support.mutated_requests 100000` compares as many and says what it saw.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from random import Random
from time import thread_time
from urllib.parse import unquote_to_bytes

import h11

from gateway.parser import Parser

CHUNKED = b"5;a=b\r\nhello\r\n0A\r\n0123456789\r\n0\r\n\r\n"

BASES = (
    b"POST /?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /p/q?SdkAppid=1 HTTP/1.1\r\nHost: h:80\r\nContent-Type: x\r\nContent-Length: 3\r\n"
    b"Connection: keep-alive\r\n\r\nabc",
    b"GET /livez HTTP/1.0\r\nUser-Agent: a b\r\nConnection: close\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
)

ODD_BYTES = b'\x00\t\n\v\f\r !"#,/:;=\x7f\x80\xff09Aa_-'

ODD_PARTS = (
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\r\n", b" ", b"\t", b" chunked", b"Host: x\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
    b"\r\n folded", b"HTTP/1.1", b"http://h", b"a://" + b"1" * 300, b"[", b"%00", b" " * 300,
    b"9" * 30, b"+5", b"0x5", b"5, 5", b"Content_Length: 9\r\n", b"Expect: 100-continue\r\n",
)  # fmt: skip


LONG = 15_000
"""Bytes of a part that is repeated: expressions that backtrack would take seconds."""


@dataclass
class Reading:
    """A request as it was read, and how many bytes of it there were."""

    method: bytes
    target: bytes
    body: bytes
    size: int


def mutated(random: Random) -> bytes:
    """A request with up to four mutations."""
    wire = random.choice(BASES)
    for _ in range(random.randint(1, 4)):
        wire = _mutate(random, wire)
    return wire


def _mutate(random: Random, wire: bytes) -> bytes:
    start = random.randrange(len(wire) + 1)
    end = min(len(wire), start + random.choice((0, 0, 1, 1, 2, 8)))
    match random.randrange(6):
        case 0:
            new = bytes([random.choice(ODD_BYTES)])
        case 1:
            new = random.choice(ODD_PARTS)
        case 2:
            new = b""
        case 3:
            new = wire[start:end] * 2
        case 4:
            new = random.choice(ODD_PARTS)
            new *= LONG // len(new)
        case _:
            lines = wire.split(b"\r\n")
            a, b = random.randrange(len(lines)), random.randrange(len(lines))
            lines[a], lines[b] = lines[b], lines[a]
            return b"\r\n".join(lines)
    return wire[:start] + new + wire[end:]


def read_by_us(wire: bytes, pieces: int | None = None) -> Reading | None:
    """Return the request that our parser reads; None if it is refused or incomplete."""
    parser = Parser(None)
    size = 0
    while size < len(wire) and not parser.completed:
        size += parser.received(wire[size : size + pieces] if pieces else wire[size:])
    if not parser.completed or parser.error:
        return None
    body = parser.get_body_stream().read()
    size -= len(parser.rest)
    return Reading(parser.command.encode(), parser.request_uri.encode("latin-1"), body, size)


def read_by_h11(wire: bytes) -> Reading | str:
    """Return the request that h11 reads, or the reason why it reads none."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(wire)
    try:
        request = connection.next_event()
        body = b""
        while isinstance(event := connection.next_event(), h11.Data):
            body += bytes(event.data)
    except h11.RemoteProtocolError as error:
        return str(error)
    if not isinstance(request, h11.Request) or not isinstance(event, h11.EndOfMessage):
        return "incomplete"
    rest = len(connection.trailing_data[0])
    return Reading(request.method, request.target, body, len(wire) - rest)


def compare(wire: bytes) -> str:
    """Return what became of a request; fail if it was taken and h11 reads it otherwise."""
    ours = read_by_us(wire)
    if ours is None:
        return "refused"
    assert read_by_us(wire, pieces=1) == ours, wire
    # RFC 9112, 2.2 asks servers to ignore an empty line in front. h11 does not.
    skipped = 2 if wire.startswith(b"\r\n") else 0
    theirs = read_by_h11(wire[skipped:])
    assert not isinstance(theirs, str), (wire, theirs)
    theirs.size += skipped
    assert theirs == ours, wire
    assert unquote_to_bytes(ours.target.partition(b"?")[0]).startswith(b"/")
    return "taken"


def seconds(wire: bytes) -> float:
    """Return the processor time that a request takes us."""
    begun = thread_time()
    read_by_us(wire)
    return thread_time() - begun


def run(count: int, seed: int) -> tuple[Counter[str], float]:
    """Compare `count` requests; how they ended, and the most processor time (s) one took us."""
    random = Random(seed)
    outcomes: Counter[str] = Counter()
    longest = 0.0
    for _ in range(count):
        wire = mutated(random)
        took = seconds(wire)
        if took > longest:  # once more: the garbage of the whole process may have been collected
            longest = max(longest, min(took, seconds(wire), seconds(wire)))
        outcomes[compare(wire)] += 1
    return outcomes, longest


if __name__ == "__main__":
    outcomes, longest = run(int(sys.argv[1]), seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(f"{dict(outcomes)}, none read otherwise by h11; longest {longest * 1e3:.2f} ms")
