"""Clients that do not read: what they hold is bounded, and taken from them in the end."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from support.wire import settled

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.wire import attach

ROW_BYTES = 60_000


@pytest.fixture
async def deaf(start_wire, monkeypatch):
    """A wire, and a stream whose client reads nothing while its session's outputs come and come."""
    monkeypatch.setattr(attach, "_LAST_WORDS_S", 0.05)
    wire = await start_wire(max_message_bytes=1 << 16)
    stream = await wire.stubs.attach()
    await stream.bind(1, open=pb.OpenSessionRequest(model="echo", session_id="deaf"))
    session = wire.engine.session("deaf")
    sink, tag = session.sink, np.array([session.tag])
    row = np.zeros((1, ROW_BYTES), np.uint8)
    for seq in range(1, 200):  # 12 MB; unread may be 1 MB and what fits into grpc's own buffers
        sink.outputs(tag, np.array([seq]), 1, row)
        await asyncio.sleep(0)
    return wire, stream


async def test_the_stream_ends_and_its_sessions_are_free_for_others(deaf):
    wire, _ = deaf
    await settled(lambda: not wire.engine.bound)
    await settled(lambda: wire.metrics.open_streams == 0)
    other = await wire.stubs.attach()
    await other.bind(1, session_id="deaf")
    assert wire.engine.bound == ["deaf"]


async def test_when_it_reads_after_all_it_hears_why(deaf):
    wire, stream = deaf
    await settled(lambda: wire.metrics.open_streams == 0)
    error = await stream.end()
    assert error.reason == "WINDOW_EXCEEDED"
    assert error.retry.retry_delay.ToNanoseconds() > 0


async def test_a_stop_does_not_wait_for_it(deaf):
    wire, _ = deaf
    async with asyncio.timeout(10):
        await wire.server.stop(0.1)
