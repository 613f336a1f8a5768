"""A store that fails under a live server: named to callers in time, told to watchers, outlived."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.redis import RedisServer
from support.server import FEATURES, LSTM, ServerProcess
from support.wire import Stubs, refused

import carousel
from carousel.types import Health
from carousel_protos.v1 import carousel_pb2 as pb

X = np.random.default_rng(7).standard_normal((40, FEATURES)).astype("<f4")
STORE = "carousel.store"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
TIMEOUT_S = 2.0
"""Of calls that must fail, and longer than this store needs to be found dead."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, appendfsync="always") as started:
        yield started


@pytest.fixture
def server(models_dir: Path, redis: RedisServer) -> Iterator[ServerProcess]:
    with ServerProcess(models_dir, store=redis.url, lease_ttl_s=2) as started:
        yield started


def expected(client: carousel.Client) -> np.ndarray:
    with client.session(LSTM, durability="none") as plain:
        return plain.steps(X)


@pytest.mark.parametrize("fault", ["dead", "hung"])
def test_every_call_that_needs_the_store_names_it_before_its_time_is_up(
    server: ServerProcess, redis: RedisServer, fault: str
) -> None:
    with carousel.Client(server.target, timeout_s=30.0) as client:
        outputs = expected(client)
        sync, stepped = client.session(LSTM, durability="sync"), client.session(LSTM)
        np.testing.assert_array_equal(sync.steps(X[:5]), outputs[:5])
        stepped.steps(X[:5])
        client.session(LSTM, session_id="away").detach()
        {"dead": redis.kill, "hung": redis.pause}[fault]()
        calls: dict[str, Callable[[], object]] = {
            "sync step": lambda: sync.step(X[5], timeout_s=TIMEOUT_S),
            "the next": lambda: sync.step(X[6], timeout_s=TIMEOUT_S),
            "async steps": lambda: stepped.steps(np.tile(X, (30, 1)), timeout_s=TIMEOUT_S),
            "open": lambda: client.session(LSTM, timeout_s=TIMEOUT_S),
            "bind": lambda: client.attach("away", timeout_s=TIMEOUT_S),
        }
        for name, call in calls.items():
            with pytest.raises(carousel.StoreUnavailableError) as caught:
                call()
            assert "store" in caught.value.message, name
        assert client.health() is Health.SERVING, "sessions without a store are served"
        assert client.health(store=True) is Health.NOT_SERVING
        {"dead": redis.start, "hung": redis.resume}[fault]()
        np.testing.assert_array_equal(sync.steps(X[7:]), outputs[7:])
        assert client.health(store=True) is Health.SERVING


def test_unary_calls_name_it_too(server: ServerProcess, redis: RedisServer) -> None:
    with carousel.Client(server.target, timeout_s=30.0) as client:
        session = client.session(LSTM, session_id="s")
        session.steps(X[:5])
        session.detach()
        redis.kill()
        with carousel.Client(server.target, timeout_s=TIMEOUT_S) as hasty:
            for call in (
                lambda: hasty.session_info("away"),
                lambda: list(hasty.sessions()),
                lambda: hasty.fork_session("s"),
            ):
                with pytest.raises(carousel.StoreUnavailableError):
                    call()


async def test_a_unary_step_of_a_sync_session_names_it_and_can_be_repeated(
    server: ServerProcess, redis: RedisServer
) -> None:
    async with Stubs(server.target) as stubs:
        await stubs.open(LSTM, "s", durability=pb.DURABILITY_SYNC)
        first = pb.StepRequest(session_id="s", first_seq=1, inputs=X[:1].tobytes())
        await stubs.inference.Step(first)
        redis.kill()
        request = pb.StepRequest(session_id="s", first_seq=2, inputs=X[1:2].tobytes(), ack=1)
        for _ in range(2):
            error = await refused(stubs.inference.Step(request, timeout=20.0))
            assert error.reason == "STORE_UNAVAILABLE"
        redis.start()
        health = health_pb2_grpc.HealthStub(stubs.channel)
        async for state in health.Watch(health_pb2.HealthCheckRequest(service=STORE)):
            if state.status == SERVING:
                break
        reply = await stubs.inference.Step(request)
        assert reply.durable >= 1
        assert len(reply.outputs) == 12


async def test_watchers_of_the_store_are_told(server: ServerProcess, redis: RedisServer) -> None:
    async with Stubs(server.target) as stubs:
        health = health_pb2_grpc.HealthStub(stubs.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=STORE))
        assert (await watch.read()).status == SERVING
        redis.kill()
        assert (await watch.read()).status == NOT_SERVING
        assert STORE in (await health.List(health_pb2.HealthListRequest())).statuses
        redis.start()
        assert (await watch.read()).status == SERVING
        watch.cancel()


async def test_a_server_without_a_store_has_no_line_of_one(models_dir: Path) -> None:
    with ServerProcess(models_dir) as server:
        async with Stubs(server.target) as stubs:
            health = health_pb2_grpc.HealthStub(stubs.channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.Check(health_pb2.HealthCheckRequest(service=STORE))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
