"""Rows as they come over a WebSocket: bytes of any size in, outputs as JSON out."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from support.fake_engine import ECHO, WIDTH
from support.wire import settled
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from carousel_server.core.errors import CarouselError
from carousel_server.core.types import Signal
from carousel_server.http.streams import Rows

ROW_BYTES = WIDTH * 4


@asynccontextmanager
async def stream(door, query="", model="echo"):
    async with connect(f"ws://127.0.0.1:{door.port}/api/models/{model}/rows{query}") as socket:
        yield socket


async def outputs_of(socket, count):
    """The next `count` output rows, and the number of the first step of each answer."""
    rows, seqs = [], []
    while len(rows) < count:
        answer = json.loads(await socket.recv())
        seqs.append(answer["first_seq"])
        rows += answer["outputs"]["y"]
    return np.asarray(rows, "<f4"), seqs


async def problem_of(socket):
    """The problem that the stream ends with, and the close code."""
    text = "{}"
    try:
        while True:
            text = await socket.recv()
    except ConnectionClosed as closed:
        return json.loads(text), closed.rcvd.code


@pytest.mark.parametrize("size", [1, 3, ROW_BYTES, 5 * ROW_BYTES + 7, 1 << 20])
async def test_bytes_of_any_size_become_rows(door, size):
    rows = np.random.default_rng(size).standard_normal((40, WIDTH)).astype("<f4")
    data = rows.tobytes()
    async with stream(door) as socket:
        first = json.loads(await socket.recv())
        assert first["row"] == {"dtype": "float32", "shape": [WIDTH], "bytes": ROW_BYTES}
        for at in range(0, len(data), size):
            await socket.send(data[at : at + size])
        outputs, seqs = await outputs_of(socket, 40)
    assert np.array_equal(outputs, rows)
    assert seqs[0] == 1
    assert seqs == sorted(set(seqs))


async def test_its_own_session_ends_with_it(door):
    async with stream(door) as socket:
        session = json.loads(await socket.recv())["session"]
        assert session["durability"] == "none"
        await settled(lambda: len(door.engine.sessions) == 1)
    await settled(lambda: not door.engine.sessions)


async def test_a_named_session_goes_on_and_stays(door):
    await door.stubs.open("echo", "named")
    row = np.ones(WIDTH, "<f4").tobytes()
    for seq in (1, 2):
        async with stream(door, "?session_id=named") as socket:
            assert json.loads(await socket.recv())["session"]["applied"] == seq - 1
            await socket.send(row)
            assert (await outputs_of(socket, 1))[1] == [seq]
    assert len(door.engine.sessions) == 1


async def test_the_end_fills_up_the_last_row(door):
    async with stream(door) as socket:
        await socket.recv()
        await socket.send(np.ones(WIDTH, "<f4").tobytes()[:-4])
        await socket.send('{"end": true}')
        outputs, _ = await outputs_of(socket, 1)
        assert outputs.tolist() == [[1.0] * (WIDTH - 1) + [0.0]]
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
    assert caught.value.rcvd.code == 1000
    await settled(lambda: not door.engine.sessions)


async def test_a_server_that_stops_says_so_to_an_idle_stream(door):
    await door.stubs.open("echo", "named")
    async with stream(door, "?session_id=named") as socket:
        await socket.recv()
        await settled(lambda: door.metrics.open_streams == 1)
        stopping = asyncio.create_task(door.doors.stop(30.0))
        problem, code = await problem_of(socket)
    assert (problem["reason"], code) == ("DRAINING", 4014)
    await stopping
    assert door.metrics.open_streams == 0


async def test_streams_of_rows_count_among_all_streams(start_doors):
    door = await start_doors(max_streams=1)
    async with stream(door) as first, stream(door) as second:
        await first.recv()
        problem, _ = await problem_of(second)
    assert problem["reason"] == "TOO_MANY_STREAMS"


def test_the_end_of_sound_adds_what_the_output_is_late_by():
    rows = Rows(
        replace(ECHO, signal=Signal(hop=WIDTH, rate=16_000, output=True, delay=WIDTH + 1)), 8
    )
    rows.add(b"\1" * 5)
    rows.end('{"end": true}')
    assert len(rows.next()) == 3 * ROW_BYTES


@pytest.mark.parametrize("text", ["", "{}", '{"end": false}', '{"end": true, "x": 1}', "[1"])
async def test_another_word_is_refused(door, text):
    async with stream(door) as socket:
        await socket.recv()
        await socket.send(text)
        problem, code = await problem_of(socket)
    assert (problem["reason"], code) == ("MALFORMED_MESSAGE", 4003)
    await settled(lambda: not door.engine.sessions)


@pytest.mark.parametrize(
    ("query", "model", "reason", "code"),
    [
        ("", "missing", "MODEL_NOT_FOUND", 4005),
        ("?session_id=nobody", "echo", "SESSION_NOT_FOUND", 4005),
        ("?session_id=named", "echo-tokens", "SESSION_NOT_FOUND", 4005),
        ("?initial=unknown", "echo", "INITIAL_UNKNOWN", 4003),
    ],
)
async def test_what_is_not_there_is_refused_by_name(door, query, model, reason, code):
    await door.stubs.open("echo", "named")
    async with stream(door, query, model) as socket:
        problem, closed = await problem_of(socket)
    assert (problem["reason"], closed) == (reason, code)


async def test_a_row_that_is_refused_ends_the_stream_and_no_named_session(door):
    await door.stubs.open("echo", "named")
    async with stream(door, "?session_id=named") as socket:
        await socket.recv()
        door.engine.refusal = CarouselError("STEP_NOT_FINITE", "the state is not finite")
        await socket.send(np.ones(WIDTH, "<f4").tobytes())
        problem, _ = await problem_of(socket)
    assert problem["reason"] == "STEP_NOT_FINITE"
    assert len(door.engine.sessions) == 1
