"""An output whose reader stalls, comes back, or is gone."""

import os
import threading
from collections.abc import Iterator

import pytest

from command.background import Output

LINE = b"x" * 999 + b"\n"


class Pipe:
    """A pipe that is full until it is read."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.filling = 0
        try:
            while True:
                self.filling += os.write(self.writer, b"." * 512)
        except BlockingIOError:
            os.set_blocking(self.writer, True)

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes behind the filling."""
        found = b""
        while len(found) < self.filling + size:
            found += os.read(self.reader, self.filling + size - len(found))
        skipped, self.filling = self.filling, 0
        return found[skipped:]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.reader)  # which frees the thread that writes


def test_what_is_written_arrives_in_order(pipe: Pipe) -> None:
    output = Output(pipe.writer)
    for line in (b"one\n", b"two\n"):
        output.write(line)
    assert pipe.read(8) == b"one\ntwo\n"
    assert output.drain(60)


@pytest.mark.parametrize("limits", [{"max_writes": 5}, {"max_bytes": 5 * len(LINE)}])
def test_beyond_its_limit_it_drops_and_counts_and_never_waits(
    pipe: Pipe, limits: dict[str, int]
) -> None:
    dropped: list[int] = []
    told = threading.Event()

    def note(number: int) -> None:
        dropped.append(number)
        output.write(b"dropped\n")
        told.set()

    output = Output(pipe.writer, on_dropped=note, **limits)
    for _ in range(100):
        output.write(LINE)
    assert not output.drain(0.01)
    assert dropped == []
    assert pipe.read(5 * len(LINE)) == 5 * LINE
    assert told.wait(60)
    assert dropped == [95]
    output.write(b"after\n")
    assert pipe.read(14) == b"dropped\nafter\n"


def test_after_an_overflow_nothing_is_taken_until_all_is_written(pipe: Pipe) -> None:
    told = threading.Event()
    output = Output(pipe.writer, max_writes=2, on_dropped=lambda _: told.set())
    for number in range(10):
        output.write(b"%d\n" % number)
    found = pipe.read(2 * 2)
    assert told.wait(60)
    assert found == b"0\n1\n"


def test_it_ends_with_the_process_in_bounded_time_though_nobody_reads(pipe: Pipe) -> None:
    output = Output(pipe.writer)
    output.write(LINE)
    assert not output.drain(0.01)


def test_a_reader_that_is_gone_is_no_error_and_takes_no_memory() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    told: list[int] = []
    output = Output(writer, on_dropped=told.append, max_writes=10)
    for _ in range(1000):
        output.write(LINE)
        assert output.drain(60)
    assert told == []


def test_a_disk_that_was_full_is_told_of_when_it_is_not() -> None:
    reader, writer = os.pipe()
    descriptor = os.open("/dev/full", os.O_WRONLY)
    told = threading.Event()
    dropped: list[int] = []
    output = Output(descriptor, on_dropped=lambda number: (dropped.append(number), told.set()))
    for _ in range(3):
        output.write(LINE)
    assert output.drain(60)
    os.dup2(writer, descriptor)
    output.write(b"again\n")
    assert os.read(reader, 6) == b"again\n"
    assert told.wait(60)
    assert dropped == [3]
