"""`desk journal copy`, and the commands that read a journal on NATS, with a real nats-server."""

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from command.engines import open_writer
from command.settings import Settings
from journal import jetstream_copy
from journal.entry import Kind, numbered
from journal.errors import Incomplete, Unavailable
from journal.forgetting import forget_entry
from journal.jetstream import JetStreamWriter
from journal.jetstream_copy import JetStreamTarget
from journal.jetstream_message import ID, RECEIVED_AT
from journal.spool import SpooledWriter
from journal.sqlite import SqliteReader, SqliteWriter
from service.view.store import locate
from tests.support.callbacks import NOON
from tests.support.commands import Answer
from tests.support.copies import Place, append_real, change, real_entry
from tests.support.journals import PATIENCE, append, new_entry
from tests.support.nats import MIB, NatsServer, nats_cluster, nats_server
from tests.support.processes import environment
from tests.support.proxy import proxy
from tests.support.spools import forwarded
from tests.support.views import follow, read
from tests.support.waiting import eventually

pytestmark = pytest.mark.tools

MANY = 6_000
"""Entries of more than one page."""


@pytest.fixture
def place(nats: NatsServer, tmp_path: Path) -> Place:
    """A journal of 24 callbacks, with numbers left out in the beginning and in the middle."""
    place = Place(nats, tmp_path / "data")
    append_real(place.file, 1, 30)
    change(place.file, "DELETE FROM entries WHERE revision IN (1, 2, 11, 12, 13, 29)")
    return place


def digest(answer: Answer) -> str:
    return answer.stderr.partition("; digest ")[2].partition(",")[0]


# ---- There and back ----


def test_a_journal_goes_to_nats_and_back_with_its_id_and_its_revisions(
    place: Place, tmp_path: Path
) -> None:
    answer = place.to_nats()
    assert answer.returncode == 0
    assert f"{place.nats.url} has 24 entries up to revision 30; digest " in answer.stderr
    assert place.stream_entries() == place.file_entries()
    returned = place.back(tmp_path / "returned")
    assert returned.returncode == 0
    assert digest(returned) == digest(answer) != ""
    assert place.file_entries(tmp_path / "returned") == place.file_entries()
    with closing(SqliteWriter(tmp_path / "returned" / "journal.db")) as journal:
        assert append(journal).revision == 31


def test_forget_entries_are_copied_and_checked_as_such(place: Place, tmp_path: Path) -> None:
    with closing(SqliteWriter(place.file)) as journal:
        journal.append(forget_entry(1, NOON, session_ids=["s1", "s2"]), timeout=PATIENCE)
    assert place.to_nats().returncode == 0
    assert place.stream_entries() == place.file_entries()
    assert place.stream_entries()[1][-1].kind == Kind.FORGET
    assert place.desk_on_nats("journal", "check").returncode == 0
    lists = place.desk_on_nats("journal", "export", "--forgotten").stdout
    assert [json.loads(line)["revision"] for line in lists.splitlines()] == [31]
    assert place.desk_on_nats("backup", tmp_path / "backup.db").returncode == 0
    assert place.back(tmp_path / "returned").returncode == 0
    assert place.file_entries(tmp_path / "returned") == place.file_entries()


def test_new_callbacks_go_on_behind_the_copied_ones(place: Place) -> None:
    assert place.to_nats().returncode == 0
    with closing(place.nats.writer(place.stream)) as journal:
        assert append(journal, "new").revision == 31
        assert append(journal, "new").duplicate


def test_a_journal_may_return_to_the_file_and_to_the_stream_of_before(place: Place) -> None:
    assert place.to_nats().returncode == 0
    with closing(place.nats.writer(place.stream)) as journal:
        journal.append(real_entry(31), timeout=PATIENCE)
    assert place.back(place.data).returncode == 0
    assert place.file_entries()[1][-1].id == real_entry(31).id
    append_real(place.file, 40, 41)
    assert place.to_nats().returncode == 0
    assert place.file_entries() == place.stream_entries()


def test_a_journal_returns_to_where_a_killed_gateway_left_its_log(
    place: Place, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    with closing(SqliteWriter(place.file)) as journal:
        for number in range(31, 60):
            journal.append(real_entry(number), timeout=PATIENCE)
        for file in ("journal.db", "journal.db-wal"):
            shutil.copy(place.data / file, killed / file)
    assert place.to_nats().returncode == 0
    with closing(place.nats.writer(place.stream)) as stream:
        stream.append(real_entry(60), timeout=PATIENCE)
    (killed / "journal.db").unlink()
    assert place.back(killed).returncode == 0
    assert place.file_entries(killed) == place.stream_entries()


def test_a_journal_without_entries_is_copied(nats: NatsServer, tmp_path: Path) -> None:
    place = Place(nats, tmp_path / "data")
    SqliteWriter(place.file).close()
    assert place.to_nats().returncode == 0
    assert place.stream_entries() == place.file_entries()
    assert place.back(tmp_path / "returned").returncode == 0
    assert place.file_entries(tmp_path / "returned") == place.file_entries()


def test_a_gap_of_many_numbers_is_kept(place: Place) -> None:
    change(place.file, "UPDATE entries SET revision = 10030 WHERE revision = 30")
    assert place.to_nats().returncode == 0
    assert place.stream_entries() == place.file_entries()


def test_the_view_of_the_file_goes_on_with_the_stream(place: Place) -> None:
    with closing(SqliteReader(place.file)) as file:
        follow(file, place.data, 30)
    assert place.to_nats().returncode == 0
    before = read(place.data, "SELECT position, record FROM feed")
    change(locate(place.data), "CREATE TABLE the_same_view (a)")
    with closing(place.nats.writer(place.stream)) as journal:
        journal.append(real_entry(50), timeout=PATIENCE)
        follow(journal, place.data, 31)
    assert read(place.data, "SELECT * FROM the_same_view") == []
    after = read(place.data, "SELECT position, record FROM feed")
    assert (after[:-1], len(after)) == (before, len(before) + 1)
    assert place.desk_on_nats("journal", "check").returncode == 0


# ---- Interruptions ----


@contextmanager
def stalled_copy(place: Place, source: str, target: str, *, marker: bytes) -> Iterator[None]:
    """Run a copy that gets no more of NATS from a marker on; kill it in the end."""
    go_on = threading.Event()

    def stop_at_marker(data: bytes) -> bytes:
        if marker in data:
            go_on.wait(60)
        return data

    with proxy(place.nats.port, change=stop_at_marker) as slow:
        places = [each.replace(str(place.nats.port), str(slow.port)) for each in (source, target)]
        process = subprocess.Popen(
            [sys.executable, "-m", "command", "journal", "copy", *places],
            env=environment(place.settings()),
        )
        try:
            yield
        finally:
            process.kill()
            process.wait(PATIENCE)
            go_on.set()


def test_a_killed_copy_goes_on_and_nobody_uses_the_stream_before(place: Place) -> None:
    append_real(place.file, 31, MANY)
    with stalled_copy(place, f"sqlite:{place.data}", place.nats.url, marker=b'"count":'):
        eventually(place.messages)
    assert 0 < place.messages() < MANY - 1000
    with pytest.raises(Incomplete, match="waits for `desk journal copy`"):
        place.stream_entries()
    with pytest.raises(Incomplete):
        place.nats.writer(place.stream)
    assert place.to_nats().returncode == 0
    assert place.stream_entries() == place.file_entries()


def test_a_copy_goes_on_when_the_connection_was_cut(place: Place) -> None:
    append_real(place.file, 31, MANY)
    cuts = iter([True])

    def cut_once(data: bytes) -> bytes:
        if b'"count":' in data and next(cuts, False):
            raise OSError
        return data

    with proxy(place.nats.port, change=cut_once) as cutting:
        url = f"nats://127.0.0.1:{cutting.port}"
        answer = place.desk("journal", "copy", f"sqlite:{place.data}", url)
    assert answer.returncode == 0
    assert next(cuts, None) is None
    assert place.stream_entries() == place.file_entries()


@pytest.mark.timeout(90)
def test_a_server_that_answers_nothing_more_is_not_waited_for_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream_copy, "WRITE_WITHIN", 100.0)
    more_than_sockets_buffer = [
        numbered(new_entry(name, body=b"x" * 3_000), name) for name in range(1, 3_000)
    ]
    with nats_server(tmp_path) as server:
        target = JetStreamTarget(server.options(), uuid4().hex, first=1)
        server.freeze()
        with closing(target), pytest.raises(Unavailable, match="connection closed"):
            target.write(0, more_than_sockets_buffer)


def test_a_copy_goes_on_when_the_server_that_leads_dies(tmp_path: Path) -> None:
    with nats_cluster(tmp_path / "nats") as servers:
        place = Place(servers[0], tmp_path / "data")
        append_real(place.file, 1, MANY)
        change(place.file, "DELETE FROM entries WHERE revision % 100 = 0 AND revision < 6000")
        dead: list[NatsServer] = []

        def kill_once(data: bytes) -> bytes:
            if b'"count":' in data and not dead:
                leader = servers[0].manage(lambda js: js.stream_info(place.stream)).cluster.leader
                dead.append(servers[int(leader.removeprefix("n")) - 1])
                dead[0].stop()
            return data

        with proxy(servers[0].port, change=kill_once) as slow:

            def copied() -> bool:
                """Copy; the servers may not know each other yet, or elect for long."""
                left = ",".join(server.url for server in servers if server not in dead)
                target = left if dead else f"nats://127.0.0.1:{slow.port}"
                arguments = ("journal", "copy", f"sqlite:{place.data}", target)
                answer = place.desk(*arguments, DESK_NATS_REPLICAS="3")
                return answer.returncode == 0

            eventually(copied, within=60)
        assert dead
        place.nats = next(server for server in servers if server not in dead)
        assert place.stream_entries() == place.file_entries()


def test_a_killed_return_goes_on_and_there_is_no_journal_before(
    place: Place, tmp_path: Path
) -> None:
    append_real(place.file, 31, MANY)
    assert place.to_nats().returncode == 0
    data = tmp_path / "returned"
    partial = data / "journal.db.copying"
    marker = b"Nats-Sequence: 5000"
    with stalled_copy(place, place.nats.url, f"sqlite:{data}", marker=marker):
        eventually(lambda: partial.exists() and count(partial))
    assert 0 < count(partial) < MANY - 1000
    assert not (data / "journal.db").exists()
    settings = Settings(sdk_app_ids=(1,), data_dir=data)
    with pytest.raises(Unavailable, match="is not whole: run `desk journal copy` again"):
        open_writer(settings)
    assert place.back(data).returncode == 0
    assert place.file_entries(data) == place.file_entries()
    assert not partial.exists()


def count(file: Path) -> int:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])
        except sqlite3.OperationalError:  # it is being made
            return 0


def test_a_copy_is_finished_when_the_gateway_has_stopped(place: Place) -> None:
    with closing(SqliteWriter(place.file)) as journal:
        answer = place.to_nats()
        assert answer.returncode == 1
        assert "24 entries up to revision 30" in answer.stderr
        assert f"desk: a gateway writes {place.file}: stop it, and copy again" in answer.stderr
        journal.append(real_entry(31), timeout=PATIENCE)
    with pytest.raises(Incomplete):
        place.stream_entries()
    assert place.to_nats().returncode == 0
    assert place.stream_entries() == place.file_entries()


@pytest.mark.parametrize("moment", [b"desk-copying", b'"count":'], ids=["begins", "copies"])
def test_a_stream_that_gateways_write_gets_nothing_behind_their_entries_and_stays_in_use(
    place: Place, moment: bytes
) -> None:
    assert place.to_nats().returncode == 0
    append_real(place.file, 31, MANY)
    late = iter([real_entry(MANY + 1)])

    def write_once(data: bytes) -> bytes:
        """Publish as a gateway does that has not noticed the copy yet."""
        if moment in data and (entry := next(late, None)):
            place.publish_entry(entry)
        return data

    with proxy(place.nats.port, change=write_once) as way:
        url = f"nats://127.0.0.1:{way.port}"
        answer = place.desk("journal", "copy", f"sqlite:{place.data}", url)
    assert answer.returncode == 1
    assert "another entry in the target: a gateway writes the stream, which stays" in answer.stderr
    entries = place.stream_entries()[1]
    assert entries[-1].id == real_entry(MANY + 1).id
    assert entries[:-1] == place.file_entries()[1][: len(entries) - 1]
    with closing(place.nats.writer(place.stream)) as journal:
        assert append(journal).revision == entries[-1].revision + 1


def test_what_only_the_file_has_comes_to_a_stream_in_use_through_a_spool(
    place: Place, tmp_path: Path
) -> None:
    assert place.to_nats().returncode == 0
    append_real(place.file, 31, 40)
    place.publish_entry(real_entry(50))
    assert "revision 31 is another entry in the target" in place.to_nats().stderr
    spool = tmp_path / "spool"
    spool.mkdir()
    shutil.copy(place.file, spool / "0.db")
    change(spool / "0.db", "DELETE FROM entries WHERE revision < 31")
    options = place.nats.options(place.stream)
    with closing(
        SpooledWriter(lambda _: JetStreamWriter(options), spool, max_bytes=MIB)
    ) as journal:
        forwarded(journal)
    found = [each.id for each in place.stream_entries()[1]][-11:]
    assert found == [real_entry(number).id for number in (50, *range(31, 41))]


def test_the_permissions_and_the_password_of_the_manual_are_enough(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    verbs = ("CREATE", "UPDATE", "INFO", "PURGE", "MSG.GET")
    publish = ["desk.*.*", "$JS.API.DIRECT.GET.desk", *(f"$JS.API.STREAM.{v}.desk" for v in verbs)]
    config = (
        "authorization { users: [ { user: desk, password: secret, permissions { "
        f'publish: {json.dumps(publish)}, subscribe: ["_INBOX.>", "desk-new"] }} }} ] }}'
    )
    with nats_server(tmp_path / "nats", config) as server:
        place = Place(server, tmp_path / "data")
        place.stream = "desk"
        append_real(place.file, 3, 9)
        signed_in = {"DESK_NATS_USER": "desk", "DESK_NATS_PASSWORD_FILE": str(password)}
        places = (f"sqlite:{place.data}", server.url)
        assert place.desk("journal", "copy", *places, **signed_in).returncode == 0
        answer = place.desk("journal", "copy", *places)
    assert answer.returncode == 1
    # The server closes the connection, and its reason may be lost with that.
    assert f"desk: NATS at {server.url}: " in answer.stderr


# ---- Refusals ----


def test_a_target_with_another_journal_is_refused(place: Place, tmp_path: Path) -> None:
    place.nats.writer(place.stream).close()
    answer = place.to_nats()
    assert answer.returncode == 1
    assert answer.stderr == f"desk: the stream {place.stream} holds another journal\n"
    append_real(tmp_path / "other" / "journal.db", 1, 3)
    answer = place.back(tmp_path / "other")
    assert answer.returncode == 1
    assert answer.stderr == f"desk: {tmp_path}/other/journal.db is another journal\n"
    assert len(place.file_entries(tmp_path / "other")[1]) == 3


def test_a_target_that_is_ahead_is_refused_and_stays_in_use(place: Place) -> None:
    assert place.to_nats().returncode == 0
    with closing(place.nats.writer(place.stream)) as journal:
        append(journal, "a")
        answer = place.to_nats()
        assert answer.returncode == 1
        assert "the target is ahead: it has revision 31, the source 30" in answer.stderr
    with closing(place.nats.writer(place.stream)) as journal:
        append(journal, "b")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE entries SET platform = 'x' WHERE revision = 30", "revision 30 is another entry"),
        ("UPDATE entries SET platform = 'x' WHERE revision = 7", "differ at revision 7"),
        ("DELETE FROM entries WHERE revision = 7", "differ at revision 7"),
        ("UPDATE entries SET revision = 12 WHERE revision = 14", "differ at revision 12"),
    ],
)
def test_a_target_with_other_entries_is_refused_and_stays_in_use(
    place: Place, statement: str, message: str
) -> None:
    assert place.to_nats().returncode == 0
    change(place.file, statement)
    answer = place.to_nats()
    assert answer.returncode == 1
    assert message in answer.stderr
    with closing(place.nats.writer(place.stream)) as journal:
        append(journal)


def test_a_file_that_a_gateway_writes_is_no_target(place: Place, tmp_path: Path) -> None:
    assert place.to_nats().returncode == 0
    with closing(SqliteWriter(tmp_path / "returned" / "journal.db")):
        answer = place.back(tmp_path / "returned")
    assert answer.returncode == 1
    assert answer.stderr.endswith("journal.db: stop it first\n")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("sqlite:a", "sqlite:b"),
        ("nats://a:1", "nats://b:2"),
        ("a", "b"),
        ("nats://a:1", "sqlite:"),
        ("sqlite:", "nats://a:1"),
    ],
)
def test_other_places_are_wrong_usage(place: Place, source: str, target: str) -> None:
    answer = place.desk("journal", "copy", source, target)
    assert answer.returncode == 2
    assert "one must be sqlite:DIR, the other nats://host:port" in answer.stderr


def test_wrong_settings_are_one_line(place: Place) -> None:
    source = f"sqlite:{place.data}"
    answer = place.desk("journal", "copy", source, place.nats.url, DESK_NATS_REPLICAS="9")
    assert answer.returncode == 1
    assert answer.stderr == (
        "desk: DESK_NATS_REPLICAS must be a whole number from 1 to 5, not '9'\n"
    )


def test_a_directory_without_a_journal_is_one_line(place: Place, tmp_path: Path) -> None:
    answer = place.desk("journal", "copy", f"sqlite:{tmp_path}", place.nats.url)
    assert answer.returncode == 1
    assert answer.stderr == f"desk: {tmp_path}/journal.db: No such file or directory\n"


# ---- Repetitions ----


def test_a_late_repetition_is_left_out_of_a_file(place: Place, tmp_path: Path) -> None:
    data = tmp_path / "returned"
    assert place.to_nats().returncode == 0
    place.repeat(real_entry(20))
    answer = place.back(data)
    assert answer.returncode == 1
    assert "revision 31 is a repetition, and a file cannot keep its number" in answer.stderr
    with closing(place.nats.writer(place.stream)) as journal:
        journal.append(real_entry(32), timeout=PATIENCE)
    answer = place.back(data)
    assert answer.returncode == 0
    assert "25 entries up to revision 32, without 1 repetition;" in answer.stderr
    assert [each.revision for each in place.file_entries(data)[1]][-2:] == [30, 32]


# ---- Other commands ----


def test_a_backup_of_a_stream_is_a_journals_file(place: Place, tmp_path: Path) -> None:
    assert place.to_nats().returncode == 0
    answer = place.desk_on_nats("backup", tmp_path / "backup.db")
    assert answer.returncode == 0
    assert answer.stderr.startswith("backed up 24 entries up to revision 30")
    (tmp_path / "copy").mkdir()
    (tmp_path / "backup.db").rename(tmp_path / "copy" / "journal.db")
    assert place.file_entries(tmp_path / "copy") == place.file_entries()


def test_a_backup_has_all_messages_that_are_no_entries(place: Place, tmp_path: Path) -> None:
    assert place.to_nats().returncode == 0
    place.publish(b"hello")
    place.publish(b"world")
    place.publish(b"", subject="1" * 30, headers={ID: "00" * 16, RECEIVED_AT: "9" * 30})
    answer = place.desk_on_nats("backup", tmp_path / "backup.db")
    assert answer.returncode == 1
    assert answer.stderr.startswith("backed up 27 entries up to revision 33")
    assert answer.stderr.count("the entry is damaged") == 3


def test_a_restored_backup_becomes_another_stream(place: Place, tmp_path: Path) -> None:
    assert place.to_nats().returncode == 0
    assert place.desk_on_nats("backup", tmp_path / "backup.db").returncode == 0
    lost_id, lost = place.stream_entries()
    place.data, place.stream = tmp_path / "restored", f"{place.stream}-2"
    assert place.desk("restore", tmp_path / "backup.db").returncode == 0
    assert place.to_nats().returncode == 0
    journal_id, entries = place.stream_entries()
    assert entries == lost
    assert journal_id != lost_id


def test_check_and_export_read_a_stream(place: Place) -> None:
    assert place.to_nats().returncode == 0
    exported = place.desk_on_nats("journal", "export")
    assert exported == place.desk("journal", "export")
    assert exported.stdout.count("\n") == 24
    answer = place.desk_on_nats("journal", "check")
    whole = f"stream {place.stream}: nothing is damaged\n"
    assert (answer.returncode, answer.stdout) == (0, whole)
    place.publish(b"hello")
    answer = place.desk_on_nats("journal", "check")
    assert answer.returncode == 1
    assert f"stream {place.stream}: revision 31: the entry is damaged" in answer.stdout


@pytest.mark.parametrize(
    "arguments",
    ["restore -", "journal import -", "journal restore --from-view"],
)
def test_commands_that_work_on_the_file_say_so(place: Place, arguments: str) -> None:
    answer = place.desk_on_nats(*arguments.split())
    assert answer.returncode == 1
    assert answer.stderr == (
        "desk: DESK_JOURNAL is on NATS: this command is for a journal in DESK_DATA_DIR\n"
    )
