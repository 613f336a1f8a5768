"""The replies of one stream: in the order of the requests, up to the error that ends it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from support.fake_engine import CountingMetrics, FakeCatalog
from support.triton import request

from carousel_server.core.errors import CarouselError
from carousel_server.core.quotas import Quotas
from carousel_server.wire import WireOptions
from carousel_server.wire.call import Call
from carousel_server.wire.triton.infer import Inference
from carousel_server.wire.triton.models import ServedModels
from carousel_server.wire.triton.stream import Replies


class Slow:
    """A call whose client reads when the test lets it."""

    def __init__(self):
        self.got, self.reads = [], asyncio.Semaphore(0)

    async def write(self, data):
        await self.reads.acquire()
        self.got.append(data)


GATE = SimpleNamespace(metrics=CountingMetrics(), refuse_if_draining=lambda: None, quotas=Quotas())


@pytest.fixture
async def replies():
    return Replies(GATE, 1 << 20, errors_end=True)


def answer(expected, reply):
    expected.reply = reply
    expected._replies.advance()


def step_failed():
    return CarouselError("STEP_FAILED", "that one")


async def test_nothing_is_sent_after_the_error_that_ends_the_stream(replies):
    call = Slow()
    first, second, bad, last = (replies.expect(name.encode(), 10) for name in "abcd")
    writer = asyncio.ensure_future(replies.write_to(call))
    answer(first, b"first")
    await asyncio.sleep(0)  # the writer waits for the client
    answer(second, b"second")
    bad.failed(step_failed(), 3)
    answer(last, b"last")
    for _ in range(4):
        call.reads.release()
    with pytest.raises(CarouselError, match="that one"):
        await writer
    assert call.got == [b"first", b"second"]


async def test_replies_before_the_error_come_first_though_they_are_ready_later(replies):
    call = Slow()
    first, bad, last = (replies.expect(name.encode(), 10) for name in "abc")
    writer = asyncio.ensure_future(replies.write_to(call))
    answer(last, b"last")
    bad.failed(step_failed(), 2)
    call.reads.release()
    await asyncio.sleep(0)
    assert not call.got
    answer(first, b"first")
    with pytest.raises(CarouselError, match="that one"):
        await writer
    assert call.got == [b"first"]


async def test_the_first_error_is_the_streams(replies):
    one, two = replies.expect(b"a", 10), replies.expect(b"b", 10)
    one.failed(step_failed(), 1)
    two.failed(CarouselError("INPUT_NOT_FINITE", "the other one"), 2)
    with pytest.raises(CarouselError, match="that one"):
        await replies.write_to(Slow())


async def test_a_stream_that_ends_takes_no_more_requests(replies):
    assert await replies.room()
    expected = replies.expect(b"a", 2 << 20)  # crowded
    waiting = asyncio.ensure_future(replies.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    expected.failed(step_failed(), 1)
    assert not await waiting
    assert not await replies.room()


async def test_requests_behind_the_error_are_not_read(replies):
    served, read = Inference(ServedModels(FakeCatalog()), WireOptions(), GATE), []

    async def requests():
        for n in range(3):
            read.append(n)
            yield request("no-such-model", [0.0], 7).SerializeToString()

    await served._read(requests(), replies, Call("", "", "bidi_stream", "", tenant="tenant"))
    assert read == [0]
    with pytest.raises(CarouselError, match="unknown model"):
        await replies.write_to(Slow())


class Quick(Slow):
    """A call that takes two replies without being waited for."""

    room = 2

    def post(self, data):
        if self.room:
            self.room -= 1
            self.got.append(data)
            return True
        return False


async def test_replies_are_posted_in_the_order_of_the_requests(replies):
    call = Quick()
    writer = asyncio.ensure_future(replies.write_to(call))
    await asyncio.sleep(0)
    first, second, third, last = (replies.expect(name.encode(), 10) for name in "abcd")
    answer(second, b"second")
    assert call.got == []
    answer(first, b"first")
    assert call.got == [b"first", b"second"]
    assert replies.has_room
    answer(third, b"third")  # has to wait for the client
    call.room = 1
    answer(last, b"last")
    await asyncio.sleep(0)
    assert call.got == [b"first", b"second"], "none overtakes the one that waits"
    call.reads.release()
    call.reads.release()
    replies.close_half()
    await writer
    assert call.got == [b"first", b"second", b"third", b"last"]
