"""A server that was stopped for longer than its lease, and wakes up: its past must not count."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import Any

import grpc
from support.redis import RedisServer
from support.server import LSTM
from support.wire import unpack

from carousel_protos.v1 import carousel_pb2 as pb
from carousel_protos.v1 import carousel_pb2_grpc as pb_grpc

from .load import PATIENCE_S, Load
from .proxy import Proxy
from .report import Report
from .servers import Site
from .test_kill import LEVELS, SLOW_S

LEASE = {"lease_ttl_s": 1.0}
SENDING_S = 0.1
"""For the rest of a large commit, which has no end that could be seen from outside."""

FENCED = 'carousel_store_commits_total{verdict="fenced"}'


class Witness:
    """A client of raw messages that stays with its server whatever happens."""

    def __init__(self, target: str, session_id: str) -> None:
        self._said: queue.SimpleQueue[pb.AttachRequest | None] = queue.SimpleQueue()
        self._channel = grpc.insecure_channel(target)
        stub = pb_grpc.InferenceServiceStub(self._channel)
        self._call: Any = stub.Attach(iter(self._said.get, None), timeout=PATIENCE_S)
        self._said.put(pb.AttachRequest(hello=pb.Hello(client="witness")))
        opened = pb.OpenSessionRequest(model=LSTM, session_id=session_id)
        self._said.put(pb.AttachRequest(bind=pb.Bind(handle=1, open=opened)))
        self.hears("bound")

    def hears(self, kind: str) -> Any:
        """The next message of that kind."""
        for response in self._call:
            if response.HasField(kind):
                return getattr(response, kind)
        raise AssertionError(f"the stream ended without {kind}")

    def close(self) -> None:
        self._said.put(None)
        self._channel.close()


def test_a_zombie_is_fenced_and_tells_its_clients(
    redis: RedisServer, models_dir: Path, package: Path, quiet: str, report: Report
) -> None:
    """One of its commits is held up on its way to the store, as by a switch, until it is too late."""
    with (
        Proxy(redis.port) as cable,
        Site(models_dir, f"redis://{cable.target}/0", replica="a", **LEASE) as first,
        Site(models_dir, redis.url, replica="b", **LEASE) as second,
        Proxy(first.port) as balancer,
    ):
        first.start()
        second.start()
        with Load(balancer.target, package, quiet, levels=LEVELS["redis"]) as load:
            load.advance(rounds=3)
            witness = Witness(first.target, "witness")
            cable.hold(cable.up, b"_commit")
            assert cable.up.holds.wait(PATIENCE_S)
            threading.Event().wait(SENDING_S)
            first.pause()
            balancer.retarget(second.port)
            recoveries = load.advance(time.monotonic(), rounds=3)
            cable.down.moves.clear()
            cable.release(cable.up)
            assert cable.down.moves.wait(
                PATIENCE_S
            )  # the store has answered, else it gives up asking
            first.resume()
            reason = unpack(witness.hears("unbound").status).reason
            witness.close()
            load.advance(rounds=3)
            assert reason == "LEASE_LOST"
            assert first.metric(FENCED) > 0
            assert second.metric(FENCED) == 0
        name = "SIGSTOP beyond the lease (1 s), another replica takes over"
        report.add(name, len(load.tracks), load.steps, recoveries)
    assert max(recoveries) < SLOW_S


def test_two_replicas_pass_the_sessions_on_as_they_stall_in_turn(
    redis: RedisServer, models_dir: Path, package: Path, quiet: str, report: Report
) -> None:
    recoveries: list[float] = []
    with (
        Site(models_dir, redis.url, replica="a", **LEASE) as first,
        Site(models_dir, redis.url, replica="b", **LEASE) as second,
        Proxy(first.port) as balancer,
    ):
        first.start()
        second.start()
        here, there = first, second
        with Load(balancer.target, package, quiet, levels=LEVELS["redis"]) as load:
            load.advance(rounds=3)
            for _ in range(2):
                here.pause()
                balancer.retarget(there.port)
                recoveries += load.advance(time.monotonic(), rounds=2)
                here.resume()
                here, there = there, here
        name = "SIGSTOP of one replica after the other"
        report.add(name, len(load.tracks), load.steps, recoveries)
    assert max(recoveries) < SLOW_S
