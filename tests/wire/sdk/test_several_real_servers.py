"""Two real servers on one Redis, and clients that know both."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.redis import RedisServer, free_port
from support.server import FEATURES, GRU_BYTES, LSTM, ServerProcess

import carousel
from carousel_protos.placement import placed

STEPS, SESSIONS = 60, 6


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    with RedisServer(tmp_path) as redis:
        yield redis.url


def server_of(models_dir: Path, store: str, port: int = 0) -> ServerProcess:
    settings: dict[str, object] = {"slots": 32, "strict": True, "lease_ttl_s": 2}
    return ServerProcess(models_dir, store=store, port=port, **settings)


def rows_of(count: int) -> Any:
    return np.random.default_rng(5).normal(size=(count, STEPS, FEATURES)).astype(np.float32)


def test_both_are_restarted_one_after_the_other_under_a_client(
    models_dir: Path, store: str
) -> None:
    rows = rows_of(SESSIONS)
    with server_of(models_dir, store) as a, server_of(models_dir, store) as b:
        servers = [a.target, b.target]
        client = carousel.Client(",".join(servers), timeout_s=120.0)
        sessions = [client.session(LSTM) for _ in range(SESSIONS)]
        batch = client.batch(sessions)
        for session in sessions:
            assert session._lane.link.address == placed(session.id, servers)
        outputs = [batch.steps(rows[:, :20])]
        assert a.stop() == 0
        outputs.append(batch.steps(rows[:, 20:40]))
        with server_of(models_dir, store, a.port):
            assert b.stop() == 0
            outputs.append(batch.steps(rows[:, 40:]))
            quiet = client.batch([client.session(LSTM) for _ in range(SESSIONS)])
            np.testing.assert_array_equal(np.concatenate(outputs, axis=1), quiet.steps(rows))
            client.close()
    assert "Traceback" not in a.text + b.text


def test_one_that_comes_gets_its_share_and_one_that_goes_hands_its_sessions_over(
    models_dir: Path, store: str
) -> None:
    rows, port = rows_of(SESSIONS), free_port()
    with server_of(models_dir, store) as a:
        servers = [a.target, f"127.0.0.1:{port}"]
        client = carousel.Client(",".join(servers), timeout_s=120.0)
        mine = [f"s{n}" for n in range(100) if placed(f"s{n}", servers) != a.target][:SESSIONS]
        sessions = [client.session(LSTM, session_id=one) for one in mine]
        batch = client.batch(sessions)
        outputs = [batch.steps(rows[:, :10])]
        with server_of(models_dir, store, port) as b:
            while client.statistics().moves < SESSIONS:
                assert client.health() is carousel.Health.SERVING
                time.sleep(0.05)
            outputs.append(batch.steps(rows[:, 10:20]))
            assert {session._lane.link.address for session in sessions} == {b.target}
            with ThreadPoolExecutor(1) as pool:
                stopped = pool.submit(b.stop)
                outputs += [batch.step(rows[:, step])[:, None] for step in range(20, STEPS)]
                assert stopped.result() == 0
        assert {session._lane.link.address for session in sessions} == {a.target}
        statistics = client.statistics()
        assert len(statistics.move_pauses_s) == statistics.moves >= SESSIONS
        quiet = client.batch([client.session(LSTM) for _ in range(SESSIONS)])
        np.testing.assert_array_equal(np.concatenate(outputs, axis=1), quiet.steps(rows))
        client.close()


def test_one_is_killed_and_its_sessions_go_on_at_the_other(models_dir: Path, store: str) -> None:
    rows = rows_of(SESSIONS)
    with server_of(models_dir, store) as a, server_of(models_dir, store) as b:
        by_target = {server.target: server for server in (a, b)}
        client = carousel.Client(",".join(by_target), timeout_s=120.0)
        sessions = [client.session(LSTM) for _ in range(SESSIONS)]
        batch = client.batch(sessions)
        outputs = [batch.steps(rows[:, :30])]
        there = by_target[sessions[0]._lane.link.address]
        there.signal(signal.SIGKILL)
        outputs.append(batch.steps(rows[:, 30:]))
        there.wait()
        assert all(session._lane.link.address != there.target for session in sessions)
        quiet = client.batch([client.session(LSTM) for _ in range(SESSIONS)])
        np.testing.assert_array_equal(np.concatenate(outputs, axis=1), quiet.steps(rows))
        assert client.statistics().replays_diverged == 0
        client.close()


async def test_the_asyncio_client_follows_while_it_streams(models_dir: Path, store: str) -> None:
    rows = rows_of(1)[0]
    with server_of(models_dir, store) as a, server_of(models_dir, store) as b:
        by_target = {server.target: server for server in (a, b)}
        async with carousel.AsyncClient(",".join(by_target), timeout_s=120.0) as client:
            session = await client.session(LSTM)
            text = await client.session(GRU_BYTES)
            before = await text.generate("ab", max_tokens=5, temperature=0.0).text()
            there = by_target[session._lane.link.address]
            outputs = []
            async for output in session.stream(rows, ahead=4):
                outputs.append(output)
                if len(outputs) == 20:
                    there.signal()
            after = await text.generate(None, max_tokens=5, temperature=0.0).text()
            quiet = await (await client.session(LSTM)).steps(rows)
            whole = await client.generate(GRU_BYTES, "ab", max_tokens=10, temperature=0.0).text()
        await asyncio.to_thread(there.wait)
    np.testing.assert_array_equal(outputs, quiet)
    assert whole.startswith(before + after), "a cut character is completed at the end only"
