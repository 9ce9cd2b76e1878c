"""The pages of the console without a browser, as HTML, JSON and CSV."""

import asyncio
import csv
import io
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from google.protobuf.descriptor import Descriptor

from console.page import csv_of
from console.reports import Reports
from desk.v1.report_service_pb2 import ReportRow
from journal.entry import unnumbered
from tests.support.callbacks import APP, NOON, SESSION, body, entry, life
from tests.support.commands import invoke
from tests.support.console import Answer, console, console_process, shown
from tests.support.processes import ROOT, run, start
from tests.support.waiting import PATIENCE, longest_pause

PAGES = (
    "/board", "/sessions", f"/session?app={APP}&id={SESSION}", "/rejections", "/feed", "/reports",
    "/subscribers", "/health", "/table",
)  # fmt: skip

LIFE = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "TransferringToHumanWait")

LISTS = ("sessions", "records", "rows", "groups", "transitions")
"""Names of the lists that make the CSV of some page."""

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "{{ 7007 * 7007 }}",
    "\N{RIGHT-TO-LEFT OVERRIDE}drowssap",
    "\x00\x1b[31m",
    "x" * 5_000,
)


def path_with(page: str, form: str) -> str:
    path, mark, query = page.partition("?")
    return f"{path}{form}{mark}{query}"


@pytest.mark.parametrize("page", PAGES)
async def test_a_page_answers_as_html_and_as_json(page: str):
    async with shown(*life(*LIFE)) as (made, _, _):
        html, document = await made.get(page), await made.get(path_with(page, ".json"))
        assert (html.status, document.status) == (200, 200), html.text
        assert html.headers["Content-Type"].startswith("text/html")
        assert isinstance(document.document, dict)
        assert "<h1>" in html.text


async def test_no_page_has_a_script_or_a_style_of_its_own():
    async with shown(*life(*LIFE)) as (made, _, _):
        for page in PAGES:
            text = (await made.get(page)).text
            assert "<style" not in text
            assert " style=" not in text
            assert text.count("<script") == text.count('<script src="/static/')
            assert " on" not in {word[:3] for word in text.split('"') if word.startswith(" on")}


async def test_json_and_html_show_the_same_sessions():
    bodies = [each for n in range(5) for each in life(*LIFE, session_id=f"session-{n}")]
    async with shown(*bodies) as (made, _, _):
        document = (await made.get("/sessions.json?state=queued")).document
        html = (await made.get("/sessions?state=queued")).text
        ids = [each["session_id"] for each in document["sessions"]]
        assert sorted(ids) == [f"session-{n}" for n in range(5)]
        assert [html.index(f">{each}<") for each in ids] == sorted(
            html.index(f">{each}<") for each in ids
        )


async def test_the_board_counts_who_waits_and_says_by_which_formula():
    async with shown(*life(*LIFE)) as (made, _, _):
        document = (await made.get("/board.json")).document
        assert document["total"]["waiting"] == 1
        html = (await made.get("/board")).text
        assert "answered_within / (answered + abandoned - short_abandons)" in html
        assert f'title="{SESSION}"' in html
        card = (await made.get("/board.json?waiting=0/0")).document["cards"][0]
        assert (card["value"], card["status"]) == (1, "bad")
        assert (await made.get("/board?app=1")).text.count("Nobody waits.") == 1


async def test_a_report_tells_what_a_late_callback_has_changed():
    first, *rest = life(*LIFE)
    async with shown(first, *rest[:2]) as (made, world, worker):
        url = "/reports.json?since=2024-09-05&until=2024-09-06&by=day&since_revision=3"
        before = (await made.get(url)).document
        assert (before["rows"][0]["service"]["offered"], before["changed"]) == (1, 0)
        world.append(body("QueueAbandoned", NOON + 10_000), body("SessionEnd", NOON + 11_000))
        await worker.revision(5)
        after = (await made.get(url)).document
        assert after["changed"] == 1
        assert "1 interval may have changed" in (await made.get(url.replace(".json", ""))).text


async def test_a_report_of_several_rows_has_their_total():
    bodies = [*life(*LIFE, AgentId="ann"), *life(*LIFE, session_id="other", start=NOON + 3_600_000)]
    async with shown(*bodies) as (made, _, _):
        query = "since=2024-09-05&until=2024-09-06"
        document = (await made.get(f"/reports.json?{query}")).document
        assert document["total"]["service"]["offered"] == 2
        assert document["total"]["outcome"]["begun"] == 2
        html = (await made.get(f"/reports?{query}&group=agent")).text
        assert html.count('<th scope="row" colspan="2">Total</th>') == 1
        lines = (await made.get(f"/reports.csv?{query}")).text.splitlines()
        assert len(lines) == 1 + 24  # a row that sums up others would be added up twice
        assert "Total" not in (await made.get(f"/reports?{query}&by=day")).text


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_users_wrote_is_shown_and_never_run(text: str):
    fields = {"ClientUserId": text, "AgentId": text, "ChannelType": text}
    hostile = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": text}}]
    bodies = life(*LIFE, MsgBody=hostile, **fields)
    named = quote(text[:100])
    unknown = life("SessionBegin", text, session_id=text[:100], **fields)
    async with shown(*bodies, *unknown) as (made, _, _):
        for page in (*PAGES, f"/session?app={APP}&id={named}", f"/feed?user={named}"):
            answer = await made.get(page)
            expected = (200, 404) if page.startswith("/session?") else (200,)
            assert answer.status in expected, page
            assert "<script>alert" not in answer.text
            assert "<img" not in answer.text
            assert "49098049" not in answer.text
            shown_text = re.sub(r'value="[^"]*"', "", answer.text)  # a field keeps what is in it
            assert not set("\N{RIGHT-TO-LEFT OVERRIDE}\x00\x1b") & set(shown_text)


async def test_a_spreadsheet_is_given_no_formula():
    bodies = life("SessionBegin", ClientUserId='=HYPERLINK("http://evil.example")')
    async with shown(*bodies) as (made, _, _):
        answer = await made.get("/sessions.csv")
        assert "attachment" in answer.headers["Content-Disposition"]
        header, row = csv.reader(io.StringIO(answer.text))
        found = dict(zip(header, row, strict=True))
        assert found["client_user_id"] == '\'=HYPERLINK("http://evil.example")'


def figures_of(message: Descriptor, before: str = "") -> Iterator[str]:
    """Yield the names of a message's figures as a CSV has them."""
    for field in message.fields:
        name = before + field.name
        if field.message_type is None:
            yield name
        elif field.message_type.full_name == "google.protobuf.Duration":
            yield f"{name}_seconds"
        else:
            yield from figures_of(field.message_type, f"{name}.")


def test_the_csv_of_a_report_has_every_figure():
    assert [*Reports.columns] == [
        "start_time",
        "end_time",
        "revision",
        "changed",
        *figures_of(ReportRow.DESCRIPTOR),
    ]


def test_csv_leaves_numbers_as_they_are_and_joins_lists():
    rows = [{"a": -1, "b": {"c": ["x", "y"]}, "d": "-1", "f": "\n=1"}]
    assert csv_of(rows, ["a", "b.c", "d", "e", "f"]) == ("a,b.c,d,e,f\r\n-1,x y,'-1,,\"'\n=1\"\r\n")
    assert csv_of([{"a": True, "b": False}], ["a", "b"]) == "a,b\r\ntrue,false\r\n"


@pytest.mark.parametrize(
    "path",
    [
        "/sessions?rows=1001", "/sessions?rows=-1", "/sessions?state=asleep", "/sessions?app=x",
        "/sessions?begun_since=yesterday", "/session", "/board?waiting=many", "/reports?by=year",
        "/sessions?" + "&".join(f"agent=a{n}" for n in range(101)), "/sessions?page=nonsense",
        "/sessions?begun_since=0001-01-01T00:00%2B14:00", "/reports?since=9999-12-31T23:59-14:00",
        "/reports?since=9999-12-31", "/sessions?begun_since=999999d", "/sessions?app=0",
        "/feed?rows=501", f"/session?id={SESSION}&as_of_time=then",
        f"/session?id={SESSION}&as_of_time=1m&as_of=1",
        f"/session?id={SESSION}&as_of_time=0001-01-01T00:00Z",
        "/sessions?app=99999999999999999999", "/board?level=80", "/rejections?reason=none",
    ],
)  # fmt: skip
async def test_a_wrong_query_is_refused_in_a_sentence(path: str):
    async with shown() as (made, _, _):
        html, document = await made.get(path), await made.get(path_with(path, ".json"))
        assert (html.status, document.status) == (400, 400)
        assert "This cannot be shown" in html.text
        assert document.document["error"]["message"]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
async def test_a_large_session_shows_the_bodies_of_its_last_callbacks():
    text = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "x" * 250_000}}]
    bodies = [
        each
        for number in range(20)
        for each in life("SessionBegin", start=NOON + number, MsgBody=text, MsgKey=str(number))
    ]
    async with shown(*bodies) as (made, _, _):
        document = (await made.get(f"/session.json?id={SESSION}")).document
        whole = [bool(record["event"]["raw_body"]) for record in document["records"]]
        assert whole == [False] * 4 + [True] * 16
        assert document["bodies_omitted"] == 4
        html = (await made.get(f"/session?id={SESSION}")).text
        assert "The bodies of the first 4 callbacks here are left out." in html
        assert len(html) < 5_000_000


async def test_the_last_callbacks_of_a_long_session_are_shown():
    bodies = [body("SessionBegin", NOON + number) for number in range(2_010)]
    async with shown(*bodies) as (made, _, _):
        document = (await made.get(f"/session.json?id={SESSION}")).document
        assert (len(document["records"]), document["omitted"]) == (2_000, 10)
        assert document["records"][-1]["event"]["revision"] == 2_010


async def test_an_earlier_revision_of_a_session_is_shown():
    async with shown(*life(*LIFE)) as (made, _, _):
        for as_of, state in ((1, "CHATBOT"), (3, "TRANSFERRING"), (4, "QUEUED")):
            document = (await made.get(f"/session.json?id={SESSION}&as_of={as_of}")).document
            assert document["session"]["state"] == f"SESSION_STATE_{state}"
            assert len(document["records"]) == 4
        assert (await made.get(f"/session?id={SESSION}&as_of=5")).status == 404


@pytest.mark.parametrize(
    ("time", "state", "come_later"),
    [
        ("2024-09-05T12:39:59", "", 4),
        ("2024-09-05T12:40", "CHATBOT", 3),
        ("2024-09-05T14:41%2B02:00", "TRANSFERRING", 1),
        ("1m", "QUEUED", 0),
    ],
)
async def test_a_session_is_shown_as_it_was_known_at_a_time(time: str, state: str, come_later: int):
    received = (NOON, NOON + 60_000, NOON + 60_000, NOON + 3_600_000)
    arrived = [
        unnumbered(entry(1, each, received_at=at))
        for each, at in zip(life(*LIFE), received, strict=True)
    ]
    async with shown(*arrived) as (made, _, _):
        query = f"id={SESSION}&as_of_time={time}"
        document = (await made.get(f"/session.json?{query}")).document
        assert sum(each["came_later"] for each in document["records"]) == come_later
        session = document["session"]
        assert (session["state"] if session else "") == (state and f"SESSION_STATE_{state}")
        html = (await made.get(f"/session?{query}")).text
        assert html.count("(came later)") == come_later
        assert f'name="as_of_time" value="{unquote(time)}"' in html
        assert ("as known at 20" if session else "not begun by 2024-09-05 12:39:59Z") in html
        assert ">Now</a>" in html


@pytest.mark.parametrize("path", [
    "/sessions?state=queued&user=user-2", "/rejections?reason=not_begun&session=s3",
    "/feed?verdict=accepted&session=s2",
    "/reports?by=day&group=channel_type&channel=SDK&since=2024-09-05&until=2024-09-06",
    "/board?app=1", f"/session?app={APP}&id=s2", "/table?",
])  # fmt: skip
async def test_all_forms_of_a_page_have_the_same_filter(path: str):
    bodies = [
        *life(*LIFE, session_id="s1"),
        *life(*LIFE, session_id="s2", ClientUserId="user-2"),
        *life(*LIFE[1:3], session_id="s3"),
    ]
    async with shown(*bodies) as (made, _, _):
        document = (await made.get(path_with(path, ".json"))).document
        rows = list(csv.reader(io.StringIO((await made.get(path_with(path, ".csv"))).text)))
        name = next(name for name in LISTS if isinstance(document.get(name), list))
        assert len(rows) - 1 == len(document[name])
        html = await made.get(path)
        assert html.status == 200
        for session_id in ("s1", "s2", "s3"):
            is_shown = f">{session_id}<" in html.text
            assert is_shown == (f'"{session_id}"' in json.dumps(document)), session_id


async def test_a_session_that_is_not_there_is_not_found():
    async with shown() as (made, _, _):
        assert (await made.get(f"/session?app={APP}&id=nobody")).status == 404


async def test_a_service_that_is_gone_is_reported():
    async with console("127.0.0.1:1") as made:
        answer: Answer = await made.get("/sessions.json")
        assert answer.status == 503
        assert answer.document["error"]["message"]
        assert (await made.get("/sessions")).status == 503
        health = (await made.get("/health.json")).document
        assert health["replicas"][0]["error"]
        assert (await made.get("/table")).status == 200


def test_the_vendored_files_are_those_that_were_released():
    static = ROOT / "console" / "static"
    digests = {
        "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    }
    assert {name: sha256((static / name).read_bytes()).hexdigest() for name in digests} == digests
    assert len((static / "live.js").read_text().splitlines()) <= 150


@pytest.mark.tools
def test_serve_shows_the_console_and_goes_on_if_its_address_is_taken(tmp_path: Path):
    with start("serve", data_dir=tmp_path / "data", DESK_CONSOLE_LISTEN="127.0.0.1:0") as desk:
        address = desk.ready()["console"]
        assert invoke("health", "console", f"http://{address}").returncode == 0
        taken = {"data_dir": tmp_path / "other", "DESK_CONSOLE_LISTEN": address}
        with start("serve", **taken) as other:
            assert other.ready()["console"] == ""
            warned = other.wait_for(lambda record: record["event"] == "console_not_shown")
            assert "DESK_CONSOLE_LISTEN: cannot listen" in warned["reason"]
            assert other.terminate() == 0
        assert desk.terminate() == 0


@pytest.mark.tools
def test_a_console_apart_from_the_service_shows_its_own_settings(tmp_path: Path):
    key = tmp_path / "key"
    key.write_text("desk_secret")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        zone = {"DESK_TIME_ZONE": "Asia/Shanghai"}
        with console_process(target, tmp_path, DESK_CLIENT_KEY_FILE=str(key), **zone) as (_, named):
            text, found = settings_shown(named)
        with console_process("", tmp_path, DESK_GRPC_LISTEN=target) as (_, unnamed):
            _, looked_up = settings_shown(unnamed)
    assert found["DESK_TARGET"] == (target, "command line")
    assert found["DESK_TIME_ZONE"] == ("Asia/Shanghai", "environment")
    assert found["DESK_CLIENT_KEY_FILE"] == (str(key), "environment")
    assert found["DESK_CONSOLE_PROXIES"] == ("127.0.0.1,::1", "default")
    assert "desk_secret" not in text
    assert looked_up["DESK_TARGET"][0] == target
    assert looked_up["DESK_TARGET"][1].startswith("DESK_GRPC_LISTEN, also from .env")


def settings_shown(address: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """Return the page of health as JSON, and the value and source of each setting on it."""
    with closing(HTTPConnection(address, timeout=PATIENCE)) as asking:
        asking.request("GET", "/health.json")
        text = asking.getresponse().read().decode()
    document = json.loads(text)
    assert document["settings_of"].startswith("desk console")
    return text, {each["name"]: (each["value"], each["source"]) for each in document["settings"]}


def test_a_console_in_a_time_zone_that_does_not_exist_does_not_start():
    done = invoke("console", DESK_TIME_ZONE="Mars/Olympus")
    assert done.returncode == 2
    assert "'Mars/Olympus' is not a time zone" in done.stderr


@pytest.mark.tools
def test_a_console_that_anybody_could_see_does_not_start(tmp_path: Path):
    for arguments, settings in (
        (("console", "--listen", "0.0.0.0:0"), {}),
        (("serve",), {"DESK_CONSOLE_LISTEN": "0.0.0.0:0", "DESK_DATA_DIR": str(tmp_path)}),
    ):
        done = run(*arguments, cwd=tmp_path, **settings)
        assert done.returncode == 2
        assert "DESK_CONSOLE_PASSWORD_FILE" in done.stderr


async def test_a_large_page_leaves_the_console_to_others():
    bodies = [body("SessionBegin", NOON + number) for number in range(2_000)]
    async with shown(*bodies) as (made, _, _):

        async def is_smooth() -> bool:
            """Load the page, and compare the longest pauses of the loop meanwhile.

            The work of the loop is measured by its own time: others may keep the machine busy.
            """
            worked, passed = [time.thread_time()], [time.monotonic()]
            page = asyncio.create_task(made.get(f"/session?id={SESSION}"))
            while not page.done():
                await asyncio.sleep(0.01)
                worked.append(time.thread_time())
                passed.append(time.monotonic())
            is_split = longest_pause(worked) < (worked[-1] - worked[0]) / 4
            return page.result().status == 200 and is_split and longest_pause(passed) < 2

        # Others may keep the machine busy.
        assert [attempt for attempt in range(5) if await is_smooth()]
