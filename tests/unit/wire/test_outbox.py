"""The outbox: order, limits, and the end."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from support.fake_engine import CountingMetrics, FakeCatalog, FakeEngine

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core.errors import CarouselError
from carousel_server.wire.outbox import Outbox
from carousel_server.wire.stream import Stream
from carousel_server.wire.turns import Submissions


class SlowClient:
    """A context whose writes wait until `reading` is set."""

    def __init__(self):
        self.reading = asyncio.Event()
        self.got = []

    async def write(self, data):
        await self.reading.wait()
        self.got.append(pb.AttachResponse.FromString(data))


def reply(handle):
    return pb.AttachResponse(unbound=pb.Unbound(handle=handle))


def stream_of(outbox):
    submissions = Submissions(asyncio.get_running_loop())
    return Stream(submissions, outbox, CountingMetrics(), FakeCatalog(FakeEngine()), "t")


async def test_replies_keep_their_order_and_end():
    outbox, client = Outbox(4096, 1 << 20), SlowClient()
    client.reading.set()
    for handle in range(1, 6):
        outbox.put(reply(handle))
    outbox.end(None)
    outbox.put(reply(99))  # too late
    await outbox.write_to(client)
    assert [r.unbound.handle for r in client.got] == [1, 2, 3, 4, 5]


async def test_the_first_end_counts_and_comes_after_what_waits():
    outbox, client = Outbox(4096, 1 << 20), SlowClient()
    client.reading.set()
    outbox.put(reply(1))
    outbox.end(CarouselError("DRAINING", "first"))
    outbox.end(None)
    with pytest.raises(CarouselError, match="first"):
        await outbox.write_to(client)
    assert len(client.got) == 1


async def test_reading_pauses_while_replies_are_unread():
    outbox, client = Outbox(1 << 20, 1 << 30), SlowClient()
    writer = asyncio.create_task(outbox.write_to(client))
    for handle in range(1, 1024):
        outbox.put(reply(handle))
    async with asyncio.timeout(5):
        await outbox.has_room.wait()
    outbox.put(reply(1024))
    outbox.put(reply(1025))
    room = asyncio.create_task(outbox.has_room.wait())
    await asyncio.sleep(0)
    assert not room.done()
    client.reading.set()
    async with asyncio.timeout(5):
        await room
    outbox.end(None)
    await writer
    assert len(client.got) == 1025


async def test_too_many_unread_bytes_end_the_stream():
    outbox, client = Outbox(4096, 10_000), SlowClient()
    rows = np.zeros((1, 4000), np.uint8)
    for _ in range(3):
        stream_of(outbox).outputs([1], [1], 1, rows)
    client.reading.set()
    with pytest.raises(CarouselError, match="does not read") as caught:
        await outbox.write_to(client)
    assert caught.value.reason == "WINDOW_EXCEEDED"
    assert client.got == []
    await outbox.has_room.wait()  # the reader is not left waiting


@pytest.mark.parametrize(
    ("sessions", "steps", "row_bytes"), [(1, 1, 16), (7, 1, 1000), (3, 5, 1000), (1, 9, 1000)]
)
async def test_outputs_are_cut_to_messages_that_fit(sessions, steps, row_bytes):
    outbox, client = Outbox(4096, 1 << 20), SlowClient()
    client.reading.set()
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (sessions, steps * row_bytes), np.uint8)
    stream_of(outbox).outputs(list(range(1, sessions + 1)), [10] * sessions, steps, rows)
    outbox.end(None)
    await outbox.write_to(client)
    joined = dict.fromkeys(range(1, sessions + 1), b"")
    for got in client.got:
        assert got.ByteSize() <= 4096
        result = got.outputs
        data = np.frombuffer(result.outputs, np.uint8).reshape(len(result.handles), -1)
        for handle, first, part in zip(result.handles, result.first_seqs, data, strict=True):
            assert first == 10 + len(joined[handle]) // row_bytes
            joined[handle] += part.tobytes()
    assert [joined[h] for h in sorted(joined)] == [row.tobytes() for row in rows]


class QuickClient(SlowClient):
    """One that takes so many replies without being waited for."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def post(self, data):
        if self.room:
            self.room -= 1
            self.got.append(pb.AttachResponse.FromString(data))
            return True
        return False


async def test_replies_are_posted_while_there_is_room_and_none_overtakes_one_that_waits():
    outbox, client = Outbox(4096, 1 << 20), QuickClient(room=2)
    outbox.put(reply(1))
    writer = asyncio.create_task(outbox.write_to(client))
    client.reading.set()
    await asyncio.sleep(0)
    for handle in (2, 3):
        outbox.put(reply(handle))  # at once
    assert [r.unbound.handle for r in client.got] == [1, 2, 3]
    client.reading.clear()
    outbox.put(reply(4))
    client.room = 5
    outbox.put(reply(5))  # behind the one that waits
    assert [r.unbound.handle for r in client.got] == [1, 2, 3]
    client.reading.set()
    outbox.end(None)
    await writer
    assert [r.unbound.handle for r in client.got] == [1, 2, 3, 4, 5]
