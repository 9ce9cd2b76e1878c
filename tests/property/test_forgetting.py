"""Whatever is forgotten, and whenever its bytes are deleted: all views are the same."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from callback.decoder import identify
from journal.entry import Entry, Kind, numbered
from journal.forgetting import forget_entry
from service.history import LIMITS, FoldLimits
from service.projection import BatchBounds
from tests.support import histories
from tests.support.callbacks import APP, NOON
from tests.support.histories import batches
from tests.support.model import DAY
from tests.support.views import View, view

few = st.builds(FoldLimits, st.integers(1, 20), st.integers(1, 8), st.integers(1, 40))
"""Limits that a journal of these tests uses up."""


@st.composite
def journals(draw: st.DrawFn) -> list[Entry]:
    """Draw a journal with FORGET entries, with malformed and repeated ones before and after."""
    random = Random(draw(st.integers(0, 2**64 - 1)))
    entries = draw(histories.journals())
    for place in random.sample(range(len(entries)), min(len(entries), random.choice([0, 2, 4]))):
        entries[place] = random.choice(MALFORMED)(entries[place])
    for _ in range(draw(st.integers(0, 8))):
        source = random.randrange(len(entries))
        copy = histories.again(random, entries[source])
        entries.insert(source + random.randint(1, len(entries)), copy)
    entries = [replace(each, revision=10 * place) for place, each in enumerate(entries, 1)]
    orders = min(len(entries), draw(st.integers(1, 4)))
    for place in sorted(random.sample(range(1, len(entries) + 1), orders), reverse=True):
        entries.insert(place, forget(random, entries[:place]))
    return entries


def damaged(entry: Entry) -> Entry:
    return replace(entry, body=b"damaged" + entry.body)


def no_callback(entry: Entry) -> Entry:
    body = b"no JSON %d" % entry.revision
    return replace(entry, body=body, id=identify(APP, body))


def early(entry: Entry) -> Entry:
    return replace(entry, received_at=NOON - 9 * DAY)


MALFORMED = [damaged, no_callback, early, early]


def forget(random: Random, before: list[Entry]) -> Entry:
    """Return an entry that forgets something of what is before it, and of what is not there."""
    revisions = [each.revision for each in before]
    listed = random.sample(revisions, random.randint(0, len(revisions) // 2))
    session_ids = random.sample(["s1", "s2", "nobody"], random.randint(0, 3))
    made = forget_entry(
        APP,
        NOON,
        session_ids=session_ids,
        revisions=[*listed, before[-1].revision + 500],
        up_to=random.choice([0, *revisions]),
    )
    return numbered(made, before[-1].revision + 1)


@given(st.data(), journals(), st.just(LIMITS) | few)
def test_views_are_equal_whenever_they_were_built(
    data: st.DataObject, journal: list[Entry], limits: FoldLimits
) -> None:
    cut, reopen = data.draw(batches(journal)), data.draw(st.booleans())
    stop = data.draw(st.integers(0, len(journal)))
    bounds = BatchBounds(work=data.draw(st.sampled_from([1, 10, 50_000])))
    with view(cut, reopen=reopen, limits=limits, bounds=bounds) as lived:
        expected, doomed = content(lived), to_delete(lived)
    with view([journal], limits=limits) as rebuilt:
        assert (content(rebuilt), to_delete(rebuilt)) == (expected, doomed)
    after = without(journal, doomed)
    some = without(journal, doomed[: data.draw(st.integers(0, len(doomed)))])
    stopped = [part for part in (journal[:stop], without(journal[stop:], doomed)) if part]
    for others in ([after], [some], stopped):
        with view(others, reopen=reopen, limits=limits) as other:
            assert content(other) == expected


@given(journals())
def test_of_a_forgotten_session_nothing_is_left(journal: list[Entry]) -> None:
    last = journal[-1].revision
    forgotten = forget_entry(APP, NOON, session_ids=["s1", "s2"])
    with view([[*journal, numbered(forgotten, last + 1)]]) as seen:
        [names] = seen.rows("SELECT count(*) FROM session_keys WHERE session_id != ''")
        rows = seen.rows("SELECT session_id, revised FROM feed WHERE revised != 3")
        counts = seen.rows("SELECT 1 FROM session_counts WHERE sessions != 0")
        events = seen.rows("SELECT ifnull(sum(events), 0) FROM event_counts")
        owners = seen.rows("SELECT owner FROM repetitions UNION SELECT owner FROM refused_ids")
        feed = {revision for (revision,) in seen.rows("SELECT position >> 20 FROM feed")}
    assert (names, counts) == ((0,), [])
    assert events == [(sum(revised == 2 for _, revised in rows),)]
    assert set(rows) <= {("", 2)}
    assert {owner for (owner,) in owners} <= feed


def content(seen: View) -> list[object]:
    columns = "applied_revision, oldest_revision, repetitions, damaged, removed"
    return [
        *seen.everything(),
        seen.rows("SELECT * FROM session_counts WHERE sessions != 0"),
        seen.rows("SELECT * FROM event_counts WHERE events != 0"),
        seen.rows("SELECT * FROM forgotten_sessions"),
        seen.rows("SELECT * FROM refused_ids"),
        seen.rows("SELECT * FROM repetitions"),
        seen.rows("SELECT * FROM malformed_callbacks"),
        seen.rows(f"SELECT {columns} FROM progress"),
    ]


def to_delete(seen: View) -> list[int]:
    """Return the revisions in the order in which they are deleted."""
    rows = seen.rows("SELECT revision FROM entries_to_delete ORDER BY revision DESC")
    return [revision for (revision,) in rows]


def without(journal: list[Entry], deleted: list[int]) -> list[Entry]:
    kept = [each for each in journal if each.revision not in deleted]
    assert all(each.kind == Kind.CALLBACK for each in journal if each not in kept)
    return kept
