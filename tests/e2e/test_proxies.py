"""The recipes for HAProxy and Envoy, in front of real replicas on one Redis, while these come and go."""

from __future__ import annotations

import queue
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.certificates import make_certificates, needs_openssl
from support.proxies import SESSION_HEADER, Envoy, HAProxy, Proxy, eventually
from support.redis import RedisServer
from support.server import FEATURES, LSTM, ServerProcess
from support.triton import SERVICE, outputs, request

import carousel
from carousel_protos.triton import inference_pb2 as triton_pb
from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1 import carousel_pb2_grpc as pb_grpc

from .outsiders import Outsider, Replicas, outputs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KINDS: dict[str, type[Proxy]] = {"haproxy": HAProxy, "envoy": Envoy}
NAMES = ("replica-1", "replica-2", "replica-3")
ROWS = np.random.default_rng(13).standard_normal((40, FEATURES)).astype(np.float32)

CUT = {"haproxy": grpc.StatusCode.CANCELLED, "envoy": grpc.StatusCode.INTERNAL}
"""How a stream ends whose replica has gone, after its first reply. The proxies reset it, each in its way."""

each_proxy = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def expected(models_dir: Path) -> Iterator[np.ndarray]:
    """What `ROWS` give in a session to which nothing happens."""
    with ServerProcess(models_dir, strict=True) as server:
        yield outputs_of(server.target, ROWS)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def fleet(models_dir: Path, redis: RedisServer) -> Iterator[Replicas]:
    with Replicas(models_dir, redis.url) as running:
        yield running


@pytest.fixture
def replicas(fleet: Replicas) -> Replicas:
    """Three replicas."""
    fleet.restore(*NAMES)
    return fleet


@pytest.fixture
def proxy(kind: str, replicas: Replicas, tmp_path: Path) -> Iterator[Proxy]:
    """In front of the three replicas."""
    with KINDS[kind](tmp_path) as running:
        running.serve(replicas.living)
        yield running


def calls(replicas: Replicas, method: str) -> list[int]:
    """How many calls of a method each living replica has answered."""
    name = f'grpc_method="{method}"'
    return [
        sum(
            int(float(line.split()[-1]))
            for line in server.metrics_now().splitlines()
            if line.startswith("grpc_server_handled_total") and name in line
        )
        for server in replicas.living
    ]


def streams(server: ServerProcess) -> int:
    """How many streams of sessions are open at a server."""
    series = re.compile(r"^carousel_attach_streams ([\d.]+)$", re.MULTILINE)
    return int(float(series.findall(server.metrics_now())[0]))


# -- where calls go


@each_proxy
def test_all_calls_of_a_session_go_to_one_replica(
    proxy: Proxy, replicas: Replicas, expected: np.ndarray
) -> None:
    """A session without a store is at one replica only: the others would not find it."""
    before = calls(replicas, "Step")
    for n in range(30):
        with Outsider(proxy.target, f"{proxy.name}-{n}") as session:
            session.open(pb.DURABILITY_NONE)
            np.testing.assert_array_equal(session.run(list(ROWS[:5])), expected[:5])
            assert not session.refusals
    assert all(np.subtract(calls(replicas, "Step"), before) > 0)


@each_proxy
def test_without_the_header_calls_take_turns(proxy: Proxy, replicas: Replicas) -> None:
    before = calls(replicas, "GetModel")
    with grpc.insecure_channel(proxy.target) as channel:
        models = pb_grpc.ModelServiceStub(channel)
        for _ in range(60):
            models.GetModel(pb.GetModelRequest(name=LSTM))
    ran = np.subtract(calls(replicas, "GetModel"), before)
    assert all(ran > 0)
    assert sum(ran) == 60


def test_haproxy_spreads_streams_that_name_no_session(replicas: Replicas, tmp_path: Path) -> None:
    """As those of the SDK: each has many sessions and lives long."""
    with HAProxy(tmp_path) as proxy, ExitStack() as clients:
        proxy.serve(replicas.living)
        for _ in range(6):
            client = clients.enter_context(carousel.Client(proxy.target))
            clients.enter_context(client.session(LSTM)).step(ROWS[0])
        eventually(
            lambda: [streams(replicas[name]) for name in NAMES] == [2, 2, 2],
            lambda: f"streams: {[streams(replicas[name]) for name in NAMES]}",
        )


@each_proxy
def test_a_session_that_lands_at_the_wrong_replica_is_never_forked(
    proxy: Proxy, expected: np.ndarray
) -> None:
    """Without the header, each step comes to any replica. The session has no stream, so it is handed over."""
    with Outsider(proxy.target, f"{proxy.name}-wanders", header=False) as session:
        session.open()
        np.testing.assert_array_equal(session.run(list(ROWS[:6])), expected[:6])
    assert not session.refusals


@each_proxy
def test_reflection_answers_through_the_proxy(proxy: Proxy) -> None:
    """As grpcurl asks for the services."""
    with grpc.insecure_channel(proxy.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = stub.ServerReflectionInfo(iter([asked]))
    names = {service.name for service in reply.list_services_response.service}
    assert "carousel.v1.InferenceService" in names


# -- replicas that come and go


class Steppers:
    """Sessions of outsiders at work, each in a thread, again and again through `ROWS`."""

    def __init__(self, target: str, name: str, count: int) -> None:
        self._target = target
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._progress: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._work = [self._pool.submit(self._run, f"{name}-{n}") for n in range(count)]

    def _run(self, session_id: str) -> tuple[np.ndarray, dict[str, int]]:
        found = []
        with Outsider(self._target, session_id) as session:
            session.open()
            while not self._stop.is_set():
                found.append(session.step(ROWS[len(found) % len(ROWS)]))
                self._progress.put(session_id)
        return np.stack(found), session.refusals

    def go_on(self) -> None:
        """Returns when each session has stepped three times more."""
        while not self._progress.empty():
            self._progress.get()
        steps: Counter[str] = Counter()
        while sum(count >= 3 for count in steps.values()) < len(self._work):
            for work in self._work:
                if work.done():
                    work.result()  # raises what ended it
            with suppress(queue.Empty):
                steps[self._progress.get(timeout=1)] += 1

    def end(self) -> list[tuple[np.ndarray, dict[str, int]]]:
        """Outputs and refusals of each session."""
        self._stop.set()
        with self._pool:
            return [work.result() for work in self._work]


@each_proxy
def test_sessions_survive_replicas_that_are_killed_drained_and_added(
    proxy: Proxy, replicas: Replicas, models_dir: Path
) -> None:
    steppers = Steppers(proxy.target, f"{proxy.name}-w", 12)
    try:
        steppers.go_on()
        replicas.kill("replica-2")
        steppers.go_on()
        replicas.start("replica-4")
        proxy.serve(replicas.living)
        steppers.go_on()
        replicas.drain("replica-1")
        steppers.go_on()
        replicas.start("replica-2")
        proxy.serve(replicas.living)
        steppers.go_on()
    finally:
        ended = steppers.end()
    with ServerProcess(models_dir, strict=True) as quiet:
        longest = max(len(found) for found, _ in ended)
        oracle = outputs_of(quiet.target, np.resize(ROWS, (longest, FEATURES)))
    for found, refusals in ended:
        np.testing.assert_array_equal(found, oracle[: len(found)])
        assert set(refusals) <= {"UNAVAILABLE", "SESSION_HELD", "DRAINING", "STORE_UNAVAILABLE"}


@each_proxy
def test_the_sdk_behind_a_proxy_sees_no_error(
    proxy: Proxy, replicas: Replicas, expected: np.ndarray
) -> None:
    """One stream carries all sessions of a client, so one replica has them. It is killed."""
    with carousel.Client(proxy.target) as client:
        sessions = [client.session(LSTM, durability="sync") for _ in range(4)]
        found = [[session.step(row) for row in ROWS[:5]] for session in sessions]
        replicas.kill(having_streams(replicas))
        for rows, session in zip(found, sessions, strict=True):
            rows += [session.step(row) for row in ROWS[5:20]]
            session.close()
    np.testing.assert_array_equal(found, np.stack([expected[:20]] * 4))


def having_streams(replicas: Replicas) -> str:
    """The name of the only replica that has a stream."""
    found: list[str] = []

    def one() -> bool:
        found[:] = [name for name in NAMES if streams(replicas[name])]
        return len(found) == 1

    eventually(one, lambda: f"streams are at {found}")
    return found[0]


# -- living streams


class Stream:
    """One stream of Triton's protocol through a proxy, with one sequence that is not durable."""

    def __init__(self, target: str, sequence_id: int) -> None:
        self._id = sequence_id
        self._channel = grpc.insecure_channel(target)
        method = self._channel.stream_stream(
            SERVICE + "ModelStreamInfer",
            request_serializer=triton_pb.ModelInferRequest.SerializeToString,
            response_deserializer=triton_pb.ModelStreamInferResponse.FromString,
        )
        self._requests: queue.SimpleQueue[triton_pb.ModelInferRequest | None] = queue.SimpleQueue()
        header = ((SESSION_HEADER, f"triton:{LSTM}:{sequence_id}"),)
        self._call = method(iter(self._requests.get, None), metadata=header)
        self._steps = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._channel.close()

    def step(self, row: np.ndarray) -> np.ndarray:
        """The output of the next step; float32[width]."""
        first = not self._steps
        self._steps += 1
        asked = request(LSTM, row, self._id, start=first, durability="none")
        self._requests.put(asked)
        reply = next(self._call)
        assert not reply.error_message
        return outputs(reply.infer_response)["y"][0]


@each_proxy
def test_a_living_stream_stays_when_the_proxy_gets_other_replicas(
    proxy: Proxy, replicas: Replicas, expected: np.ndarray
) -> None:
    with Stream(proxy.target, 1) as stream:
        found = [stream.step(row) for row in ROWS[:3]]
        owner = having_streams(replicas)
        proxy.serve([replicas[name] for name in NAMES if name != owner])
        found += [stream.step(row) for row in ROWS[3:6]]
        proxy.serve(replicas.living)
        found += [stream.step(row) for row in ROWS[6:9]]
        assert having_streams(replicas) == owner
    np.testing.assert_array_equal(found, expected[:9])


@each_proxy
def test_a_replica_that_hangs_gets_no_calls_and_its_streams_are_cut(
    proxy: Proxy, replicas: Replicas, expected: np.ndarray
) -> None:
    """The client would wait for ever: its connection to the proxy is sound."""
    with Stream(proxy.target, 2) as stream:
        stream.step(ROWS[0])
        owner = having_streams(replicas)
        replicas[owner].signal(signal.SIGSTOP)
        with pytest.raises(grpc.RpcError) as caught:
            stream.step(ROWS[1])
    assert caught.value.code() is CUT[proxy.name]
    proxy.wait_for(replicas[name] for name in NAMES if name != owner)
    for n in range(10):
        with Outsider(proxy.target, f"{proxy.name}-while-one-hangs-{n}") as session:
            session.open(pb.DURABILITY_NONE)
            np.testing.assert_array_equal(session.run(list(ROWS[:2])), expected[:2])
            assert not session.refusals
    replicas.kill(owner)


def test_without_its_store_no_replica_is_ready_and_haproxy_asks_them_all_the_same(
    replicas: Replicas, redis: RedisServer, tmp_path: Path, expected: np.ndarray
) -> None:
    """/readyz fails everywhere. Living streams and sessions without a store go on."""
    with HAProxy(tmp_path) as proxy:
        proxy.serve(replicas.living)
        with Stream(proxy.target, 3) as stream, Outsider(proxy.target, "no-store") as session:
            session.open(pb.DURABILITY_NONE)
            streamed = [stream.step(row) for row in ROWS[:3]]
            called = [session.step(row) for row in ROWS[:3]]
            redis.kill()
            try:
                eventually(
                    lambda: set(proxy.states().values()) == {"NOLB"}, lambda: str(proxy.states())
                )
                streamed += [stream.step(row) for row in ROWS[3:6]]
                called += [session.step(row) for row in ROWS[3:6]]
                assert not session.refusals
            finally:
                redis.start()
            proxy.wait_for(replicas.living)
    np.testing.assert_array_equal(streamed, expected[:6])
    np.testing.assert_array_equal(called, expected[:6])


# -- TLS


@needs_openssl
@pytest.mark.parametrize("replica_tls", [False, True], ids=["proxy", "proxy and replicas"])
@each_proxy
def test_tls(
    kind: str, replica_tls: bool, models_dir: Path, tmp_path: Path, expected: np.ndarray
) -> None:
    made = make_certificates(tmp_path)
    given = {"tls_cert": made / "server.pem", "tls_key": made / "server.key"}
    settings = given if replica_tls else {}
    (tmp_path / "proxy").mkdir()
    with (
        ServerProcess(models_dir, strict=True, **settings) as server,
        KINDS[kind](tmp_path / "proxy", certificates=made, replica_tls=replica_tls) as proxy,
    ):
        proxy.serve([server])
        with (
            carousel.Client(proxy.tls_target, tls=carousel.TLS(ca=made / "ca.pem")) as client,
            client.session(LSTM) as session,
        ):
            found = [session.step(row) for row in ROWS[:3]]
    np.testing.assert_array_equal(found, expected[:3])
