"""Drives a headless Chromium over a pipe, by the DevTools protocol
(https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support.waiting import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
ANSWER_S = 60.0
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), " ": (32, " ")}
OPTIONS = (
    "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-extensions",
    "--hide-scrollbars", "--force-color-profile=srgb", "--no-proxy-server", "--mute-audio",
)  # fmt: skip

LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Script that gives the browser its pipes: the protocol is spoken on descriptors 3 and 4."""


def _raised(descriptor: int) -> int:
    """Moves a descriptor out of the way of 3 and 4."""
    raised = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return raised


def find_chromium() -> str | None:
    """Returns the path of a Chromium; None where there is none."""
    named = os.environ.get("POMONA_TEST_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    return found or (str(MAC) if MAC.exists() else None)


class ChromiumError(Exception):
    """Chromium refused a command, or a script in a page failed."""


class Chromium:
    """A headless browser. Each page is a :class:`Page`."""

    def __init__(self, path: str, profile: str) -> None:
        reading, self._write = os.pipe()
        self._read, writing = os.pipe()
        to_browser, from_browser = _raised(reading), _raised(writing)
        options = [*OPTIONS, f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            options.append("--no-sandbox")
        launcher = [sys.executable, "-c", LAUNCHER, str(to_browser), str(from_browser), path]
        self._process = subprocess.Popen(
            [*launcher, *options, "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._numbers = itertools.count(1)
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str = "", **parameters: Any) -> Any:
        """Sends a command and returns its result. Raises ChromiumError."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        ends_at = time.monotonic() + ANSWER_S
        while True:
            answer = self._receive(ends_at - time.monotonic(), method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise ChromiumError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _receive(self, within_s: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(within_s, 0.0))
            part = os.read(self._read, 1 << 20) if ready else b""
            if not part:
                raise ChromiumError(f"Chromium did not answer {method}")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str, width: int = 1440, height: int = 900) -> Page:
        """Opens a page in a new window."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, target, attached["sessionId"])
        page.send("Page.enable")
        page.send("Runtime.enable")
        page.send("Log.enable")
        page.resize(width, height)
        page.go(url)
        return page

    def close(self) -> None:
        """Ends the browser and all of its processes."""
        with suppress(ChromiumError, OSError):
            self.send("Browser.close")
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(60)
        os.close(self._write)
        os.close(self._read)


class Page:
    """One page of a browser."""

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session

    def send(self, method: str, **parameters: Any) -> Any:
        return self._browser.send(method, self._session, **parameters)

    def go(self, url: str) -> None:
        """Loads a URL and waits for the document."""
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'", f"{url} is loaded")

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, script: str) -> Any:
        """Returns the value of an expression, awaited. Raises ChromiumError when it throws."""
        result = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if details := result.get("exceptionDetails"):
            raise ChromiumError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    def wait(self, condition: str, what: str, within_s: float = 60.0) -> None:
        """Waits until an expression is true."""
        try:
            wait_until(lambda: self.evaluate(f"Boolean({condition})"), what, within_s)
        except TimeoutError as error:
            text = self.text()[:4000]
            raise TimeoutError(f"{error}; the page says:\n{text}") from error

    def text(self) -> str:
        """Returns what the page shows."""
        return self.evaluate("document.body.innerText")

    def wait_for_text(self, text: str, within_s: float = 60.0) -> None:
        script = f"document.body.innerText.toLowerCase().includes({json.dumps(text.lower())})"
        self.wait(script, f"the page says {text!r}", within_s)

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key: str, shift: bool = False) -> None:
        code, text = KEYS[key]
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path: Path) -> None:
        """Writes a PNG of the whole page."""
        content = self.send("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(content["data"]))

    def messages(self) -> list[str]:
        """Returns the errors and warnings of this page so far: of its console and the browser's."""
        found: list[str] = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            parameters = event["params"]
            match event["method"]:
                case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                    found.append(parameters["entry"]["text"])
                case "Runtime.exceptionThrown":
                    details = parameters["exceptionDetails"]
                    found.append(details.get("exception", {}).get("description", details["text"]))
                case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning"):
                    found.append(str(parameters["args"]))
                case _:
                    pass
        return found

    def close(self) -> None:
        self._browser.send("Target.closeTarget", targetId=self._target)


@contextmanager
def chromium(path: str) -> Generator[Chromium]:
    """Runs a browser while the block runs."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Chromium(path, profile)
        try:
            yield browser
        finally:
            browser.close()
