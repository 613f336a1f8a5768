"""What an Attach stream has to say: replies that wait for the client to read them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError

from .call import CallContext
from .messages import post_of

_PAUSE_READING_AT_MESSAGES = 1024
"""So many unread replies, or a message's worth of bytes, stop the stream from taking more requests."""


class Outbox:
    """Replies in order, bounded three ways.

    A client that does not read is not read from either, so it cannot make more failures or replays, and
    gets no notices of the store.
    Outputs are bounded by the windows of its sessions. Should both still be too much, the stream
    ends: nothing is lost, because the outputs are kept until they are acknowledged. Used on the loop only.

    Attributes:
        max_message_bytes: of one reply.
        ended: nothing more is taken; what waits may still be in flight.
        has_room: another request may be read.
    """

    def __init__(self, max_message_bytes: int, max_unsent_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self._max_unsent_bytes = max_unsent_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._post: Callable[[bytes], bool] | None = None
        self._end: CarouselError | None = None
        self.ended = asyncio.Event()
        self._ready = asyncio.Event()
        self.has_room = asyncio.Event()
        self.has_room.set()

    def put(self, reply: pb.AttachResponse) -> None:
        """Adds a reply."""
        if self.ended.is_set():
            return
        data = reply.SerializeToString()
        if self._post is not None and not self._waiting and self._post(data):
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self._ready.set()
        if self.crowded():
            self.has_room.clear()
        if self._waiting_bytes > self._max_unsent_bytes:
            self._waiting.clear()
            self.end(self.unread())

    def end(self, error: CarouselError | None) -> None:
        """Lets `write_to` return, or raise, after what is waiting now. Later replies are dropped."""
        if not self.ended.is_set():
            self._end = error
            self.ended.set()
            self._ready.set()
            self.has_room.set()

    def crowded(self) -> bool:
        """True if there is enough to read, so that no more should be asked for."""
        return (
            len(self._waiting) >= _PAUSE_READING_AT_MESSAGES
            or self._waiting_bytes > self.max_message_bytes
        )

    def unread(self) -> CarouselError:
        """Why a stream ends whose client does not read."""
        limit = self._max_unsent_bytes
        return CarouselError(
            "WINDOW_EXCEEDED",
            "the client does not read its replies; outputs are kept until acknowledged",
            metadata={"limit": limit},
            retry_after_s=1.0,
        )

    async def write_to(self, context: CallContext) -> None:
        """Writes replies as they come, until the end.

        Raises:
            CarouselError: what the stream was ended with.
        """
        self._post = post_of(context)
        while True:
            while self._waiting:
                data = self._waiting.popleft()
                self._waiting_bytes -= len(data)
                if not self.crowded():
                    self.has_room.set()
                await context.write(data)
            if self.ended.is_set():
                break
            self._ready.clear()
            await self._ready.wait()
        if self._end is not None:
            raise self._end
