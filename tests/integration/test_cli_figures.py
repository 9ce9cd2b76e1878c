"""`desk board` and `desk report` against a real `desk serve`, and a day that is verified."""

import csv
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from command.cli.board import board
from command.cli.report import report
from desk.client import FORMULAS
from tests.support.commands import Answer, catch_up, invoke
from tests.support.processes import SDK_APP_ID, RunningDesk, environment, start

DAY_APP = 1600099999
NOW = int(time.time() * 1000)
WHERE_IT_IS_NOON = f"Etc/GMT{time.gmtime().tm_hour - 12:+d}"
"""A zone in which the minutes before NOW are of the same day."""
QUEUE = ("SessionBegin", "TransferringToHuman", "TransferringToHumanWait")
OVER = (*QUEUE, "TransferToHumanSuccess", "SessionUserEnd", "SessionEnd")


def callbacks(session_id: str, *events: str, seconds: int, **more: Any) -> list[dict[str, Any]]:
    """A session that began so many seconds ago; ten seconds from event to event."""
    return [
        {
            "SessionId": session_id,
            "Event": event,
            "EventTime": NOW - 1000 * (seconds - 10 * place),
            "ChannelType": "SDK",
            "ClientUserId": session_id,
            **more,
        }
        for place, event in enumerate(events)
    ]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    settings = {
        "DESK_SDK_APP_IDS": f"{SDK_APP_ID},{DAY_APP}",
        "DESK_SERVICE_LEVEL": "90/15",
        "DESK_TIME_ZONE": WHERE_IT_IS_NOON,
    }
    with start("serve", data_dir=tmp_path_factory.mktemp("cli") / "data", **settings) as running:
        for body in (
            *callbacks("waits", *QUEUE, seconds=60, ClientUserId="\x1b[31mred"),
            *callbacks("over", *OVER, seconds=100, AgentId="ann"),
        ):
            assert running.post(body)[0] == 200
        catch_up(running.target)
        yield running


def ask(desk: RunningDesk, *arguments: str) -> Answer:
    answer = invoke(*arguments, "--app", str(SDK_APP_ID), target=desk.target, COLUMNS="200")
    assert answer.returncode == 0, answer.stderr
    return answer


def test_the_board_has_its_figures_with_target_and_lists(desk: RunningDesk) -> None:
    shown = ask(desk, "board", "--once").stdout
    assert "target 90% within 15s, short abandons up to 10s" in shown
    assert "waiting        1, longest " in shown
    assert f"today in {WHERE_IT_IS_NOON}" in shown
    assert "missed" in shown  # 50 s are more than 15 s
    assert "\x1b" not in shown


def test_the_numbers_of_a_formula_stand_beside_its_figure(desk: RunningDesk) -> None:
    shown = ask(desk, "board", "--once", "--service-level", "90/60", "--channel", "SDK").stdout
    assert "service level  100.0% = 1 in time / (1 + 0 - 0 short), target met" in shown
    assert "raw 0.0% = 0 / 2" in shown


def test_a_figure_of_nothing_is_a_dash(desk: RunningDesk) -> None:
    shown = ask(desk, "board", "--once", "--channel", "none").stdout
    assert "service level  - = 0 in time / (0 + 0 - 0 short)\n" in shown
    assert "ASA            mean -, median -, p90 -, p99 -" in shown


def test_a_board_as_json_has_its_revision(desk: RunningDesk) -> None:
    shown = json.loads(ask(desk, "board", "--once", "--json", "--channel", "SDK").stdout)
    assert shown["header"]["revision"] >= 9
    assert shown["board"]["total"]["waiting"] == 1


def test_a_board_follows_changes_until_it_is_stopped(desk: RunningDesk) -> None:
    command = [sys.executable, "-m", "command", "board", "--json", "--app", str(SDK_APP_ID)]
    env = environment({"DESK_TARGET": desk.target})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as watching:
        assert watching.stdout
        first = json.loads(watching.stdout.readline())
        assert first["board"]["total"]["waiting"] == 1
        for body in callbacks("more", *QUEUE, seconds=30):
            assert desk.post(body)[0] == 200
        for line in watching.stdout:
            if json.loads(line)["board"]["total"]["waiting"] == 2:
                break
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 0


def test_a_report_as_csv_has_a_row_for_each_group(desk: RunningDesk) -> None:
    printed = ask(
        desk, "report", "--group-by", "agent", "--by", "day", "--csv", "--since", "1h"
    ).stdout
    rows = list(csv.DictReader(io.StringIO(printed)))
    by_agent = {row["agent_id"]: row for row in rows if row["offered"]}
    assert by_agent["ann"]["answered"] == "1"
    assert by_agent["ann"]["service_level"] == "0.0"  # answered after 20 s
    assert by_agent["ann"]["answer_mean"] == "20.0"
    assert int(by_agent[""]["waiting"]) >= 1


def test_a_table_of_several_rows_ends_with_their_total(desk: RunningDesk) -> None:
    arguments = ("report", "--group-by", "agent", "--by", "day", "--since", "1h")
    columns = ("--columns", "from,agent,answered,answer_mean")
    shown = [line.split() for line in ask(desk, *arguments, *columns).stdout.splitlines()]
    assert shown[-1] == ["TOTAL", "-", "1", "20s"]
    assert [line[0] for line in shown].count("TOTAL") == 1
    assert "TOTAL" not in ask(desk, *arguments, "--csv").stdout
    assert "TOTAL" not in ask(desk, "report", "--agent", "ann").stdout


def test_a_report_has_other_thresholds_on_request(desk: RunningDesk) -> None:
    answer = ask(desk, "report", "--service-level", "80/20", "--agent", "ann", "--json")
    [interval] = [json.loads(line) for line in answer.stdout.splitlines()]
    assert interval["rows"][0]["service"]["service_level"] == 1
    assert "target 80% within 20s" in answer.stderr


@pytest.mark.parametrize("command", [board, report], ids=["board", "report"])
def test_the_help_has_the_formula_of_each_figure(command: Any) -> None:
    assert all(formula in command.epilog for formula in FORMULAS.values())


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--service-level", "80", "80/30"),
        ("--service-level", "0/30", "from 1 to 100"),
        ("--service-level", "80/nan", "from 0 to 86400"),
        ("--short-abandon", "nan", "not a valid integer"),
        ("--short-abandon", "86401", "0<=x<=86400"),
    ],
)
def test_a_wrong_threshold_is_wrong_usage(
    desk: RunningDesk, option: str, value: str, complaint: str
) -> None:
    answer = invoke("report", option, value, target=desk.target)
    assert answer.returncode == 2
    assert complaint in answer.stderr


def test_a_spreadsheet_is_given_no_formula(desk: RunningDesk) -> None:
    for body in callbacks("hostile", *OVER, seconds=90, AgentId="=cmd|' /C calc'!A0"):
        assert desk.post(body)[0] == 200
    catch_up(desk.target)
    printed = ask(desk, "report", "--group-by", "agent", "--csv", "--columns", "agent").stdout
    assert "'=cmd|' /C calc'!A0" in printed.splitlines()


def test_all_figures_of_a_day_are_those_of_the_ledger(desk: RunningDesk) -> None:
    host, port = desk.http
    answer = invoke(
        *("simulate", f"http://{host}:{port}/", "--app", str(DAY_APP), "--json"),
        *("--day", "--sessions", "60", "--shuffle", "20%", "--impossible", "5%"),
        *("--verify", desk.target),
    )
    verified = json.loads(answer.stdout)["verification"]
    assert (answer.returncode, verified["details"]) == (0, [])
    assert verified["figures"] > 500
    assert verified["figures_skipped"] is False
