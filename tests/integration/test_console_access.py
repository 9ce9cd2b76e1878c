"""Access to the console, the headers of its answers, and answers to wrong requests."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import TestClient
from structlog.testing import capture_logs

from command.address import Address
from command.settings_console import ConsoleError, access_to, read_passwords
from console.app import create_app
from console.live import Live
from console.page import Document, LivePage
from console.protection import HEADERS, Access
from console.query import Query
from console.site import Site
from tests.support.callbacks import APP, SESSION, life
from tests.support.clients import Clients
from tests.support.console import Console, console
from tests.support.rpc import worker, world

PAGES = (
    "/board", "/sessions", f"/session?app={APP}&id={SESSION}", "/rejections", "/feed", "/reports",
    "/subscribers",
)  # fmt: skip
"""Pages of which each needs something of the service. Health says itself what it may not see."""

OTHER = 7
"""An app that a limited key may not read."""

LOOPBACK = Address("127.0.0.1", 0)

PASSWORD = "sécret:1234567"


@asynccontextmanager
async def guarded(access: Access | None = None) -> AsyncIterator[Console]:
    """A console without a service, of which /table needs nothing."""
    async with console("127.0.0.1:1", access, timeout=0.2) as made:
        yield made


@asynccontextmanager
async def keyed(folder: Path, **client: Any) -> AsyncIterator[tuple[Console, str]]:
    """A console with a key of its own, and the key; `client` is what that may read.

    The service has a session of one app and one of another.
    """
    clients = Clients(folder)
    key = clients.add("console", **client)
    with world(life("SessionBegin")) as journal:
        journal.append(*life("SessionBegin", session_id="of-another-app"), app=OTHER)
        journal.wait()
        async with (
            worker(journal, clients=clients.file(), apps=(APP, OTHER)) as serving,
            console(f"127.0.0.1:{serving.port}", key=key) as made,
        ):
            yield made, key


def basic(user: str, password: str) -> dict[str, str]:
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


async def test_every_answer_says_what_a_browser_may_do():
    async with guarded(Access(passwords={"ann": PASSWORD})) as made:
        signed_in = basic("ann", PASSWORD)
        answers = [await made.get(path) for path in ("/board", "/nowhere", "/static/1/x")]
        assert [each.status for each in answers] == [401, 401, 401]
        paths = (
            "/livez",
            "/table",
            "/nowhere",
            "/table.csv",
            "/static/1/live.js",
            "/sessions?app=x",
        )
        allowed = [await made.get(path, headers=signed_in) for path in paths]
        assert [each.status for each in allowed] == [200, 200, 404, 200, 200, 400]
        allowed.append(await made.get("/board", method="POST", headers=signed_in))
        for each in (*answers, *allowed):
            assert {name: each.headers[name] for name in HEADERS} == HEADERS
            assert each.headers["Cache-Control"] == "no-store"
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy


async def test_also_an_answer_to_one_connection_too_many_has_the_headers(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("console.server.MAX_CONNECTIONS", 1)
    async with guarded() as made:
        answer = await made.get("/table")
        assert answer.status == 503
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS


async def test_a_head_is_answered_as_a_get_without_the_body():
    async with guarded() as made:
        for path in ("/table", "/table.json", "/table.csv", "/livez", "/", "/nowhere"):
            got, head = await made.get(path), await made.get(path, method="HEAD")
            assert (head.status, head.text) == (got.status, "")
            for name in ("Content-Type", "Content-Length"):
                assert head.headers.get(name) == got.headers.get(name), path
        live = await made.get("/board/live", method="HEAD")
        assert (live.status, live.headers["Content-Type"]) == (200, "text/event-stream")


async def test_a_console_that_asks_nobody_answers_to_addresses_and_localhost_only():
    hosts = [
        ("evil.example", 421), ("localhost.evil.example", 421), ("localhost:abc", 421), ("", 421),
        ("[::1", 421), ("[::1]:x", 421), ("localhost", 200), ("LOCALHOST:8081", 200),
        ("127.0.0.1:1", 200), ("127.0.0.2:8081", 200), ("[::1]:8081", 200), ("[::1]", 200),
    ]  # fmt: skip
    async with guarded() as made:
        for host, status in hosts:
            assert (await made.get("/table", headers={"Host": host})).status == status, host


async def test_a_page_elsewhere_may_link_to_the_console_and_load_nothing_of_it():
    async with guarded() as made:
        elsewhere = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        assert (await made.get("/table.json", headers=elsewhere)).status == 403
        link = elsewhere | {"Sec-Fetch-Mode": "navigate"}
        assert (await made.get("/table", headers=link)).status == 200
        own = elsewhere | {"Sec-Fetch-Site": "same-origin"}
        assert (await made.get("/table.json", headers=own)).status == 200


async def test_a_password_is_asked_for():
    async with guarded(Access(passwords={"ann": PASSWORD})) as made:
        refused = await made.get("/table")
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert refused.headers["Content-Type"].startswith("text/plain")
        for user, password, status in (
            ("ann", PASSWORD, 200),
            ("ann", PASSWORD[:-1], 401),
            ("ann", "", 401),
            ("bob", "", 401),
            ("", "", 401),
        ):
            assert (await made.get("/table", headers=basic(user, password))).status == status
        for header in ("Basic", "Basic !", "Bearer x", "Basic /w=="):
            assert (await made.get("/table", headers={"Authorization": header})).status == 401
        assert (await made.get("/livez")).status == 200


async def test_a_wrong_password_is_logged_without_what_was_typed():
    async with guarded(Access(passwords={"ann": PASSWORD})) as made:
        with capture_logs() as logs:
            await made.get("/table")
            await made.get("/table", headers=basic("my-password-typed-as-user", "wrong"))
    assert logs == [{"event": "password_refused", "log_level": "warning", "peer": "127.0.0.1"}]


@pytest.mark.parametrize(
    ("proxies", "user", "status"),
    [
        (["127.0.0.1"], "ann", 200), (["127.0.0.0/8"], "ann", 200), (["127.0.0.1"], "", 403),
        (["10.0.0.1"], "ann", 403), (["::1"], "ann", 403), ([], "ann", 403),
    ],
)  # fmt: skip
async def test_a_user_is_taken_from_a_trusted_proxy_only(
    proxies: list[str], user: str, status: int
):
    access = Access(user_header="X-Forwarded-User", proxies=proxies)
    async with guarded(access) as made:
        answer = await made.get("/table", headers={"X-Forwarded-User": user})
        assert answer.status == status
        assert (await made.get("/livez")).status == 200


async def test_a_static_file_is_kept_under_its_own_version_only():
    async with guarded() as made:
        page = await made.get("/table")
        link = page.text.partition('href="/static/')[2].partition('"')[0]
        style = await made.get(f"/static/{link}")
        assert "immutable" in style.headers["Cache-Control"]
        other = await made.get("/static/another/desk.css")
        assert (other.status, other.headers["Cache-Control"]) == (200, "no-store")
        for path in (
            "/static/1/../app.py",
            "/static/1/%2e%2e%2fapp.py",
            "/static/1/uplot-LICENSE.txt",
        ):
            assert (await made.get(path)).status == 404


async def test_a_path_or_a_method_that_is_not_there_is_answered_in_the_form_asked_for():
    async with guarded() as made:
        page = await made.get("/nowhere", headers={"Accept": "text/html,application/xml"})
        assert page.headers["Content-Type"].startswith("text/html")
        assert "the console has no such page" in page.text
        document = await made.get("/nowhere.json")
        assert document.document["error"]["reason"] == "NOT_FOUND"
        posted = await made.get("/board", method="POST", data="x")
        assert (posted.status, posted.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
        assert "GET and HEAD only" in posted.text
        # Neither can become a request for another host.
        assert (await made.get("//evil.example/board")).status == 404
        assert (await made.get("/")).headers["Location"] == "/board"


def test_a_fault_of_the_console_is_a_page_without_details(caplog: pytest.LogCaptureFixture):
    class Broken(LivePage):
        path, title, event = "/broken", "Broken", "replace"

        async def document(self, query: Query) -> Document:
            raise RuntimeError("a detail")

    client: Any = None
    site = Site(client, replicas={})
    app = TestClient(create_app(site, Access(), [Live(Broken(site))]))
    page, document = (
        app.simulate_get(f"/broken{form}", host="localhost") for form in ("", ".json")
    )
    assert (page.status_code, document.status_code) == (500, 500)
    assert "the console failed" in page.text
    assert document.json["error"]["reason"] == "INTERNAL_SERVER_ERROR"
    assert "a detail" not in page.text + document.text
    assert "a detail" in caplog.text


@pytest.mark.parametrize(("scopes", "allowed"), [
    (("sessions.read",), {"/board", "/sessions", PAGES[2], "/reports"}),
    (("feed.read",), {"/rejections"}),
    (("status.read",), {"/subscribers"}),
    (("feed.read", "status.read"), {"/rejections", "/feed", "/subscribers"}),
])  # fmt: skip
async def test_what_the_key_may_not_read_is_forbidden(
    tmp_path: Path, scopes: tuple[str, ...], allowed: set[str]
):
    async with keyed(tmp_path, scopes=scopes) as (made, key):
        for page in PAGES:
            path, _, query = page.partition("?")
            html, document = await made.get(page), await made.get(f"{path}.json?{query}")
            expected = 200 if page in allowed else 403
            assert (html.status, document.status) == (expected, expected), page
            if expected == 403:
                assert "This cannot be shown" in html.text
                assert document.document["error"]["reason"] == "SCOPE_MISSING"
            assert key not in html.text + document.text
        assert (await made.get("/table")).status == 200
        health = await made.get("/health")
        assert health.status == 200
        assert ("needs the scope" in health.text) == ("status.read" not in scopes)


async def test_a_key_of_one_app_shows_no_other(tmp_path: Path):
    async with keyed(tmp_path, apps=[APP]) as (made, _):
        for page in PAGES:
            assert "of-another-app" not in (await made.get(page)).text
        for page in ("/board", "/sessions", "/session?id=of-another-app", "/feed", "/reports"):
            mark = "&" if "?" in page else "?"
            assert (await made.get(f"{page}{mark}app={OTHER}")).status == 403, page


async def test_a_refused_live_part_says_why(tmp_path: Path):
    async with keyed(tmp_path, scopes=("status.read",)) as (made, _):
        for path in ("/board/live", "/feed/live"):
            async with made.events(path) as events:
                name, reason = await events.next()
                assert (name, "needs the scope" in reason) == ("problem", True)


@pytest.mark.parametrize(
    ("password", "header", "proxies", "problem"),
    [
        ("", "X User", "127.0.0.1", "is no header"),
        ("", "X-User", "127.0.0.1, proxy", "'proxy' is no address and no network"),
        (PASSWORD, "X-User", "127.0.0.1", "set one of them"),
        ("12345678901", "", "", "line 2 of .* at least 12 characters"),
    ],
)
def test_a_console_that_is_not_sure_who_may_see_it_is_refused(
    tmp_path: Path, password: str, header: str, proxies: str, problem: str
):
    file = tmp_path / "passwords"
    file.write_text(f"# who may see it\nann:{password}\n")
    with pytest.raises(ConsoleError, match=problem) as refused:
        access_to(LOOPBACK, read_passwords(file) if password else {}, header, proxies)
    assert "12345678901" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("ann\n", "line 1"), ("# nobody\n", "no user"), (None, "PASSWORD_FILE: .*No such")],
)
def test_a_file_of_passwords_is_checked(tmp_path: Path, content: str | None, problem: str):
    file = tmp_path / "passwords"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConsoleError, match=problem):
        read_passwords(file)
