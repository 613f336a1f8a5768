"""Machines whose clocks step or differ: no session expires by that."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.clocks import ShiftedClock
from support.redis import RedisServer
from support.server import FEATURES, LSTM, ServerProcess

import carousel

ROW = np.ones(FEATURES, np.float32)
WAIT_S = 60.0
HOUR_S = 3600.0
QUICKLY_PARKED = {"park_after_s": 0.2, "idle_ttl_s": 1800.0}


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for what a server tells nobody."""
    give_up = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.05)


def parked(client: carousel.Client, *session_ids: str) -> None:
    """Waits until sessions are in the store only."""
    for session_id in session_ids:
        until(
            lambda: client.session_info(session_id).phase == "parked",  # noqa: B023 - called here
            f"{session_id} was not parked",
        )


@pytest.mark.parametrize("step_s", [2 * HOUR_S, -2 * HOUR_S])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_clock_that_steps_expires_no_parked_session(
    kind: str, step_s: float, models_dir: Path, tmp_path: Path
) -> None:
    clock = ShiftedClock(tmp_path / "clock")
    store = "memory" if kind == "memory" else f"sqlite:{tmp_path}/sessions.db"
    with (
        ServerProcess(
            models_dir, store=store, environment=clock.environment, **QUICKLY_PARKED
        ) as server,
        carousel.Client(server.target, timeout_s=WAIT_S) as client,
    ):
        sessions = [client.session(LSTM, session_id=f"s{n}", durability="async") for n in range(3)]
        before = [session.step(ROW) for session in sessions]
        parked(client, "s0", "s1", "s2")
        clock.shift(step_s)
        after = [session.step(ROW) for session in sessions]
        assert [session.info().applied for session in sessions] == [2, 2, 2]
        parked(client, "s0", "s1", "s2")
        assert len(list(client.sessions())) == 3
    assert not np.array_equal(before, after)


def test_replicas_whose_clocks_differ_expire_nothing(models_dir: Path, tmp_path: Path) -> None:
    clocks = [ShiftedClock(tmp_path / f"clock{shift_s}", shift_s) for shift_s in (-HOUR_S, HOUR_S)]
    (tmp_path / "redis").mkdir()
    with RedisServer(tmp_path / "redis") as redis:
        servers = [
            ServerProcess(
                models_dir, store=redis.url, replica=f"r{number}",
                environment=clock.environment, **QUICKLY_PARKED,
            )
            for number, clock in enumerate(clocks)
        ]  # fmt: skip
        with servers[0] as early, servers[1] as late:
            for number, (here, there) in enumerate([(early, late), (late, early)]):
                with carousel.Client(here.target) as client:
                    client.session(LSTM, session_id=f"s{number}", durability="async").step(ROW)
                    parked(client, f"s{number}")
                with carousel.Client(there.target) as client:
                    session = client.attach(f"s{number}")
                    session.step(ROW)
                    assert session.info().applied == 2
