"""Clients that go away in the middle: what they asked for runs, and nothing of them stays behind."""

from __future__ import annotations

import asyncio
import gc

import numpy as np
import pytest
from support.fake_engine import WIDTH
from support.wire import refused, settled

from carousel_server.core import ports
from carousel_server.core.errors import CarouselError
from carousel_server.wire.triton.sequence import Request, Sequence
from carousel_server.wire.triton.stream import Expected, Replies

ROW = np.arange(WIDTH, dtype="<f4")
SEQUENCES = range(1, 9)
KINDS = {Replies, Expected, Request, Sequence}


def kept(wire=None):
    if wire is not None:
        wire.engine.seen.clear()  # the fake one's commands, with what is called when they are answered
    gc.collect()
    return sum(type(thing) in KINDS for thing in gc.get_objects())


@pytest.fixture
def before():
    """How much other tests have left."""
    return kept()


def steps(engine):
    blocks = [command for command in engine.seen if isinstance(command, ports.StepBlock)]
    return sum(block.steps * len(block.refs) for block in blocks)


async def end_all(wire, fake):
    for s in SEQUENCES:
        await fake.infer("echo", ROW, s, end=True)
    await settled(lambda: not wire.engine.sessions)


async def cut_off(wire, stream):
    stream.call.cancel()
    ended = ("ModelStreamInfer", "bidi_stream", "CANCELLED")
    await settled(lambda: ended in wire.metrics.ended)
    assert wire.metrics.open_streams == 0


async def test_a_stream_that_is_cut_off_while_its_steps_run(wire, fake, before):
    stream = fake.stream()
    for s in SEQUENCES:
        await stream.say("echo", ROW, s, start=True)
    for _ in SEQUENCES:
        await stream.output()
    wire.engine.hold()
    for _ in range(5):
        for s in SEQUENCES:
            await stream.say("echo", ROW, s)
    await settled(lambda: steps(wire.engine) == 16)
    await cut_off(wire, stream)
    wire.engine.release()
    await end_all(wire, fake)
    await settled(lambda: kept(wire) == before)


async def test_a_stream_that_is_cut_off_while_its_sessions_are_opened(wire, fake, before):
    wire.engine.hold()
    stream = fake.stream()
    for s in SEQUENCES:
        await stream.say("echo", ROW, s, start=True)
    opening = (ports.Open,) * len(SEQUENCES)
    await settled(lambda: tuple(map(type, wire.engine.seen)) == opening)
    await cut_off(wire, stream)
    wire.engine.release()
    await end_all(wire, fake)
    await settled(lambda: kept(wire) == before)


async def test_calls_that_are_cancelled_while_their_steps_run(wire, fake, before):
    for s in SEQUENCES:
        await fake.infer("echo", ROW, s, start=True)
    wire.engine.hold()
    calls = [asyncio.ensure_future(fake.infer("echo", ROW, s)) for s in SEQUENCES]
    await settled(lambda: steps(wire.engine) == 16)
    for call in calls:
        call.cancel()
    cancelled = ("ModelInfer", "unary", "CANCELLED")
    await settled(lambda: wire.metrics.ended.count(cancelled) == len(calls))
    wire.engine.release()
    await end_all(wire, fake)
    calls.clear()
    await settled(lambda: kept(wire) == before)


async def test_requests_that_are_refused(wire, fake, before):
    assert (await refused(fake.infer("echo", ROW, 1))).reason == "SEQUENCE_NOT_STARTED"
    wire.engine.step_error = CarouselError("INPUT_NOT_FINITE", "NaN")
    assert (await refused(fake.infer("echo", ROW, 1, start=True))).reason == "INPUT_NOT_FINITE"
    wire.engine.step_error = None
    await settled(lambda: kept(wire) == before)
