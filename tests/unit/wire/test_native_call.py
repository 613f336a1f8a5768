"""A call at the native transport, with a transport that only writes down its orders."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from carousel_server.wire.messages import for_each
from carousel_server.wire.native.call import NativeCall

PEER = [b"ipv4:10.0.0.7:5123"]


class Orders:
    def __init__(self):
        self.read_orders, self.sent, self.notified, self.ended = [], [], 0, []

    def read(self, call, messages):
        self.read_orders.append(messages)

    def send(self, call, message):
        self.sent.append(message)

    def notify(self, call):
        self.notified += 1

    def finish(self, call, trailers):
        self.ended.append(dict(trailers))


@pytest.fixture
def orders():
    return Orders()


def made(orders, *, timeout_us=-1, fields=(b"0",)):
    return NativeCall(orders, 7, "/service/Method", timeout_us, [*PEER, *fields])


async def test_nothing_is_read_before_the_handler_asks(orders):
    call = made(orders)
    assert orders.read_orders == []
    reading = asyncio.ensure_future(call.read())
    await asyncio.sleep(0)
    assert orders.read_orders == [1], "one message, since the call may be unary"
    call.message(b"one")
    assert await reading == b"one"


async def test_a_stream_reads_ahead_and_asks_again_at_half(orders):
    call = made(orders)
    reading = asyncio.ensure_future(anext(call))
    await asyncio.sleep(0)
    assert sum(orders.read_orders) == 32
    for number in range(32):
        call.message(b"%d" % number)
    taken = [await reading] + [await anext(call) for _ in range(31)]
    assert taken == [b"%d" % number for number in range(32)]
    assert sum(orders.read_orders) <= 64, "never more than a read-ahead waits"
    assert len(orders.read_orders) > 1
    call.end()
    assert [left async for left in call] == []


async def test_the_end_without_a_message_is_eof(orders):
    call = made(orders)
    call.end()
    assert await call.read() is grpc.aio.EOF


async def test_messages_are_parsed_and_serialised(orders):
    call = made(orders)
    call.parse, call.serialize = bytes.decode, str.encode
    call.message("größe".encode())
    assert await call.read() == "größe"
    await call.write("größe")
    assert orders.sent == ["größe".encode()]


async def test_a_reader_that_lags_stops_the_writer(orders):
    call = made(orders)
    await call.write(b"x" * 100_000)
    writing = asyncio.ensure_future(call.write(b"x" * 100_000))
    await asyncio.sleep(0)
    assert not writing.done()
    assert orders.notified == 1
    call.sent()
    await writing
    await call.write(b"x" * 100_000)
    assert len(orders.sent) == 3, "after that there is room again"


async def test_two_writers_wait_for_one_notice(orders):
    call = made(orders)
    await call.write(b"x" * 100_000)
    waiting = [asyncio.ensure_future(call.write(b"x" * 100_000)) for _ in range(2)]
    await asyncio.sleep(0)
    assert orders.notified == 1
    call.sent()
    await asyncio.gather(*waiting)


async def test_a_call_ends_once_and_its_status_can_be_read_by_any_client(orders):
    call = made(orders)
    call.set_trailing_metadata((("x-request-id", "r1"),))
    with pytest.raises(grpc.aio.AbortError):
        await call.abort(
            grpc.StatusCode.NOT_FOUND, "100 % grün\n", (("grpc-status-details-bin", b"\xff\0"),)
        )
    call.done()
    assert orders.ended == [
        {
            b"grpc-status": b"5",
            b"grpc-message": b"100 %25 gr%C3%BCn%0A",
            b"grpc-status-details-bin": b"/wA",
        }
    ]
    assert call.code() is grpc.StatusCode.NOT_FOUND


async def test_a_good_end_has_the_trailing_metadata(orders):
    call = made(orders)
    call.set_trailing_metadata((("x-request-id", "r1"),))
    call.reply(b"answer")
    assert orders.sent == [b"answer"]
    assert orders.ended == [{b"grpc-status": b"0", b"x-request-id": b"r1"}]


async def test_nothing_is_written_to_a_client_that_has_gone(orders):
    call = made(orders)
    call.gone()
    with pytest.raises(grpc.aio.InternalError):
        await call.write(b"late")
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    call.done()
    assert orders.sent == orders.ended == []


async def test_a_handler_that_has_begun_is_cancelled_with_its_call(orders):
    call = made(orders)

    async def handler():
        call.begun = True
        await call.read()

    call.task = asyncio.ensure_future(handler())
    await asyncio.sleep(0)
    call.gone()
    with pytest.raises(asyncio.CancelledError):
        await call.task


async def test_facts_of_the_request(orders):
    fields = (b"2", b"robot.example", b"robot", b"authorization", b"Bearer t", b"x-bin", b"/wA")
    call = made(orders, timeout_us=2_000_000, fields=fields)
    assert call.peer() == "ipv4:10.0.0.7:5123"
    assert call.invocation_metadata() == (("authorization", "Bearer t"), ("x-bin", b"\xff\0"))
    assert list(*call.auth_context().values()) == [b"robot.example", b"robot"]
    remaining = call.time_remaining()
    assert remaining is not None
    assert 0 < remaining <= 2
    plain = made(orders)
    assert plain.time_remaining() is None
    assert plain.auth_context() == {}


async def fed(call, take):
    """A handler that has requests fed to it, once it waits."""
    feeding = asyncio.ensure_future(for_each(call, take))
    await asyncio.sleep(0)
    return feeding


async def test_requests_are_fed_in_the_turn_in_which_they_come(orders):
    call, taken = made(orders), []
    call.message(b"before")
    feeding = await fed(call, taken.append)
    assert taken == [b"before"]
    call.message(b"at once")
    assert taken == [b"before", b"at once"]
    call.end()
    await feeding


async def test_what_comes_in_a_pause_is_fed_after_it_in_order(orders):
    call, taken, pauses = made(orders), [], []

    def take(data):
        taken.append(data)
        pauses.append(asyncio.get_running_loop().create_future())
        return pauses[-1]

    feeding = await fed(call, take)
    for number in range(3):
        call.message(b"%d" % number)
    call.end()
    for number in range(3):
        assert taken == [b"%d" % n for n in range(number + 1)]
        assert not feeding.done()
        pauses[number].set_result(True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await feeding


async def test_a_taker_that_wants_no_more_gets_no_more(orders):
    call, taken = made(orders), []

    async def enough():
        return False

    def take(data):
        taken.append(data)
        return enough()

    feeding = await fed(call, take)
    call.message(b"one")
    call.message(b"two")
    await feeding
    assert taken == [b"one"]


@pytest.mark.parametrize("in_a_pause", [False, True])
async def test_the_handler_raises_what_its_taker_raises(orders, in_a_pause):
    call = made(orders)

    async def pause():
        raise ValueError("a bad one")

    def take(_data):
        if in_a_pause:
            return pause()
        raise ValueError("a bad one")

    feeding = await fed(call, take)
    call.message(b"one")
    call.message(b"two")
    with pytest.raises(ValueError, match="a bad one"):
        await feeding


async def test_a_handler_that_is_cancelled_ends_its_pause(orders):
    call = made(orders)
    pause = asyncio.get_running_loop().create_future()
    feeding = await fed(call, lambda _data: pause)
    call.message(b"one")
    feeding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await feeding
    assert pause.cancelled()
    call.message(b"two")  # nobody takes it


async def test_a_fed_call_reads_ahead_like_any_other(orders):
    call, taken = made(orders), []
    feeding = await fed(call, taken.append)
    for number in range(200):
        call.message(b"%d" % number)
        assert sum(orders.read_orders) - number <= 33
    assert len(taken) == 200
    assert len(orders.read_orders) < 20, "one order for many messages"
    call.end()
    await feeding


async def test_posts_are_sent_at_once_until_much_is_unsent(orders):
    call, long = made(orders), bytes(50_000)
    assert all(call.post(long) for _ in range(3))
    assert not call.post(b"more")
    assert orders.sent == [long] * 3
    writing = asyncio.ensure_future(call.write(b"more"))
    await asyncio.sleep(0)
    assert orders.notified == 1
    call.sent()
    await writing
    assert call.post(b"again")
    assert orders.sent == [long] * 3 + [b"more", b"again"]
    call.done()
    assert not call.post(b"late")


async def test_a_call_that_was_given_up_before_its_handler_began_is_not_fed(orders):
    call = made(orders)
    call.gone()
    with pytest.raises(asyncio.CancelledError):
        await for_each(call, lambda _data: None)
    assert orders.read_orders == []
