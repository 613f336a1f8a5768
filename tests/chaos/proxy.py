"""A TCP proxy that a test can make slow, deaf in one direction, or cruel; a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

_CHUNK_BYTES = 1 << 16
_LIMIT_BYTES = 1 << 24
"""What is taken from a sender while it is held back, so that the sender is done with it."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger

T = TypeVar("T")


class Way:
    """One direction of all connections.

    Attributes:
        delay_s: how long each piece of data takes.
        lost: data vanishes. What was lost never comes, so such a connection must end by `reset`.
    """

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.lost = False
        self.moves = threading.Event()  # set whenever something is passed on
        self.holds = threading.Event()  # set once something is held back
        self.held = b""  # what data must contain for its connection to be held
        self.open = asyncio.Event()
        self.open.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the sender ends."""
        while data := await reader.read(_CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.lost:
                continue
            if not self.open.is_set() and self.held in data:
                self.holds.set()
                await self.open.wait()
            writer.write(data)
            self.moves.set()
            await writer.drain()


class Proxy:
    """Listens on a port of loopback (0: a free one) and passes on to `target`. Use as a context manager.

    Attributes:
        up, down: the ways from the clients to the server and back.
        port: where it listens.
    """

    def __init__(self, target_port: int, host: str = "127.0.0.1", port: int = 0) -> None:
        self._target_port = target_port
        self._address = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.up, self.down = Way(), Way()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(
            asyncio.start_server(self._connected, *self._address, limit=_LIMIT_BYTES)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def target(self) -> str:
        """What a client connects to."""
        return f"127.0.0.1:{self.port}"

    def aim(self, port: int) -> None:
        """New connections go there; those that are open stay."""
        self._target_port = port

    def retarget(self, port: int) -> None:
        """New connections go there; those that are open end, as a load balancer ends them."""
        self.aim(port)
        self.reset()

    def reset(self) -> None:
        """Every connection ends with a TCP reset; new ones are carried faithfully again."""

        async def reset() -> None:
            self.up.lost = self.down.lost = False
            for writer in list(self._writers):
                _abort(writer)

        self._do(reset())

    def hold(self, way: Way, data: bytes = b"") -> None:
        """A connection on which such data comes waits with it, and all behind it, until `release`."""
        way.held = data
        way.holds.clear()
        self._call(way.open.clear)

    def release(self, way: Way) -> None:
        """What was held goes on its way."""
        self._call(way.open.set)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        onward: asyncio.StreamWriter | None = None
        try:
            back, onward = await asyncio.open_connection(
                "127.0.0.1", self._target_port, limit=_LIMIT_BYTES
            )
            self._writers.add(onward)
            ways = [
                asyncio.ensure_future(self.up.carry(reader, onward)),
                asyncio.ensure_future(self.down.carry(back, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # nobody listens there just now
        finally:
            for one in (writer, onward):
                if one is not None:
                    _abort(one)
                    self._writers.discard(one)
            self._tasks.discard(task)

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            _abort(writer)
        for way in (self.up, self.down):
            way.open.set()
        await asyncio.gather(*self._tasks)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _call(self, work: Callable[[], object]) -> None:
        async def call() -> None:
            work()

        self._do(call())


def _abort(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with suppress(OSError):  # it is closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
