"""Copies a journal to another place, with its revisions, and compares the two.

Knows no engine. A copy that was interrupted goes on behind the last entry that arrived.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from journal.damage import Damage, ReportProgress, changed
from journal.entry import DAMAGED, Entry, Kind
from journal.errors import OtherEntries, Unavailable

PAGE = 4_000
"""Entries that are read and written at once; fewer if their bodies are long."""

ATTEMPTS = 10
"""Failures in a row after which a copy or a comparison ends."""

AGAIN = 1.0
"""Seconds between two attempts."""

REPORT = 1_000
"""Entries compared between two reports."""

T = TypeVar("T")


class Source(Protocol):
    """A journal that is read."""

    @property
    def id(self) -> str: ...

    def read(self, after: int, *, limit: int) -> list[Entry]: ...

    def head(self) -> int: ...

    def oldest(self) -> int: ...


class Target(Source, Protocol):
    """A journal that entries are copied to, by one process at a time."""

    def last(self) -> Entry | None:
        """Return the entry with the highest revision."""
        ...

    def write(self, after: int, entries: Sequence[Entry]) -> int:
        """Make entries durable; `after` is the number used last. Return the number used then.

        May write only the first ones.

        Raises:
            Unavailable: not all were written. A later call may succeed, behind `head`.
        """
        ...

    def repeats(self, entry: Entry) -> bool:
        """Return True if an entry is left out because an earlier one has its id."""
        ...


class Compared(NamedTuple):
    """The result of a comparison without differences.

    Attributes:
        head: the last number of the target.
        entries: those of the target, which the source has as well.
        repetitions: entries of the source that the target leaves out.
        digest: of the target's entries, with their revisions.
        damages: entries of both that are not as they were appended.
    """

    head: int
    entries: int
    repetitions: int
    digest: str
    damages: list[Damage]


def check_target(source: Source, target: Target) -> None:
    """Refuse a target that is no beginning of the source, as far as its end shows.

    Raises:
        OtherEntries: it is another journal, or has another end.
    """
    if source.id != target.id:
        raise OtherEntries("the target is another journal")
    if target.head() > source.head():
        raise OtherEntries(
            f"the target is ahead: it has revision {target.head()}, the source {source.head()}"
        )
    last = target.last()
    if last and source.read(last.revision - 1, limit=1) != [last]:
        if _is_forgotten(source, last.revision):
            raise _forgotten_since(last.revision)
        raise OtherEntries(f"revision {last.revision} is another entry in the target")


def copy_entries(source: Source, target: Target, report: ReportProgress) -> int:
    """Copy the entries that the target lacks, up to the source's present head; return that head.

    Raises:
        JournalError: the source cannot be read, or the target cannot be written.
        OtherEntries: somebody else writes the target.
    """
    head, after = source.head(), 0
    while after < head:
        following = _patiently(_copy_page, source, target, after)
        if following is None:
            break
        after = following
        report("copying", after, head)
    return head


def _copy_page(source: Source, target: Target, after: int) -> int | None:
    """Return the number used last in the target; None if there is nothing to copy."""
    if (head := target.head()) > after:  # by an earlier attempt, or somebody else writes it
        check_target(source, target)
    after = max(after, head)
    entries = source.read(max(after, source.oldest() - 1), limit=PAGE)
    return target.write(after, entries) if entries else None


def _patiently(call: Callable[..., T], *arguments: Any) -> T:
    """Call again after `Unavailable`, which may be an election of NATS."""
    for _ in range(ATTEMPTS - 1):
        try:
            return call(*arguments)
        except Unavailable:
            time.sleep(AGAIN)
    return call(*arguments)


def compare(
    source: Source, target: Target, report: ReportProgress, *, may_have_forgotten: bool = False
) -> Compared:
    """Compare all entries of the target with those of the source up to there.

    Args:
        source: the journal that was copied.
        target: the copy.
        report: is given the progress.
        may_have_forgotten: the source may have deleted entries since, which it has forgotten.

    Raises:
        OtherEntries: they differ.
    """
    try:
        return _compare(source, target, report, may_have_forgotten)
    except OtherEntries:  # a replica of the target may be behind
        time.sleep(AGAIN)
        return _compare(source, target, report, may_have_forgotten)


def _compare(
    source: Source, target: Target, report: ReportProgress, may_have_forgotten: bool
) -> Compared:
    head = target.head()
    digest = blake2b(digest_size=16)
    count = repetitions = 0
    extra: list[int] = []
    damages: list[Damage] = []
    copies = entries_of(target, head)
    copy = next(copies, None)
    for entry in entries_of(source, head):
        while copy and copy.revision < entry.revision:
            extra.append(copy.revision)
            copy = next(copies, None)
        if entry == copy:
            count += 1
            digest.update(msgspec.msgpack.encode(entry))
            if changed(entry):
                damages.append(Damage(entry.revision, entry.revision, DAMAGED))
            copy = next(copies, None)
        elif not target.repeats(entry):
            raise OtherEntries(f"source and target differ at revision {entry.revision}")
        else:
            repetitions += 1
        if (count + repetitions) % REPORT == 0:
            report("comparing", entry.revision, head)
    extra += [each.revision for each in (copy, *copies) if each]
    if extra and not _is_forgotten(source, extra[-1]):
        raise OtherEntries(f"source and target differ at revision {extra[0]}")
    if extra and not may_have_forgotten:
        raise _forgotten_since(extra[0])
    return Compared(head, count, repetitions, digest.hexdigest(), damages)


def _is_forgotten(source: Source, revision: int) -> bool:
    """Return True if an entry is missing, and a FORGET entry after it explains that."""
    if [each.revision for each in source.read(revision - 1, limit=1)] == [revision]:
        return False
    return any(each.kind == Kind.FORGET for each in entries_of(source, after=revision))


def _forgotten_since(revision: int) -> OtherEntries:
    return OtherEntries(
        f"revision {revision} was forgotten since it was copied: delete the target, and copy again"
    )


def entries_of(
    source: Source, head: int | None = None, *, after: int | None = None
) -> Iterator[Entry]:
    """Read all entries after a revision, up to `head`, by default the present one."""
    head = source.head() if head is None else head
    after = source.oldest() - 1 if after is None else after
    while after < head and (entries := _patiently(_read_page, source, after)):
        yield from (entry for entry in entries if entry.revision <= head)
        after = entries[-1].revision


def _read_page(source: Source, after: int) -> list[Entry]:
    return source.read(after, limit=PAGE)


def damages_of(source: Source, report: ReportProgress) -> list[Damage]:
    """Compare each entry with its id."""
    head = source.head()
    found = []
    for count, entry in enumerate(entries_of(source, head), start=1):
        if changed(entry):
            found.append(Damage(entry.revision, entry.revision, DAMAGED))
        if count % REPORT == 0:
            report("checking entries", entry.revision, head)
    return found
