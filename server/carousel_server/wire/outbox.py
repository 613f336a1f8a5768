"""What an Attach stream has to say: replies that wait for the client to read them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Bytes2D

from .calls import Context

_ROW_OVERHEAD_BYTES = 16
"""Most bytes that a handle (5) and a seq (10) take in a message, rounded up."""

_PAUSE_READING_AT_MESSAGES = 1024
"""So many unread replies, or a message's worth of bytes, stop the stream from taking more requests."""

_Outputs = tuple[list[int], list[int], int, Bytes2D]
"""Handles, their first seqs, how many steps of each, and the outputs of these."""


class Outbox:
    """Replies in order, bounded three ways.

    A client that does not read is not read from either, so it cannot make more failures or replays, and
    gets no notices of the store.
    Outputs are bounded by the windows of its sessions. Should both still be too much, the stream
    ends: nothing is lost, because the outputs are kept until they are acknowledged. Used on the loop only.

    Attributes:
        ended: nothing more is taken; what waits may still be in flight.
        has_room: another request may be read.
    """

    def __init__(self, max_message_bytes: int, max_unsent_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_unsent_bytes = max_unsent_bytes
        self._waiting: deque[pb.AttachResponse] = deque()
        self._waiting_bytes = 0
        self._end: CarouselError | None = None
        self.ended = asyncio.Event()
        self._ready = asyncio.Event()
        self.has_room = asyncio.Event()
        self.has_room.set()

    def put(self, reply: pb.AttachResponse) -> None:
        """Adds a reply."""
        if self.ended.is_set():
            return
        self._waiting.append(reply)
        self._waiting_bytes += reply.ByteSize()
        self._ready.set()
        if self.crowded():
            self.has_room.clear()
        if self._waiting_bytes > self._max_unsent_bytes:
            self._waiting.clear()
            self.end(self.unread())

    def put_outputs(
        self, handles: list[int], first_seqs: list[int], steps: int, rows: Bytes2D
    ) -> None:
        """Adds outputs, uint8[n, steps * output row], in as many messages as they need."""
        parts = [(handles, first_seqs, steps, rows)]
        if len(handles) * (rows.shape[1] + _ROW_OVERHEAD_BYTES) > self._max_message_bytes:
            parts = list(self._cut(handles, first_seqs, steps, rows))
        for handles, first_seqs, steps, rows in parts:
            result = pb.BlockResult(
                handles=handles, first_seqs=first_seqs, steps=steps, outputs=rows.tobytes()
            )
            self.put(pb.AttachResponse(outputs=result))

    def _cut(
        self, handles: list[int], first_seqs: list[int], steps: int, rows: Bytes2D
    ) -> Iterator[_Outputs]:
        """Parts that fit into a message each. A single step that is too large goes as it is."""
        most, row_bytes = self._max_message_bytes, rows.shape[1] + _ROW_OVERHEAD_BYTES
        if row_bytes <= most:
            count = most // row_bytes
            for at in range(0, len(handles), count):
                part = slice(at, at + count)
                yield handles[part], first_seqs[part], steps, rows[part]
            return
        width = rows.shape[1] // steps
        count = max(1, (most - _ROW_OVERHEAD_BYTES) // width)
        for i, (handle, first_seq) in enumerate(zip(handles, first_seqs, strict=True)):
            for at in range(0, steps, count):
                piece = rows[i : i + 1, at * width : (at + count) * width]
                yield [handle], [first_seq + at], piece.shape[1] // width, piece

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
            or self._waiting_bytes > self._max_message_bytes
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

    async def write_to(self, context: Context) -> None:
        """Writes replies as they come, until the end.

        Raises:
            CarouselError: what the stream was ended with.
        """
        while True:
            while self._waiting:
                reply = self._waiting.popleft()
                data = reply.SerializeToString()
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
