"""A store is copied under a running server by the command, and a second server goes on from the copy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from e2e.command import carousel
from support.server import FEATURES, LSTM, ServerProcess

import carousel as sdk

X = np.random.default_rng(3).standard_normal((20, FEATURES)).astype("<f4")


def test_a_copy_is_restored_and_sessions_go_on(models_dir: Path, tmp_path: Path) -> None:
    store, copied = tmp_path / "sessions.db", tmp_path / "copy.db"
    with (
        ServerProcess(models_dir, store=f"sqlite:{store}") as server,
        sdk.Client(server.target) as client,
    ):
        with client.session(LSTM, durability="none") as plain:
            expected = plain.steps(X)
        kept = client.session(LSTM, session_id="kept", durability="sync")
        ahead = client.session(LSTM, session_id="ahead", durability="sync")
        kept.steps(X[:10])
        ahead.steps(X[:10])
        done = carousel("store", "backup", f"sqlite:{store}", str(copied), "-o", "json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told == {"file": str(copied), "sessions": 2, "bytes": copied.stat().st_size}
        np.testing.assert_array_equal(ahead.steps(X[10:15]), expected[10:15])
        again = carousel("store", "backup", f"sqlite:{store}", str(copied))
        assert (again.returncode, "exists already" in again.stderr) == (2, True)
        epoch = ahead.info().epoch
        port = server.port
        server.stop()
        with ServerProcess(models_dir, port=port, store=f"sqlite:{copied}") as restored:
            assert restored.port == port
            np.testing.assert_array_equal(kept.steps(X[10:]), expected[10:])
            with pytest.raises(sdk.DataLossError):
                ahead.step(X[15])
            assert client.session_info("ahead").applied == 10
            assert epoch >= 1


def test_a_store_that_copies_itself_is_refused_by_name(tmp_path: Path) -> None:
    done = carousel("store", "backup", "redis://:hunter2@host/0", str(tmp_path / "copy.db"))
    assert done.returncode == 2
    assert "Redis makes its own copies" in done.stderr
    assert "BGSAVE" in done.stderr
    assert "hunter2" not in done.stderr
