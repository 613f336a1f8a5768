"""The native transport in tests: what it alone is started with, and calls without it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import Message

from carousel_server.wire.messages import Gather
from carousel_server.wire.native.call import NativeCall

SMALL = {"message_bytes": 1 << 20, "calls_per_connection": 100, "connections": 100}
"""Limits of a transport."""


class Passing:
    """An interceptor that does nothing."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return await continuation(details)


class Sent:
    """The orders of calls. It keeps the messages that they send, by the call's number."""

    def __init__(self, kind: type[Message]) -> None:
        self._kind = kind
        self.sent: dict[int, list[Any]] = {}

    def read(self, call: int, messages: int) -> None:
        pass

    def notify(self, call: int) -> None:
        pass

    def finish(self, call: int, trailers: Any) -> None:
        pass

    def send(self, call: int, message: bytes) -> None:
        self.sent.setdefault(call, []).append(self._kind.FromString(message))


async def poll(
    calls: Mapping[int, NativeCall], gather: Gather | None, requests: Iterable[tuple[int, Message]]
) -> None:
    """What came in one poll of the transport, in pairs of a call's number and a message."""
    data = b""
    for number, request in requests:
        encoded, call = request.SerializeToString(), calls[number]
        begin, data = len(data), data + encoded
        if gather is None or call.gather is None:
            call.message(encoded)
        else:
            gather.waiting.append((call, begin, len(data)))
            call.count()
    if gather is not None and gather.waiting:
        gather.flush(data)
    await turns()


async def turns() -> None:
    """So many turns of the loop that what was begun has ended."""
    for _ in range(8):
        await asyncio.sleep(0)
