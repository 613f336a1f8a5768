"""A server like grpc.aio's, on the native transport: the same handlers, the same interceptor."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grpc

from carousel_server.wire.messages import Gather, too_large

from .call import Metadata, NativeCall
from .library import NativeCounters, NativeEndpoint, NativeLimits

log = logging.getLogger("carousel.wire")

_HEAD = struct.Struct("=IIQq")
_SIZE = struct.Struct("=I")
_CALL, _MESSAGE, _END, _GONE, _SENT, _TOO_LARGE, _NO_CODEC = range(1, 8)
_READ, _SEND, _NOTIFY, _FINISH = range(1, 5)
_LOOK_S = 0.01
"""How often a server that stops looks whether its calls have ended."""


class CallDetails(NamedTuple):
    """As grpc.HandlerCallDetails."""

    method: str
    invocation_metadata: Metadata


class NativeServer:
    """Serves gRPC on one event loop. Life: add handlers, `bind`, `start`, `stop`."""

    def __init__(self, interceptor: Any, limits: NativeLimits) -> None:
        """Raises NativeError where there is no native library."""
        self._endpoint = NativeEndpoint(limits)
        self._limits = limits
        self._interceptor = interceptor
        self._generic: list[grpc.GenericRpcHandler] = []
        self._calls: dict[int, NativeCall] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._orders: list[bytes] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    # -- as grpc.aio.Server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Adds services."""
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Does nothing: the same methods are among the generic ones."""

    def bind(self, host: str, port: int, *, shared: bool) -> int:
        """Binds the address; returns the port. Raises OSError."""
        return self._endpoint.listen(host, port, shared=shared)

    def use_tls(self, cert: bytes, key: bytes, client_ca: bytes | None) -> None:
        """Certificates of connections from now on. Raises OSError."""
        self._endpoint.use_tls(cert, key, client_ca or b"")

    async def start(self) -> None:
        """Takes connections."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._endpoint.descriptor, self._take)
        self._endpoint.start()

    async def stop(self, grace_s: float | None) -> None:
        """Takes nothing new, waits for calls until `grace_s`, then cuts them. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._loop is None:
            self._endpoint.close()
            return
        self._endpoint.retire()
        ends_s = None if grace_s is None else self._loop.time() + grace_s
        # A handler that is done has given its answer to the transport. Its client may not have it yet.
        while self._tasks or self.counters().calls:
            if ends_s is not None and self._loop.time() >= ends_s:
                break
            await asyncio.sleep(_LOOK_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._flush()
        self._loop.remove_reader(self._endpoint.descriptor)
        await self._loop.run_in_executor(None, self._endpoint.close)

    def counters(self) -> NativeCounters:
        """What the transport has counted."""
        return self._endpoint.counters()

    # -- orders to the transport, sent together at the end of a turn of the loop

    def read(self, call: int, messages: int) -> None:
        """See `Orders.read`."""
        self._order(_HEAD.pack(_READ, 0, call, messages))

    def send(self, call: int, message: bytes) -> None:
        """See `Orders.send`."""
        self._order(_HEAD.pack(_SEND, len(message), call, 0))
        self._orders.append(message)

    def notify(self, call: int) -> None:
        """See `Orders.notify`."""
        self._order(_HEAD.pack(_NOTIFY, 0, call, 0))

    def finish(self, call: int, trailers: Sequence[tuple[bytes, bytes]]) -> None:
        """See `Orders.finish`."""
        fields = b"".join(_SIZE.pack(len(text)) + text for pair in trailers for text in pair)
        self._order(_HEAD.pack(_FINISH, len(fields), call, 0) + fields)
        self._calls.pop(call, None)

    def _order(self, record: bytes) -> None:
        if not self._orders:
            assert self._loop is not None, "a call came, so the server was started"
            self._loop.call_soon(self._flush)
        self._orders.append(record)

    def _flush(self) -> None:
        orders, self._orders = self._orders, []
        if orders:
            self._endpoint.do(b"".join(orders))

    # -- events of the transport

    def _take(self) -> None:
        data = self._endpoint.take()
        at, calls = 0, self._calls
        # Those with requests of this poll. All of them are given away before anything else is told.
        gathers: list[Gather] = []
        while at < len(data):
            kind, size, number, extra = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            end = at + size
            call = calls.get(number)
            if kind == _MESSAGE:
                if call is None:
                    pass  # it has ended meanwhile
                elif (gather := call.gather) is None:
                    call.message(data[at:end])
                else:
                    if not gather.waiting:
                        gathers.append(gather)
                    gather.waiting.append((call, at, end))
                    call.count()
            else:
                _flush_all(gathers, data)
                if kind == _CALL:
                    self._begin(number, extra, data[at:end])
                elif call is not None:
                    self._events[kind](self, call, number, extra)
            at = end
        _flush_all(gathers, data)

    def _begin(self, number: int, timeout_us: int, record: bytes) -> None:
        fields = _fields(record)
        # HTTP/2 lets any byte above 127 into a path. None of ours has one, so no method is found.
        path = fields.pop(0).decode("latin-1")
        call = self._calls[number] = NativeCall(self, number, path, timeout_us, fields)
        assert self._loop is not None
        task = call.task = self._loop.create_task(self._serve(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if timeout_us >= 0:
            timer = self._loop.call_later(timeout_us / 1e6, _late, call)
            task.add_done_callback(lambda _: timer.cancel())

    def _ended(self, call: NativeCall, _number: int, _extra: int) -> None:
        call.end()

    def _gone(self, call: NativeCall, number: int, _extra: int) -> None:
        del self._calls[number]
        call.gone()

    def _sent(self, call: NativeCall, _number: int, _extra: int) -> None:
        call.sent()

    def _too_large(self, call: NativeCall, _number: int, size: int) -> None:
        call.break_off(too_large(size, self._limits.message_bytes))

    def _no_codec(self, call: NativeCall, _number: int, _extra: int) -> None:
        text = "messages must not be compressed: send them as identity"
        call.finish(grpc.StatusCode.UNIMPLEMENTED, text)
        call.gone()

    _events: Mapping[int, Callable[[NativeServer, NativeCall, int, int], None]] = {
        _END: _ended,
        _GONE: _gone,
        _SENT: _sent,
        _TOO_LARGE: _too_large,
        _NO_CODEC: _no_codec,
    }

    # -- handlers

    async def _serve(self, call: NativeCall) -> None:
        """Runs the handler of a call, and ends the call."""
        call.begun = True
        try:
            details = CallDetails(call.path, ())
            handler = await self._interceptor.intercept_service(self._find, details)
            if handler is None:
                call.finish(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
                return
            call.parse, call.serialize = handler.request_deserializer, handler.response_serializer
            if handler.response_streaming:
                await handler.stream_stream(call, call)
                call.done()
            else:
                call.reply(await handler.stream_unary(call, call))
        except grpc.aio.AbortError:
            pass  # it has its status
        except asyncio.CancelledError:
            call.finish(grpc.StatusCode.UNAVAILABLE, "the server has ended the call")
            raise
        except Exception:
            log.exception("%s failed", call.path)
            call.finish(grpc.StatusCode.UNKNOWN, "the server failed")

    async def _find(self, details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        return next(filter(None, (one.service(details) for one in self._generic)), None)


def _late(call: NativeCall) -> None:
    """The client's deadline has passed. Its own timer may be later, so it is told."""
    if not call.finished:
        call.finish(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
        call.gone()


def _flush_all(gathers: list[Gather], data: bytes) -> None:
    for gather in gathers:
        gather.flush(data)
    gathers.clear()


def _fields(record: bytes) -> list[bytes]:
    """Strings of a record, each behind its length."""
    at, found = 0, []
    while at < len(record):
        (size,) = _SIZE.unpack_from(record, at)
        at += _SIZE.size
        found.append(record[at : at + size])
        at += size
    return found
