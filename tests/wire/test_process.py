"""The server as a process: how it starts, how it refuses to, and how it ends."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import urllib.request
from contextlib import suppress

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.redis import RedisServer
from support.server import BILSTM, FEATURES, GRU_BYTES, LSTM, ServerProcess
from support.wire import Stubs

from carousel_protos.v1 import carousel_pb2 as pb

ROWS = np.random.default_rng(0).standard_normal((16, FEATURES)).astype("<f4")


async def test_the_whole_path_on_a_real_engine(server):
    async with Stubs(server.target) as stubs:
        models = (await stubs.models.ListModels(pb.ListModelsRequest())).models
        assert [model.name for model in models] == sorted((BILSTM, GRU_BYTES, LSTM))
        stream = await stubs.attach()
        streamed = await stream.bind(1, open=pb.OpenSessionRequest(model=LSTM))
        one_by_one = b"".join([await stream.step(1, s, ROWS[s - 1 : s]) for s in range(1, 17)])
        called = await stubs.open(LSTM)
        request = pb.StepRequest(session_id=called.id, first_seq=1, inputs=ROWS.tobytes())
        at_once = (await stubs.inference.Step(request)).outputs
        whole = await stubs.inference.Infer(pb.InferRequest(model=LSTM, inputs=ROWS.tobytes()))
        for outputs in (at_once, whole.outputs):
            np.testing.assert_allclose(
                np.frombuffer(outputs, "<f4"), np.frombuffer(one_by_one, "<f4"), atol=1e-5
            )
        for session in (streamed, called):
            close = pb.CloseSessionRequest(session_id=session.id)
            assert (await stubs.sessions.CloseSession(close)).session.applied == 16


async def test_a_seed_repeats_a_generation(server):
    async with Stubs(server.target) as stubs:
        texts = []
        for _ in range(2):
            sampling = pb.Sampling(seed=7)
            request = pb.GenerateRequest(
                model=GRU_BYTES, text="def ", max_tokens=40, sampling=sampling
            )
            messages = [message async for message in stubs.inference.Generate(request)]
            assert messages[-1].usage.generated_tokens == 40
            texts.append([token.id for m in messages for token in m.tokens])
        assert texts[0] == texts[1]


def test_metrics_are_served(server):
    with urllib.request.urlopen(server.metrics_url) as reply:
        text = reply.read().decode()
    assert "grpc_server_started_total" in text
    assert "carousel_build_info" in text


async def test_drain_answers_everything_that_was_accepted(models_dir):
    """SIGTERM under load: each step is either answered or refused as DRAINING, none is lost."""
    with ServerProcess(models_dir, slots=64, window_steps=1024) as process:
        async with Stubs(process.target) as stubs:
            health = health_pb2_grpc.HealthStub(stubs.channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stream = await stubs.attach()
            handles = list(range(1, 33))
            for handle in handles:
                await stream.bind(handle, open=pb.OpenSessionRequest(model=LSTM))
            x = np.broadcast_to(ROWS, (32, 16, FEATURES))
            for block in range(40):
                await stream.block(handles, [1 + 16 * block] * 32, x)
            process.signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            answered, refused_from = {}, {}
            while (reply := await _next_before_the_end(stream)) is not None:
                for handle, first in zip(
                    reply.outputs.handles, reply.outputs.first_seqs, strict=True
                ):
                    assert first == answered.get(handle, 0) + 1, "a lost or reordered step"
                    answered[handle] = first + reply.outputs.steps - 1
                failure = reply.failure
                if reply.HasField("failure"):
                    one = ((failure.handle, failure.seq),)
                    several = zip(failure.handles, failure.seqs, strict=True)
                    for handle, seq in several if failure.handles else one:
                        refused_from[handle] = min(seq, refused_from.get(handle, seq))
            for handle in handles:
                assert answered.get(handle, 0) == refused_from.get(handle, 641) - 1
        assert process.wait() == 0
    assert "Traceback" not in process.text


async def _next_before_the_end(stream):
    """The next reply, or None at the end, which must be the drain's."""
    try:
        return await stream.hear()
    except grpc.aio.AioRpcError:
        assert (await stream.end()).reason == "DRAINING"
        return None


async def test_a_second_signal_ends_the_drain_at_once(models_dir):
    with ServerProcess(models_dir, drain_timeout_s=3600) as process:
        async with Stubs(process.target) as stubs:
            request = pb.GenerateRequest(model=GRU_BYTES, text="a", max_tokens=65_536)
            call = stubs.inference.Generate(request)
            await call.read()
            stream = await stubs.attach()
            process.signal(signal.SIGTERM)
            await stream.hear("drain")
            process.signal(signal.SIGTERM)
            with suppress(grpc.aio.AioRpcError):
                while await call.read() is not grpc.aio.EOF:
                    pass
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(process.wait) == 0


@pytest.mark.parametrize(
    ("store", "name"),
    [
        ("", "none"),
        ("memory", "memory"),
        ("sqlite:{folder}/a", "sqlite"),
        ("{folder}/b.db", "sqlite"),
    ],
)
def test_the_ready_line_names_the_store(models_dir, tmp_path, store, name):
    with ServerProcess(models_dir, store=store.format(folder=tmp_path)) as process:
        assert process.store == name


def test_a_redis_behind_a_unix_socket_is_named_redis(models_dir, tmp_path):
    place = tmp_path / "redis.sock"
    with (
        RedisServer(tmp_path, "--unixsocket", str(place)),
        ServerProcess(models_dir, store=f"unix://{place}?db=0") as process,
    ):
        assert process.store == "redis"


@pytest.mark.parametrize("which", ["port", "metrics_port"])
def test_a_taken_port_is_a_clear_refusal(run, server, models_dir, which):
    flag = f"--{which.replace('_', '-')}"
    flags = ["--port", "0", flag, str(getattr(server, which))]
    code, said = run("--models", str(models_dir), *flags)
    assert code == 1
    assert "cannot listen on 127.0.0.1:" in said
    assert f"choose another {flag}, or 0" in said


def test_a_bad_package_is_refused_at_start(run, models_dir, tmp_path):
    shutil.copytree(models_dir / LSTM, tmp_path / LSTM)
    weights = tmp_path / LSTM / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0xFF
    weights.write_bytes(data)
    code, said = run("--models", str(tmp_path), "--port", "0")
    assert code == 2
    assert LSTM in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--slots", "0"], "setting slots"),
        (["--host", "0.0.0.0"], "insecure=true"),
        (["--tls-cert", "/none", "--tls-key", "/none"], "cannot read /none"),
    ],
)
def test_bad_settings_are_refused_at_start(run, models_dir, flags, said):
    code, text = run("--models", str(models_dir), *flags)
    assert code == 2
    assert said in text


def test_an_empty_folder_is_refused_at_start(run, tmp_path):
    code, said = run("--models", str(tmp_path))
    assert code == 2
    assert "no model packages" in said


def test_ctrl_c_is_an_orderly_end_too_and_frees_the_port(models_dir):
    with ServerProcess(models_dir) as process:
        port = process.port
        process.signal(signal.SIGINT)
        assert process.wait() == 0
        assert "Traceback" not in process.text
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
