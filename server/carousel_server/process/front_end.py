"""A front end as a program: the wire in a process without engines, at one end of a link.

The server starts it as `python -m carousel_server.process.front_end FD`, where FD is the socket of the link.
It listens, drains and stops by requests of the server, and ends with the process that has the engines. It
ignores signals, which that process receives too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from carousel_server.core.types import ModelView
from carousel_server.link import Front, connect
from carousel_server.link.meters import PostedMetrics
from carousel_server.link.pipe import Message, Pipe
from carousel_server.wire import ListenError, WireOptions

from .doors import Doors, Ports
from .logs import configure_logging
from .runtime import raise_file_limit, run


@dataclass(frozen=True, slots=True)
class Greeting:
    """The options of a front end at its start."""

    models: Sequence[ModelView]
    options: WireOptions
    log_level: str
    log_format: str
    replica: int | None = None


class FrontEnd:
    """Runs the requests of the server: "start", "drain" and "stop". Each is answered with "did"."""

    def __init__(self) -> None:
        self._pipe: Pipe
        self._front: Front | None = None
        self._metrics: PostedMetrics | None = None
        self._wire: Doors | None = None
        # Requests run one after the other.
        self._verbs: asyncio.Queue[Message] = asyncio.Queue()

    async def serve(self, end: socket.socket) -> int:
        """Never returns. The process ends with the link."""
        self._pipe = await connect(end, self._take, _end)
        while True:
            verb, *arguments = await self._verbs.get()
            answer = await getattr(self, f"_{verb}")(*arguments)
            self._pipe.post("did", verb, answer)

    def _take(self, message: Message) -> None:
        if message[0] in ("start", "drain", "stop"):
            self._verbs.put_nowait(message)
        else:
            assert self._front is not None, "the front end was not started"
            self._front.take(message)

    async def _start(self, greeting: Greeting) -> Ports | str:
        """Listens. Answers with the ports, or with the cause of a failure."""
        configure_logging(greeting.log_level, greeting.log_format, greeting.replica)
        raise_file_limit()
        self._front = front = Front(greeting.models, greeting.options.tenants)
        front.pipe = self._pipe
        self._metrics = PostedMetrics(self._pipe.post, front.ask)
        self._wire = Doors(front, greeting.options, self._metrics)
        try:
            await self._wire.start()
        except ListenError as error:
            return str(error)
        return self._wire.ports

    async def _drain(self, grace_s: float, hands_over: bool) -> None:
        if self._wire is not None:
            await self._wire.drain(grace_s, hands_over=hands_over)

    async def _stop(self, grace_s: float) -> None:
        if self._wire is not None and self._metrics is not None:
            await self._wire.stop(grace_s)
            self._metrics.flush()


def _end() -> Any:
    """Ends the process, because the server has ended or closed the link."""
    os._exit(0)


def main(arguments: Sequence[str]) -> int:
    """Serves until the link ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return run(FrontEnd().serve(socket.socket(fileno=int(arguments[0]))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
