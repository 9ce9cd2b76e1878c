"""A new replica starts from a snapshot of another one's view, with a real nats-server."""

import base64
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
import zstandard
from nats.js import JetStreamContext
from structlog.testing import capture_logs

from journal.backup import NoRoom
from journal.damage import ReportProgress
from journal.errors import Unavailable, Unreadable
from journal.forgetting import forget_entry
from journal.jetstream import JetStreamOptions, JetStreamWriter
from journal.jetstream_access import Access
from journal.jetstream_eraser import JetStreamEraser
from journal.jetstream_objects import ObjectStore
from journal.jetstream_stream import StreamOptions, wanted
from journal.port import Journal
from service.rpc.not_ready import progress_of
from service.snapshots.loader import load as load_snapshot
from service.snapshots.publisher import Publisher
from service.snapshots.stored import Snapshot, Snapshots
from service.view import store
from service.view.errors import ViewDamaged
from service.view.locks import building, lock
from tests.support.callbacks import APP, NOON
from tests.support.nats import MIB, NatsServer, nats_server
from tests.support.processes import run, start, wait_until
from tests.support.proxy import proxy
from tests.support.scrape import Page, scrape
from tests.support.snapshots import append, append_large, follow, state
from tests.support.views import following
from tests.support.waiting import eventually

pytestmark = pytest.mark.tools

SESSIONS = 40
"""Sessions of the journal, of one callback each."""

Lines = list[Mapping[str, Any]]


@pytest.fixture
def journal(options: JetStreamOptions) -> Iterator[JetStreamWriter]:
    with closing(JetStreamWriter(options)) as journal:
        append(journal, range(SESSIONS))
        yield journal


@pytest.fixture
def objects(options: JetStreamOptions) -> Iterator[ObjectStore]:
    with closing(ObjectStore(options.access, options.stream)) as objects:
        yield objects


@pytest.fixture
def first(journal: JetStreamWriter, tmp_path: Path) -> Path:
    """The directory of a replica that has caught up."""
    return follow(journal, tmp_path / "first")


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """The directory of a replica that has no view yet."""
    (tmp_path / "second").mkdir()
    return tmp_path / "second"


def publish(objects: ObjectStore, journal: Journal, folder: Path) -> Snapshot:
    return Publisher(Snapshots(objects, journal, folder)).publish(lambda *_: None)


def publish_if_due(
    objects: ObjectStore, journal: Journal, folder: Path, report: ReportProgress = lambda *_: None
) -> Snapshot | None:
    """Publish a snapshot however young the newest one is, and however few entries are new."""
    return Publisher(Snapshots(objects, journal, folder), fewest=1).publish_if_due(0, report)


def listed(objects: ObjectStore, journal: Journal, folder: Path) -> list[Snapshot]:
    return Snapshots(objects, journal, folder).newest_first()


def load(objects: ObjectStore, journal: Journal, folder: Path) -> Lines:
    """Load a snapshot; return the log lines of that."""
    with capture_logs() as lines:
        load_snapshot(Snapshots(objects, journal, folder), threading.Event())
    return [line for line in lines if "snapshot" in line["event"]]


def events(lines: Lines) -> list[str]:
    return [line["event"] for line in lines]


# ---- The way in which it is meant ----


def test_a_new_replica_goes_on_after_the_snapshot(objects, journal, first, second):
    publish(objects, journal, first)
    append(journal, range(SESSIONS, SESSIONS + 5))
    assert events(load(objects, journal, second)) == ["snapshot_loaded"]
    assert state(second)[0::2] == (SESSIONS, 0), "it must not serve before it has caught up"
    assert state(second)[1] == state(first)[1]
    with capture_logs() as lines:
        follow(journal, second)
    assert [each["revision"] for each in lines if each["event"] == "follower_started"] == [SESSIONS]
    assert state(second) == state(follow(journal, first))


def test_a_snapshot_is_taken_while_the_view_is_written(objects, journal, first, second):
    done = threading.Event()

    def write() -> None:
        numbers = iter(range(SESSIONS, 100_000))
        while not done.is_set():
            number = next(numbers)
            append(journal, range(number, number + 1))

    writing = threading.Thread(target=write)
    writing.start()
    try:
        with following(journal, first):
            eventually(lambda: state(first)[0] > SESSIONS)
            made = publish(objects, journal, first)
    finally:
        done.set()
        writing.join(60)
    assert events(load(objects, journal, second)) == ["snapshot_loaded"]
    assert state(second)[0] == made.revision > SESSIONS
    assert state(follow(journal, second)) == state(follow(journal, first))


def test_a_replica_with_a_view_loads_none(objects, journal, first):
    publish(objects, journal, first)
    before = store.locate(first).stat().st_ino
    assert load(objects, journal, first) == []
    assert store.locate(first).stat().st_ino == before


def test_without_a_snapshot_the_replica_replays(objects, journal, second):
    assert events(load(objects, journal, second)) == ["no_snapshot"]
    assert not store.locate(second).exists()
    assert state(follow(journal, second))[0] == SESSIONS


def test_nats_lists_and_reads_a_snapshot(nats, options, objects, journal, first):
    made = publish(objects, journal, first)

    async def get(js: JetStreamContext) -> tuple[str | None, bytes | None]:
        bucket = await js.object_store(f"{options.stream.name}-views")
        found = await bucket.get(made.stored.name)  # checks the digest as well
        return found.info.name, found.data

    name, content = nats.manage(get)
    assert name == made.stored.name == f"{store.fingerprint()}-{SESSIONS}"
    plain = zstandard.ZstdDecompressor().decompress(content or b"")
    assert plain.startswith(b"SQLite format 3\0")
    assert len(plain) == made.size


def test_a_view_that_is_loaded_says_how_far_it_is(tmp_path):
    view = store.locate(tmp_path)
    store.partial(view, 4_000).write_bytes(b"x" * 1_000)
    assert progress_of(view) == "a snapshot of the view is being loaded: 25 %; try again"


# ---- Snapshots that must not be used ----

Damage = Callable[[ObjectStore, Snapshot], None]


def content_of(objects: ObjectStore, snapshot: Snapshot) -> bytes:
    source = objects.open(snapshot.stored)
    return b"".join(iter(lambda: source.read(MIB), b""))


def store_other(change: Callable[[bytes], bytes] = lambda content: content, **label: str) -> Damage:
    """Replace a snapshot by one of other content, or with another label."""

    def damage(objects: ObjectStore, snapshot: Snapshot) -> None:
        content = change(content_of(objects, snapshot))
        objects.delete(snapshot.stored)
        objects.put(snapshot.stored.name, BytesIO(content), snapshot.stored.metadata | label)

    return damage


def unpacked(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Change the view in a snapshot."""
    return lambda content: zstandard.compress(change(zstandard.decompress(content)))


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def in_the_record(content: bytes) -> bytes:
    """Change a text that the structure of the file does not depend on."""
    assert b"session-7" in content
    return content.replace(b"session-7", b"session-8")


def in_an_index(view: bytes) -> bytes:
    """Flip a bit of an index, which the digest does not depend on."""
    with closing(apsw.Connection(":memory:")) as db:
        db.deserialize("main", view)
        sql = "SELECT rootpage FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'sessions'"
        (root, *_) = [page for (page,) in db.execute(sql)]
    return flip(view, (root - 1) * store.PAGE)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (store_other(lambda content: content[:-1000]), "another size"),
        (store_other(lambda content: flip(content, len(content) // 2)), ""),
        (store_other(lambda _: b"no snapshot at all"), ""),
        (store_other(unpacked(lambda view: view[:-8192])), "another size"),
        (store_other(unpacked(lambda view: view + bytes(8192))), "another size"),
        (store_other(unpacked(in_an_index)), ""),
        (store_other(unpacked(in_the_record)), ""),
        (store_other(revision="39"), "not what its label says"),
        (store_other(digest="00" * 32), "not what its label says"),
        (store_other(revision="41"), "newer than the journal, which ends at 40"),
    ],
    ids=[
        "truncated",
        "flipped",
        "garbage",
        "shorter view",
        "longer view",
        "index",
        "other records",
        "other revision",
        "other digest",
        "newer",
    ],
)
def test_a_snapshot_that_is_not_whole_is_not_used(objects, journal, first, second, damage, reason):
    damage(objects, publish(objects, journal, first))
    lines = load(objects, journal, second)
    assert events(lines) == ["snapshot_not_usable", "no_snapshot"]
    assert reason in lines[0]["reason"]
    assert list(second.iterdir()) == [store.lock_path(store.locate(second))]


def test_pieces_that_were_changed_or_lost_are_noticed(
    nats, options, objects, journal, first, second
):
    made = publish(objects, journal, first)
    bucket = f"{options.stream.name}-views"
    subject = f"$O.{bucket}.C.{made.stored.nuid}"
    content = content_of(objects, made)

    async def change(js: JetStreamContext) -> None:
        await js.purge_stream(f"OBJ_{bucket}", subject=subject)
        await js.publish(subject, zstandard.compress(zstandard.decompress(content), level=1))

    async def lose(js: JetStreamContext) -> None:
        await js.purge_stream(f"OBJ_{bucket}", subject=subject)

    for work, reason in ((change, "it has another digest"), (lose, "has 0 of 1 pieces")):
        nats.manage(work)
        lines = load(objects, journal, second)
        assert reason in lines[0]["reason"]
        assert not store.locate(second).exists()


@pytest.mark.parametrize(
    "label", [{"fingerprint": "0" * 12}, {"journal": "0" * 32}, {"format": "2"}]
)
def test_a_snapshot_of_something_else_is_passed_over(objects, journal, first, second, label):
    store_other(**label)(objects, publish(objects, journal, first))
    assert events(load(objects, journal, second)) == ["no_snapshot"]


def test_an_older_snapshot_is_used_if_the_newest_is_not_whole(objects, journal, first, second):
    publish(objects, journal, first)
    append(journal, range(SESSIONS, SESSIONS + 1))
    store_other(lambda content: content[: len(content) // 2])(
        objects, publish(objects, journal, follow(journal, first))
    )
    lines = load(objects, journal, second)
    assert events(lines) == ["snapshot_not_usable", "snapshot_loaded"]
    assert state(second)[0] == SESSIONS


def test_a_snapshot_of_other_entries_is_not_used(nats, objects, journal, first, second):
    publish(objects, journal, first)
    other = nats.options()

    async def make(js: JetStreamContext) -> None:
        await js.add_stream(wanted(other.stream, journal.id))

    nats.manage(make)
    with closing(JetStreamWriter(other)) as diverged:
        append(diverged, range(1, SESSIONS + 1))
        lines = load(objects, diverged, second)
    assert lines[0]["reason"] == "the journal has other entries"
    assert not store.locate(second).exists()


def test_a_snapshot_whose_last_entry_was_removed_is_used(
    nats, options, objects, journal, first, second
):
    publish(objects, journal, first)

    async def remove(js: JetStreamContext) -> None:
        await js.delete_msg(options.stream.name, SESSIONS)

    nats.manage(remove)
    append(journal, range(SESSIONS, SESSIONS + 1))
    assert events(load(objects, journal, second)) == ["snapshot_loaded"]
    assert state(follow(journal, second)) == state(follow(journal, first))


def test_a_snapshot_is_not_used_if_entries_after_it_are_gone(
    nats, options, objects, journal, first, second
):
    publish(objects, journal, first)
    append(journal, range(SESSIONS, SESSIONS + 5))

    async def purge(js: JetStreamContext) -> None:
        await js.purge_stream(options.stream.name, seq=SESSIONS + 4)

    nats.manage(purge)
    lines = load(objects, journal, second)
    assert events(lines) == ["snapshot_not_usable", "no_snapshot"]
    assert lines[0]["reason"] == f"revisions {SESSIONS + 1} to {SESSIONS + 3} are gone"


def described_as(made: Snapshot, **changes: object) -> Callable[[JetStreamContext], Any]:
    """Replace the description of a snapshot, as a process with a fault would."""
    stored = msgspec.structs.replace(made.stored, **changes)
    token = base64.urlsafe_b64encode(stored.name.encode()).decode()

    async def describe(js: JetStreamContext) -> None:
        await js.publish(f"$O.{stored.bucket}.M.{token}", msgspec.json.encode(stored))

    return describe


@pytest.mark.parametrize(
    ("changes", "events_"),
    [
        ({"mtime": "never"}, ["no_snapshot"]),
        ({"mtime": "0001-01-01T00:00:00"}, ["no_snapshot"]),
        ({"metadata": {"bytes": "1" * 5000}}, ["no_snapshot"]),
        ({"metadata": {"revision": "-1"}}, ["snapshot_not_usable", "no_snapshot"]),
        ({"metadata": {"bytes": "-1"}}, ["snapshot_not_usable", "no_snapshot"]),
        ({"metadata": {"bytes": str(2**62)}}, ["snapshot_not_usable", "no_snapshot"]),
        ({"chunks": 10**9}, ["snapshot_not_usable", "no_snapshot"]),
        ({"chunks": -1}, ["snapshot_not_usable", "no_snapshot"]),
        ({"nuid": "no such*subject"}, ["snapshot_not_usable", "no_snapshot"]),
    ],
)
def test_a_description_that_is_nonsense_is_in_nobodys_way(
    nats, objects, journal, first, second, changes, events_
):
    made = publish(objects, journal, first)
    if label := changes.get("metadata"):
        changes = {"metadata": made.stored.metadata | label}
    nats.manage(described_as(made, **changes))
    assert events(load(objects, journal, second)) == events_
    append(journal, range(SESSIONS, SESSIONS + 1))
    follow(journal, first)
    assert publish_if_due(objects, journal, first)
    assert events(load(objects, journal, second)) == ["snapshot_loaded"]


# ---- Publishing ----


def test_a_snapshot_ahead_of_a_restored_journal_is_replaced(objects, journal, first):
    store_other(revision="1000")(objects, publish(objects, journal, first))
    made = publish_if_due(objects, journal, first)
    assert made
    assert listed(objects, journal, first) == [made]


def test_a_view_that_the_journal_does_not_have_is_not_published(nats, objects, journal, first):
    other = nats.options()

    async def make(js: JetStreamContext) -> None:
        await js.add_stream(wanted(other.stream, journal.id))

    nats.manage(make)
    with closing(JetStreamWriter(other)) as restored:
        append(restored, range(1, SESSIONS))
        with pytest.raises(
            Unreadable, match=f"newer than the journal, which ends at {SESSIONS - 1}"
        ):
            publish_if_due(objects, restored, first)
        append(restored, range(SESSIONS, SESSIONS + 1))
        for attempt in (publish_if_due, publish):
            with pytest.raises(Unreadable, match="the journal has other entries"):
                attempt(objects, restored, first)
    assert objects.all() == []


def test_a_replica_without_room_leaves_the_work_to_another(objects, journal, first, second):
    follow(journal, second)
    os.truncate(store.locate(first), 2**43)  # takes no room
    with pytest.raises(NoRoom):
        publish_if_due(objects, journal, first)
    assert publish_if_due(objects, journal, second)


def test_a_claim_whose_answer_was_lost_is_not_taken_for_anothers(nats, options, journal, first):
    lost: list[bytes] = []

    def lose_first(data: bytes) -> bytes:
        if not lost and b'{"stream":"OBJ_' in data:
            lost.append(data)
            return b""
        return data

    with proxy(nats.port, change=lose_first) as way:
        access = Access(servers=(f"nats://127.0.0.1:{way.port}",))
        with closing(ObjectStore(access, options.stream)) as objects:
            assert publish_if_due(objects, journal, first)
    assert lost


def test_a_snapshot_with_what_was_forgotten_is_deleted_to_the_last_byte(
    objects, options, journal, first, nats
):
    publisher = Publisher(Snapshots(objects, journal, first))
    old = publisher.publish(lambda *_: None)
    content = content_of(objects, old)
    stream = f"OBJ_{options.stream.name}-views"  # other tests have the same views in theirs
    samples = [content[place : place + 32] for place in range(0, len(content) - 32, 5_000)]
    assert all(any(each in stored for stored in nats.contents(stream)) for each in samples[:9])
    publisher.delete_forgotten()
    assert listed(objects, journal, first) == [old]
    with closing(JetStreamEraser(options)) as eraser:
        eraser.forget(forget_entry(APP, NOON, session_ids=["session-1"]))
    follow(journal, first)
    publisher.delete_forgotten()
    assert listed(objects, journal, first) == []
    assert not any(sample in stored for stored in nats.contents(stream) for sample in samples)
    new = publisher.publish(lambda *_: None)
    publisher.delete_forgotten()
    assert listed(objects, journal, first) == [new]


def test_of_two_replicas_one_publishes(options, journal, first, second):
    follow(journal, second)
    begun, go_on = threading.Event(), threading.Event()

    def pause(*_: object) -> None:
        begun.set()
        go_on.wait(60)

    with (
        ExitStack() as stack,
        ThreadPoolExecutor(1) as threads,
    ):
        one, two = (
            stack.enter_context(closing(ObjectStore(options.access, options.stream)))
            for _ in range(2)
        )
        publishing = threads.submit(publish_if_due, one, journal, first, report=pause)
        assert begun.wait(60)
        assert publish_if_due(two, journal, second) is None
        go_on.set()
        assert publishing.result(60)


def test_a_snapshot_is_due_when_the_newest_is_old_and_enough_is_new(objects, journal, first):
    publisher = Publisher(Snapshots(objects, journal, first), fewest=SESSIONS)
    assert publisher.publish_if_due(0)
    assert not publisher.publish_if_due(0), "nothing is new"
    append(journal, range(SESSIONS, 2 * SESSIONS))
    follow(journal, first)
    assert not publisher.publish_if_due(3600), "the newest one is young"
    assert publisher.publish_if_due(0)


def test_a_snapshot_from_when_a_clock_was_wrong_delays_no_other(
    nats: NatsServer, objects: ObjectStore, journal: JetStreamWriter, first: Path
) -> None:
    made = publish(objects, journal, first)
    nats.manage(described_as(made, mtime=(datetime.now(UTC) + timedelta(days=300)).isoformat()))
    append(journal, range(SESSIONS, SESSIONS + 1))
    follow(journal, first)
    assert Publisher(Snapshots(objects, journal, first)).publish_if_due(3600)


def test_two_snapshots_are_kept_and_nothing_of_an_interrupted_one(
    nats, options, objects, journal, first
):
    bucket = f"{options.stream.name}-views"
    assert publish_if_due(objects, journal, first)

    async def abandon(js: JetStreamContext) -> None:
        await js.publish(f"$O.{bucket}.C.{store.fingerprint()}-1-dead", b"piece")

    nats.manage(abandon)
    for number in range(SESSIONS, SESSIONS + 3):
        append(journal, range(number, number + 1))
        follow(journal, first)
        assert publish_if_due(objects, journal, first)
    kept = listed(objects, journal, first)
    assert [each.revision for each in kept] == [SESSIONS + 3, SESSIONS + 2]

    async def subjects(js: JetStreamContext) -> set[str]:
        info = await js.stream_info(f"OBJ_{bucket}", subjects_filter=f"$O.{bucket}.C.*")
        return set(info.state.subjects or {})

    pieces = {f"$O.{bucket}.C.{each.stored.nuid}" for each in kept}
    assert nats.manage(subjects) == pieces | {f"$O.{bucket}.C.claim"}


def test_a_snapshot_that_is_published_again_leaves_no_pieces_of_the_one_before(
    nats, options, objects, journal, first, second
):
    for _ in range(3):
        publish(objects, journal, first)

    async def messages(js: JetStreamContext) -> int:
        return (await js.stream_info(f"OBJ_{options.stream.name}-views")).state.messages

    assert nats.manage(messages) == 2, "a description, and a piece"
    assert events(load(objects, journal, second)) == ["snapshot_loaded"]


def test_the_newest_snapshot_of_another_version_is_kept_for_a_day(
    nats, options, objects, journal, first
):
    bucket = f"$O.{options.stream.name}-views"

    def store_as(version: str, *, age: timedelta, revision: int = SESSIONS) -> None:
        made = publish(objects, journal, first)
        then = datetime.now(UTC) - age
        name = f"{version}-{revision}"
        changes = {"fingerprint": version, "revision": str(revision)}
        metadata = made.stored.metadata | changes
        described = msgspec.structs.replace(
            made.stored, name=name, mtime=then.isoformat(), metadata=metadata
        )
        subject = f"{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

        async def describe(js: JetStreamContext) -> None:
            await js.publish(subject, msgspec.json.encode(described))

        nats.manage(describe)

    store_as("the-last-version", age=timedelta(hours=23))
    store_as("the-last-version", age=timedelta(hours=23), revision=SESSIONS - 1)
    store_as("an-old-version", age=timedelta(hours=25))
    publish(objects, journal, first)
    found = [(each.fingerprint, each.revision) for each in listed(objects, journal, first)]
    assert sorted(found) == sorted(
        [(store.fingerprint(), SESSIONS), ("the-last-version", SESSIONS)]
    )


def test_a_view_that_is_damaged_is_not_published(objects, first):
    with closing(apsw.Connection(str(store.locate(first)))) as db:
        db.execute("UPDATE feed SET record = CAST(record || 'x' AS BLOB) WHERE event_revision = 7")
    with pytest.raises(Exception, match="another digest"):
        publish(objects, journal, first)
    assert listed(objects, journal, first) == []
    assert not list(first.glob("*.partial"))


def test_a_view_whose_sessions_are_damaged_is_not_published(objects, journal, first):
    with closing(apsw.Connection(str(store.locate(first)))) as db:
        db.execute("UPDATE sessions SET session = x'00' WHERE number = 7")
    with pytest.raises(ViewDamaged, match="session 7 is another one than in the feed"):
        publish(objects, journal, first)


def test_a_store_without_room_is_one_line_and_keeps_nothing(nats, journal, options, first):
    small = replace(options.stream, max_bytes=2048)
    with closing(ObjectStore(options.access, small)) as objects:
        with pytest.raises(Unavailable, match="JetStream refuses it: maximum bytes exceeded"):
            publish(objects, journal, first)
        assert objects.all() == []


def test_what_a_killed_replica_left_is_deleted(objects, journal, first, second):
    publish(objects, journal, first)
    view = store.locate(second)
    for left in (store.partial(view, 77), Path(f"{store.partial(view, 77)}-journal")):
        left.write_bytes(b"half")
    Path(f"{view}-wal").write_bytes(b"of a view that was deleted")
    assert events(load(objects, journal, second)) == ["snapshot_loaded"]
    assert sorted(second.iterdir()) == [view, store.lock_path(view)]
    assert state(follow(journal, second)) == state(first)


def test_a_service_needs_few_permissions(tmp_path, journal, first):
    bucket = "desk-views"
    stream = f"OBJ_{bucket}"
    api = [f"STREAM.{each}" for each in ("INFO", "CREATE", "PURGE", "MSG.GET", "MSG.DELETE")]
    publishes = [f"$O.{bucket}.>", *(f"$JS.API.{each}.{stream}" for each in (*api, "DIRECT.GET"))]
    password = tmp_path / "password"
    password.write_text("right")
    config = (
        "authorization { users: [ { user: desk, password: right, permissions { "
        f'publish: {publishes}, subscribe: ["_INBOX.>"] }} }} ] }}'
    )
    with nats_server(tmp_path / "nats", config) as server:
        access = Access(servers=(server.url,), user="desk", password_file=password)
        with closing(ObjectStore(access, StreamOptions(max_bytes=MIB))) as objects:
            made = publish_if_due(objects, journal, first)
            assert made
            assert content_of(objects, made)
            objects.delete(made.stored)
            assert objects.all() == []


# ---- Processes ----


def settings_of(options: JetStreamOptions, port: int | None = None) -> dict[str, str]:
    (server,) = options.access.servers
    return {
        "DESK_JOURNAL": f"nats://127.0.0.1:{port}" if port else server,
        "DESK_NATS_STREAM": options.stream.name,
        "DESK_NATS_MAX_BYTES": str(options.stream.max_bytes),
        "DESK_SDK_APP_IDS": "1600012345",
    }


def test_an_operator_publishes_and_a_service_starts_from_that(options, journal, first, second):
    settings = settings_of(options)
    published = run("view", "snapshot", DESK_DATA_DIR=str(first), **settings)
    assert published.stdout.startswith(f"published {store.fingerprint()}-{SESSIONS}: revision 40, ")
    assert published.stderr == ""
    listed = run("view", "snapshots", DESK_DATA_DIR=str(second), **settings)
    assert listed.stdout.startswith(f"{store.fingerprint()}-{SESSIONS}: revision 40, ")
    assert listed.stdout.endswith(", of this version\n")
    with start("service", data_dir=second, **settings) as service:
        service.ready()
        loaded = service.wait_for(lambda record: record["event"] == "snapshot_loaded")
        assert loaded["revision"] == SESSIONS
        wait_until(lambda: "session-39" in run("sessions", "list", target=service.target).stdout)
        assert service.terminate() == 0


def test_a_view_is_built_from_a_snapshot_and_the_stream(
    nats, options, objects, journal, first, second
):
    def build(folder: Path) -> None:
        built = run("view", "build", DESK_DATA_DIR=str(folder), **settings_of(options))
        assert (built.returncode, built.stderr) == (0, "")
        head = journal.head()
        assert built.stdout.startswith(f"built {store.locate(folder).name} up to revision {head} ")
        assert state(folder) == state(follow(journal, first))

    build(second.with_name("third"))  # there is no snapshot

    async def purge(js: JetStreamContext) -> None:
        await js.purge_stream(options.stream.name, seq=SESSIONS)

    publish(objects, journal, first)
    append(journal, range(SESSIONS, SESSIONS + 3))
    nats.manage(purge)
    build(second)
    (second / "view-0123456789ab.db").touch()
    dropped = run("view", "drop", DESK_DATA_DIR=str(second), **settings_of(options))
    assert dropped.stdout == "view-0123456789ab.db: deleted\n"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the right to write a view, as what loads it does."""
    right = lock(store.locate(folder))
    try:
        yield
    finally:
        right.release()


def test_a_service_that_starts_during_a_build_waits_for_its_end(options, journal, second):
    with ExitStack() as stack, ExitStack() as build:
        build.enter_context(building(second))
        build.enter_context(held(second))
        service = stack.enter_context(start("service", data_dir=second, **settings_of(options)))
        with build:
            waiting = service.wait_for(lambda record: record["event"] == "waiting_for_journal")
            assert waiting["reason"] == "desk view build is making the view"
        service.ready()
        wait_until(lambda: state(second)[0::2] == (SESSIONS, 1))
        assert service.terminate() == 0


def test_snapshots_need_a_journal_on_nats(tmp_path):
    found = run("view", "snapshot", DESK_DATA_DIR=str(tmp_path), DESK_SDK_APP_IDS="1")
    assert found.returncode == 1
    assert found.stderr == ("desk: DESK_JOURNAL is a file: snapshots are for a journal on NATS\n")


class Stall:
    """A server is silent from the time on at which it has said a word so often."""

    def __init__(self, word: bytes, times: int) -> None:
        self._word = word
        self._left = times
        self.reached = threading.Event()
        self.ended = threading.Event()

    def __call__(self, data: bytes) -> bytes:
        self._left -= data.count(self._word)
        if self._left <= 0:
            self.reached.set()
            self.ended.wait(60)
        return data


@contextmanager
def stalling(nats: NatsServer, word: bytes, times: int) -> Iterator[tuple[int, Stall]]:
    """Give a port of NATS that stalls."""
    stall = Stall(word, times)
    with proxy(nats.port, change=stall) as slow:
        try:
            yield slow.port, stall
        finally:
            stall.ended.set()


def test_a_service_that_is_killed_while_it_loads_leaves_nothing_half_used(
    nats, options, objects, journal, first, second
):
    append_large(journal)
    publish(objects, journal, follow(journal, first))
    view = store.locate(second)
    for piece in (1, 2, 4):
        with (
            stalling(nats, b"Nats-Subject: $O.", piece) as (port, stall),
            start("service", data_dir=second, **settings_of(options, port)) as service,
        ):
            assert stall.reached.wait(60)
            wait_until(lambda: store.partials(view))
            service.kill()
        assert not view.exists()
    assert events(load(objects, journal, second)) == ["snapshot_loaded"]
    assert sorted(second.iterdir()) == [view, store.lock_path(view)]
    assert state(follow(journal, second)) == state(first)


def test_a_snapshot_that_is_replaced_while_it_is_loaded_is_left_for_the_new_one(
    nats, options, objects, journal, first, second
):
    append_large(journal)
    old = publish(objects, journal, follow(journal, first))
    with (
        stalling(nats, b"Nats-Subject: $O.", 2) as (port, stall),
        closing(ObjectStore(Access(servers=(f"nats://127.0.0.1:{port}",)), options.stream)) as slow,
        ThreadPoolExecutor(1) as threads,
    ):
        loading = threads.submit(load_snapshot, Snapshots(slow, journal, second), threading.Event())
        assert stall.reached.wait(60)
        append(journal, range(SESSIONS, SESSIONS + 1))
        new = publish(objects, journal, follow(journal, first))
        objects.delete(old.stored)
        stall.ended.set()
        loading.result(60)
    assert state(second)[0] == new.revision > old.revision


def test_a_snapshot_is_loaded_although_nats_was_away_meanwhile(
    nats, options, objects, journal, first, second
):
    append_large(journal)
    publish(objects, journal, follow(journal, first))
    with (
        stalling(nats, b"Nats-Subject: $O.", 2) as (port, stall),
        closing(ObjectStore(Access(servers=(f"nats://127.0.0.1:{port}",)), options.stream)) as slow,
        ThreadPoolExecutor(1) as threads,
        capture_logs() as lines,
    ):
        loading = threads.submit(load_snapshot, Snapshots(slow, journal, second), threading.Event())
        eventually(lambda: "snapshots_not_found" in events(lines), within=60)
        assert stall.reached.is_set()
        stall.ended.set()
        loading.result(60)
    assert state(second)[0] == journal.head()


def test_a_publisher_that_is_killed_leaves_no_snapshot(nats, options, objects, journal, first):
    append_large(journal)
    follow(journal, first)
    bucket = f"$O.{options.stream.name}-views.C.*"

    async def pieces(js: JetStreamContext) -> dict[str, int]:
        info = await js.stream_info(f"OBJ_{options.stream.name}-views", subjects_filter=bucket)
        return info.state.subjects or {}

    with (
        stalling(nats, b'{"stream":"OBJ_', 2) as (port, stall),
        start("view", "snapshot", data_dir=first, **settings_of(options, port)) as publisher,
    ):
        assert stall.reached.wait(60)
        publisher.kill()
    assert objects.all() == []
    assert sum(nats.manage(pieces).values()) == 2
    assert len(list(first.glob("snapshot-*.partial"))) == 1
    assert publish_if_due(objects, journal, first)
    assert len(nats.manage(pieces)) == 2, "of the snapshot, and of the claim"
    assert not list(first.glob("snapshot-*"))


def test_the_first_replica_of_a_version_publishes_and_the_others_load(options, journal, tmp_path):
    with ThreadPoolExecutor(64) as threads:
        for _ in threads.map(lambda n: append(journal, range(n, n + 100)), range(0, 10_000, 100)):
            pass
    settings = settings_of(options) | {"DESK_METRICS_LISTEN": "127.0.0.1:0"}
    one, two = tmp_path / "one", tmp_path / "two"
    with start("service", data_dir=one, **settings) as first:
        first.wait_for(lambda record: record["event"] == "no_snapshot")
        first.wait_for(lambda record: record["event"] == "snapshot_published")

        def shown() -> Page | None:
            """Return the page; a busy machine may be late for it with a process."""
            page = scrape(first.ready()["metrics"])
            return page if page.value("desk_snapshot_revision") == 10_000 else None

        page = eventually(shown)
        assert 0 < time.time() - page.value("desk_snapshot_timestamp_seconds") < 600
        assert page.samples("desk_snapshot_failures_total")
        assert page.value("desk_snapshot_failures_total") <= 2  # of a process that was stopped
        with start("service", data_dir=two, **settings) as second:
            second.wait_for(lambda record: record["event"] == "snapshot_loaded")
            wait_until(lambda: state(two)[0::2] == (10_000, 1))
            assert state(two) == state(one)
            assert second.terminate() == 0
        assert first.terminate() == 0
