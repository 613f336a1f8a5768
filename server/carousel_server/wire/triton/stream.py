"""ModelStreamInfer: requests of any number of sequences, replies in the order of the requests.

One task reads and one writes, whatever the number of sequences. A reply that is ready before its turn
waits for the ones before it, as in Triton; who wants none to wait uses a stream for each sequence.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from carousel_server.core.errors import CarouselError
from carousel_server.wire.calls import Context
from carousel_server.wire.errors import count_refusal, named
from carousel_server.wire.gate import Gate
from carousel_server.wire.messages import post_of

from .asking import facts_of
from .parameters import SequenceId
from .replies import ReplyForm, stream_error
from .tally import Stopwatch

_PAUSE_READING_AT_REPLIES = 1024
"""So many requests whose reply the client has not read stop the stream from taking more."""


class Replies:
    """The replies of one stream: those that wait for their turn, and those to be written. On the loop.

    Bounded, because a stream with many replies to come, or to be read, is not read from.
    """

    def __init__(self, gate: Gate, most_bytes: int, *, errors_end: bool) -> None:
        """`errors_end`: an error ends the call with its status (`triton_grpc_error`)."""
        self.gate = gate
        self._errors_end = errors_end
        self._most_bytes = most_bytes
        self._loop = asyncio.get_running_loop()
        self._expected: deque[Expected] = deque()
        self._ready: deque[bytes] = deque()
        self._held_bytes = 0
        # Set while the writer, or the reader, has nothing to do.
        self._post: Callable[[bytes], bool] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._reader: asyncio.Future[None] | None = None
        self._end: CarouselError | None = None
        self._half_closed = False

    def expect(self, request_id: bytes, size: int) -> Expected:
        """The next place, for the reply to a request of `size` bytes."""
        expected = Expected(self, request_id, size)
        self._expected.append(expected)
        self._held_bytes += size
        return expected

    @property
    def has_room(self) -> bool:
        """True if another request may be read now."""
        return self._end is None and not self._crowded()

    async def room(self) -> bool:
        """Returns when another request may be read, or False if none is to be: the stream ends."""
        while self._crowded() and self._end is None:
            self._reader = self._loop.create_future()
            await self._reader
        return self._end is None

    def _crowded(self) -> bool:
        replies = len(self._expected) + len(self._ready)
        return replies >= _PAUSE_READING_AT_REPLIES or self._held_bytes > self._most_bytes

    def advance(self) -> None:
        """Takes the replies whose turn has come; none after the error that has ended the stream."""
        if self._end is not None:
            return
        expected, ready, post = self._expected, self._ready, self._post
        while expected and expected[0].reply:
            first = expected.popleft()
            if first.error is not None and self._errors_end:
                self.finish(first.error)
                return
            self._held_bytes -= first.size
            if ready or post is None or not post(first.reply):
                self._held_bytes += len(first.reply)
                ready.append(first.reply)
        if ready or self._half_closed:
            _wake(self._writer)
        if self._reader is not None and not self._crowded():
            _wake(self._reader)

    async def write_to(self, context: Context) -> None:
        """Writes replies as they come, until the end.

        Raises:
            CarouselError: what the stream was ended with.
        """
        ready, write = self._ready, context.write
        self._post = post_of(context)
        while True:
            while ready:
                reply = ready.popleft()
                await write(reply)
                self._held_bytes -= len(reply)
                if self._reader is not None and not self._crowded():
                    _wake(self._reader)
            if self._end is not None:
                raise self._end
            if self._half_closed and not self._expected:
                return
            self._writer = self._loop.create_future()
            await self._writer

    # -- the end

    def announce_drain(self, grace_s: float, *, hands_over: bool) -> None:
        """Triton's protocol has no word for it: new requests are refused, and health says so."""

    def finish(self, error: CarouselError) -> None:
        """Sends what is ready, then ends the stream with `error`."""
        if self._end is None:
            self._end = error
        _wake(self._writer)
        _wake(self._reader)

    def close_half(self) -> None:
        """The client sends nothing more, and waits for the replies to what it has sent."""
        self._half_closed = True
        _wake(self._writer)


class Expected:
    """The reply to one request of a stream, from when the request was read: the Answer of its step.

    Attributes:
        reply: the serialized message; empty until it is there.
        error: why it tells of a failure.
        size: of the request.
    """

    __slots__ = (
        "_form",
        "_replies",
        "_request_id",
        "_sequence_id",
        "_watch",
        "error",
        "reply",
        "size",
    )

    def __init__(self, replies: Replies, request_id: bytes, size: int) -> None:
        self._replies = replies
        self._request_id = request_id
        self.size = size
        self.reply = b""
        self.error: CarouselError | None = None
        self._form: ReplyForm | None = None
        self._sequence_id: SequenceId | None = None
        self._watch: Stopwatch | None = None

    def of(self, form: ReplyForm, sequence_id: SequenceId, watch: Stopwatch) -> None:
        """The request is understood."""
        self._form, self._sequence_id, self._watch = form, sequence_id, watch

    def done(self, row: bytes) -> None:
        """Takes the output row."""
        assert self._form is not None
        assert self._watch is not None
        try:
            self.reply = self._form.write(self._request_id, row)
        except CarouselError as error:
            self.failed(error, 0)
            return
        self._watch.succeeded()
        self._replies.advance()

    def failed(self, error: CarouselError, step: int) -> None:
        """Takes an error. The text names request, sequence and step: clients see nothing else of it."""
        if self._watch is not None:
            self._watch.failed()
        facts = facts_of(self._sequence_id, step)
        self.error = named(error, *facts)
        request_id = self._request_id.decode()
        text = (
            f"[request id: {request_id or '<id_unknown>'}] {error.message}. {error.spec.fix} "
            f"({', '.join((error.reason, *facts))})"
        )
        self.reply = stream_error(request_id, text)
        count_refusal(self._replies.gate.metrics, error)
        self._replies.advance()


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
