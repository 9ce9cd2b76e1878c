"""Keys and the clients file."""

import os
import re
import resource
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.clients import (
    Client,
    Key,
    follow_clients,
    id_of,
    new_key,
    new_key_id,
    parse,
)
from storage.changes import FileProblem

HASH = "0" * 64
BOARD = f'''
[[client]]
name = "board"
apps = [1, 2]
scopes = ["sessions.read", "feed.read"]
san = ["board.example"]
keys = [{{id = "one", sha256 = "{HASH}", not_after = 2027-03-31}}]
'''


def test_a_key_has_a_prefix_an_id_256_bits_and_a_checksum():
    key = new_key("abc")
    assert re.fullmatch(r"desk_abc_[0-9A-Za-z]{49}", key)
    assert id_of(key) == "abc"
    assert new_key("abc") != key
    assert id_of(new_key(new_key_id()))


@given(place=st.integers(0, 56), other=st.characters(codec="ascii"))
def test_a_key_with_one_other_character_is_none(place, other):
    key = new_key("abc")
    changed = key[:place] + other + key[place + 1 :]
    assert (id_of(changed) is None) == (changed != key)


@given(st.text())
def test_any_other_text_is_no_key(text):
    assert id_of(text) is None


def test_a_file_says_who_may_do_what():
    assert parse(BOARD) == (
        Client(
            name="board",
            apps=(1, 2),
            scopes=("sessions.read", "feed.read"),
            san=("board.example",),
            keys=(Key(id="one", sha256=HASH, not_after=date(2027, 3, 31)),),
        ),
    )
    assert parse("") == ()


def test_a_key_is_valid_to_the_end_of_its_last_day():
    (client,) = parse(BOARD)
    assert client.keys[0].end() == 1806537600  # 2027-04-01T00:00:00Z


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("[1, 2]", '"all"', "apps"),
        ("[1, 2]", "[]", "apps"),
        ("[1, 2]", "[0]", "apps"),
        ("[1, 2]", str(list(range(1, 102))), "apps"),
        ("feed.read", "feed.write", "scopes"),
        ('["sessions.read", "feed.read"]', "[]", "scopes"),
        ("scopes", "scope", "scope"),
        (HASH, "0" * 63, "sha256"),
        ("2027-03-31", '"soon"', "not_after"),
        ('name = "board"', 'name = ""', "name"),
        ("]}]", "", "Unclosed array"),
        ("keys = [", "keys = [" + "".join(f'{{id="{n}",sha256="{HASH}"}},' for n in "abc"), "keys"),
        ("", BOARD, "name 'board'"),
        ("", BOARD.replace("board", "other").replace('"one"', '"two"') * 2, "'other'"),
        ("", BOARD.replace('"board"', '"other"').replace("board.e", "other.e"), "key id 'one'"),
        ("", BOARD.replace('"board"', '"other"').replace('"one"', '"two"'), "san 'board.example'"),
        (
            "",
            BOARD.replace("board", "other").replace('"one"', '"two"'),
            f"sha256 '{HASH}'",
        ),
    ],
)
def test_a_wrong_file_is_one_line_that_says_where(before, after, problem):
    changed = BOARD.replace(before, after) if before else BOARD + after
    if before == "]}]":
        changed = BOARD.rstrip()[:-1]
    with pytest.raises(FileProblem) as raised:
        parse(changed)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_changed_file_is_read_again_and_a_broken_one_leaves_the_old_clients(tmp_path):
    path = tmp_path / "clients.toml"
    path.write_text(BOARD)
    file = follow_clients(path, period=0.0)
    (board,) = file.value
    assert not file.refresh()
    with capture_logs() as lines:
        path.write_text("broken")
        assert not file.refresh()
        path.unlink()
        assert not file.refresh()
    assert [line["log_level"] for line in lines] == ["error", "error"]
    assert all(str(path) in line["problem"] for line in lines)
    assert file.value == (board,)
    path.write_text(BOARD.replace("board", "other"))
    assert file.refresh()
    assert file.value[0].name == "other"


def test_a_request_does_not_wait_for_the_next_look(tmp_path):
    path = tmp_path / "clients.toml"
    path.write_text(BOARD)
    file = follow_clients(path, period=3_600.0)
    path.write_text("")
    assert not file.refresh()
    file.reload()
    assert file.refresh()
    assert file.value == ()
    before = file.value
    file.reload()
    assert not file.refresh()
    assert file.value is before  # so that nothing is made anew


def test_a_file_that_is_just_being_written_is_left_for_the_next_look(tmp_path, monkeypatch):
    path = tmp_path / "clients.toml"
    path.write_text(BOARD)
    file = follow_clients(path, period=1e-9)
    path.write_text("")  # as a copy does before it writes
    written_at = path.stat().st_ctime_ns
    monkeypatch.setattr("time.time_ns", lambda: written_at + 100_000_000)
    assert not file.refresh()
    path.write_text(BOARD.replace("board", "other"))
    monkeypatch.setattr("time.time_ns", lambda: path.stat().st_ctime_ns + 300_000_000)
    assert file.refresh()
    assert file.value[0].name == "other"


def test_a_copy_of_the_same_size_with_the_times_of_the_original_is_a_change(tmp_path):
    path = tmp_path / "clients.toml"
    path.write_text(BOARD)
    file = follow_clients(path, period=0.0)
    found = path.stat()
    path.write_text(BOARD.replace('"board"', '"bored"'))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert file.refresh()
    assert file.value[0].name == "bored"


def test_a_file_that_cannot_be_opened_is_tried_again_and_logged_once(tmp_path):
    path = tmp_path / "clients.toml"
    path.write_text(BOARD)
    file = follow_clients(path, period=0.0)
    path.write_text("")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with capture_logs() as lines:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            assert not any(file.refresh() for _ in range(3))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert file.refresh()
    assert file.value == ()
    assert [line["event"] for line in lines] == ["clients_not_reloaded"]


def test_the_last_day_of_the_calendar_is_no_error():
    (client,) = parse(BOARD.replace("2027-03-31", "9999-12-31"))
    assert client.keys[0].end() == 253_402_300_800
