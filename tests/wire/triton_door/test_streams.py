"""ModelStreamInfer: order, pipelining, errors, limits, ends."""

from __future__ import annotations

import asyncio
import gc

import grpc
import numpy as np
from support.fake_engine import WIDTH
from support.triton import outputs
from support.wire import settled

from carousel_server.core import ports
from carousel_server.core.errors import CarouselError
from carousel_server.wire.triton.sequence import Sequence

ROW = np.arange(WIDTH, dtype="<f4")


def blocks(engine):
    return [command for command in engine.seen if isinstance(command, ports.StepBlock)]


def _waiting_requests():
    """Requests that were read and wait behind a step of their sequence."""
    sequences = (thing for thing in gc.get_objects() if type(thing) is Sequence)
    return sum(len(sequence._waiting) for sequence in sequences)


async def test_many_sequences_on_one_stream_each_in_order(wire, fake):
    stream, sequences, steps = fake.stream(), 8, 5
    sent = [(s, n) for n in range(steps) for s in range(1, sequences + 1)]
    for s, n in sent:
        await stream.say(
            "echo", ROW + 100 * s + n, s, start=n == 0, end=n == steps - 1, id=f"{s}_{n}"
        )
    await stream.call.done_writing()
    for s, n in sent:
        reply = await stream.hear()
        assert reply.infer_response.id == f"{s}_{n}"
        np.testing.assert_array_equal(outputs(reply.infer_response)["y"], (ROW + 100 * s + n)[None])
    assert await stream.call.read() is grpc.aio.EOF
    assert await stream.call.code() is grpc.StatusCode.OK
    await settled(lambda: not wire.engine.sessions)


async def test_what_comes_while_a_step_runs_goes_as_one_block(wire, fake):
    stream = fake.stream()
    await stream.say("echo", ROW, 7, start=True)
    await stream.output()
    wire.engine.hold()
    for n in range(1, 6):
        await stream.say("echo", ROW + n, 7)
    await settled(lambda: _waiting_requests() == 4)
    wire.engine.release()
    for n in range(1, 6):
        np.testing.assert_array_equal((await stream.output())["y"], (ROW + n)[None])
    assert [block.steps for block in blocks(wire.engine)] == [1, 1, 4]


async def test_steps_of_one_turn_go_to_the_engine_together(wire, fake):
    stream = fake.stream()
    for s in range(1, 9):
        await stream.say("echo", ROW, s, start=True)
    for _ in range(8):
        await stream.output()
    before = len(blocks(wire.engine))
    wire.engine.hold()
    for s in range(1, 9):
        await stream.say("echo", ROW, s)
    await settled(lambda: sum(len(b.refs) for b in blocks(wire.engine)[before:]) == 8)
    wire.engine.release()
    for _ in range(8):
        await stream.output()


async def test_replies_keep_the_order_of_requests_across_sequences(wire, fake):
    stream = fake.stream()
    await stream.say("echo", ROW, 1, start=True)
    await stream.output()
    wire.engine.hold()
    await stream.say("echo", ROW, 1, id="first")
    await settled(lambda: len(blocks(wire.engine)) == 2)
    await stream.say("echo", ROW, 2, id="second")  # refused at once: it has no START
    await stream.say("no-such-model", ROW, 3, id="third")
    wire.engine.release()
    assert [(await stream.hear()).infer_response.id for _ in range(3)] == [
        "first", "second", "third",
    ]  # fmt: skip


async def test_an_error_names_request_sequence_and_step_and_the_stream_goes_on(wire, fake):
    stream = fake.stream()
    await stream.say("echo", ROW, 7, start=True)
    await stream.output()
    wire.engine.step_error = CarouselError("INPUT_NOT_FINITE", "an input is NaN")
    await stream.say("echo", ROW, 7, id="r-2")
    text = await stream.error()
    assert text.startswith("[request id: r-2] an input is NaN. ")
    assert text.endswith("(INPUT_NOT_FINITE, sequence 7, step 2)")
    assert wire.metrics.refusals == ["INPUT_NOT_FINITE"]
    wire.engine.step_error = None
    await stream.say("echo", ROW, 7)
    await stream.output()
    assert wire.engine.session("triton:echo:7").applied == 2


async def test_a_bad_step_among_pipelined_ones_costs_only_itself(wire, fake):
    """The engine refuses the block that holds it; then each goes alone."""
    stream = fake.stream()
    await stream.say("echo", ROW, 7, start=True)
    await stream.output()
    plain = wire.engine._step
    bad = (ROW + 2).tobytes()

    def step(session, block, first, data):
        if bad in data:
            raise CarouselError("INPUT_NOT_FINITE", "that one", seq=first)
        plain(session, block, first, data)

    wire.engine._step = step
    wire.engine.hold()
    for n in range(5):
        await stream.say("echo", ROW + n, 7, id=str(n))
    await settled(lambda: len(blocks(wire.engine)) == 2)
    wire.engine.release()
    replies = [await stream.hear() for _ in range(5)]
    assert [bool(reply.error_message) for reply in replies] == [False, False, True, False, False]
    assert wire.engine.session("triton:echo:7").applied == 5


async def test_errors_end_the_stream_for_those_who_ask_for_it(fake):
    stream = fake.stream(("triton_grpc_error", "true"))
    await stream.say("echo", ROW, 7, start=True)
    await stream.output()
    await stream.say("echo", ROW, 8)
    with np.testing.assert_raises(grpc.aio.AioRpcError):
        await stream.call.read()
    assert await stream.call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "must specify the START flag" in await stream.call.details()


async def test_each_reply_says_that_it_is_the_final_one(fake):
    stream = fake.stream()
    await stream.say("echo", ROW, 7, start=True, triton_enable_empty_final_response=True)
    reply = (await stream.hear()).infer_response
    assert reply.parameters["triton_final_response"].bool_param
    assert (reply.model_name, reply.model_version) == ("echo", "1")


async def test_bytes_that_are_no_request_end_the_stream_by_name(fake):
    stream = fake.stream()
    await stream.call.write(b"\xff\xff")
    with np.testing.assert_raises(grpc.aio.AioRpcError):
        await stream.call.read()
    assert await stream.call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_client_that_does_not_read_is_not_read_from(wire, fake, monkeypatch):
    from carousel_server.wire.triton import stream as module

    monkeypatch.setattr(module, "_PAUSE_READING_AT_REPLIES", 4)
    stream = fake.stream()
    await stream.say("echo", ROW, 7, start=True)
    await stream.output()
    wire.engine.hold()

    async def send():
        for n in range(64):
            await stream.say("echo", ROW + n, 7)

    sending = asyncio.ensure_future(send())
    await settled(lambda: len(blocks(wire.engine)) == 2)
    wire.engine.release()
    for n in range(64):
        np.testing.assert_array_equal((await stream.output())["y"], (ROW + n)[None])
    await sending
    assert max(block.steps for block in blocks(wire.engine)) <= 4


async def test_streams_are_counted_and_limited(start_wire):
    from support.triton import TritonStubs

    wire = await start_wire(max_streams=1)
    async with TritonStubs(wire.target) as stubs:
        first = stubs.stream()
        await first.say("echo", ROW, 7, start=True)
        await first.output()
        assert wire.metrics.open_streams == 1
        second = stubs.stream()
        with np.testing.assert_raises(grpc.aio.AioRpcError):
            await second.call.read()
        assert await second.call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_stream_is_ended_by_the_stop_after_what_is_ready(wire, fake):
    stream = fake.stream()
    await stream.say("echo", ROW, 7, start=True)
    await stream.output()
    await wire.server.drain(1.0)
    await stream.say("echo", ROW, 7)
    assert "shutting down" in await stream.error()
    await wire.server.stop(1.0)
    with np.testing.assert_raises(grpc.aio.AioRpcError):
        await stream.call.read()
    assert await stream.call.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_door_can_be_shut(start_wire):
    from support.triton import TritonStubs

    wire = await start_wire(triton=False)
    async with TritonStubs(wire.target) as stubs:
        with np.testing.assert_raises(grpc.aio.AioRpcError):
            await stubs.ask("ServerLive")
