"""The real server as a process, and small random models for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

LSTM, GRU_BYTES, BILSTM = "lstm", "gru-bytes", "bilstm"
FEATURES = 4
"""Width of an input row of LSTM and BILSTM."""

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 30.0


def make_models(directory: Path) -> Path:
    """Writes the three models of the tests into `directory`, and returns it."""
    from carousel_models import create

    create(LSTM, cell="lstm", hidden=16, input=f"features:{FEATURES}", output=3, dir=directory)
    create(GRU_BYTES, cell="gru", hidden=16, input="tokens:256x8", dir=directory)
    create(
        BILSTM, cell="lstm", hidden=8, input="features:4", output=2, bidirectional=True,
        dir=directory,
    )  # fmt: skip
    return directory


class ServerProcess:
    """`python -m carousel_server` on free ports. Use it as a context manager.

    Attributes:
        host: the address that it listens on.
        port, metrics_port: its ports.
        http_port: that of its HTTP door, None while it is off.
        models: names of the served models.
        store: the name of its store.
        log: lines of stderr so far.
    """

    def __init__(
        self,
        models: Path,
        *,
        environment: Mapping[str, str] | None = None,
        inside: Sequence[str] = (),
        **settings: object,
    ) -> None:
        """`settings` become flags: `slots=4` is --slots 4, `strict=True` is --strict.

        `inside` is a command that runs another one in its place, such as nsenter in other namespaces.
        """
        given: dict[str, object] = {
            "port": 0, "metrics_port": 0, "http_port": "off", "device": "cpu",
            "front_ends": os.environ.get("TEST_FRONT_ENDS", "0"),
            "transport": os.environ.get("TEST_TRANSPORT", "auto"), **settings,
        }  # fmt: skip
        self.host = str(given.get("host", "127.0.0.1"))
        self._command = [*inside, sys.executable, "-m", "carousel_server", "--models", str(models)]
        for key, value in given.items():
            flag = key.replace("_", "-")
            if isinstance(value, bool):
                self._command.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                self._command += [f"--{flag}", str(value)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("CAROUSEL_")}
        self._environment = {**clean, "OMP_NUM_THREADS": "1", **(environment or {})}
        self.log: list[str] = []
        self.port = self.metrics_port = 0
        self.http_port: int | None = None
        self.models: list[str] = []
        self.store = ""

    def __enter__(self) -> ServerProcess:
        self.process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._reader = threading.Thread(target=self._read_log, args=(self.process.stderr,))
        self._reader.start()
        watchdog = threading.Timer(START_TIMEOUT_S, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        if not line:
            self.wait()
            raise AssertionError(f"the server did not start:\n{self.text}")
        ready = json.loads(line)
        assert ready["event"] == "ready"
        self.port, self.metrics_port = ready["port"], ready["metrics_port"]
        self.http_port = ready["http_port"]
        self.models, self.store = ready["models"], ready["store"]
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def target(self) -> str:
        """The target of clients."""
        return f"{self.host}:{self.port}"

    @property
    def http_url(self) -> str:
        """The HTTP door, without a slash at the end."""
        return f"http://{self.host}:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        """The metrics, as Prometheus reads them."""
        return f"http://{self.host}:{self.metrics_port}/metrics"

    def metrics_once(self, line: str) -> str:
        """The metrics as soon as they have `line`. Levels are updated a few times a second."""
        give_up = time.monotonic() + START_TIMEOUT_S
        while True:
            text = self.metrics_now()
            if line in text.splitlines():
                return text
            if time.monotonic() > give_up:
                raise AssertionError(f"the metrics never had {line!r}:\n{text}")
            time.sleep(0.05)

    def metrics_now(self) -> str:
        """The page of metrics."""
        with urllib.request.urlopen(self.metrics_url) as page:
            text: str = page.read().decode()
        return text

    @property
    def text(self) -> str:
        """The log so far."""
        return "".join(self.log)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Sends a signal and returns at once."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Waits for the end of the process. Returns its exit code."""
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join()
            for pipe in (self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()
        return code

    def stop(self) -> int:
        """Shuts the server down by SIGTERM. Returns its exit code. Idempotent."""
        if self.process.poll() is None:
            self.signal()
        return self.wait()

    def _read_log(self, stream: IO[str]) -> None:
        for line in stream:
            self.log.append(line)
