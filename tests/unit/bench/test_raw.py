"""The raw stream: its cursors, and the same against a server that refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
import pytest
from bench.raw import UNTYPED, Cursors, RawStream, channel, reason_of, reason_of_call
from google.rpc.status_pb2 import Status

import carousel
from carousel.testing import FakeModel, FakeServer
from carousel.testing.refusals import Refusal

WIDTH = 4
SUM = FakeModel(
    "sum",
    lambda x, state: (x + state, state + x),
    features=WIDTH,
    outputs=WIDTH,
    initial=np.float32(0),
)


def send(cursors: Cursors, *positions: int, due_s: float = 0.0) -> list[int]:
    return cursors.send(np.asarray(positions), due_s)[0]


def refusal(reason: str, **metadata: object) -> Status:
    return Refusal(reason, **metadata).status()


def test_steps_count_up_and_outputs_are_acknowledged_with_the_next() -> None:
    cursors = Cursors(2)
    assert send(cursors, 0, 1) == [1, 1]
    assert send(cursors, 0) == [2]
    cursors.outputs([1, 2], [1, 1], 1)
    firsts, acks = cursors.send(np.asarray([0, 1]), 0.0)
    assert (firsts, acks) == ([3, 2], [1, 1])
    assert (cursors.rows, cursors.offered) == (2, 5)


def test_no_more_is_sent_than_the_window_holds() -> None:
    cursors = Cursors(2, window=2)
    send(cursors, 0, 1)
    send(cursors, 0)
    assert cursors.ready().tolist() == [1]
    cursors.outputs([1], [1], 1)
    assert cursors.ready().tolist() == [0, 1]


def test_a_repeated_output_counts_once() -> None:
    cursors = Cursors(1)
    for _ in range(4):
        send(cursors, 0)
    cursors.outputs([1], [1], 3)
    cursors.outputs([1], [2], 3)
    assert cursors.rows == 4
    assert cursors.answered.tolist() == [4]


def test_a_session_goes_on_from_what_the_server_expects() -> None:
    cursors = Cursors(2)
    for _ in range(5):
        send(cursors, 0, 1)
    cursors.refuse(1, 3, refusal("DEADLINE_EXCEEDED", expected=3))
    assert send(cursors, 0, 1) == [3, 6]
    cursors.refuse(1, 3, refusal("QUEUE_FULL"))
    assert send(cursors, 0) == [3]
    assert cursors.refused == {"DEADLINE_EXCEEDED": 1, "QUEUE_FULL": 1}


def test_a_gap_is_the_echo_of_a_refusal_and_moves_nothing() -> None:
    cursors = Cursors(1)
    for _ in range(3):
        send(cursors, 0)
    cursors.refuse(1, 1, refusal("DEADLINE_EXCEEDED", expected=1))
    assert send(cursors, 0) == [1]
    cursors.refuse(1, 2, refusal("SEQUENCE_GAP", expected=1))
    cursors.refuse(1, 3, refusal("SEQUENCE_GAP", expected=1))
    assert send(cursors, 0) == [2]


def test_latency_is_that_of_the_last_sending_and_from_when_it_was_due() -> None:
    cursors = Cursors(1)
    send(cursors, 0, due_s=-1000.0)
    cursors.refuse(1, 1, refusal("DEADLINE_EXCEEDED", expected=1))
    send(cursors, 0, due_s=-500.0)
    cursors.outputs([1], [1], 1)
    [latencies_s] = cursors.latencies_s
    assert latencies_s[0] >= 500
    with pytest.raises(IndexError):
        cursors.latencies_s[1]


def test_a_refusal_without_a_reason_is_untyped() -> None:
    assert reason_of(Status(code=8, message="too much"))[0] == UNTYPED
    assert reason_of(None)[0] == UNTYPED


def on_a_stream(server: FakeServer, use: Callable[[RawStream], Awaitable[None]]) -> None:
    async def run() -> None:
        async with channel(server.target) as connection:
            stream = RawStream(connection, "sum", 3, bytes(WIDTH * 4))
            await stream.open()
            await use(stream)
            stream.cancel()

    asyncio.run(asyncio.wait_for(run(), 30))


async def until(stream: RawStream, rows: int) -> None:
    while stream.cursors.rows < rows:
        assert await stream.take()


def test_blocks_of_all_sessions_are_answered() -> None:
    async def use(stream: RawStream) -> None:
        for _ in range(3):
            await stream.send(stream.cursors.ready(), 0.0, timeout_s=5.0)
        await until(stream, 9)
        assert stream.cursors.answered.tolist() == [3, 3, 3]

    with FakeServer(SUM) as server:
        on_a_stream(server, use)


def test_after_a_refusal_every_step_is_answered_all_the_same() -> None:
    async def use(stream: RawStream) -> None:
        cursors = stream.cursors
        await stream.send(cursors.ready(), 0.0)
        while cursors.rows + cursors.refused.total() < 3:
            assert await stream.take()
        assert cursors.refused == {"QUEUE_FULL": 2}
        await stream.send(np.flatnonzero(cursors.sent == 0), 0.0)
        await until(stream, 3)
        assert cursors.answered.tolist() == [1, 1, 1]

    with FakeServer(SUM) as server:
        server.inject("Step", "QUEUE_FULL", times=2)
        on_a_stream(server, use)


def test_a_session_that_cannot_be_opened_is_said_so() -> None:
    async def use(stream: RawStream) -> None:
        raise AssertionError("not opened")

    with FakeServer(SUM) as server:
        server.inject("Bind", "SLAB_FULL")
        with pytest.raises(RuntimeError, match="SLAB_FULL"):
            on_a_stream(server, use)


def test_leaving_closes_the_sessions() -> None:
    async def use(stream: RawStream) -> None:
        reading = asyncio.create_task(take_all(stream))
        await stream.leave()
        stream.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    async def take_all(stream: RawStream) -> None:
        while await stream.take():
            pass

    with FakeServer(SUM) as server:
        on_a_stream(server, use)
        with carousel.Client(server.target) as client:
            assert not list(client.sessions("sum"))


def test_the_reason_for_which_a_call_ended_is_read() -> None:
    async def run() -> str:
        async with channel("127.0.0.1:1") as connection:
            stream = RawStream(connection, "sum", 1, b"")
            try:
                await stream.open()
            except grpc.RpcError as error:
                return reason_of_call(error)
            except asyncio.InvalidStateError:
                return await stream.why_ended()
        raise AssertionError("nobody listens there")

    assert asyncio.run(run()) == UNTYPED
