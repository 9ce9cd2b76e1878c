"""Chromium without a window, driven by selenium."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.debian import FETCHED, program
from tests.support.waiting import PATIENCE, eventually

CHROMIUM, DRIVER = program("chromium", "chromium"), program("chromedriver", "chromium")
"""The programs of Debian's chromium and chromium-driver; None if there are none."""

_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip

_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>
"""


@contextmanager
def browser(profile: Path, *, width: int = 1280, height: int = 900) -> Iterator[Any]:
    """Run a browser with a profile of its own until the block is left."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for each in (*_OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(str(DRIVER), env={**os.environ, **_surroundings(profile)})
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(2 * PATIENCE)
    driver.set_script_timeout(2 * PATIENCE)
    try:
        yield driver
    finally:
        driver.quit()


def text(driver: Any, selector: str) -> str:
    """Return the text of an element, also while a live page replaces it."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    def read() -> list[str]:
        with suppress(NoSuchElementException, StaleElementReferenceException):
            return [str(driver.find_element("css selector", selector).text)]
        return []

    return eventually(read)[0]


def _surroundings(profile: Path) -> dict[str, str]:
    """Return the variables by which fetched programs find their libraries and fonts."""
    if not str(CHROMIUM).startswith(str(FETCHED)):
        return {}
    libraries = {str(library.parent) for library in FETCHED.glob("**/*.so*")}
    fonts = profile.with_name("fonts.conf")
    fonts.write_text(_FONTS.format(fonts=FETCHED / "usr" / "share" / "fonts", cache=profile))
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(sorted(libraries)),
        "FONTCONFIG_FILE": str(fonts),
    }
