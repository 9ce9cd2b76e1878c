"""The console in a real browser, in front of all processes of `desk serve`."""

import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.browser import CHROMIUM, DRIVER, browser, text
from tests.support.callbacks import APP, SESSION, life
from tests.support.processes import RunningDesk, run, start
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.tools,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and its driver"),
]

AXE = (Path(__file__).parent / "axe.min.js").read_text()
"""axe-core 4.14.1 of npm, under the MPL-2.0."""

AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"

HOSTILE = "<script>document.title='run'</script><img src=x onerror=document.title='run'>\"'\u202e"

PAGES = (
    "board", "sessions", f"session?app={APP}&id={SESSION}", "rejections", "feed", "reports",
    "subscribers", "health", "table", f"session?app={APP}&id={quote(HOSTILE)}",
)  # fmt: skip

STATES = (
    "board?waiting=0/0&within=1", "feed?verdict=rejected", "nowhere", "sessions?app=x",
    f"session?app={APP}&id={SESSION}&as_of=1", f"session?app={APP}&id={SESSION}&as_of_time=1m",
    "reports?by=quarter&group=agent&since_revision=1",
    "sessions?state=closing&user=nobody",
)  # fmt: skip
"""Pages with other contents: bounds exceeded, empty, early, refused."""

STEPS = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "TransferringToHumanWait")


def lately(*events: str, **fields: Any) -> list[bytes]:
    """Return a session's callbacks that a board of today shows."""
    return life(*events, start=int(time.time() * 1000) - 60_000, **fields)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    data = tmp_path_factory.mktemp("console") / "data"
    with start("serve", data_dir=data, DESK_CONSOLE_LISTEN="127.0.0.1:0") as running:
        host, port = running.http
        text = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": HOSTILE + "x" * 250_000}}]
        hostile = {"ClientUserId": HOSTILE, "AgentId": HOSTILE, "ChannelType": HOSTILE}
        unknown = life("SessionBegin", HOSTILE, session_id=HOSTILE, **hostile)
        for each in (*lately(*STEPS, MsgBody=text, **hostile), *unknown):
            assert running.post(each)[0] == 200
        done = run("simulate", f"http://{host}:{port}/", "--app", str(APP), "--day",
                   "--sessions", "100", "--impossible", "5%", timeout=100)  # fmt: skip
        assert done.returncode == 0, done.stderr
        eventually(lambda: SESSION in run("sessions", "get", SESSION, target=running.target).stdout)
        yield running


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def page(driver: Any, desk: RunningDesk) -> Any:
    """Open a page by its path; its errors so far are forgotten."""

    def open_(path: str) -> Any:
        driver.get_log("browser")
        driver.get(f"http://{desk.ready()['console']}/{path}")
        return driver

    return open_


def complaints(driver: Any) -> list[str]:
    return [each["message"] for each in driver.get_log("browser")]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_shown_without_a_complaint(page: Any, path: str) -> None:
    driver = page(path)
    assert text(driver, "h1")
    assert driver.title.endswith("Desk Sessions")
    current = "nav a[aria-current]" if "?" not in path else "nav a"
    assert driver.find_element("css selector", current)
    assert complaints(driver) == []


@pytest.mark.parametrize("width", [390, 1280, 1920])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_its_window(page: Any, driver: Any, path: str, width: int) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        page(path)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [*PAGES, *STATES])
def test_axe_finds_nothing_serious(page: Any, driver: Any, path: str, scheme: str) -> None:
    assert sha256(AXE.encode()).hexdigest() == AXE_SHA256
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page(path)
    driver.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE})
    found = driver.execute_async_script(
        "axe.run().then(arguments[0], (error) => arguments[0]({violations: [String(error)]}))"
    )
    serious = [
        (each["id"], each["nodes"][0]["html"][:200])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_the_board_shows_a_callback_within_two_seconds(page: Any, desk: RunningDesk) -> None:
    driver = page("board")
    eventually(lambda: text(driver, "[data-status]") == "Live.")

    def seconds(session_id: str) -> float:
        for each in lately(*STEPS, session_id=session_id):
            assert desk.post(each)[0] == 200
        begun = time.monotonic()
        eventually(lambda: session_id in text(driver, "#board"))
        return time.monotonic() - begun

    # Others may keep the machine busy.
    assert any(seconds(f"just-now-{number}") < 2 for number in range(10))
    assert complaints(driver) == []


def test_a_pause_holds_what_comes_and_shows_it_afterwards(page: Any, desk: RunningDesk) -> None:
    driver = page("feed")
    eventually(lambda: text(driver, "[data-status]") == "Live.")
    pause = driver.find_element("css selector", "[data-pause]")
    pause.click()
    assert desk.post(life("SessionBegin", session_id="while-paused")[0])[0] == 200
    eventually(lambda: text(driver, "[data-status]") == "Paused; updates that wait: 1.")
    assert "while-paused" not in text(driver, "tbody")
    pause.click()
    eventually(lambda: "while-paused" in text(driver, "tbody"))
    eventually(lambda: text(driver, "[data-status]") == "Live.")


def test_a_paused_board_stands_still(page: Any, desk: RunningDesk) -> None:
    driver = page("board")
    eventually(lambda: text(driver, "[data-status]") == "Live.")
    driver.find_element("css selector", "[data-pause]").click()
    before = text(driver, "#board")
    for each in lately(*STEPS, session_id="behind-the-pause"):
        assert desk.post(each)[0] == 200
    eventually(lambda: "updates that wait: 1." in text(driver, "[data-status]"))
    assert text(driver, "#board") == before
    driver.find_element("css selector", "[data-pause]").click()
    eventually(lambda: "behind-the-pause" in text(driver, "#board"))


def test_a_hidden_page_is_not_live_and_catches_up_when_it_is_seen(
    page: Any, desk: RunningDesk
) -> None:
    driver = page("feed")
    eventually(lambda: text(driver, "[data-status]") == "Live.")
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});" + (
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    driver.execute_script(hide % "true")
    assert text(driver, "[data-status]") == "Not live while hidden."
    assert desk.post(life("SessionBegin", session_id="while-hidden")[0])[0] == 200
    driver.execute_script(hide % "false")
    eventually(lambda: "while-hidden" in text(driver, "tbody"))
    assert text(driver, "tbody").count("while-hidden") == 1
    eventually(lambda: text(driver, "[data-status]") == "Live.")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_works_without_javascript(page: Any, driver: Any, path: str) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page(path)
        assert text(driver, "h1")
        assert driver.find_elements("css selector", "main table tr, main dl div")
        for hidden in driver.find_elements("css selector", "[data-pause], [data-copy]"):
            assert not hidden.is_displayed()
        if forms := driver.find_elements("css selector", "form.filters button"):
            for each in driver.find_elements("css selector", "details.options summary"):
                each.click()
            forms[0].click()
            eventually(lambda: driver.current_url.partition("?")[1])
            assert text(driver, "h1")
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_all_of_the_health_page_is_copied_as_text(page: Any, driver: Any) -> None:
    driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    page("health")
    driver.find_element("css selector", "[data-copy]").click()
    eventually(lambda: text(driver, "[data-copy]") == "Copied")
    copied = driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    for part in ("Replicas", "Requests at the gateway", "DESK_CALLBACK_TOKENS"):
        assert part in copied
    assert complaints(driver) == []


def test_the_slider_shows_an_earlier_revision(page: Any) -> None:
    driver = page(f"session?app={APP}&id={SESSION}")
    assert "queued" in text(driver, ".summary")
    driver.execute_script(
        "const slider = document.querySelector('[name=as_of]');"
        "slider.value = slider.min; slider.dispatchEvent(new Event('change'))"
    )
    eventually(lambda: "chatbot" in text(driver, ".summary"))
    assert "as_of=" in driver.current_url


def test_a_time_that_is_typed_in_shows_what_was_known_then(page: Any, driver: Any) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page(f"session?app={APP}&id={SESSION}&as_of=1")
        field = driver.find_element("css selector", "[name=as_of_time]")
        field.send_keys("1d")
        field.find_element("xpath", "ancestor::form//button").click()
        eventually(lambda: "had not begun by 20" in text(driver, ".summary"))
        assert driver.current_url.endswith("&as_of_time=1d")
        assert "as_of=" not in driver.current_url
        rows = driver.find_elements("css selector", "tbody tr")
        assert rows
        assert all("(came later)" in row.text for row in rows)
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_what_a_user_wrote_is_text(page: Any) -> None:
    for path in PAGES:
        driver = page(path)
        assert driver.title.endswith("Desk Sessions")
        assert not driver.find_elements("css selector", "main img")
        assert complaints(driver) == []
    assert "<script>" in text(page("sessions?state=queued"), "tbody")
    source = page(f"session?app={APP}&id={SESSION}").page_source
    assert "\u202e" not in source
    assert "x" * 250_000 in source


def test_a_chart_is_drawn_from_the_table(page: Any) -> None:
    driver = page("reports?by=hour")
    assert driver.find_element("css selector", ".chart canvas").size["width"] > 300
    assert complaints(driver) == []


def test_the_keyboard_reaches_the_content_first(page: Any) -> None:
    driver = page("sessions")
    driver.find_element("css selector", "body").send_keys("\ue004")  # Tab
    assert driver.execute_script("return document.activeElement.className") == "skip"
