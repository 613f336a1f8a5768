"""The door in front of real engines, on its own and beside carousel.v1."""

from __future__ import annotations

import asyncio
import hashlib
import json

import numpy as np
import pytest
from support.server import BILSTM, FEATURES, GRU_BYTES, LSTM, ServerProcess
from support.triton import TritonStubs, outputs
from support.wire import Stubs, refused

from carousel_protos.triton import inference_pb2 as triton_pb
from carousel_protos.v1 import carousel_pb2 as pb

X = np.random.default_rng(5).standard_normal((12, FEATURES)).astype("<f4")


async def run(stubs, sequence, inputs=X, model=LSTM):
    """A whole sequence by unary calls; float32[steps, output width]."""
    last = len(inputs) - 1
    found = [
        await stubs.infer(model, row, sequence, start=n == 0, end=n == last)
        for n, row in enumerate(inputs)
    ]
    return np.concatenate([tensors["y"] for tensors in found])


async def attached(target, inputs=X):
    """The same steps through carousel.v1."""
    async with Stubs(target) as stubs:
        stream = await stubs.attach()
        await stream.bind(1, open=pb.OpenSessionRequest(model=LSTM))
        data = [await stream.step(1, n + 1, row[None]) for n, row in enumerate(inputs)]
        await stream.say(unbind=pb.Unbind(handle=1, close=True))
    return np.frombuffer(b"".join(data), "<f4").reshape(len(inputs), -1)


async def test_a_sequence_gives_what_a_session_gives(real, server):
    expected = await attached(server.target)
    np.testing.assert_allclose(await run(real, 101), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(await run(real, "a-b"), expected, rtol=1e-5, atol=1e-6)


async def test_pipelined_sequences_give_the_same_and_do_not_mix(real, server):
    expected = await attached(server.target)
    stream, sequences = real.stream(), range(1, 33)
    for n, row in enumerate(X):
        for s in sequences:
            await stream.say(LSTM, row * (1 if s % 2 else -1), s, start=n == 0, end=n == 11)
    await stream.call.done_writing()
    found = np.array([[(await stream.output())["y"][0] for _ in sequences] for _ in X])
    mirrored = await run(real, 102, -X)
    for s in sequences:
        wanted = expected if s % 2 else mirrored
        np.testing.assert_allclose(found[:, s - 1], wanted, rtol=1e-4, atol=1e-5)


async def test_a_started_again_sequence_remembers_nothing(real):
    first = await real.infer(LSTM, X[0], 103, start=True)
    await real.infer(LSTM, X[1], 103)
    again = await real.infer(LSTM, X[0], 103, start=True, end=True)
    np.testing.assert_allclose(again["y"], first["y"], rtol=1e-6)


async def test_a_sequence_that_is_started_again_and_again_is_many_sequences(real):
    """Pipelined, with START in between, as a client that restarts without END."""
    stream, n = real.stream(), 4
    for row in range(3 * n):
        await stream.say(LSTM, X[row % n], 108, start=row % n == 0)
    await stream.call.done_writing()
    found = [(await stream.output())["y"][0] for _ in range(3 * n)]
    expected = await run(real, 109, X[:n])
    np.testing.assert_allclose(found, np.concatenate([expected] * 3), rtol=1e-5, atol=1e-6)
    await real.infer(LSTM, X[0], 108, start=True, end=True)


async def test_tokens_are_integers(real):
    found = await real.infer(
        GRU_BYTES, [97], 104, start=True, end=True, datatype="INT32", dtype="<i4"
    )
    assert found["y"].shape == (1, 256)
    error = await refused(
        real.infer(GRU_BYTES, [256], 104, start=True, datatype="INT32", dtype="<i4")
    )
    assert error.reason == "UNKNOWN_TOKEN"


async def test_a_bidirectional_model_serves_no_sequences(real):
    assert (await refused(real.infer(BILSTM, X[0], 105, start=True))).reason == "MODEL_NOT_CAUSAL"
    question = triton_pb.ModelConfigRequest(name=BILSTM)
    config = (await real.ask("ModelConfig", question)).config
    assert config.WhichOneof("scheduling_choice") is None


async def test_an_input_that_is_not_finite_costs_only_itself(real):
    stream = real.stream()
    bad = np.full(FEATURES, np.nan, "<f4")
    for n, row in enumerate([X[0], bad, X[1], X[2]]):
        await stream.say(LSTM, row, 106, start=n == 0, end=n == 3, id=str(n))
    replies = [await stream.hear() for _ in range(4)]
    assert "INPUT_NOT_FINITE" in replies[1].error_message
    expected = await run(real, 107, X[:3])
    for reply, wanted in zip([replies[0], *replies[2:]], expected, strict=True):
        found = outputs(reply.infer_response)["y"][0]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


# -- limits, tenants, expiry


async def test_limits_and_tenants(models_dir):
    hashes = {n: hashlib.sha256(n.encode()).hexdigest() for n in ("one", "two")}
    settings = {"slots": 3, "sessions_per_tenant": 2, "tokens": json.dumps(hashes)}
    with ServerProcess(models_dir, **settings) as server:
        async with (
            TritonStubs(server.target) as nobody,
            TritonStubs(server.target, "one") as one,
            TritonStubs(server.target, "two") as two,
        ):
            unknown = await refused(nobody.ask("ServerLive"))
            assert unknown.reason == "TOKEN_INVALID"
            assert "(TOKEN_INVALID)" in unknown.message
            await one.infer(LSTM, X[0], 1, start=True)
            await one.infer(LSTM, X[0], 2, start=True)
            many = await refused(one.infer(LSTM, X[0], 3, start=True))
            assert many.reason == "TOO_MANY_SESSIONS"
            foreign = await refused(two.infer(LSTM, X[0], 1))
            assert foreign.reason == "SEQUENCE_NOT_STARTED"
            await two.infer(LSTM, X[0], 1, start=True)
            full = await refused(two.infer(LSTM, X[0], 2, start=True))
            assert full.reason == "SLAB_FULL"
            assert full.retry is not None


async def test_an_expired_sequence_says_that_it_expired_and_is_counted(models_dir):
    with ServerProcess(models_dir, idle_ttl_s=0.5) as server:
        async with TritonStubs(server.target) as stubs:
            await stubs.infer(LSTM, X[0], 1, start=True)
            ended = f'carousel_sessions_ended_total{{how="expired",model="{LSTM}"}} 1.0'
            text = await asyncio.to_thread(server.metrics_once, ended)
            assert 'grpc_method="ModelInfer",grpc_service="inference.GRPCInferenceService"' in text
            assert (await refused(stubs.infer(LSTM, X[1], 1))).reason == "SESSION_EXPIRED"
            await stubs.infer(LSTM, X[0], 1, start=True)


# -- the store


@pytest.fixture
def stored(models_dir, tmp_path):
    """Starts servers on one file."""

    def start(**settings):
        store = f"sqlite:{tmp_path / 'sessions.db'}"
        return ServerProcess(
            models_dir, store=store, replica="door", park_after_s=0.2, slots=2, **settings
        )

    return start


async def test_parked_sequences_come_back_at_their_next_request(stored):
    with stored() as server:
        async with TritonStubs(server.target) as stubs:
            expected = await run(stubs, 1)
            for n, row in enumerate(X):
                for s in range(2, 8):  # three times as many as there are slots
                    found = await stubs.infer(LSTM, row, s, start=n == 0, end=n == 11)
                    np.testing.assert_allclose(found["y"][0], expected[n], rtol=1e-4, atol=1e-5)


async def test_a_sync_sequence_survives_the_server_and_an_async_one_says_what_may_be_lost(stored):
    with stored() as server:
        async with TritonStubs(server.target) as stubs:
            expected = await run(stubs, 1)
            for n in range(6):
                await stubs.infer(LSTM, X[n], "kept", start=n == 0, durability="sync")
                await stubs.infer(LSTM, X[n], "hoped", start=n == 0)
        server.process.kill()
        server.wait()
    with stored() as server:
        async with TritonStubs(server.target) as stubs:
            for n in range(6, 12):
                found = await stubs.infer(LSTM, X[n], "kept", end=n == 11)
                np.testing.assert_allclose(found["y"][0], expected[n], rtol=1e-4, atol=1e-5)
            for _ in range(3):  # also when it is on a row since the first of them
                assert (await refused(stubs.infer(LSTM, X[6], "hoped"))).reason == "DATA_LOSS"
            started = await stubs.infer(LSTM, X[0], "hoped", start=True)
            np.testing.assert_allclose(started["y"][0], expected[0], rtol=1e-4, atol=1e-5)
            found = await stubs.infer(LSTM, X[1], "hoped", end=True)
            np.testing.assert_allclose(found["y"][0], expected[1], rtol=1e-4, atol=1e-5)


async def test_a_parked_sequence_is_started_again(stored):
    with stored() as server:
        async with TritonStubs(server.target) as stubs:
            expected = await run(stubs, 1)
            for start in (True, True):
                for n in range(3):
                    for s in range(2, 7):  # more than there are slots, so that each parks
                        found = await stubs.infer(LSTM, X[n], s, start=start and n == 0)
                        np.testing.assert_allclose(found["y"][0], expected[n], rtol=1e-4, atol=1e-5)


async def test_a_started_again_sync_sequence_survives_the_server(stored):
    with stored() as server:
        async with TritonStubs(server.target) as stubs:
            expected = await run(stubs, 1)
            for n in range(6):
                await stubs.infer(LSTM, X[n], "kept", start=n in (0, 3), durability="sync")
        server.process.kill()
        server.wait()
    with stored() as server:
        async with TritonStubs(server.target) as stubs:
            assert len(expected) == 12
            begun = await run(stubs, 2, X[3:8])
            for n in (6, 7):
                found = await stubs.infer(LSTM, X[n], "kept", end=n == 7)
                np.testing.assert_allclose(found["y"][0], begun[n - 3], rtol=1e-4, atol=1e-5)
