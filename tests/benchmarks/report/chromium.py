"""Headless Chromium for tests, driven through its DevTools protocol over a pipe: no driver, no port, no network.

    python tests/benchmarks/report/chromium.py PAGE PICTURE [WIDTH [dark]]

takes a picture of a whole page.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def executable():
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for path in map(shutil.which, names) if path), None)


class Chromium:
    """One tab. ``events`` keeps all that the browser told, in order."""

    def __init__(self, width, dark=False):
        self.width, self.dark = width, dark
        self.events, self.answers, self.sent, self.session = [], {}, 0, None

    def __enter__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        its_in, self.to = os.pipe()
        self.of, its_out = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        flags += [f"--user-data-dir={self.profile.name}", "--hide-scrollbars", "--remote-debugging-pipe"]
        # The protocol's pipes are file descriptors 3 and 4.
        start = f'exec "$0" "$@" 3<&{its_in} 4>&{its_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", start, executable(), *flags],
            pass_fds=(its_in, its_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_in)
        os.close(its_out)
        self.rest = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        metrics = {"width": self.width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        return self

    def __exit__(self, *exception):
        # Asked, it ends its own processes; killed, it would leave them behind.
        try:
            os.write(self.to, b'{"id": 0, "method": "Browser.close"}\0')
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.to)
        os.close(self.of)
        self.profile.cleanup()

    def call(self, method, **params):
        """Call a method of the protocol and return its result."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while self.sent not in self.answers:
            self._hear()
        answer = self.answers.pop(self.sent)
        assert "error" not in answer, answer
        return answer["result"]

    def _hear(self):
        piece = os.read(self.of, 1 << 20)
        assert piece, "Chromium ended"
        *messages, self.rest = (self.rest + piece).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self.answers[message["id"]] = message
            else:
                self.events.append(message)

    def open(self, path):
        """Open a file and wait until it is loaded, and until what its scripts began has had time to show."""
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        while not self.heard("Page.loadEventFired"):
            self._hear()
        time.sleep(0.3)
        self.evaluate("document.readyState")  # after this, what was told before it has been read

    def heard(self, method):
        return [event["params"] for event in self.events if event["method"] == method]

    def evaluate(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    @property
    def requests(self):
        """Addresses that the page asked for, beside itself and what it holds inside."""
        urls = [event["request"]["url"] for event in self.heard("Network.requestWillBeSent")]
        return [url for url in urls[1:] if not url.startswith("data:")]

    @property
    def errors(self):
        """What the console shows as errors: logged ones, uncaught exceptions, what the browser itself objects to."""
        logged = [event for event in self.heard("Runtime.consoleAPICalled") if event["type"] in ("error", "assert")]
        objected = [event["entry"]["text"] for event in self.heard("Log.entryAdded")]
        return [*logged, *self.heard("Runtime.exceptionThrown"), *objected]

    def picture(self):
        """Return the whole page as PNG."""
        height = self.evaluate("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": self.width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


if __name__ == "__main__":
    page, picture, *others = sys.argv[1:]
    with Chromium(int(others[0]) if others else 1280, "dark" in others) as browser:
        browser.open(page)
        Path(picture).write_bytes(browser.picture())
