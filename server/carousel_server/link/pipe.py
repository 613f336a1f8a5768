"""Messages between two processes of one server, over a socket without a name."""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

log = logging.getLogger(__name__)

Message = tuple[Any, ...]
"""Its kind, and what belongs to that: plain values, value types of `core`, errors."""

_LENGTH = struct.Struct("<I")
_CROWDED_BYTES = 128 << 20
"""So much unsent means that the other process takes less than it is told."""
_PATIENCE_S = 10.0
"""If it takes nothing at all of that for so long, it is given up."""


class Pipe(asyncio.Protocol):
    """One end. What a turn of the loop has to say is one frame: its length, and a pickle of its messages.

    Pickles are safe here and nowhere else: only the two processes of one server can reach the socket.
    """

    def __init__(self, take: Callable[[Message], None], lost: Callable[[], None]) -> None:
        """`take` gets each message, `lost` is called once the other end is gone; both on the loop."""
        self._take = take
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._unpacked = bytearray()
        self._waiting: deque[Message] = deque()
        # True while a flush is due; whoever finds it False makes it due.
        self._due = False
        self._written_bytes = 0
        # True while a crowded pipe is watched.
        self._watched = False

    # -- out: from any thread

    def post(self, *message: Any) -> None:
        """Sends a message, after those before it; never waits. Dropped once the other end is gone."""
        self._waiting.append(message)
        if not self._due:
            self._due = True
            with suppress(RuntimeError):  # the loop has ended: there is nobody to tell
                self._loop.call_soon_threadsafe(self._flush)

    @property
    def crowded(self) -> bool:
        """True if the other process takes less than it is told. On the loop."""
        transport = self._transport
        return transport is not None and transport.get_write_buffer_size() > _CROWDED_BYTES

    def close(self) -> None:
        """Ends the link; the other end hears of it. On the loop."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        self._due = False  # before the look: what comes after it is flushed once more
        messages = []
        while self._waiting:
            messages.append(self._waiting.popleft())
        transport = self._transport
        if not messages or transport is None or transport.is_closing():
            return
        data = pickle.dumps(messages, pickle.HIGHEST_PROTOCOL)
        transport.write(_LENGTH.pack(len(data)) + data)
        self._written_bytes += _LENGTH.size + len(data)
        if self.crowded and not self._watched:
            self._watched = True
            self._loop.call_later(_PATIENCE_S, self._look_for_progress, self._taken_bytes)

    @property
    def _taken_bytes(self) -> int:
        """How much the other process has taken."""
        assert self._transport is not None
        return self._written_bytes - self._transport.get_write_buffer_size()

    def _look_for_progress(self, before: int) -> None:
        self._watched = False
        transport = self._transport
        if transport is None or transport.is_closing() or not self.crowded:
            return
        if self._taken_bytes == before:
            log.error("the other process of this server takes nothing any more")
            transport.abort()
        else:
            self._watched = True
            self._loop.call_later(_PATIENCE_S, self._look_for_progress, self._taken_bytes)

    # -- in: on the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone, or this one was closed."""
        del exc
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Takes what has come; the rest of a frame that is not whole waits."""
        unpacked = self._unpacked
        unpacked += data
        at = 0
        while len(unpacked) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(unpacked, at)
            end = at + _LENGTH.size + size
            if len(unpacked) < end:
                break
            with memoryview(unpacked) as view:
                messages = pickle.loads(view[at + _LENGTH.size : end])  # noqa: S301 - see the class
            at = end
            self._take_all(messages)
        if at:
            del unpacked[:at]

    def _take_all(self, messages: list[Message]) -> None:
        for message in messages:
            try:
                self._take(message)
            except Exception:
                log.exception("a defect in the link: %s", message[0])


async def connect(
    end: socket.socket, take: Callable[[Message], None], lost: Callable[[], None]
) -> Pipe:
    """A pipe over one end of a pair of Unix sockets."""
    loop = asyncio.get_running_loop()
    _, pipe = await loop.create_unix_connection(lambda: Pipe(take, lost), sock=end)
    return pipe
