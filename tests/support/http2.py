"""A client with enough HTTP/2 to misuse it. It ignores the limits of a server."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping

DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1

LIST_MODELS = "/carousel.v1.ModelService/ListModels"
CANCEL = 8


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


class Http2:
    """One connection. Use it as an asynchronous context manager.

    Attributes:
        seen: number of received frames of each kind.
        received: the bytes of DATA frames, by stream.
        ended: set once the server has closed the connection.
    """

    def __init__(self, port: int, settings: bytes = b"") -> None:
        """`settings`: the payload of the first SETTINGS."""
        self._port, self._settings = port, settings
        self._stream = -1
        self.seen: Counter[int] = Counter()
        self.received: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.ended = asyncio.Event()
        self._came = asyncio.Condition()

    async def __aenter__(self) -> Http2:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, self._settings)
        )
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def headers(
        self,
        count: int = 1,
        *,
        path: str = LIST_MODELS,
        reset: bool = False,
        end: bool = False,
        more: Mapping[str, str] | None = None,
    ) -> int:
        """Opens `count` calls without bodies. `reset` cancels each at once, `end` half-closes it.

        Returns the last one's stream.
        """
        flags = _END_HEADERS | (_END_STREAM if end else 0)
        block = header_block({**_FIXED, ":path": path, **(more or {})})
        for _ in range(count):
            self._stream += 2
            self._writer.write(frame(HEADERS, flags, self._stream, block))
            if reset:
                self._writer.write(frame(RST_STREAM, 0, self._stream, CANCEL.to_bytes(4, "big")))
            if self._stream % 200 == 1:
                await self._writer.drain()
        await self._writer.drain()
        return self._stream

    async def trailers(self, stream: int, fields: Mapping[str, str]) -> None:
        """Half-closes a call with trailers."""
        await self.raw(frame(HEADERS, _END_HEADERS | _END_STREAM, stream, header_block(fields)))

    async def raw(self, payload: bytes) -> None:
        """Sends bytes as they are."""
        self._writer.write(payload)
        await self._writer.drain()

    async def data(self, stream: int, payload: bytes) -> None:
        self._writer.write(frame(DATA, 0, stream, payload))
        await self._writer.drain()

    async def ping(self) -> None:
        self._writer.write(frame(PING, 0, 0, b"12345678"))
        await self._writer.drain()

    async def until(self, kind: int, count: int = 1) -> None:
        """Waits for frames of a kind."""
        async with asyncio.timeout(60), self._came:
            await self._came.wait_for(lambda: self.seen[kind] >= count)

    async def _read(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags = head[3], head[4]
                if kind == DATA:
                    self.received[int.from_bytes(head[5:9], "big")] += payload
                if kind in (SETTINGS, PING) and not flags & _ACK:
                    answer = payload if kind == PING else b""
                    self._writer.write(frame(kind, _ACK, 0, answer))
                async with self._came:
                    self.seen[kind] += 1
                    self._came.notify_all()
        except (asyncio.IncompleteReadError, OSError):
            self.ended.set()


_FIXED = {
    ":method": "POST", ":scheme": "http", ":authority": "x", "te": "trailers",
    "content-type": "application/grpc",
}  # fmt: skip


def header_block(fields: Mapping[str, str]) -> bytes:
    """Header fields as HPACK literals without indexing (RFC 7541, 6.2.2), pseudo-headers first."""
    ordered = sorted(fields.items(), key=lambda field: not field[0].startswith(":"))
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in ordered)


def _text(text: str) -> bytes:
    data = text.encode(errors="surrogateescape")
    length, rest = len(data), b""
    if length < 127:
        return bytes([length]) + data
    length -= 127
    while length >= 128:
        rest += bytes([length % 128 + 128])
        length //= 128
    return b"\x7f" + rest + bytes([length]) + data
