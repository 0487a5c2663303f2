"""A browser that a test drives: Chromium's DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

SECONDS: Final = 240.0
"""For anything a page does; a tiny model takes a few, on a busy machine many."""

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")

LAUNCH: Final = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Becomes the browser, with its pipes where it looks for them."""


class Page:
    """One page of a running browser."""

    def __init__(self, read: int, write: int) -> None:
        """Take the pipes, and open an empty page."""
        self._read, self._write = read, write
        self._buffer, self._number, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; returns its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, address: str, size: tuple[int, int], scheme: str) -> None:
        """Go to an address, in a window of this size, on a `light` or `dark` system."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=address)

    def wait_for(self, script: str) -> Any:
        """Wait until a JavaScript expression is true; returns its value."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if found := self.run(script):
                return found
            time.sleep(0.1)
        raise AssertionError(f"still not true: {script}; the page says: {self.text()}")

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.run("document.body?.innerText"))

    def screenshot(self, path: Path) -> None:
        """Write what the window shows into a .png file."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 16)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browsing(browser: str, profile: Path) -> Iterator[Page]:
    """Start a browser; it has ended when the context is left.

    Args:
        browser: The program.
        profile: A folder for what it keeps.
    """
    (commands, ours_out), (ours_in, events) = os.pipe(), os.pipe()
    # Away from the places that they are to be put at.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, events)]
    options = (
        "--headless=new",
        "--no-sandbox",  # which root may not use
        "--disable-gpu",
        "--disable-dev-shm-usage",  # containers have little of it
        "--hide-scrollbars",
        "--remote-debugging-pipe",  # commands come in at 3, events go out at 4
        f"--user-data-dir={profile}",
    )
    process = subprocess.Popen(
        [sys.executable, "-ISc", LAUNCH, *map(str, theirs), browser, *options],
        pass_fds=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (commands, events, *theirs):
        os.close(end)
    try:
        yield Page(ours_in, ours_out)
    finally:
        process.kill()
        process.wait()
        os.close(ours_in)
        os.close(ours_out)
