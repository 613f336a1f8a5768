"""Resets on the wire: checked by size and value, and handed to the engine with their steps."""

from __future__ import annotations

import numpy as np
import pytest
from support.fake_engine import WIDTH
from support.server import FEATURES, GRU_BYTES, LSTM, ServerProcess
from support.wire import Stubs, refused, settled, unpack

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_server.core import ports

OPEN = pb.OpenSessionRequest(model="echo")
ROWS = np.zeros((2, 3, WIDTH), "<f4")


def blocks(wire):
    return [c for c in wire.engine.seen if isinstance(c, ports.StepBlock)]


@pytest.fixture
async def stream(wire):
    """A stream with handles 1 and 2 bound."""
    talk = await wire.stubs.attach()
    for handle in (1, 2):
        await talk.bind(handle, open=OPEN)
    return talk


async def test_a_block_hands_its_resets_to_the_engine(wire, stream):
    for first, resets in ((1, b"\0\1\0\1\0\0"), (4, b""), (7, bytes(6))):
        await stream.block([1, 2], [first] * 2, ROWS, resets=resets)
        await stream.hear("outputs")
    assert [block.resets for block in blocks(wire)] == [b"\0\1\0\1\0\0", b"", b""]


@pytest.mark.parametrize(
    ("resets", "text"),
    [
        (b"\1", "6 bytes"),
        (bytes(7), "6 bytes"),
        (b"\0\1\2\0\0\0", "0 or 1"),
        (b"\xff" * 6, "0 or 1"),
    ],
)
async def test_resets_of_another_size_or_value_are_refused(wire, stream, resets, text):
    await stream.block([1, 2], [1, 1], ROWS, resets=resets)
    failures = [(await stream.hear("failure")).failure]
    error = unpack(failures[0].status)
    assert (error.reason, text in error.message) == ("FIELD_INVALID", True)
    assert error.bad_request.field_violations[0].field == "resets"
    assert not blocks(wire)


async def test_rows_that_go_alone_keep_their_own_resets(wire, stream):
    """Handle 9 is not bound, so the others' rows are cut out of the block."""
    rows = np.zeros((3, 2, WIDTH), "<f4")
    await stream.block([1, 9, 2], [1, 1, 1], rows, resets=b"\1\0\1\1\0\1")
    assert (await stream.hear("failure")).failure.handle == 9
    await stream.hear("outputs")
    assert [block.resets for block in blocks(wire)] == [b"\1\0\0\1"]


async def test_a_step_call_has_resets(wire):
    session = await wire.stubs.open("echo")
    call = pb.StepRequest(session_id=session.id, first_seq=1, inputs=ROWS[0].tobytes())
    call.resets = b"\0\0\1"
    await wire.stubs.inference.Step(call)
    assert [block.resets for block in blocks(wire)] == [b"\0\0\1"]
    call.first_seq, call.resets = 4, b"\1"
    error = await refused(wire.stubs.inference.Step(call))
    assert (error.reason, error.bad_request.field_violations[0].field) == (
        "FIELD_INVALID",
        "resets",
    )


async def test_a_generation_can_ask_for_a_reset(wire):
    session = await wire.stubs.open("echo-tokens")
    for reset in (False, True):
        call = pb.GenerateRequest(session_id=session.id, text="x", max_tokens=1, reset=reset)
        stream = wire.stubs.inference.Generate(call)
        assert (await stream.read()).tokens
        await settled(lambda: isinstance(wire.tokens.seen[-1], ports.Generate))
    specs = [c.spec for c in wire.tokens.seen if isinstance(c, ports.Generate)]
    assert [spec.reset for spec in specs] == [False, True]


# -- a real server


async def test_episodes_of_one_session_are_those_of_fresh_ones(server: ServerProcess) -> None:
    x = np.random.default_rng(3).standard_normal((2, 6, FEATURES)).astype("<f4")
    async with Stubs(server.target) as stubs:
        stream = await stubs.attach()
        session = await stream.bind(1, open=pb.OpenSessionRequest(model=LSTM))
        both = x.reshape(1, 12, FEATURES)
        await stream.block([1], [1], both, resets=bytes([0] * 6 + [1] + [0] * 5))
        outputs = b""
        while len(outputs) < 12 * 3 * 4:
            result = (await stream.hear("outputs")).outputs
            outputs += result.outputs
        found = np.frombuffer(outputs, "<f4").reshape(2, 6, -1)
        for episode, y in zip(x, found, strict=True):
            whole = await stubs.inference.Infer(
                pb.InferRequest(model=LSTM, inputs=episode.tobytes())
            )
            wanted = np.frombuffer(whole.outputs, "<f4").reshape(6, -1)
            np.testing.assert_allclose(y, wanted, atol=1e-5)
        await stream.say(unbind=pb.Unbind(handle=1, close=True))
        await stream.hear("unbound")
        assert session.applied == 0


async def test_a_text_after_a_reset_is_that_of_a_fresh_session(server: ServerProcess) -> None:
    async def text(stubs: Stubs, session: pb.Session, *, reset: bool) -> list[int]:
        sampling = pb.Sampling(temperature=0.0, repetition_penalty=1.3)
        call = pb.GenerateRequest(
            session_id=session.id, text="def ", max_tokens=12, sampling=sampling, reset=reset
        )
        replies = [reply async for reply in stubs.inference.Generate(call)]
        return [token.id for reply in replies for token in reply.tokens]

    async with Stubs(server.target) as stubs:
        session = await stubs.open(GRU_BYTES)
        fresh = await text(stubs, session, reset=False)
        assert len(fresh) == 12
        assert await text(stubs, session, reset=True) == fresh
        await stubs.sessions.CloseSession(pb.CloseSessionRequest(session_id=session.id))
