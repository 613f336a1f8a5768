"""What an Attach stream has to say: replies that wait for the client to read them."""

from __future__ import annotations

import asyncio
from collections import deque

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Bytes2D

from .calls import Context

_ROW_OVERHEAD_BYTES = 16
"""Most bytes that a handle (5) and a seq (10) take in a message, rounded up."""

_PAUSE_READING_AT_MESSAGES = 1024
"""So many unread replies, or a message's worth of bytes, stop the stream from taking more requests."""


class Outbox:
    """Replies in order, bounded three ways.

    A client that does not read is not read from either, so it cannot make more failures or replays, and
    gets no notices of the store.
    Outputs are bounded by the windows of its sessions. Should both still be too much, the stream
    ends: nothing is lost, because the outputs are kept until they are acknowledged. Used on the loop only.
    """

    def __init__(self, max_message_bytes: int, max_unsent_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_unsent_bytes = max_unsent_bytes
        self._waiting: deque[pb.AttachResponse] = deque()
        self._waiting_bytes = 0
        self._end: CarouselError | None = None
        # Set once nothing more is taken; what waits may still be on its way.
        self.ended = asyncio.Event()
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, reply: pb.AttachResponse) -> None:
        """Adds a reply."""
        if self.ended.is_set():
            return
        self._waiting.append(reply)
        self._waiting_bytes += reply.ByteSize()
        self._ready.set()
        if self.crowded():
            self._room.clear()
        if self._waiting_bytes > self._max_unsent_bytes:
            self._waiting.clear()
            self.end(self.unread())

    def put_outputs(
        self, handles: list[int], first_seqs: list[int], steps: int, rows: Bytes2D
    ) -> None:
        """Adds outputs, uint8[n, steps * output row], in as many messages as they need."""
        most = self._max_message_bytes
        row_bytes = rows.shape[1] + _ROW_OVERHEAD_BYTES
        if len(handles) * row_bytes <= most:
            self.put(_outputs(handles, first_seqs, steps, rows))
        elif len(handles) > 1:
            count = max(1, most // row_bytes)
            for at in range(0, len(handles), count):
                part = slice(at, at + count)
                self.put_outputs(handles[part], first_seqs[part], steps, rows[part])
        else:
            self._put_long(handles, first_seqs[0], steps, rows)

    def _put_long(self, handles: list[int], first_seq: int, steps: int, rows: Bytes2D) -> None:
        """Cuts many steps of one session; a single step that is too large goes as it is."""
        width = rows.shape[1] // steps
        count = max(1, (self._max_message_bytes - _ROW_OVERHEAD_BYTES) // width)
        for at in range(0, steps, count):
            part = rows[:, at * width : (at + count) * width]
            taken = part.shape[1] // width
            self.put(_outputs(handles, [first_seq + at], taken, part))

    def end(self, error: CarouselError | None) -> None:
        """Lets `write_to` return, or raise, after what is waiting now. Later replies are dropped."""
        if not self.ended.is_set():
            self._end = error
            self.ended.set()
            self._ready.set()
            self._room.set()

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

    async def room(self) -> None:
        """Returns when another request may be read."""
        if not self._room.is_set():
            await self._room.wait()

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
                    self._room.set()
                await context.write(data)
            if self.ended.is_set():
                break
            self._ready.clear()
            await self._ready.wait()
        if self._end is not None:
            raise self._end


def _outputs(
    handles: list[int], first_seqs: list[int], steps: int, rows: Bytes2D
) -> pb.AttachResponse:
    return pb.AttachResponse(
        outputs=pb.BlockResult(
            handles=handles, first_seqs=first_seqs, steps=steps, outputs=rows.tobytes()
        )
    )
