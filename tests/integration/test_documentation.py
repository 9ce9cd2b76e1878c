"""The documents agree with the code."""

import ast
import math
import re
from pathlib import Path

import pytest

from callback import decoder
from command import settings
from command.cli import EXIT_CODES
from command.settings import Settings
from console import connections, events, live, sessions
from console import server as console
from gateway import authentication
from gateway import limits as gateway
from journal import forgetting, group_commit, jetstream_objects
from service import erasure, history, message, projection, retention, session
from service.rpc import checks, keys, requests
from service.rpc import server as rpc
from service.rpc.calls import MAX_REQUEST_BYTES
from service.rpc.limits import Limits
from service.snapshots import publisher
from service.view.bounds import Bounds
from simulator.report import Report

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OPERATIONS = ROOT / "docs" / "operations.md"


def rows(page: Path) -> dict[str, str]:
    """By its first cell, the second cell of each row of the first table of a page."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.read_text().splitlines()
        if line.startswith("|")
    ]
    return {row[0]: row[1] for row in cells[2:]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


def test_operations_lists_every_setting_with_its_default() -> None:
    documented = {name.strip("`"): default.strip("`") for name, default in rows(OPERATIONS).items()}

    assert documented == {
        f"DESK_{name.upper()}": described(field.get_default())
        if not field.is_required()
        else "must be set"
        for name, field in Settings.model_fields.items()
    }


def described(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return str(default) if default not in (None, {}) else "none"


def kib(size: int) -> str:
    return f"{size // 1024} KiB"


calls = Limits()

LIMITS = {
    "body of a callback": kib(gateway.MAX_BODY),
    "nesting of its JSON": str(decoder.MAX_DEPTH),
    "lists and objects in it": f"{decoder.MAX_BRACKETS:,}",
    "`SessionId`, `Event`": f"{decoder.MAX_SESSION_ID}, {decoder.MAX_EVENT_NAME} characters",
    "name of a user, an agent, an account": f"{decoder.MAX_NAME} bytes",
    "`EventTime`": f"from 2015 on, at most {decoder.MAX_AHEAD // 3_600_000} h ahead",
    "callbacks of a session": f"{history.FoldLimits().callbacks:,}",
    "changed verdicts of a session, published again": f"{history.FoldLimits().revised:,}",
    "callbacks of a session looked at again for late ones": f"{history.FoldLimits().redone:,}",
    "agents listed in a session": f"the last {session.MAX_AGENTS}",
    "stays listed in a session": f"the first {session.MAX_STAYS}",
    "age of `RequestTime`": f"{authentication.MAX_SKEW} s",
    "time to answer a callback": f"{gateway.BUDGET} s",
    "callbacks waiting for the disk": str(group_commit.LIMITS.waiting),
    "HTTP connections": f"{gateway.Limits().connections:,}; half of them from one address",
    "HTTP bodies that have not arrived in full": (
        f"{gateway.Limits().half_sent_bytes // 2**20} MiB together"
    ),
    "head of a request": kib(gateway.MAX_HEAD),
    "parts of a message": str(message.MAX_ELEMENTS),
    "processes that answer gRPC (workers)": str(settings.MAX_RPC_WORKERS),
    "gRPC request; `BatchGetSessions`, `Forget`": (
        f"{kib(MAX_REQUEST_BYTES)}; "
        f"{dict(rpc.OPTIONS)['grpc.max_receive_message_length'] // 2**20} MiB"
    ),
    "values in one field of a filter": str(checks.MAX_VALUES),
    "session id, other value of a filter": (
        f"{checks.MAX_ID_BYTES:,}, {checks.MAX_VALUE_BYTES} bytes"
    ),
    "keys in `BatchGetSessions`": f"{keys.MAX_KEYS:,}",
    "answer of `BatchGetSessions`": f"about {calls.batch_bytes // 2**20} MiB",
    "sessions in `Forget` by id; in a step of it": f"{forgetting.MAX_FORGOTTEN:,}",
    "rows of a page": f"{checks.MAX_PAGE:,}, or about {Bounds().size // 2**20} MiB",
    "records of a stream's message": f"{requests.MAX_BATCH:,}",
    "streams, waiting calls, other calls of a worker": (
        f"{calls.streams:,}, {calls.waiters:,}, {calls.unary:,}; half of each for one address"
    ),
    "gRPC connections of a worker": f"{rpc.MAX_CONNECTIONS:,}, or what `ulimit -n` allows",
    "wait for `min_revision`, for a state, without a deadline": (
        f"{calls.revision_seconds:.0f} s, {calls.state_seconds:.0f} s"
    ),
    "sessions and malformed callbacks of one FORGET entry": f"{forgetting.MAX_FORGOTTEN:,}",
    "age of the newest event at a run of [retention](forgetting.md#by-age)": (
        f"{retention.QUIET.days} days"
    ),
    "records forgotten in one transaction": (
        f"{projection.BOUNDS.work // projection.REMOVED:,}, and the rest of a session"
    ),
    "entries deleted before the journal's files are swept": (
        f"{erasure.MAX_PASS:,}, and the rest of a FORGET entry"
    ),
    "pages of a file whose unused bytes are [cleared](adr/0033-deleting-the-bytes.md)": (
        "33 million: 137 GB of journal, 275 GB of view"
    ),
    "silence of a stream": (
        f"{math.ceil(max(calls.checkpoint_seconds))} s; "
        f"{math.ceil(max(calls.checkpoint_seconds) * calls.streams / calls.checkpoint_streams)} s"
        " with thousands of streams"
    ),
    "sessions that a board counts: open, or offered to the agents today": (
        f"{calls.board_sessions:,}"
    ),
    "sessions and agents in a list of a board": str(requests.MAX_LISTED),
    "intervals, days, rows of a report": (
        f"{requests.MAX_INTERVALS:,}, {requests.MAX_RANGE // 86_400_000}, {calls.report_rows:,}"
    ),
    "time that a report takes: some 500,000 sessions": f"{calls.count_seconds:.0f} s",
    "age of a stream": f"{max(calls.stream_seconds) / 60:.0f} min",
    "connections of the console": f"{console.MAX_CONNECTIONS:,}",
    "live pages of board, feed, table; different queries of each": (
        f"{live.MAX_LISTENERS:,}; {live.MAX_CHANNELS}"
    ),
    "connection of the console on which nothing moves": (
        f"{connections.PATIENCE:g} to {2 * connections.PATIENCE:g} s"
    ),
    "head of a request to the console": f"{console.MAX_HEAD // 1024} KiB",
    "callbacks on the console's page of a session; their bodies": (
        f"the last {sessions.MAX_CALLBACKS:,}; the last {sessions.MAX_BODIES // 1024**2} MiB"
    ),
    "revisions that the feed's page looks back, or goes on after": f"{events.LOOK_BACK}",
    "view snapshots of a version; their age": (
        f"{publisher.KEPT}; {jetstream_objects.KEEP / 86_400:.0f} days"
    ),
}


def test_the_limits_in_the_docs_are_those_of_the_code() -> None:
    assert rows(ROOT / "docs" / "limits.md") == LIMITS


def test_operations_lists_every_exit_code() -> None:
    codes = re.findall(r"^  (\d) ", EXIT_CODES, flags=re.MULTILINE)

    listed = re.search(
        r"^Exit codes: (.*?)\n\n", OPERATIONS.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    assert listed is not None
    assert re.findall(r"(?:^|; )(\d) ", listed[1].replace("\n", " ")) == codes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    named = set(
        re.findall(
            r"^    make (?!PYTHON)([a-z-]+)|`make ([a-z-]+)", page.read_text(), flags=re.MULTILINE
        )
    )
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

    assert {first or second for first, second in named} <= targets


def test_the_index_of_decisions_lists_each_once_with_its_title() -> None:
    folder = ROOT / "docs" / "adr"
    listed = re.findall(r"^- (.*)", (folder / "README.md").read_text(), flags=re.MULTILINE)

    assert sorted(listed) == sorted(map(index_line, folder.glob("[0-9]*.md")))


def index_line(page: Path) -> str:
    title, _, status, *_ = page.read_text().splitlines()
    superseded = " (superseded)" if status.startswith("Superseded") else ""
    return f"[{title.removeprefix('# ')}]({page.name}){superseded}"


def test_every_function_that_the_architecture_names_is_where_it_links_to() -> None:
    page = ROOT / "docs" / "architecture.md"
    named = re.findall(r"\[`([\w.]+)`\]\(([^)]+\.py)\)", page.read_text())

    assert len(named) > 20
    assert [name for name, path in named if name not in defined(page.parent / path)] == []


def defined(path: Path) -> set[str]:
    """Return the functions and classes of a module, methods with their class."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (each for each in node.body if hasattr(each, "name"))
            names.update(f"{node.name}.{each.name}" for each in methods)
    return names


def test_readme_shows_how_a_verification_ends() -> None:
    report = Report()
    report.sessions, report.callbacks, report.rejected = 200, 2_348, 117
    assert f"    {report.as_text()}\n" in (ROOT / "README.md").read_text()
