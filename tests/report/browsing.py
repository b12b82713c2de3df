"""Headless Chromium for tests of the pages."""

import shutil

import pytest

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
NEEDED = pytest.mark.skipif(
    not all(PROGRAMS.values()), reason="chromium or chromedriver is not installed (apt-get install chromium chromium-driver)"
)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars""".split()


def start(folder):
    """A browser with its profile in `folder`, whose console can be read."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS["chromium"]
    for flag in [*FLAGS, f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(PROGRAMS["chromedriver"]))


def look(browser, width, scheme):
    """Set width and colour scheme, and wait until the open page has the scheme."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    seen = f"return matchMedia('(prefers-color-scheme: {scheme})').matches"
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(seen))
