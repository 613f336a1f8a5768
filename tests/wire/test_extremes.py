"""The ends of every range, on a real engine: an answer or a refusal with a name, never a defect."""

from __future__ import annotations

import asyncio
import math

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from support.server import FEATURES, GRU_BYTES, LSTM
from support.wire import Stubs, error_of

from carousel_protos.v1 import carousel_pb2 as pb

ROW = np.ones(FEATURES, "<f4").tobytes()
TINY, HUGE = 1.4e-45, 3.4e38  # the ends of binary32

GENERATIONS = {
    "coldest": {"sampling": pb.Sampling(temperature=TINY)},
    "hottest": {"sampling": pb.Sampling(temperature=100)},
    "too hot": {"sampling": pb.Sampling(temperature=HUGE)},
    "infinitely hot": {"sampling": pb.Sampling(temperature=math.inf)},
    "least top_p": {"sampling": pb.Sampling(top_p=TINY)},
    "top_k beyond the vocabulary": {"sampling": pb.Sampling(top_k=2**31 - 1)},
    "least penalty": {"sampling": pb.Sampling(repetition_penalty=TINY)},
    "greatest penalty": {"sampling": pb.Sampling(repetition_penalty=100)},
    "all at once": {
        "sampling": pb.Sampling(temperature=TINY, top_k=1, top_p=TINY, repetition_penalty=TINY)
    },
    "greatest seed": {"sampling": pb.Sampling(seed=2**64 - 1)},
    "most alternatives": {"logprobs": 32},
    "too many alternatives": {"logprobs": 2**32 - 1},
    "most stops": {"stop": ["\N{GRINNING FACE}" * 256] * 16},
    "a stop too many": {"stop": ["a"] * 17},
    "a stop too long": {"stop": ["a" * 257]},
    "most stop tokens": {"stop_tokens": [255] * 256},
    "a negative stop token": {"stop_tokens": [-(2**31)]},
    "greatest first_seq": {"first_seq": 2**64 - 1},
    "most tokens and more": {"max_tokens": 2**32 - 1},
    "a NUL": {"text": "\0"},
    "a megabyte": {"text": "a" * (1 << 20)},
    "no prompt": {"text": None},
    "no tokens": {"text": None, "tokens": pb.Tokens()},
    "a million tokens": {"text": None, "tokens": pb.Tokens(ids=[1] * 1_000_000)},
    "tokens out of range": {"text": None, "tokens": pb.Tokens(ids=[2**31 - 1, -(2**31)])},
}

OPENS = {
    "least idle_ttl": {"idle_ttl": Duration(nanos=1)},
    "no idle_ttl": {"idle_ttl": Duration()},
    "negative idle_ttl": {"idle_ttl": Duration(seconds=-1)},
    "mixed signs": {"idle_ttl": Duration(seconds=1, nanos=-2_000_000_000)},
    "eternal idle_ttl": {"idle_ttl": Duration(seconds=2**63 - 1, nanos=999_999_999)},
    "unknown durability": {"durability": 77},
    "durability without a store": {"durability": pb.DURABILITY_SYNC},
    "greatest seed": {"seed": 2**64 - 1},
    "an id of blanks": {"session_id": " "},
    "an id with a newline": {"session_id": "a\n"},
    "an id that is a path": {"session_id": "../../etc/passwd"},
    "an id too long": {"session_id": "a" * 129},
    "a model's name too long": {"model": "a" * 257},
    "a bidirectional model": {"model": "bilstm"},
}

STEPS = {
    "greatest seq": {"first_seq": 2**64 - 1},
    "greatest seq that fits": {"first_seq": 2**62 - 1},
    "greatest ack": {"first_seq": 1, "ack": 2**64 - 1},
    "an ack of the future": {"first_seq": 1, "ack": 2**62 - 1},
    "unknown dtype": {"first_seq": 1, "dtype": 77},
    "half a row": {"first_seq": 1, "inputs": ROW[:-1]},
    "many rows": {"first_seq": 1, "inputs": ROW * 10_000},
    "not a number": {"first_seq": 1, "inputs": np.full(FEATURES, np.nan, "<f4").tobytes()},
}


async def outcome(call):
    """What came of a call; a refusal must be typed, and not be our defect."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        typed = error_of(error)
        assert typed.reason not in ("INTERNAL", "STEP_FAILED", "MODEL_UNHEALTHY"), typed.message
        return typed


@pytest.fixture
async def stubs(server):
    """A client; afterwards the server must still be fit, and know no defect."""
    seen = len(server.log)
    async with Stubs(server.target) as stubs:
        yield stubs
        for model in (LSTM, GRU_BYTES):
            session = await stubs.open(model)
            await stubs.sessions.CloseSession(pb.CloseSessionRequest(session_id=session.id))
    assert "Traceback" not in "".join(server.log[seen:])


async def read_all(call):
    return [message async for message in call]


@pytest.mark.parametrize("name", GENERATIONS)
async def test_generate(stubs, name):
    fields = {"model": GRU_BYTES, "text": "ab", "max_tokens": 3, **GENERATIONS[name]}
    async with asyncio.timeout(30):
        await outcome(read_all(stubs.inference.Generate(pb.GenerateRequest(**fields))))


@pytest.mark.parametrize("name", OPENS)
async def test_open(stubs, name):
    request = pb.OpenSessionRequest(**{"model": LSTM, **OPENS[name]})
    async with asyncio.timeout(30):
        opened = await outcome(stubs.sessions.OpenSession(request))
        if isinstance(opened, pb.OpenSessionResponse):
            close = pb.CloseSessionRequest(session_id=opened.session.id)
            await outcome(stubs.sessions.CloseSession(close))


@pytest.mark.parametrize("name", STEPS)
async def test_step(stubs, name):
    session = await stubs.open(LSTM)
    request = pb.StepRequest(**{"session_id": session.id, "inputs": ROW, **STEPS[name]})
    async with asyncio.timeout(30):
        await outcome(stubs.inference.Step(request))
    close = pb.CloseSessionRequest(session_id=session.id)
    await stubs.sessions.CloseSession(close)


async def test_a_block_at_the_ends(stubs):
    stream = await stubs.attach()
    await stream.bind(2**32 - 1, open=pb.OpenSessionRequest(model=LSTM))
    for fields in (
        {"first_seqs": [2**64 - 1], "steps": 1, "inputs": ROW},
        {"first_seqs": [1], "steps": 2**32 - 1, "inputs": ROW},
        {"first_seqs": [1], "steps": 1, "inputs": ROW, "acks": [2**64 - 1]},
        {"first_seqs": [1], "steps": 1, "inputs": ROW, "timeout": Duration(seconds=-5)},
        {"first_seqs": [1], "steps": 1, "inputs": ROW, "timeout": Duration(seconds=2**62)},
    ):
        await stream.say(block=pb.Block(handles=[2**32 - 1], **fields))
        assert (await stream.hear("failure")).failure.handle == 2**32 - 1
    await stream.step(2**32 - 1, 1, np.ones((1, FEATURES), "<f4"))
    await stream.say(unbind=pb.Unbind(handle=2**32 - 1, close=True))
    await stream.hear("unbound")


async def test_calls_by_the_thousand_at_once_are_all_answered(stubs: Stubs) -> None:
    """gRPC drops some at random where more than a thousand wait, if it is let."""
    calls = [stubs.models.GetModel(pb.GetModelRequest(name=LSTM)) for _ in range(2500)]
    answered = await asyncio.gather(*calls, return_exceptions=True)
    assert not [answer for answer in answered if isinstance(answer, BaseException)]
