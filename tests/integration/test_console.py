"""The console without a browser: who may see it, what it answers, and how it ends."""

import asyncio
import base64
import csv
import io
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from console.live import Live, TooManyListeners
from console.page import csv_of
from console.protection import HEADERS, Access
from tests.support.callbacks import APP, NOON, SESSION, body, life
from tests.support.commands import invoke
from tests.support.console import Answer, Console, console
from tests.support.processes import ROOT, run, start
from tests.support.rpc import Worker, World, service, until

PAGES = (
    "/board", "/sessions", f"/session?app={APP}&id={SESSION}", "/rejections", "/feed", "/reports",
    "/subscribers", "/health", "/table",
)  # fmt: skip

LIFE = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "TransferringToHumanWait")

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "{{ 7007 * 7007 }}",
    "\N{RIGHT-TO-LEFT OVERRIDE}drowssap",
    "\x00\x1b[31m",
    "x" * 5_000,
)


@asynccontextmanager
async def shown(
    *bodies: bytes, access: Access | None = None
) -> AsyncIterator[tuple[Console, World, Worker]]:
    """A console of a service that has these callbacks."""
    async with (
        service(*bodies) as (world, worker),
        console(f"127.0.0.1:{worker.port}", access) as made,
    ):
        yield made, world, worker


def now() -> int:
    """Return the time (ms) at which a session begins that the board shows as a present one."""
    return time.time_ns() // 1_000_000 - 60_000


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


async def test_every_answer_says_what_a_browser_may_do():
    async with shown(access=Access(passwords={"ann": "secret"})) as (made, _, _):
        answers = [await made.get(path) for path in ("/board", "/nowhere", "/livez", "/static/1/x")]
        assert [each.status for each in answers] == [401, 401, 200, 401]
        for each in answers:
            assert {name: each.headers[name] for name in HEADERS} == HEADERS
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy


async def test_no_page_has_a_script_or_a_style_of_its_own():
    async with shown(*life(*LIFE)) as (made, _, _):
        for page in PAGES:
            text = (await made.get(page)).text
            assert "<style" not in text
            assert " style=" not in text
            assert text.count("<script") == text.count('<script src="/static/')
            assert " on" not in {word[:3] for word in text.split('"') if word.startswith(" on")}


async def test_pages_are_not_kept_and_static_files_are():
    async with shown() as (made, _, _):
        page = await made.get("/table")
        assert page.headers["Cache-Control"] == "no-store"
        link = page.text.partition('href="/static/')[2].partition('"')[0]
        style = await made.get(f"/static/{link}")
        assert "immutable" in style.headers["Cache-Control"]
        assert (await made.get("/static/1/../app.py")).status == 404


async def test_a_console_that_asks_nobody_answers_to_its_own_names_only():
    async with shown() as (made, _, _):
        for host, status in (("evil.example", 421), ("localhost", 200), ("127.0.0.1:1", 200)):
            assert (await made.get("/table", headers={"Host": host})).status == status


async def test_a_password_is_asked_for():
    async with shown(access=Access(passwords={"ann": "sécret:1"})) as (made, _, _):
        refused = await made.get("/table")
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic realm=")
        for user, password, status in (
            ("ann", "sécret:1", 200),
            ("ann", "secret", 401),
            ("bob", "", 401),
        ):
            header = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
            assert (await made.get("/table", headers={"Authorization": header})).status == status
        for header in ("Basic", "Basic !", "Bearer x", "Basic /w=="):
            assert (await made.get("/table", headers={"Authorization": header})).status == 401
        assert (await made.get("/livez")).status == 200


@pytest.mark.parametrize(
    ("proxies", "user", "status"),
    [(["127.0.0.1"], "ann", 200), (["127.0.0.1"], "", 403), (["10.0.0.1"], "ann", 403)],
)
async def test_a_user_is_taken_from_a_trusted_proxy_only(
    proxies: list[str], user: str, status: int
):
    access = Access(user_header="X-Forwarded-User", proxies=proxies)
    async with shown(access=access) as (made, _, _):
        answer = await made.get("/table", headers={"X-Forwarded-User": user})
        assert answer.status == status


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
    async with shown(*life(*LIFE, start=now())) as (made, _, _):
        document = (await made.get("/board.json")).document
        assert document["total"]["waiting"] == 1
        html = (await made.get("/board")).text
        assert "answered_within / (answered + abandoned - short_abandons)" in html
        assert f'title="{SESSION}"' in html
        card = (await made.get("/board.json?waiting=0/0")).document["cards"][0]
        assert (card["value"], card["status"]) == (1, "bad")
        assert (await made.get("/board?app=1")).text.count("Nobody waits.") == 1


async def test_the_board_changes_while_it_is_open():
    begin, *rest = life(*LIFE, start=now())
    async with shown(begin) as (made, world, _), made.events("/board/live") as live:
        name, html = await live.next()
        assert (name, "Nobody waits." in html) == ("replace", True)
        world.append(*rest)
        async with asyncio.timeout(10):
            while "Nobody waits." in html:
                _, html = await live.next()
        assert SESSION in html


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


async def test_the_feed_goes_on_while_it_is_open():
    async with shown(*life(*LIFE[:1])) as (made, world, worker):
        async with made.events("/feed/live") as live:

            async def is_open() -> bool:
                return await worker.subscribers() == 1

            await until(is_open)
            world.append(*life(*LIFE)[1:2])
            async with asyncio.timeout(2):
                name, html = await live.next()
        assert name == "prepend"
        assert "ChatBot.UserSendMsg" in html


async def test_200_pages_share_one_stream_and_leave_nothing_behind():
    async with shown(*life("SessionBegin")) as (made, world, worker):

        def subscribed(number: int) -> Callable[[], Any]:
            async def is_so() -> bool:
                return await worker.subscribers() == number

            return is_so

        for events in range(1, 3):
            async with AsyncExitStack() as pages:
                opened = [
                    await pages.enter_async_context(made.events("/feed/live")) for _ in range(200)
                ]
                await until(subscribed(1))
                world.append(*life(*LIFE)[events : events + 1])
                got = await asyncio.gather(*(each.next() for each in opened))
                assert len(set(got)) == 1
            await until(subscribed(0))


async def test_a_live_page_has_a_limit_and_a_wrong_filter_is_refused_at_once():
    async def source(_: str) -> Any:
        yield "one"
        await asyncio.sleep(60)

    live = Live(source, "replace")
    listening = [live.listen("q") for _ in range(1_000)]
    for each in listening:
        await anext(each)
    assert live.channels == 1
    with pytest.raises(TooManyListeners):
        live.listen("q")
    for each in listening:
        await each.aclose()  # type: ignore[attr-defined]
    assert live.channels == 0
    async with shown() as (made, _, _):
        assert (await made.get("/feed/live?type=nonsense")).status == 400


async def test_a_page_that_does_not_keep_up_is_told_to_load_again():
    release = asyncio.Event()

    async def source(_: str) -> Any:
        yield "first"
        await release.wait()
        for number in range(200):
            yield str(number)
        await asyncio.sleep(60)

    live = Live(source, "prepend")
    slow = live.listen("")
    await anext(slow)
    release.set()
    await asyncio.sleep(0)
    got = [event async for event in slow if event]
    assert got[-1].event == "reload"
    assert len(got) < 200
    assert live.channels == 0


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_users_wrote_is_shown_and_never_run(text: str):
    fields = {"ClientUserId": text, "AgentId": text, "ChannelType": text}
    hostile = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": text}}]
    bodies = life(*LIFE, MsgBody=hostile, **fields)
    async with shown(*bodies) as (made, _, _):
        for page in PAGES:
            answer = await made.get(page)
            assert answer.status == 200, page
            assert "<script>alert" not in answer.text
            assert "<img" not in answer.text
            assert "49098049" not in answer.text
            assert not set("\N{RIGHT-TO-LEFT OVERRIDE}\x00\x1b") & set(answer.text)


async def test_a_spreadsheet_is_given_no_formula():
    bodies = life("SessionBegin", ClientUserId='=HYPERLINK("http://evil.example")')
    async with shown(*bodies) as (made, _, _):
        answer = await made.get("/sessions.csv")
        assert "attachment" in answer.headers["Content-Disposition"]
        header, row = csv.reader(io.StringIO(answer.text))
        found = dict(zip(header, row, strict=True))
        assert found["client_user_id"] == '\'=HYPERLINK("http://evil.example")'


def test_csv_leaves_numbers_as_they_are_and_joins_lists():
    rows = [{"a": -1, "b": {"c": ["x", "y"]}, "d": "-1"}]
    assert csv_of(rows, ["a", "b.c", "d", "e"]) == "a,b.c,d,e\r\n-1,x y,'-1,\r\n"


@pytest.mark.parametrize(
    "path",
    [
        "/sessions?rows=1001", "/sessions?rows=-1", "/sessions?state=asleep", "/sessions?app=x",
        "/sessions?begun_since=yesterday", "/session", "/board?waiting=many", "/reports?by=year",
        "/sessions?" + "&".join(f"agent=a{n}" for n in range(101)), "/sessions?page=nonsense",
    ],
)  # fmt: skip
async def test_a_wrong_query_is_refused_in_a_sentence(path: str):
    async with shown() as (made, _, _):
        html, document = await made.get(path), await made.get(path_with(path, ".json"))
        assert (html.status, document.status) == (400, 400)
        assert "This cannot be shown" in html.text
        assert document.document["error"]["message"]


async def test_a_session_that_is_not_there_is_not_found():
    async with shown() as (made, _, _):
        assert (await made.get(f"/session?app={APP}&id=nobody")).status == 404


async def test_a_service_that_is_gone_is_reported():
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        port = nobody.getsockname()[1]
    async with console(f"127.0.0.1:{port}", timeout=1.0) as made:
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


def test_a_console_in_a_time_zone_that_does_not_exist_does_not_start():
    done = invoke("console", DESK_TIME_ZONE="Mars/Olympus")
    assert done.returncode == 2
    assert "'Mars/Olympus' is not a time zone" in done.stderr


def test_a_console_that_anybody_could_see_does_not_start(tmp_path: Path):
    for arguments, settings in (
        (("console", "--listen", "0.0.0.0:0"), {}),
        (("serve",), {"DESK_CONSOLE_LISTEN": "0.0.0.0:0", "DESK_DATA_DIR": str(tmp_path)}),
    ):
        done = run(*arguments, cwd=tmp_path, **settings)
        assert done.returncode == 2
        assert "DESK_CONSOLE_PASSWORD_FILE" in done.stderr


@pytest.mark.parametrize(
    ("content", "problem"), [("ann\n", "line 1"), ("# nobody\n", "no user"), (None, "No such")]
)
def test_a_file_of_passwords_is_checked(tmp_path: Path, content: str | None, problem: str):
    file = tmp_path / "passwords"
    if content is not None:
        file.write_text(content)
    done = run("console", "--password-file", str(file), cwd=tmp_path)
    assert done.returncode == 2
    assert problem in done.stderr
