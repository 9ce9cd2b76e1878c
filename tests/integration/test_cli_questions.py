"""The commands that ask, against a real `desk serve` with a handful of sessions."""

import asyncio
import csv
import io
import json
import os
import pty
import re
import subprocess
import sys

import pytest

from desk.v1.session_pb2 import Session
from tests.support.commands import invoke
from tests.support.feed_server import FeedServer, serving
from tests.support.processes import DEADLINE, environment, run, start
from tests.support.waiting import eventually

DAY = 1_725_494_400_000  # 2024-09-05T00:00:00Z
MINUTE = 60_000
OTHER_APP = 1600099999


def callback(session_id, event, minutes, **more):
    time = DAY + int(minutes * MINUTE)
    return {"SessionId": session_id, "Event": event, "EventTime": time, **more}


def story(session_id, *events, **more):
    return [callback(session_id, event, minute, **more) for minute, event in enumerate(events)]


ENDED = story(
    "ended",
    "SessionBegin",
    "TransferringToHuman",
    "TransferringToHumanWait",
    "TransferToHumanSuccess",
    "Human.AgentSendMsg",
    "SessionAgentEnd",
    "SessionEnd",
    "SatisfactionSelected",
    ClientUserId="ann",
    AgentId="bob",
    ChannelType="Web (H5)",
    SatisfactionSelected=4,
)
LATE = [
    callback("late", "SessionBegin", 100),
    callback("late", "Human.UserSendMsg", 103),  # impossible, until the transfer is known
    callback("late", "TransferringToHuman", 101),
]
QUEUED = story(
    "queued", "SessionBegin", "TransferringToHuman", "TransferringToHumanWait", "Brand.New"
)
NASTY = [callback("nasty", "SessionBegin", 200, ClientUserId="\x1b[31mred\x1b]0;owned\x07")]
SEED = [*ENDED, *LATE, *QUEUED, *NASTY, callback("never", "SessionEnd", 1)]
HEADER = 3  # lines of a table of sessions
MALFORMED = b"this is no callback"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("cli") / "data"
    apps = f"1600012345,{OTHER_APP}"
    with start("serve", data_dir=data_dir, DESK_SDK_APP_IDS=apps) as running:
        for body in SEED:
            assert running.post(body)[0] == 200
        assert running.post(MALFORMED)[0] == 400
        assert (
            running.post(callback("elsewhere", "SessionBegin", 1), sdk_app_id=OTHER_APP)[0] == 200
        )
        listed = invoke(
            "sessions", "list", "--min-revision", str(len(SEED) + 2), target=running.target
        )
        assert listed.returncode == 0, listed.stderr
        yield running


@pytest.fixture
def ask(desk):
    def question(*arguments, **options):
        return invoke(*arguments, target=desk.target, **options)

    return question


@pytest.fixture
def ask_json(ask):
    def question(*arguments):
        answer = ask(*arguments, "--json")
        assert answer.returncode == 0, answer.stderr
        return [json.loads(line) for line in answer.stdout.splitlines()]

    return question


def ids(sessions):
    return {session["session_id"] for session in sessions}


def test_list_shows_the_newest_first(ask_json):
    listed = ask_json("sessions", "list")
    assert [session["session_id"] for session in listed][:2] == ["nasty", "late"]
    assert ids(listed) == {"ended", "late", "queued", "nasty", "elsewhere"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--state", "ENDED"], {"ended"}),
        (["--state", "queued", "--state", "Ended"], {"ended", "queued"}),
        (["--agent", "bob"], {"ended"}),
        (["--user", "ann"], {"ended"}),
        (["--channel", "Web (H5)"], {"ended"}),
        (["--end-reason", "agent"], {"ended"}),
        (["--end-reason", "none"], {"late", "queued", "nasty", "elsewhere"}),
        (["--app", str(OTHER_APP)], {"elsewhere"}),
        (["--begun-since", "2024-09-05T01:40:00Z"], {"late", "nasty"}),
        (["--begun-since", "2024-09-05T01:40", "--begun-until", "2024-09-05T03:00"], {"late"}),
        (["--begun-until", "2024-09-05T02:00+02:00"], set()),
        (["--ended-since", "2024-09-05"], {"ended"}),
        (["--active-since", "2024-09-05T03:20"], {"nasty"}),
        (["--active-since", "1h"], set()),
        (["--ever-agent", "bob", "--ever-agent", "nobody"], {"ended"}),
        (["--rating", "4", "--rating", "5"], {"ended"}),
        (["--min-forwards", "1"], set()),
        (["--never-answered"], {"queued", "late"}),
        (["--begun-since", "2024-09-05T11:20", "--time-zone", "Asia/Shanghai"], {"nasty"}),
    ],
)
def test_list_selects_by_every_field_of_the_filter(ask_json, options, expected):
    assert ids(ask_json("sessions", "list", *options)) == expected


def test_list_orders_and_stops_at_the_limit_and_says_so(ask):
    answer = ask("sessions", "list", "--order-by", "begun_at asc", "--limit", "2", "--json")
    assert len(answer.stdout.splitlines()) == 2
    assert answer.stderr == "desk: there are more than 2; see --limit and --all\n"


def test_get_shows_a_session_as_it_is_and_as_it_was(ask_json):
    app = ("--app", "1600012345")
    (now,) = ask_json("sessions", "get", "ended", *app)
    assert now["state"] == "SESSION_STATE_ENDED"
    assert now["end_reason"] == "END_REASON_AGENT"
    assert now["sdk_app_id"] == 1600012345
    assert now["satisfaction"] == 4
    assert now["queue_wait"] == "60s"
    assert now["begun_at"] == "2024-09-05T00:00:00Z"
    (then,) = ask_json("sessions", "get", "ended", *app, "--as-of", "3")
    assert then["state"] == "SESSION_STATE_QUEUED"
    assert "ended_at" not in then
    (today,) = ask_json("sessions", "get", "ended", *app, "--as-of-time", "0s")
    assert today == now
    assert [stay["state"] for stay in now["stays"]][:3] == [
        *("SESSION_STATE_CHATBOT", "SESSION_STATE_TRANSFERRING", "SESSION_STATE_QUEUED"),
    ]


def test_get_is_readable(ask):
    answer = ask("sessions", "get", "ended", "--app", "1600012345")
    assert "state               ENDED\n" in answer.stdout
    assert "ended               2024-09-05 00:06:00.000Z\n" in answer.stdout
    assert "queue wait          1m00s\n" in answer.stdout
    assert "rating              4\n" in answer.stdout
    assert "state since         2024-09-05 00:06:00.000Z\n" in answer.stdout
    assert "QUEUED 1m00s, WITH_AGENT bob " in answer.stdout
    assert answer.stdout.index("stays ") < answer.stdout.index("ENDED bob\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sessions", "get", "nobody", "--app", "1600012345"], 1, "SESSION_NOT_FOUND"),
        (["sessions", "get", "never", "--app", "1600012345"], 1, "SESSION_NOT_FOUND"),
        (["sessions", "get", "ended"], 2, "SDK_APP_ID_REQUIRED"),
        (["sessions", "get", "ended", "--app", "1600012345", "--as-of", "999"], 1, "REVISION_IN"),
        (["sessions", "explain", "nobody", "--app", "1600012345"], 1, "SESSION_NOT_FOUND"),
        (["sessions", "get", "ended", "--app", "1600012345", "--min-revision", "999",
          "--timeout", "0.5"], 4, "DEADLINE_EXCEEDED"),
        (["sessions", "wait", "queued", "--state", "ENDED", "--app", "1600012345",
          "--timeout", "0.5"], 4, "DEADLINE_EXCEEDED"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_one_line_and_a_code_of_its_own(ask, arguments, code, words):
    answer = ask(*arguments)
    assert answer.returncode == code, answer.stderr
    assert answer.stdout == ""
    assert answer.stderr.startswith("desk: ")
    assert answer.stderr.count("\n") == 1
    assert words in answer.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["sessions", "list"],
        ["sessions", "get", "a"],
        ["sessions", "count"],
        ["rejections"],
        ["status"],
        ["watch"],
    ],
)
def test_a_service_that_cannot_be_reached_is_one_line_and_code_3(arguments):
    answer = invoke(*arguments, target="127.0.0.1:1")
    assert answer.returncode == 3
    assert answer.stderr == "desk: cannot reach 127.0.0.1:1: Connection refused (UNAVAILABLE)\n"


def test_a_name_that_is_not_found_is_told_without_remains_of_the_librarys_words():
    answer = invoke("status", target="foo..invalid:1")  # for which no server is asked
    assert answer.returncode == 3
    assert re.fullmatch(
        r"desk: cannot reach foo\.\.invalid:1: [\w ]+ \(UNAVAILABLE\)\n", answer.stderr
    )


def test_the_service_of_this_machine_is_asked_unless_another_is_named(desk, tmp_path):
    (tmp_path / ".env").write_text(f"DESK_GRPC_LISTEN={desk.target}\n")
    assert invoke("status", cwd=tmp_path).returncode == 0
    assert invoke("status", cwd=tmp_path, DESK_GRPC_LISTEN="127.0.0.1:1").returncode == 3
    assert invoke("status", DESK_GRPC_LISTEN=desk.target, target="127.0.0.1:1").returncode == 3
    assert invoke("status", DESK_GRPC_LISTEN="nowhere").returncode == 2
    assert "DESK_GRPC_LISTEN" in invoke("status", "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["sessions", "list", "--state", "ASLEEP"],
        ["sessions", "list", "--begun-since", "yesterday-ish"],
        ["sessions", "list", "--begun-since", "0001-01-01", "--time-zone", "Asia/Shanghai"],
        ["sessions", "list", "--begun-since", "999999d"],
        ["sessions", "list", "--begun-since", "5m", "--begun-until", "10m"],
        ["sessions", "list", "--target", "http://127.0.0.1:50051"],
        ["sessions", "list", "--target", ""],
        ["sessions", "list", "--time-zone", "Asia/Nowhere"],
        ["sessions", "list", "--limit", "0"],
        ["sessions", "list", "--limit", "1", "--all"],
        ["sessions", "list", "--columns", "state,coffee"],
        ["sessions", "list", "--json", "--csv"],
        ["rejections", "--json", "--columns", "event"],
        ["sessions", "list", "--order-by", "agent"],
        ["sessions", "wait", "a"],
        ["rejections", "--type", "Coffee"],
        ["watch", "--after", "1", "--from-start"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_code_2(ask, arguments):
    answer = ask(*arguments)
    assert answer.returncode == 2
    assert "Error: " in answer.stderr
    assert answer.stdout == ""


def test_a_wrong_value_is_answered_with_the_good_ones(ask):
    assert "is not one of CHATBOT, " in ask("sessions", "list", "--state", "ASLEEP").stderr
    columns = ask("sessions", "count", "--columns", "coffee").stderr
    assert "'coffee' is not one of key, sessions, mean_queue_wait, " in columns


def test_waiting_in_vain_names_the_session_and_the_states(ask):
    states = ("--state", "ENDED", "--state", "CLOSING")
    app = ("--app", "1600012345", "--timeout", "0.5")
    expected = (
        "desk: session 'queued' was not ENDED or CLOSING in time "
        "(DEADLINE_EXCEEDED, STATE_NOT_REACHED)\n"
    )
    # The service answers just before the deadline; on a busy machine the client may be first.
    eventually(lambda: ask("sessions", "wait", "queued", *states, *app).stderr == expected)


def test_explain_tells_the_story_in_time_order(ask_json):
    records = ask_json("sessions", "explain", "late", "--app", "1600012345")
    assert [record["event"]["type_name"] for record in records] == [
        "SessionBegin",
        "TransferringToHuman",
        "Human.UserSendMsg",
    ]
    assert [record["verdict"] for record in records] == ["VERDICT_ACCEPTED"] * 3
    assert records[1]["late_by"] == "120s"
    assert records[2]["revised"] is True


def test_explain_is_readable(ask):
    answer = ask("sessions", "explain", "late", "--app", "1600012345")
    lines = answer.stdout.splitlines()
    assert lines[0].endswith(": TRANSFERRING, 2024-09-05")
    assert "CHATBOT → TRANSFERRING" in answer.stdout
    assert "2m00s" in answer.stdout
    assert "revised at" in answer.stdout


def test_explain_answers_for_a_session_that_never_began(ask, ask_json):
    (record,) = ask_json("sessions", "explain", "never", "--app", "1600012345")
    assert record["rejection_reason"] == "REJECTION_REASON_NOT_BEGUN"
    answer = ask("sessions", "explain", "never", "--app", "1600012345")
    assert answer.stdout.startswith("1 callback at revision ")
    assert "not begun" in answer.stdout
    assert "NOT_BEGUN" in answer.stdout


def test_count_groups(ask, ask_json):
    groups = {row["key"]: row["sessions"] for row in ask_json("sessions", "count", "--by", "state")}
    assert groups == {
        "SESSION_STATE_CHATBOT": 2,
        "SESSION_STATE_ENDED": 1,
        "SESSION_STATE_QUEUED": 1,
        "SESSION_STATE_TRANSFERRING": 1,
    }
    shown = ask("sessions", "count", "--by", "state").stdout
    assert "CHATBOT" in shown
    assert shown.splitlines()[0].split()[:4] == ["MEAN", "MAX", "MEAN", "MAX"]
    (all_in_one,) = ask_json("sessions", "count", "--user", "ann")
    assert all_in_one["sessions"] == 1


def test_rejections_list_what_and_why(ask, ask_json):
    found = ask_json("rejections")
    reasons = [record["rejection_reason"] for record in found]
    assert reasons == ["REJECTION_REASON_MALFORMED", "REJECTION_REASON_NOT_BEGUN"]
    assert ids(record["event"] for record in ask_json("rejections", "--type", "SessionEnd")) == {
        "never"
    }
    assert len(ask_json("rejections", "--reason", "malformed")) == 1
    assert "(malformed)" in ask("rejections").stdout


@pytest.mark.parametrize(
    "question",
    [
        ["sessions", "explain", "ended", "--app", "1600012345"],
        ["rejections"],
        ["watch", "--from-start", "--until-caught-up"],
    ],
)
def test_records_come_without_what_is_to_be_omitted(ask_json, question):
    whole, masked = ask_json(*question), ask_json(*question, "--omit-raw-body", "--omit-message")
    assert any(record["event"]["raw_body"] for record in whole)
    for record in whole:
        record["event"].pop("message", None)
        record["event"]["raw_body"] = ""
    assert masked == whole


def test_status_shows_where_the_service_stands(ask, ask_json):
    (status,) = ask_json("status")
    assert status["header"]["revision"] == status["head_revision"] == len(SEED) + 2
    assert status["lag"] == 0
    assert status["sdk_app_ids"] == [1600012345, OTHER_APP]
    text = ask("status").stdout
    assert status["feed_digest"] in text
    assert "lag               none\n" in text
    seen = re.compile(r"^follower seen +\d\.\ds ago$", re.MULTILINE)

    def is_well():
        answer = ask("status")
        return seen.search(answer.stdout) and answer.stderr == ""

    eventually(is_well)  # on a busy machine the follower may just have been silent


def test_status_of_several_replicas_is_a_line_for_each(desk):
    again = desk.target.replace("127.0.0.1", "localhost")

    def without_warnings():
        answer = invoke("status", target=f"{desk.target}, {again}")
        assert answer.returncode == 0, answer.stderr
        return answer if answer.stderr == "" else None

    # On a busy machine the follower may just have been silent, which is a warning.
    answer = eventually(without_warnings)
    heading, *lines = answer.stdout.splitlines()
    assert heading.split() == ["REPLICA", "STATE", "REVISION", "LAG", "DIGEST"]
    (digest,) = {line.split()[-1] for line in lines}
    shown = ["serving", str(len(SEED) + 2), "none", digest]
    assert [line.split() for line in lines] == [[desk.target, *shown], [again, *shown]]


def test_status_of_a_replica_that_does_not_answer_is_code_3(desk):
    answer = invoke("status", target=f"127.0.0.1:1,{desk.target}")
    assert (answer.returncode, answer.stderr) == (3, "desk: 1 of 2 replicas did not answer\n")
    _, dead, _ = answer.stdout.splitlines()
    assert re.fullmatch(r"127\.0\.0\.1:1 +no answer .*cannot reach.*Connection refused.*", dead)
    answer = invoke("status", "--json", target=f"127.0.0.1:1,{desk.target}")
    dead, alive = map(json.loads, answer.stdout.splitlines())
    assert dead["target"] == "127.0.0.1:1"
    assert "UNAVAILABLE" in dead["error"]
    assert alive["header"]["revision"] == len(SEED) + 2


async def test_status_of_replicas_that_contradict_each_other_is_an_error(desk):
    async with (
        serving(FeedServer(digest="aa")) as one,
        serving(FeedServer(digest="bb")) as two,
    ):
        both = f"127.0.0.1:{one},127.0.0.1:{two}"
        answer = await asyncio.to_thread(run, "status", target=both)
        other = await asyncio.to_thread(run, "status", target=f"127.0.0.1:{one},{desk.target}")
    assert answer.returncode == other.returncode == 1
    assert answer.stderr == "desk: the replicas have different feeds at revision 0\n"
    assert other.stderr == "desk: the replicas follow different journals\n"


async def test_status_warns_of_a_follower_that_is_silent():
    async with serving(FeedServer()) as port:
        answer = await asyncio.to_thread(run, "status", target=f"127.0.0.1:{port}")
    assert answer.returncode == 0
    assert re.fullmatch(r"desk: the follower was last seen \w+ ago: .+\n", answer.stderr)


@pytest.mark.parametrize(
    "question",
    [
        ["--help"],
        ["status"],
        ["status", "--json"],
        ["sessions", "list"],
        ["sessions", "explain", "ended", "--app", "1600012345"],
        ["rejections"],
        ["watch", "--from-start"],
    ],
)
def test_output_that_cannot_be_written_is_one_line(desk, question):
    answer = subprocess.run(
        [sys.executable, "-m", "tests.support.output_full", *question],
        env=environment({"DESK_TARGET": desk.target}),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert answer.returncode == 1
    assert answer.stderr == "desk: No space left on device\n"


def test_what_is_printed_cannot_write_on_the_terminal(ask):
    for answer in (
        ask("sessions", "list"),
        ask("sessions", "get", "nasty", "--app", "1600012345"),
        ask("sessions", "list", "--json"),
    ):
        assert answer.returncode == 0
        assert "\x1b" not in answer.stdout
        assert "\x07" not in answer.stdout


@pytest.fixture
def ask_csv(ask):
    def question(*arguments, **options):
        answer = ask(*arguments, "--csv", **options)
        assert answer.returncode == 0, answer.stderr
        return list(csv.DictReader(io.StringIO(answer.stdout, newline="")))

    return question


def test_csv_has_every_field_of_a_session_with_seconds_and_iso_times(ask_csv):
    rows = {row["session_id"]: row for row in ask_csv("sessions", "list")}
    assert set(rows) == {"ended", "late", "queued", "nasty", "elsewhere"}
    ended = rows["ended"]
    assert list(ended) == [field.name for field in Session.DESCRIPTOR.fields]
    assert ended["state"] == "ENDED"
    assert ended["channel_type"] == "Web (H5)"
    assert ended["queue_wait"] == "60.0"
    assert ended["begun_at"] == "2024-09-05T00:00:00.000Z"
    assert rows["queued"]["ended_at"] == rows["queued"]["queue_wait"] == ""


def test_csv_has_its_header_also_without_rows(ask):
    nobody = ask("sessions", "list", "--user", "nobody", "--csv", "--columns", "session_id")
    assert nobody.stdout == "session_id\n"
    assert nobody.stderr == "desk: no session matches\n"


def test_csv_of_records_and_counts(ask_csv):
    (never,) = ask_csv("sessions", "explain", "never", "--app", "1600012345")
    assert (never["event"], never["rejection_reason"]) == ("SessionEnd", "NOT_BEGUN")
    late = ask_csv("sessions", "explain", "late", "--app", "1600012345")
    assert [row["late_by"] for row in late] == ["", "120.0", ""]
    counts = {row["key"]: row for row in ask_csv("sessions", "count", "--by", "state")}
    assert counts["ENDED"]["mean_queue_wait"] == "60.0"
    assert counts["ENDED"]["mean_rating"] == "4.0"
    assert counts["CHATBOT"]["mean_rating"] == ""


def test_columns_are_those_asked_for_in_that_order(ask):
    answer = ask("sessions", "list", "--columns", "state,agent-id,session_id", COLUMNS="80")
    assert answer.stdout.splitlines()[0].split() == ["STATE", "AGENT", "SESSION"]
    assert answer.stderr == ""


def test_columns_are_also_known_by_their_headings(ask):
    answer = ask("sessions", "list", "--csv", "--columns", "agent,LAST EVENT,app")
    assert answer.stdout.splitlines()[0] == "agent_id,last_event_at,sdk_app_id"


def test_80_columns_have_room_for_what_an_operator_asks_for(ask):
    lines = ask("sessions", "list", "--app", "1600012345", COLUMNS="80").stdout.splitlines()
    assert lines[0].split()[:5] == ["SESSION", "STATE", "AGENT", "WAITED", "AGE"]
    several = ask("sessions", "list", COLUMNS="80").stdout.splitlines()
    assert several[0].split()[:3] == ["SESSION", "STATE", "APP"]
    (queued,) = (line for line in lines if line.startswith("queued"))
    assert re.fullmatch(r"queued +QUEUED +- +\d+d\d\dh +\d+d\d\dh.*", queued)
    (ended,) = (line for line in lines if line.startswith("ended"))
    assert re.fullmatch(r"ended +ENDED +bob +1m00s +\d+d\d\dh.*", ended)


def test_the_list_of_commands_has_whole_sentences(ask):
    for group in ("sessions", "health", "journal", "view", "keys"):
        assert "..." not in ask(group, "--help").stdout.partition("Commands:")[2]


def test_a_table_names_the_columns_that_it_left_out(ask):
    answer = ask("sessions", "list", COLUMNS="40")
    assert re.fullmatch(
        r"desk: 40 characters have no room for .*, satisfaction, .*; see --columns\n", answer.stderr
    )
    assert ask("sessions", "list", COLUMNS="300").stderr == ""
    assert ask("sessions", "list").stderr == ""


async def test_all_is_more_than_the_limit():
    names = [f"many-{number}" for number in range(1_200)]
    server = FeedServer(sessions=[Session(session_id=name) for name in names])
    async with serving(server) as port:
        target = f"127.0.0.1:{port}"
        some = await asyncio.to_thread(run, "sessions", "list", target=target)
        everything = await asyncio.to_thread(run, "sessions", "list", "--all", target=target)
    assert len(some.stdout.splitlines()) == 100 + HEADER
    assert some.stderr == "desk: there are more than 100; see --limit and --all\n"
    assert [line.split()[0] for line in everything.stdout.splitlines()[HEADER:]] == names
    assert everything.stderr == ""


def test_times_are_shown_in_the_time_zone_asked_for(ask, ask_csv):
    ended = ("sessions", "get", "ended", "--app", "1600012345")
    in_shanghai = "ended               2024-09-05 08:06:00.000+08:00\n"
    assert in_shanghai in ask(*ended, "--time-zone", "Asia/Shanghai").stdout
    assert in_shanghai in ask(*ended, TZ=":Asia/Shanghai").stdout
    assert "00:06:00.000Z" in ask(*ended, "--time-zone", "UTC", TZ="Asia/Shanghai").stdout
    only = ("sessions", "list", "--user", "ann", "--columns", "ended_at")
    (row,) = ask_csv(*only, TZ="Asia/Shanghai")
    assert row["ended_at"] == "2024-09-05T08:06:00.000+08:00"


def test_a_tz_that_is_no_zone_is_a_warning(ask):
    answer = ask("sessions", "list", TZ="CET-1CEST")
    assert answer.returncode == 0
    assert answer.stderr.startswith("desk: TZ: 'CET-1CEST' is not a time zone")


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize(
    "arguments",
    [
        ["sessions", "list"],
        ["sessions", "explain", "late", "--app", "1600012345"],
        ["sessions", "count", "--by", "state"],
        ["rejections"],
        ["watch", "--from-start", "--until-caught-up"],
    ],
)
def test_tables_fit_the_terminal(ask, columns, arguments):
    answer = ask(*arguments, COLUMNS=str(columns))
    assert answer.returncode == 0
    assert max(map(len, answer.stdout.splitlines())) <= columns


def test_a_reader_that_leaves_early_hears_no_complaint(desk):
    command = f"{sys.executable} -m command sessions list --json | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command],
        env=environment({"DESK_TARGET": desk.target}),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def on_a_terminal(desk, *arguments, **settings):
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "command", *arguments],
            env=environment({"DESK_TARGET": desk.target, "TERM": "xterm", **settings}),
            stdout=follower,
            stdin=subprocess.DEVNULL,
        )
        os.close(follower)
        shown = b""
        while chunk := _read(terminal):
            shown += chunk
        assert process.wait(DEADLINE) == 0
    return shown


def test_a_table_on_a_terminal_has_colours_unless_they_are_not_wanted(desk):
    assert b"ended" in on_a_terminal(desk, "sessions", "list")
    watch = ("watch", "--from-start", "--until-caught-up", "--verdict", "rejected")
    assert b"\x1b[31m" in on_a_terminal(desk, *watch)
    assert b"\x1b" not in on_a_terminal(desk, *watch, NO_COLOR="1")


def _read(terminal):
    try:
        return terminal.read(65536)
    except OSError:  # how Linux says that the other end is closed
        return b""
