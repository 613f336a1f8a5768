"""The demo's child processes: a server, and a process for each crew. All end with the demo."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from carousel.cli.exits import CliError

from .plan import Crew
from .tally import Report, decode

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 8.0
LOG_LINES = 3


def stopped(process: subprocess.Popen[str]) -> int:
    """Waits for a process to end. Kills it if that takes too long."""
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class ServerProcess:
    """`carousel serve` on free ports, in its own process group.

    Only the demo receives Ctrl-C. It then stops the clients first and the server last. With a `store` the
    server can be killed and started again on the same ports.
    """

    def __init__(self, models: Path, device: str, store: Path | None = None) -> None:
        self.address = ""
        self.metrics_address = ""
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._serve = ["serve", "--models", str(models), "--device", device, "--host", HOST]
        self._serve += ["--set", f"metrics_host={HOST}", "--set", "log_level=warning"]
        if store is not None:
            self._serve += ["--store", f"sqlite:{store}"]
        self._process = self._started("0", "0")

    def _started(self, port: str, metrics_port: str) -> subprocess.Popen[str]:
        ports = ["--port", port, "--metrics-port", metrics_port, "--http-port", "off"]
        return subprocess.Popen(
            [sys.executable, "-m", "carousel.cli.main", *self._serve, *ports],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, text=True,
            start_new_session=True,
        )  # fmt: skip

    def kill(self) -> None:
        """Sends SIGKILL, and waits for the end of the process."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start_again(self) -> None:
        """Starts a new process with the same ports and store, and waits until it listens.

        Raises:
            CliError: it does not listen in time.
        """
        ports = (address.rpartition(":")[2] for address in (self.address, self.metrics_address))
        self._process = self._started(*ports)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Waits until the server listens. It prints its addresses as one line of JSON.

        Raises:
            CliError: it has ended or is not ready in time. The message has the end of its log.
        """
        assert self._process.stdout is not None
        watchdog = threading.Timer(START_TIMEOUT_S, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            self._process.wait()
            cause, _, fix = self.log_tail().partition(" | fix: ")
            cause = cause.rpartition("carousel: ")[2]
            raise CliError(f"the server ended before it was ready: {cause}", fix)
        ready = json.loads(line)
        self.address = f"{HOST}:{ready['port']}"
        self.metrics_address = f"{HOST}:{ready['metrics_port']}"

    def died(self) -> str:
        """The end of the server's log if it has ended, else ""."""
        return "" if self._process.poll() is None else f"the server has died: {self.log_tail()}"

    def log_tail(self) -> str:
        """The last lines of the server's log."""
        self._log.seek(0)
        return " | ".join(line.strip() for line in self._log.readlines()[-LOG_LINES:])

    def close(self) -> int:
        """Makes the server drain and end. Returns its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        code = stopped(self._process)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()
        return code


class CrewProcess:
    """The process of one crew. `on_report` is called on its own thread."""

    def __init__(self, crew: Crew, server: str, on_report: Callable[[Crew, Report], None]) -> None:
        self.crew = crew
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe could fill up
        self._process = subprocess.Popen(
            [sys.executable, "-m", "carousel.cli.demo.crew",
             crew.role, crew.model, str(crew.clients), server],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints, text=True,
            start_new_session=True,
        )  # fmt: skip
        self._on_report = on_report
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._on_report(self.crew, decode(line))

    def ask_to_end(self) -> None:
        """Closes the process's stdin, which ends it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def close(self) -> str:
        """Waits for the end of the process. Returns the cause of a failure, or ""."""
        self.ask_to_end()
        code = stopped(self._process)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        with self._complaints as file:
            file.seek(0)
            complaints = file.read().strip().splitlines()
        if code == 0:
            return ""
        return complaints[-1] if complaints else f"exit code {code}"
