"""Headless Chromium, driven by its DevTools protocol over pipes."""

from __future__ import annotations

import base64
import itertools
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_S = 90.0

_FLAGS = (
    "--no-sandbox",  # it loads our own pages only, and containers often allow no sandbox
    *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-extensions", "--disable-background-networking", "--hide-scrollbars"),
    *("--force-color-profile=srgb", "--remote-debugging-pipe"),
)


class Browser:
    """A browser with one page. Use it as a context manager.

    Attributes:
        complaints: errors that pages wrote: uncaught exceptions, refused loads, failed requests.
    """

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._ids = itertools.count(1)
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._session = ""

    def __enter__(self) -> Browser:
        assert CHROMIUM is not None, "there is no Chromium"
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"]
        # Chromium reads commands at descriptor 3 and answers at 4. One of ours may have such a number.
        script = f'exec 8<&{in_read} 9>&{out_write}; exec "$@" 3<&8 4>&9 8<&- 9>&-'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(in_read, out_write), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(in_read)
        os.close(out_write)
        self._write = os.fdopen(in_write, "wb", buffering=0)
        self._reader = threading.Thread(target=self._read, args=(out_read,), daemon=True)
        self._reader.start()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._write.close()  # Chromium ends with its pipe
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(20)
        self._folder.cleanup()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Runs a command of the protocol and returns its result."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._answers.get(timeout=WAIT_S)
            if answer["id"] == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def run(self, script: str) -> Any:
        """The value of an expression in the page. A promise is awaited."""
        done = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, (script, done["exceptionDetails"])
        return done["result"].get("value")

    def wait(self, script: str) -> Any:
        """Waits until an expression is true in the page, and returns its value."""
        ends_s = time.monotonic() + WAIT_S
        while not (value := self.run(script)):
            assert time.monotonic() < ends_s, f"never true: {script}\n{self.complaints}"
            time.sleep(0.1)
        return value

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Loads a page at a size in CSS pixels, in the light or the dark theme."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[theme])
        self.send("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({url!r}) && document.readyState === 'complete'")

    def press(self, key: str) -> None:
        """Presses a key, such as Tab or Enter."""
        codes = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowUp": 38}
        text = {"text": "\r"} if key == "Enter" else {}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Writes what is seen, or the whole page, as PNG."""
        taken = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _read(self, descriptor: int) -> None:
        rest = b""
        with os.fdopen(descriptor, "rb", buffering=0) as pipe:
            while part := pipe.read(1 << 16):
                *messages, rest = (rest + part).split(b"\0")
                for message in map(json.loads, messages):
                    if "id" in message:
                        self._answers.put(message)
                    else:
                        self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event["method"], event["params"]
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
