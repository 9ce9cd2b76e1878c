"""A new event type, taught as CONTRIBUTING says, to a copy of the tree: it works end to end."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.view.store import fingerprint
from tests.support.processes import ROOT, SDK_APP_ID, environment, run, start
from tests.support.trees import copy_tree, settings

STUBS_PYTHON = str(ROOT / ".venv" / "stubs" / "bin" / "python")
"""The interpreter of `make stubs`; `make test` installs it."""

NOON = 1_725_540_000_000

ROWS = """
    MADE_UP_AWAY = Row(
        "MadeUp.Away",
        rank=45,
        transitions=(Transition(HANDLED, _S.QUEUED),),
        effect=Effect.RELEASE,
        carries=(Field.AGENT,),
    )
    MADE_UP_TYPING = Row("MadeUp.Typing", rank=75, transitions=(Transition(LIVE),))
"""

NUMBERS = """
  // The agent has left the session (MadeUp.Away).
  EVENT_TYPE_MADE_UP_AWAY = {};

  // The user is writing (MadeUp.Typing).
  EVENT_TYPE_MADE_UP_TYPING = {};
"""

OLD_STUBS = f"{{}}:{ROOT / 'client'}"  # a PYTHONPATH with the copy's rows, without its numbers

SUBSCRIBE = """
import sys, grpc
from desk.v1.event_pb2 import EventType, Verdict
from desk.v1.event_service_pb2 import SubscribeRequest
from desk.v1.event_service_pb2_grpc import EventServiceStub
from desk.v1.session_pb2 import SessionState

target, count = sys.argv[1], int(sys.argv[2])
with grpc.insecure_channel(target) as channel:
    answers = EventServiceStub(channel).Subscribe(SubscribeRequest(after_revision=0), timeout=60)
    for answer in answers:
        for record in answer.records.records:
            count -= 1
            print(
                EventType.Name(record.event.type),
                Verdict.Name(record.verdict),
                SessionState.Name(record.state_after),
                record.event.agent_id,
            )
        if count <= 0:
            break
"""

SENT = """
import json
from simulator.lives import make_lives

for life in make_lives(20, seed=1, run="r", now=1_800_000_000_000):
    for callback in life.callbacks:
        print(json.loads(callback.body)["Event"])
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a copy of the tree that knows two more event types."""
    copy = tmp_path_factory.mktemp("tree")
    copy_tree(copy)
    catalogue = copy / "callback" / "catalogue.py"
    catalogue.write_text(catalogue.read_text().replace("\n\n\nRANKS", ROWS + "\n\nRANKS"))
    proto = copy / "proto" / "desk" / "v1" / "event.proto"
    text = proto.read_text()
    enum = re.search(r"enum EventType {.*?\n(?=})", text, re.DOTALL)
    assert enum
    last = max(map(int, re.findall(r"= (\d+);", enum[0])))
    proto.write_text(text.replace(enum[0], enum[0] + NUMBERS.format(last + 1, last + 2)))
    for tool, interpreter in (("stubs", STUBS_PYTHON), ("states", sys.executable)):
        in_tree(copy, "-m", f"tools.{tool}", interpreter=interpreter)
    return copy


def python(
    tree: Path, *arguments: str, interpreter: str = sys.executable, **others: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [interpreter, *arguments],
        env=environment({**settings(tree), **others}),
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def in_tree(tree: Path, *arguments: str, interpreter: str = sys.executable) -> list[str]:
    """Run Python in the copy; return the lines that it prints."""
    done = python(tree, *arguments, interpreter=interpreter)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def callback(event: str, seconds: int) -> dict[str, object]:
    time = NOON + 1000 * seconds
    return {"SessionId": "s", "Event": event, "EventTime": time, "AgentId": "ann"}


@pytest.mark.tools
def test_a_new_event_type_is_a_row_and_a_number(tree: Path, tmp_path: Path) -> None:
    events = ("SessionBegin", "TransferringToHuman", "TransferToHumanSuccess", "MadeUp.Away")
    with start("serve", data_dir=tmp_path / "data", **settings(tree)) as desk:
        for place, event in enumerate(events):
            assert desk.post(callback(event, place))[0] == 200
        records = in_tree(tree, "-c", SUBSCRIBE, desk.target, str(len(events)))
        got = run("sessions", "get", "s", "--json", target=desk.target, cwd=tree, **settings(tree))
    assert records[-1].split() == [
        "EVENT_TYPE_MADE_UP_AWAY", "VERDICT_ACCEPTED", "SESSION_STATE_QUEUED", "ann"
    ]  # fmt: skip
    session = json.loads(got.stdout)
    assert (session.get("state"), session.get("agentId", "")) == ("SESSION_STATE_QUEUED", "")
    page = (tree / "docs" / "states.md").read_text()
    assert "| `MadeUp.Away` | WITH_AGENT, FORWARDED | QUEUED |  |" in page
    assert re.search(r"WITH_AGENT --> QUEUED: .*MadeUp\.Away", page)
    assert "| `MadeUp.Away` | The agent has left the session. | 45 | `AgentId` |" in page


@pytest.mark.tools
def test_the_simulator_sends_a_new_event_type_and_expects_what_comes_out(
    tree: Path, tmp_path: Path
) -> None:
    assert "MadeUp.Typing" in in_tree(tree, "-c", SENT)
    with start("serve", data_dir=tmp_path / "data", **settings(tree)) as desk:
        done = run(
            *("simulate", desk.url, "--app", str(SDK_APP_ID)),
            *("--sessions", "20", "--verify", desk.target),
            timeout=200,
            cwd=tree,
            **settings(tree),
        )
    assert done.returncode == 0, done.stdout


def test_a_view_of_another_catalogue_has_another_name(tree: Path) -> None:
    ask = "from service.view.store import fingerprint; print(fingerprint())"
    changed = python(tree, "-c", ask, PYTHONPATH=OLD_STUBS.format(tree))
    assert changed.stdout.strip() not in ("", fingerprint()), changed.stderr


def test_an_event_type_without_a_wire_number_is_an_error_that_names_it(tree: Path) -> None:
    done = python(tree, "-c", "import service.records", PYTHONPATH=OLD_STUBS.format(tree))
    assert done.returncode == 1
    assert "'EVENT_TYPE_MADE_UP_AWAY'" in done.stderr.splitlines()[-1]
