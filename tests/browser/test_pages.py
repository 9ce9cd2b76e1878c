"""The console in a real browser, in front of all processes of `desk serve`."""

import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import CHROMIUM, DRIVER, browser
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

PAGES = (
    "board", "sessions", f"session?app={APP}&id={SESSION}", "rejections", "feed", "reports",
    "subscribers", "health", "table",
)  # fmt: skip

HOSTILE = "<script>document.title='run'</script><img src=x onerror=document.title='run'>\"'\u202e"

STEPS = ("SessionBegin", "ChatBot.UserSendMsg", "TransferringToHuman", "TransferringToHumanWait")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDesk]:
    data = tmp_path_factory.mktemp("console") / "data"
    with start("serve", data_dir=data, DESK_CONSOLE_LISTEN="127.0.0.1:0") as running:
        host, port = running.http
        text = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": HOSTILE + "x" * 250_000}}]
        for each in life(*STEPS, ClientUserId=HOSTILE, AgentId=HOSTILE, MsgBody=text):
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


def text(driver: Any, selector: str) -> str:
    return str(driver.find_element("css selector", selector).text)


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


@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_serious(page: Any, path: str) -> None:
    assert sha256(AXE.encode()).hexdigest() == AXE_SHA256
    driver = page(path)
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
    begun = time.monotonic()
    moment = time.time_ns() // 1_000_000 - 60_000
    for each in life(*STEPS, session_id="just-now", start=moment):
        assert desk.post(each)[0] == 200
    eventually(lambda: "just-now" in text(driver, "#board"))
    assert time.monotonic() - begun < 2 + 1  # a second for the callbacks on a busy machine
    assert complaints(driver) == []


def test_a_pause_holds_what_comes_and_shows_it_afterwards(page: Any, desk: RunningDesk) -> None:
    driver = page("feed")
    eventually(lambda: text(driver, "[data-status]") == "Live.")
    pause = driver.find_element("css selector", "[data-pause]")
    pause.click()
    assert desk.post(life("SessionBegin", session_id="while-paused")[0])[0] == 200
    eventually(lambda: "1 updates wait" in text(driver, "[data-status]"))
    assert "while-paused" not in text(driver, "tbody")
    pause.click()
    eventually(lambda: "while-paused" in text(driver, "tbody"))


def test_the_slider_shows_an_earlier_revision(page: Any) -> None:
    driver = page(f"session?app={APP}&id={SESSION}")
    assert "queued" in text(driver, ".summary")
    driver.execute_script(
        "const slider = document.querySelector('[name=as_of]');"
        "slider.value = slider.min; slider.dispatchEvent(new Event('change'))"
    )
    eventually(lambda: "chatbot" in text(driver, ".summary"))
    assert "as_of=" in driver.current_url


def test_what_a_user_wrote_is_text(page: Any) -> None:
    for path in PAGES:
        driver = page(path)
        assert driver.title.endswith("Desk Sessions")
        assert not driver.find_elements("css selector", "main img")
        assert complaints(driver) == []
    assert "<script>" in text(page("sessions?state=queued"), "tbody")


def test_a_chart_is_drawn_from_the_table(page: Any) -> None:
    driver = page("reports?by=hour")
    assert driver.find_element("css selector", ".chart canvas").size["width"] > 300
    assert complaints(driver) == []


def test_the_keyboard_reaches_the_content_first(page: Any) -> None:
    driver = page("sessions")
    driver.find_element("css selector", "body").send_keys("\ue004")  # Tab
    assert driver.execute_script("return document.activeElement.className") == "skip"
