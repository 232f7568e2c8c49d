"""A headless Chromium without internet, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

NAMES = ("chromium", "chromium-browser", "google-chrome")
NO_INTERNET = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
WITHIN_S = 180
"""A limit for what hangs: no test asserts that a page is quick."""


class Page:
    """One tab: what it runs, what it shows, what it asked of other hosts, and the errors in its console."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._calls = 0
        self.failed: list[str] = []
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; what the page reports meanwhile is noted."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=WITHIN_S))
            if message.get("id") == self._calls:
                assert "error" not in message, (method, message["error"])
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:", "file:")):
                self.failed.append(f"asked for {url}")
        elif message.get("method") == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            self.failed.append(details.get("exception", {}).get("description") or details["text"])
        elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.errors.append(message["params"]["entry"]["text"])

    def open(self, url: str) -> None:
        # Of two addresses that differ only behind the #, the browser would not load the second.
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, promises waited for."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return done["result"].get("value")

    def until(self, expression: str, seconds: float = WITHIN_S) -> Any:
        """The value of an expression as soon as it is something; one that cannot be had yet is nothing."""
        deadline = time.monotonic() + seconds
        why: object = None
        while time.monotonic() < deadline:
            try:
                found = self.ask(expression)
            except AssertionError as error:
                found, why = None, error
            if found:
                return found
            time.sleep(0.2)
        raise AssertionError(f"not within {seconds} s: {expression} ({why}); {self.failed}")

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def found() -> str | None:
    """Where Chromium is, if it is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def opened(width: int = 1440, height: int = 900) -> Iterator[Page]:
    """A page of a browser of its own, which can reach nothing but this machine."""
    from websockets.sync.client import connect

    program = found()
    assert program is not None
    with TemporaryDirectory(prefix="tune-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                program, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", NO_INTERNET,
                "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
                "--disable-component-update", f"--window-size={width},{height}",
                *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = _debugging_port(Path(profile), process)
            with urlopen(f"http://127.0.0.1:{port}/json") as answer:
                address = next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
            with connect(address, max_size=None, proxy=None) as socket:
                page = Page(socket)
                page.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=height, deviceScaleFactor=1, mobile=False,
                )  # fmt: skip
                yield page
        finally:
            process.terminate()
            process.wait(30)


def _debugging_port(profile: Path, process: subprocess.Popen[bytes]) -> str:
    file = profile / "DevToolsActivePort"
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
        if lines:
            return lines[0]
        time.sleep(0.1)
    raise AssertionError(f"Chromium did not start within {WITHIN_S} s (exit code {process.poll()})")
