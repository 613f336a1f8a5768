"""One call at the native transport: what handlers know as grpc.aio's ServicerContext."""

from __future__ import annotations

import asyncio
import base64
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import grpc

from carousel_server.wire.messages import Gather, Take

Metadata = Sequence[tuple[str, str | bytes]]

_READ_AHEAD = 32
"""Messages that a call may have before its handler takes them. More are asked for at half of it."""

_UNSENT_BYTES = 128 << 10
"""Bytes that a handler may write before it waits for the transport."""

_TEXT = "".join(chr(c) for c in range(0x20, 0x7F) if c != ord("%"))
"""Characters of grpc-message that stand for themselves."""


class Orders(Protocol):
    """The transport, as a call sees it."""

    def read(self, call: int, messages: int) -> None:
        """Lets so many more messages come."""

    def send(self, call: int, message: bytes) -> None:
        """Sends one message."""

    def notify(self, call: int) -> None:
        """Asks to be told when all is sent."""

    def finish(self, call: int, trailers: Sequence[tuple[bytes, bytes]]) -> None:
        """Ends the call."""


class NativeCall:
    """The context of a call, and its requests as an asynchronous iterator. On the loop only."""

    def __init__(
        self, orders: Orders, number: int, path: str, timeout_us: int, fields: list[bytes]
    ) -> None:
        """`fields`: peer, the count of the certificate's names, these names, then metadata in pairs."""
        self.path = path
        self.task: asyncio.Task[None] | None = None
        self.parse: Callable[[bytes], Any] | None = None
        self.serialize: Callable[[Any], bytes] | None = None
        self._orders = orders
        self._number = number
        self._fields = fields
        self._ends_s = None if timeout_us < 0 else time.monotonic() + timeout_us / 1e6
        # Requests that have come, and how many more may come without another order.
        self._messages: deque[bytes] = deque()
        self._granted = 0
        self._ended = False
        # Why nothing more can be read, if that is not the client's wish.
        self._broken: Exception | None = None
        self._wake: asyncio.Future[None] | None = None
        # While requests are fed: who takes them, what is awaited before the next one, and the end of it.
        self._taker: Take | None = None
        # Where requests go in place of the taker while nothing waits for it.
        self._gather: Gather | None = None
        self.gather: Gather | None = None
        self.owner: Any = None
        self._pause: asyncio.Future[bool] | None = None
        self._fed: asyncio.Future[None] | None = None
        self._unsent = 0
        self._sent: asyncio.Future[None] | None = None
        self._trailing: Metadata = ()
        self._code: grpc.StatusCode | int = grpc.StatusCode.OK
        self.begun = self.finished = False

    # -- what the transport tells

    def message(self, data: bytes) -> None:
        """A request has come."""
        self._granted -= 1
        if self._taker is not None:
            self.offer(data)
        else:
            self._messages.append(data)
            self._awake()

    def count(self) -> None:
        """A request has come, and goes to the gather."""
        self._granted -= 1
        if self._granted <= _READ_AHEAD // 2 and not self._ended:
            self._grant(_READ_AHEAD)

    def offer(self, data: bytes) -> None:
        """A request that the gather does not take; see `Gathered.offer`."""
        self._messages.append(data)
        if self._taker is not None:
            self._feed()

    def fail(self, error: Exception) -> None:
        """See `Gathered.fail`."""
        if self._taker is not None:
            self._stop_feeding(error)

    def end(self) -> None:
        """No request follows."""
        self._ended = True
        if self._taker is not None:
            self._feed()
        else:
            self._awake()

    def break_off(self, error: Exception) -> None:
        """The next request cannot be read. The handler gets those before it, and then `error`."""
        self._broken = error
        self.end()

    def sent(self) -> None:
        """All that was written is with the transport."""
        self._unsent = 0
        if self._sent is not None and not self._sent.done():
            self._sent.set_result(None)

    def gone(self) -> None:
        """The client has ended the call, or the connection is lost."""
        self.finished = True
        # A handler that has not begun must still be counted: it finds out at its first read.
        if self.begun and self.task is not None:
            self.task.cancel()

    def _awake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # -- requests

    async def read(self) -> Any:
        """The next request, or EOF."""
        while not self._messages:
            if self._broken is not None:
                raise self._broken
            if self._ended:
                return grpc.aio.EOF
            if self.finished:
                raise asyncio.CancelledError
            self._grant(1)
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        return self._take()

    def __aiter__(self) -> NativeCall:
        return self

    async def __anext__(self) -> Any:
        if not self._messages:
            if not self._ended and self._granted <= _READ_AHEAD // 2:
                self._grant(_READ_AHEAD)
            data = await self.read()
            if data is grpc.aio.EOF:
                raise StopAsyncIteration
            return data
        if not self._ended and self._granted <= _READ_AHEAD // 2:
            self._grant(_READ_AHEAD)
        return self._take()

    async def feed(self, take: Take, gather: Gather | None = None, owner: Any = None) -> None:
        """Gives each request to `take` in the turn of the loop in which it comes; see `for_each`."""
        if self.finished:  # it was given up before its handler had begun
            raise asyncio.CancelledError
        self._taker, self._fed = take, asyncio.get_running_loop().create_future()
        self._gather, self.owner = gather, owner
        try:
            self._feed()
            await self._fed
        finally:
            self._taker = self._gather = self.gather = self.owner = None
            if self._pause is not None:
                self._pause.cancel()

    def _feed(self) -> None:
        """Gives what has come, up to the next pause."""
        assert self._taker is not None, "only called while requests are fed"
        try:
            while self._messages and self._pause is None:
                if (pause := self._taker(self._take())) is not None:
                    self._pause = asyncio.ensure_future(pause)
                    self._pause.add_done_callback(self._paused)
        except Exception as error:  # noqa: BLE001 - its handler raises it
            self._stop_feeding(error)
            return
        flows = not self._messages and self._pause is None
        self.gather = self._gather if flows else None
        if self._ended:
            if flows:
                self._stop_feeding(self._broken)
        elif self._granted <= _READ_AHEAD // 2:
            self._grant(_READ_AHEAD)

    def _paused(self, pause: asyncio.Future[bool]) -> None:
        self._pause = None
        if self._taker is None or pause.cancelled():
            return
        if (error := pause.exception()) is not None or not pause.result():
            self._stop_feeding(error)
        else:
            self._feed()

    def _stop_feeding(self, error: BaseException | None) -> None:
        self._taker = self.gather = None
        assert self._fed is not None, "it is set with the taker"
        if self._fed.done():
            return
        if error is None:
            self._fed.set_result(None)
        else:
            self._fed.set_exception(error)

    def _take(self) -> Any:
        data = self._messages.popleft()
        return data if self.parse is None else self.parse(data)

    def _grant(self, most: int) -> None:
        """Raises what may come to `most`."""
        if (more := most - self._granted - len(self._messages)) > 0:
            self._granted += more
            self._orders.read(self._number, more)

    # -- responses

    def post(self, message: bytes) -> bool:
        """Sends a message at once; False if the call has ended, or `write` has to wait."""
        if self.finished or self._unsent > _UNSENT_BYTES:
            return False
        self._orders.send(self._number, message)
        self._unsent += len(message) + 1
        return True

    async def write(self, message: Any) -> None:
        """Sends a message; waits while too much is unsent."""
        if self.finished:
            raise grpc.aio.InternalError("the call has ended")
        data = message if self.serialize is None else self.serialize(message)
        self._orders.send(self._number, data)
        self._unsent += len(data) + 1
        if self._unsent > _UNSENT_BYTES:
            if self._sent is None:
                self._sent = asyncio.get_running_loop().create_future()
                self._orders.notify(self._number)
            await asyncio.shield(self._sent)
            self._sent = None

    def finish(
        self, code: grpc.StatusCode | int, details: str = "", trailing: Metadata = ()
    ) -> None:
        """Ends the call with a status. Later ends do nothing."""
        if self.finished:
            return
        self.finished, self._code = True, code
        number = code.value[0] if isinstance(code, grpc.StatusCode) else code
        trailers = [(b"grpc-status", b"%d" % number)]
        if details:
            trailers.append((b"grpc-message", quote(details, safe=_TEXT).encode()))
        trailers += [(name.encode(), _encoded(name, value)) for name, value in trailing]
        self._orders.finish(self._number, trailers)

    def reply(self, message: Any) -> None:
        """Sends the one message of a call and ends it well."""
        if not self.finished:
            data = message if self.serialize is None else self.serialize(message)
            self._orders.send(self._number, data)
            self.finish(grpc.StatusCode.OK, trailing=self._trailing)

    def done(self) -> None:
        """Ends the call well."""
        self.finish(grpc.StatusCode.OK, trailing=self._trailing)

    # -- as grpc.aio.ServicerContext

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Metadata that goes with the status."""
        self._trailing = trailing_metadata

    async def abort(
        self,
        code: grpc.StatusCode | int,
        details: str = "",
        trailing_metadata: Metadata = (),
    ) -> None:
        """Ends the call with a status, and its handler by AbortError."""
        self.finish(code, details, trailing_metadata or self._trailing)
        raise grpc.aio.AbortError("the call was ended with a status")

    def code(self) -> grpc.StatusCode | int:
        """The status that the call has ended with."""
        return self._code

    def peer(self) -> str:
        """The client's address, as gRPC writes it."""
        return self._fields[0].decode()

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline; None if it has set none."""
        return None if self._ends_s is None else max(0.0, self._ends_s - time.monotonic())

    def invocation_metadata(self) -> Metadata:
        """What the client has sent beside its messages; names that end in -bin have bytes."""
        pairs = self._fields[2 + int(self._fields[1]) :]
        return tuple(
            (name.decode(), _decoded(name, value))
            for name, value in zip(pairs[::2], pairs[1::2], strict=True)
        )

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """The names in the client's certificate."""
        count = int(self._fields[1])
        return {"x509_subject_alternative_name": self._fields[2 : 2 + count]} if count else {}


def _encoded(name: str, value: str | bytes) -> bytes:
    if name.endswith("-bin"):
        return base64.b64encode(value if isinstance(value, bytes) else value.encode()).rstrip(b"=")
    return value if isinstance(value, bytes) else value.encode()


def _decoded(name: bytes, value: bytes) -> str | bytes:
    if not name.endswith(b"-bin"):
        return value.decode("latin-1")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4))
    except ValueError:
        return b""
