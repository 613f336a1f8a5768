"""A sequence whose last steps may be missing says so until it is started again, however it came back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.fake_engine import WIDTH
from support.wire import refused

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core import ports
from carousel_server.core.types import Durability, OpenSpec
from carousel_server.wire.auth import DEFAULT_TENANT

ROW = np.arange(WIDTH, dtype="<f4")
NAME = "triton:echo:7"


class Kept:
    """What the store makes of the engine's sessions: their level and epoch, and whether they are whole."""

    def __init__(self, engine, monkeypatch):
        self.engine, self.level, self.epoch = engine, Durability.ASYNC, 1
        self.whole = True
        plain = engine._view

        def view(session):
            return replace(
                plain(session), durability=self.level, epoch=self.epoch, whole=self.whole
            )

        monkeypatch.setattr(engine, "_view", view)

    def park(self, whole=True):
        """The session goes to the store. Whoever asks for it finds it in a new epoch."""
        self.whole = whole
        session = self.engine.session(NAME)
        session.sink.away(session.tag, self.engine._view(session))
        session.sink = None
        self.epoch += 1
        return session


@pytest.fixture
def kept(wire, monkeypatch):
    return Kept(wire.engine, monkeypatch)


@pytest.fixture
def left_behind(wire, kept):
    """A session of a process that was killed, on a row since it was asked for. Six steps are left."""
    kept.whole = False
    command = ports.Open(OpenSpec(DEFAULT_TENANT, NAME))
    wire.engine.submit(command)
    session = wire.engine.session(NAME)
    session.applied = 6
    return session


async def lost(fake):
    error = await refused(fake.infer("echo", ROW, 7))
    return error.reason == "DATA_LOSS"


async def test_each_request_is_told_of_the_loss_until_a_start(wire, fake, left_behind):
    assert [await lost(fake) for _ in range(3)] == [True] * 3
    assert (left_behind.applied, left_behind.sink) == (6, None)
    await fake.infer("echo", ROW, 7, start=True)
    await fake.infer("echo", ROW, 7)
    assert (wire.engine.session(NAME), left_behind.applied) == (left_behind, 8)
    blocks = [c for c in wire.engine.seen if isinstance(c, ports.StepBlock)]
    assert [(b.first_seqs, b.resets) for b in blocks] == [([7], b"\1"), ([8], b"")]


async def test_pipelined_requests_are_all_told(fake, left_behind):
    stream = fake.stream()
    for n in range(4):
        await stream.say("echo", ROW, 7, id=str(n))
    for n in range(4):
        text = await stream.error()
        assert text.startswith(f"[request id: {n}]")
        assert "DATA_LOSS" in text
    assert left_behind.applied == 6


@pytest.mark.parametrize("level", [Durability.SYNC, Durability.SYNC_FSYNC, Durability.NONE])
async def test_what_cannot_lose_a_step_goes_on(fake, kept, left_behind, level):
    kept.level = level
    await fake.infer("echo", ROW, 7)
    assert left_behind.applied == 7


async def test_a_session_that_comes_back_from_another_stream_is_whole(wire, fake, kept):
    await fake.infer("echo", ROW, 7, start=True)
    for seq in (2, 4):
        stream = await wire.stubs.attach()
        await stream.bind(1, session_id=NAME)
        await stream.step(1, seq, ROW[None])
        await fake.infer("echo", ROW, 7)
    assert wire.engine.session(NAME).applied == 5


async def test_one_that_was_in_the_store_meanwhile_may_not_be(wire, fake, kept):
    await fake.infer("echo", ROW, 7, start=True)
    stream = await wire.stubs.attach()
    await stream.bind(1, session_id=NAME)
    await stream.step(1, 2, ROW[None])
    await stream.say(unbind=pb.Unbind(handle=1))
    assert (await stream.hear()).WhichOneof("event") == "unbound"
    kept.epoch, kept.whole = kept.epoch + 1, False
    assert [await lost(fake) for _ in range(2)] == [True] * 2


async def test_a_session_that_another_server_has_released_in_good_order_goes_on(
    fake, kept, left_behind
):
    """This door has never seen it."""
    kept.whole = True
    await fake.infer("echo", ROW, 7)
    assert left_behind.applied == 7


async def test_a_start_resets_a_session_of_which_every_step_is_lost(wire, fake, kept, left_behind):
    """Without the reset, the engine would not know that it is whole from now on."""
    left_behind.applied = 0
    assert await lost(fake)
    await fake.infer("echo", ROW, 7, start=True)
    (block,) = [c for c in wire.engine.seen if isinstance(c, ports.StepBlock)]
    assert (block.first_seqs, block.resets) == ([1], b"\1")


async def test_a_parked_session_comes_back_as_often_as_it_likes(wire, fake, kept):
    await fake.infer("echo", ROW, 7, start=True)
    for _ in range(3):
        kept.park()
        await fake.infer("echo", ROW, 7)
    assert wire.engine.session(NAME).applied == 4


async def test_a_parked_session_that_comes_back_with_fewer_steps_says_so_each_time(fake, kept):
    await fake.infer("echo", ROW, 7, start=True)
    await fake.infer("echo", ROW, 7)
    kept.park(whole=False).applied = 1
    assert [await lost(fake) for _ in range(3)] == [True] * 3
