"""One life of a replica, as its supervisor sees it: the process, from its start to its end."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .config import Settings

Program = Sequence[str]
"""The command of a replica, without its number and the supervisor's process id."""

_LONGEST_LINE = 1 << 20
"""A line of stdout, in bytes. The first has the names of all models."""
_PIECE = 1 << 16
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound

Facts = Mapping[str, Any]
"""What a server prints when it is ready: `port`, `metrics_port`, `models` and others."""


def program() -> Program:
    """The command of real replicas. Custom modules are found in the same folders as here."""
    safe = [] if {"", str(Path.cwd())} & set(sys.path) else ["-P"]
    return (sys.executable, *safe, "-m", "carousel_server.process.replica")


class ReplicaProcess:
    """A process that serves. `ready` is awaited first, then `ended`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, number: int, settings: Settings, program: Program) -> ReplicaProcess:
        """Starts the process, and sends it its settings."""
        process = await asyncio.create_subprocess_exec(
            *program, str(number), str(os.getpid()),
            stdin=PIPE, stdout=PIPE, limit=_LONGEST_LINE,
            process_group=0,  # the supervisor handles Ctrl-C at a terminal
        )  # fmt: skip
        assert process.stdin is not None
        line = json.dumps(settings.model_dump(mode="json", exclude_unset=True))
        with suppress(ConnectionError):  # it has ended already
            process.stdin.write(line.encode() + b"\n")
            await process.stdin.drain()
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ready(self) -> Facts | None:
        """The facts that it prints when it is ready. None if it ends before."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            with suppress(ValueError):
                facts = json.loads(line)
                if isinstance(facts, dict) and facts.get("event") == "ready":
                    return facts
            _pass_on(line)
        return None

    async def ended(self) -> int:
        """Waits for its end. Returns the exit code, or -N for signal N. Passes its other lines on."""
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        while piece := await self._process.stdout.read(_PIECE):
            _pass_on(piece)
        code = await self._process.wait()
        self._process.stdin.close()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal. Nothing happens if the process has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


def is_alive(host: str, port: int, within_s: float) -> bool:
    """True if the server with this endpoint of metrics answers that it is alive. It blocks."""
    link = http.client.HTTPConnection(_ANY.get(host, host.strip("[]")), port, timeout=within_s)
    try:
        link.request("GET", "/livez")
        return link.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


def _pass_on(output: bytes) -> None:
    with suppress(OSError, ValueError):  # no one reads it, or it is closed
        sys.stdout.buffer.write(output)
        sys.stdout.flush()
