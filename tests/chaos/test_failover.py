"""Redis fails over under a live server: its sessions go on, and no application sees an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.redis import RedisServer
from support.server import FEATURES, LSTM, ServerProcess

import carousel

from .proxy import Proxy

STEPS = 120


def test_sessions_go_on_at_the_new_primary(models_dir: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(STEPS, FEATURES)).astype(np.float32)
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
    first, second = map(RedisServer, folders)
    with first, second, Proxy(first.port) as way:
        second.client().execute_command("REPLICAOF", "127.0.0.1", first.port)
        url = f"redis://127.0.0.1:{way.port}/0"
        with (
            ServerProcess(models_dir, store=url, strict=True) as server,
            carousel.Client(server.target, timeout_s=60.0) as client,
        ):
            sessions = [
                client.session(LSTM, durability=durability) for durability in ("sync", "async")
            ]
            before = [session.steps(rows[:50]) for session in sessions]
            with first.client() as redis:
                redis.set("last", 1)
                assert redis.wait(1, 60_000) == 1
            second.client().execute_command("REPLICAOF", "NO", "ONE")
            first.client().execute_command("REPLICAOF", "127.0.0.1", second.port)
            way.aim(second.port)  # the connections to the former primary stay open
            after = [session.steps(rows[50:]) for session in sessions]
            quiet = client.session(LSTM, durability="none").steps(rows)
            assert client.session(LSTM, durability="sync").steps(rows[:1]).shape == (1, 3)
        assert "Traceback" not in server.text
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(np.concatenate((one, other)), quiet)


def test_a_replica_named_as_the_store_ends_the_server_with_its_name(
    models_dir: Path, tmp_path: Path
) -> None:
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
    first, second = map(RedisServer, folders)
    with first, second:
        second.client().execute_command("REPLICAOF", "127.0.0.1", first.port)
        server = ServerProcess(models_dir, store=second.url)
        try:
            server.__enter__()
        except AssertionError as error:
            text = str(error)
        else:
            server.stop()
            raise AssertionError("a server started on a replica")
    assert server.process.returncode == 2
    assert f"is a replica of 127.0.0.1:{first.port}" in text
    assert "Traceback" not in text
