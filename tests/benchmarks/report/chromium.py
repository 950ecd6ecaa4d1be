"""Headless Chromium for tests, Debian's own, driven by Playwright.

    python tests/benchmarks/report/chromium.py PAGE PICTURE [WIDTH [dark]]

takes a picture of a whole page.
"""

import importlib.util
import shutil
import sys
from pathlib import Path


def missing():
    """Return what has to be installed, or an empty string."""
    needed = [] if importlib.util.find_spec("playwright") else ["pip install playwright"]
    return " && ".join([*needed, *([] if executable() else ["apt-get install chromium"])])


def executable():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for path in map(shutil.which, names) if path), None)


class Chromium:
    """One tab. ``requests`` are addresses that the page asked for beside itself and what it holds inside; ``errors`` is
    what the console shows as errors: logged ones, uncaught exceptions, what the browser itself objects to."""

    def __init__(self, width, dark=False):
        self.width, self.dark = width, dark
        self.requests, self.errors = [], []

    def __enter__(self):
        from playwright.sync_api import sync_playwright

        self.playwright = sync_playwright().start()
        self.browser = self.playwright.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
        size = {"width": self.width, "height": 900}
        self.page = self.browser.new_page(viewport=size, color_scheme="dark" if self.dark else "light")
        self.page.on("request", lambda one: self.requests.append(one.url))
        self.page.on("console", lambda one: self.errors.append(one.text) if one.type in ("error", "assert") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        return self

    def __exit__(self, *exception):
        self.browser.close()
        self.playwright.stop()

    def open(self, path):
        """Open a file and wait until it is loaded, and until what its scripts began has had time to show."""
        self.page.goto(Path(path).resolve().as_uri())
        self.page.wait_for_timeout(300)
        self.requests = [url for url in self.requests[1:] if not url.startswith("data:")]

    def evaluate(self, expression):
        return self.page.evaluate(expression)

    def picture(self):
        """Return the whole page as PNG."""
        return self.page.screenshot(full_page=True)


if __name__ == "__main__":
    page, picture, *others = sys.argv[1:]
    with Chromium(int(others[0]) if others else 1280, "dark" in others) as browser:
        browser.open(page)
        Path(picture).write_bytes(browser.picture())
