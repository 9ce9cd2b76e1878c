"""Tables and CSV of any rows in terminals of any width."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from command.cli.printers import Csv, Printer, Table
from command.cli.tables import SESSIONS
from desk.v1.session_pb2 import Session, SessionState

ROWS = st.lists(
    st.builds(
        Session,
        session_id=st.text(max_size=20),
        agent_id=st.text(max_size=30),
        client_user_id=st.sampled_from(["ann", "李雷", "a" * 60, ""]),
        state=st.integers(0, 8),
        user_messages=st.integers(0, 10**9),
    ),
    min_size=1,
    max_size=5,
)


def printed(printer: Printer[Session], *parts: list[Session]) -> tuple[str, str]:
    """Return what is printed to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        patch.setattr("sys.stderr", err)
        for part in parts:
            printer.add(part)
        printer.flush()
    return out.getvalue(), err.getvalue()


def table(width: int, columns=SESSIONS.columns) -> Table[Session]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        return Table(columns)


@given(ROWS, ROWS, st.integers(45, 400))
def test_a_table_fits_and_names_the_columns_that_do_not(rows, later, width):
    out, err = printed(table(width), rows, later)
    assert max(map(cell_len, out.splitlines())) <= width
    title, _ = out.split("─", 1)
    named = err.removeprefix(f"desk: {width} characters have no room for ").split(";")[0]
    left_out = named.split(", ") if err else []
    shown = [column for column in SESSIONS.columns if column.name not in left_out]
    words = " ".join(column.title or column.name.replace("_", " ") for column in shown)
    assert sorted(title.split()) == sorted(words.upper().split())


@given(ROWS, ROWS)
def test_a_table_in_parts_has_one_header_and_every_row(first, second):
    out, err = printed(table(10_000), first, second)
    assert len(out.splitlines()) == len(first) + len(second) + out.split("─")[0].count("\n") + 1
    assert err == ""


def test_later_rows_are_aligned_and_cut_to_the_room_that_there_is():
    columns = SESSIONS.named(["agent_id", "state"])
    parts = [Session(agent_id="bob", state=1)], [Session(agent_id="b" * 100, state=1)]
    out, _ = printed(table(30, columns), *parts)
    *_, short, long = out.splitlines()
    assert short.split() == ["bob", "CHATBOT"]
    assert long == "b" * 20 + "…  CHATBOT"


@given(ROWS)
def test_csv_is_read_back_as_it_was(rows):
    out, _ = printed(Csv(SESSIONS.named(["client_user_id", "user_messages"])), rows, rows)
    header, *lines = csv.reader(io.StringIO(out, newline=""))
    assert header == ["client_user_id", "user_messages"]
    assert lines == 2 * [[row.client_user_id, str(row.user_messages)] for row in rows]


def test_csv_quotes_what_must_be_quoted_and_drops_control_characters():
    out, _ = printed(Csv(SESSIONS.named(["agent_id"])), [Session(agent_id='a,"b\x1b\n')])
    assert out == 'agent_id\r\n"a,""b��"\r\n'


def test_waiting_counts_the_stay_in_the_queue_that_is_not_over():
    (waited,) = SESSIONS.named(["waited"])
    session = Session(state=SessionState.SESSION_STATE_QUEUED)
    assert waited.value(session) is None
    session.state_since.GetCurrentTime()
    session.state_since.seconds -= 60
    session.queue_wait.FromSeconds(1_000)
    assert 1_060 <= waited.value(session).ToSeconds() < 1_500
    session.state = SessionState.SESSION_STATE_WITH_AGENT
    assert waited.value(session).ToSeconds() == 1_000
