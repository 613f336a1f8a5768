"""The harness's side of the processes of clients."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.chaos.load import PATIENCE_S

from . import records
from .client import Work
from .network import Host
from .records import Record


class ApplicationError(AssertionError):
    """An application got an error where none is promised. `names` counts them by their names."""

    def __init__(self, who: str, names: Counter[str], text: str) -> None:
        super().__init__(f"{who}: {text}")
        self.names = names


class ClientProcess:
    """One process on a host of its own."""

    def __init__(self, host: Host, work: Work) -> None:
        self.host = host
        self.sessions = self.steps = 0
        self._file = Path(work.file)
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        command = [*host.inside, sys.executable, "-m", "tests.cluster.client", work.text()]
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        threading.Thread(target=self._read, name=host.name, daemon=True).start()

    def say(self, line: str) -> None:
        """A line for its standard input."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and has said why

    def hears(self, event: str) -> None:
        """Waits for its answer.

        Raises:
            ApplicationError: a session has failed instead.
        """
        try:
            answer = self._answers.get(timeout=3 * PATIENCE_S)
        except queue.Empty:
            raise AssertionError(f"{self.host.name} hangs") from None
        self.steps = answer.get("steps", self.steps)
        self.sessions = answer.get("sessions", self.sessions)
        if answer["event"] == "failed":
            raise ApplicationError(self.host.name, Counter(answer["errors"]), answer["text"])
        assert answer["event"] == event, answer

    def record(self) -> Record:
        """What it has got, after it has finished."""
        return records.load(self._file)

    def kill(self) -> None:
        """Ends it, whatever it is at."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        ended = {"event": "failed", "errors": {"Ended": 1}, "text": "the process has ended"}
        self._answers.put(ended)


def all_do(clients: Sequence[ClientProcess], line: str, event: str) -> None:
    """Says a line to all, and waits until each has answered.

    Raises:
        ApplicationError: a session of any of them has failed; with the errors of all.
    """
    for client in clients:
        client.say(line)
    names: Counter[str] = Counter()
    texts = []
    for client in clients:
        try:
            client.hears(event)
        except ApplicationError as error:
            names += error.names
            texts.append(str(error))
    if texts:
        raise ApplicationError("clients", names, "\n".join(texts))
