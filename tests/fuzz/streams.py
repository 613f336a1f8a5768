"""What clients send to a server: valid conversations as they were recorded, and what a seed makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from support.http2 import frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = 9
_KINDS = 11
_MOST_EDITS = 6


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. `length` is what its head says; it need not be that of the payload."""

    kind: int
    flags: int
    stream: int
    payload: bytes
    length: int

    def encoded(self) -> bytes:
        head = frame(self.kind, self.flags, self.stream)
        return self.length.to_bytes(3, "big") + head[3:] + self.payload


Conversation = Sequence[Frame]


def frames_of(recorded: bytes) -> list[Frame]:
    """Cuts a client's bytes into frames."""
    assert recorded.startswith(PREFACE), "a client begins with the preface"
    found, at = [], len(PREFACE)
    while at + _HEAD <= len(recorded):
        size = int.from_bytes(recorded[at : at + 3], "big")
        stream = int.from_bytes(recorded[at + 5 : at + _HEAD], "big")
        payload = recorded[at + _HEAD : at + _HEAD + size]
        found.append(Frame(recorded[at + 3], recorded[at + 4], stream, payload, size))
        at += _HEAD + size
    return found


class Recorder:
    """A relay before a server that keeps what each client sends. Use it as a context manager."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.recorded: list[bytearray] = []

    async def __aenter__(self) -> Recorder:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = bytearray()
        self.recorded.append(kept)
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(_copy(reader, back, kept), _copy(there, writer, bytearray()))


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray
) -> None:
    try:
        while data := await reader.read(1 << 16):
            kept += data
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # one side has left
    writer.close()


def _drop(random: Random, frames: list[Frame], _: Sequence[Conversation]) -> None:
    del frames[random.randrange(len(frames))]


def _again(random: Random, frames: list[Frame], _: Sequence[Conversation]) -> None:
    one = random.choice(frames)
    for _count in range(random.choice((1, 1, 1, 50, 500))):
        frames.insert(random.randrange(len(frames) + 1), one)


def _swap(random: Random, frames: list[Frame], _: Sequence[Conversation]) -> None:
    one, other = random.randrange(len(frames)), random.randrange(len(frames))
    frames[one], frames[other] = frames[other], frames[one]


def _splice(random: Random, frames: list[Frame], others: Sequence[Conversation]) -> None:
    other = random.choice(others)
    start = random.randrange(len(other))
    at = random.randrange(len(frames) + 1)
    frames[at:at] = other[start : start + random.randint(1, 8)]


def _change(make: Callable[[Random, Frame], Frame]) -> Edit:
    """An edit of one frame."""

    def edit(random: Random, frames: list[Frame], _: Sequence[Conversation]) -> None:
        at = random.randrange(len(frames))
        frames[at] = make(random, frames[at])

    return edit


def _flipped(random: Random, one: Frame) -> Frame:
    payload = bytearray(one.payload)
    for _ in range(random.randint(1, 4) if payload else 0):
        payload[random.randrange(len(payload))] ^= 1 << random.randrange(8)
    return replace(one, payload=bytes(payload))


def _resized(random: Random, one: Frame) -> Frame:
    payload = (one.payload + random.randbytes(64))[: random.randint(0, len(one.payload) + 64)]
    return replace(one, payload=payload, length=len(payload))


def _filled(random: Random, one: Frame) -> Frame:
    payload = random.randbytes(random.choice((0, 4, 5, 6, 8, 64, 16_384)))
    return replace(one, payload=payload, length=len(payload))


Edit = Callable[[Random, list[Frame], Sequence[Conversation]], None]

EDITS: Sequence[Edit] = (
    _drop,
    _again,
    _swap,
    _splice,
    _change(_flipped),
    _change(_resized),
    _change(_filled),
    _change(lambda random, one: replace(one, kind=random.randrange(_KINDS))),
    _change(lambda random, one: replace(one, flags=one.flags ^ 1 << random.randrange(8))),
    _change(lambda random, one: replace(one, stream=random.choice((0, 1, 2, 3, 5, 7, 1 << 30)))),
    _change(lambda random, one: replace(one, length=random.randrange(1 << 15))),
)


def mutated(random: Random, conversations: Sequence[Conversation]) -> list[bytes]:
    """A conversation with some edits, cut into the pieces in which it is sent."""
    frames = list(random.choice(conversations))
    for _ in range(random.randint(0, _MOST_EDITS)):
        if frames:
            random.choice(EDITS)(random, frames, conversations)
    whole = PREFACE + b"".join(one.encoded() for one in frames)
    if random.random() < 0.2:
        whole = whole[: random.randrange(len(whole))]
    if random.random() < 0.05:
        at = random.randrange(len(whole))
        whole = whole[:at] + bytes([whole[at] ^ 1 << random.randrange(8)]) + whole[at + 1 :]
    cuts = sorted(random.randrange(len(whole) + 1) for _ in range(random.choice((0, 1, 3, 20))))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True) if a < b]
