"""A front end as a program: the wire in a process without engines, at one end of a link.

Started by the server as `python -m carousel_server.front_end FD`, where FD is the socket of the link. It
has no will of its own: it listens, drains and stops when it is told, and ends with the process that has
the engines. Signals are for that process, which gets them too.
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
from carousel_server.wire import ListenError, WireOptions, WireServer

from .logs import configure_logging
from .runtime import raise_file_limit, run


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a front end must know at start."""

    models: Sequence[ModelView]
    options: WireOptions
    log_level: str
    log_format: str


class FrontEnd:
    """Obeys the verbs of the server: "start", "drain" and "stop", each answered by "did"."""

    def __init__(self) -> None:
        self._pipe: Pipe
        self._front: Front | None = None
        self._metrics: PostedMetrics | None = None
        self._wire: WireServer | None = None
        # Verbs are done one after the other.
        self._verbs: asyncio.Queue[Message] = asyncio.Queue()

    async def serve(self, end: socket.socket) -> int:
        """Returns never: the process ends when the link does."""
        self._pipe = await connect(end, self._take, _end)
        while True:
            verb, *arguments = await self._verbs.get()
            answer = await getattr(self, f"_{verb}")(*arguments)
            self._pipe.post("did", verb, answer)

    def _take(self, message: Message) -> None:
        if message[0] in ("start", "drain", "stop"):
            self._verbs.put_nowait(message)
        else:
            assert self._front is not None, "nothing can be told before the start"
            self._front.take(message)

    async def _start(self, greeting: Greeting) -> int | str:
        """Listens; answers the port, or why not."""
        configure_logging(greeting.log_level, greeting.log_format)
        raise_file_limit()
        self._front = front = Front(greeting.models, greeting.options.tenants)
        front.pipe = self._pipe
        self._metrics = PostedMetrics(self._pipe.post)
        self._wire = WireServer(front, greeting.options, self._metrics)
        try:
            await self._wire.start()
        except ListenError as error:
            return str(error)
        return self._wire.port

    async def _drain(self, grace_s: float) -> None:
        if self._wire is not None:
            await self._wire.drain(grace_s)

    async def _stop(self, grace_s: float) -> None:
        if self._wire is not None and self._metrics is not None:
            await self._wire.stop(grace_s)
            self._metrics.flush()


def _end() -> Any:
    """The server is gone, or has ended the link: nothing here is worth keeping."""
    os._exit(0)


def main(arguments: Sequence[str]) -> int:
    """Serves until the link ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return run(FrontEnd().serve(socket.socket(fileno=int(arguments[0]))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
