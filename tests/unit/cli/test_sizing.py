"""The arithmetic of `carousel plan`, and that its costs are the measured ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carousel.cli.sizing import (
    COSTS,
    HEADER_BYTES,
    Load,
    Site,
    costs_of,
    size,
    steps_per_commit,
)
from carousel_server.core.limits import EngineLimits
from carousel_server.process.config import Settings
from carousel_server.rows.snapshot import Snapshot, encode
from carousel_server.store import leases

RESULTS = Path(__file__).parents[3] / "bench" / "results"
LOAD = Load(sessions=100_000, steps_per_s=5.0, snapshot_bytes=4096)
SITE = Site(replica_steps_per_s=10_000.0)


def test_the_costs_are_those_that_were_measured():
    figures = json.loads((RESULTS / "store-costs-cpu.json").read_text())["figures"]
    for snapshot_bytes, (thread_us, redis_us, memory_bytes) in COSTS.by_bytes.items():
        found = figures[f"redis, everysec: {snapshot_bytes >> 10} KiB"]
        assert thread_us == found["commit_us"]["median"]
        assert redis_us == found["redis_commit_us"]["median"]
        assert memory_bytes == found["redis_bytes_per_session"]["median"]
    assert len(COSTS.by_bytes) == sum(name.startswith("redis, everysec") for name in figures)


def test_the_settings_are_the_server_s():
    limits, settings = EngineLimits(), Settings(models=Path())
    for name in ("slots", "durable_steps", "durable_s"):
        assert getattr(SITE, name) == getattr(limits, name)
    assert SITE.lease_ttl_s == settings.lease_ttl_s
    assert COSTS.renewals_per_ttl == leases._RENEWALS_PER_TTL


@pytest.mark.parametrize(
    ("steps_per_s", "durable_s", "steps"),
    [(5, 0.05, 1), (29, 0.05, 1), (31, 0.05, 2), (100, 0.05, 4), (10_000, 0.05, 16), (10, 1.0, 7)],
)
def test_a_snapshot_covers_the_steps_of_its_time(steps_per_s, durable_s, steps):
    load = replace(LOAD, steps_per_s=steps_per_s)
    assert steps_per_commit(load, replace(SITE, durable_s=durable_s)) == steps


def test_a_sync_session_commits_each_step():
    load = replace(LOAD, steps_per_s=1000.0, durability="sync")
    assert steps_per_commit(load, SITE) == 1


def test_a_plan_has_room():
    sizing = size(LOAD, SITE, COSTS)
    assert sizing.steps_per_s == sizing.commits_per_s == 500_000
    by_steps, by_slots = 500_000 / 6_000, 100_000 / (4096 * 0.6)
    assert sizing.replicas == int(max(by_steps, by_slots)) + 1 + SITE.spare
    assert sizing.store_bytes_per_s == 500_000 * 4096
    busy = 500_000 * COSTS.by_bytes[4096][1] / 1e6
    assert busy < sizing.redis_core_share < busy * 1.1
    assert sizing.shards >= sizing.redis_core_share / 0.6 > sizing.shards - 1
    assert sizing.crash_s == SITE.lease_ttl_s


def test_slots_can_be_what_bounds():
    sizing = size(replace(LOAD, steps_per_s=0.01), SITE, COSTS)
    assert sizing.replicas == 42
    assert sizing.sessions_per_replica <= 4096


def test_without_a_store_nothing_is_asked_of_one():
    sizing = size(replace(LOAD, durability="none"), SITE, COSTS)
    assert sizing.commits_per_s == sizing.shards == sizing.store_memory_bytes == 0
    assert sizing.lease_writes_per_s == sizing.mailbox_polls_per_s == 0


def test_sessions_at_rest_take_memory_only():
    rested = size(replace(LOAD, idle_sessions=900_000), SITE, COSTS)
    awake = size(LOAD, SITE, COSTS)
    assert rested.store_memory_bytes == pytest.approx(10 * awake.store_memory_bytes)
    assert replace(rested, store_memory_bytes=awake.store_memory_bytes) == awake


def test_costs_grow_with_the_snapshot():
    sizes = [256, 1024, 3000, 4096, 50_000, 262_144, 1 << 20]
    for column in range(3):
        values = [costs_of(one, COSTS)[column] for one in sizes]
        assert values == sorted(values)
    assert costs_of(256, COSTS) == COSTS.by_bytes[1024]
    assert costs_of(4096, COSTS) == COSTS.by_bytes[4096]
    assert costs_of(1 << 19, COSTS)[1] == 2 * COSTS.by_bytes[1 << 18][1]


@pytest.mark.parametrize(
    ("load", "site", "word"),
    [
        (replace(LOAD, sessions=0), SITE, "sessions"),
        (replace(LOAD, steps_per_s=float("nan")), SITE, "steps_per_s"),
        (replace(LOAD, snapshot_bytes=-1), SITE, "snapshot_bytes"),
        (LOAD, replace(SITE, used=1.5), "used"),
        (LOAD, replace(SITE, replica_steps_per_s=float("inf")), "replica_steps_per_s"),
        (LOAD, replace(SITE, spare=-1), "spare"),
    ],
)
def test_a_wrong_number_is_named(load, site, word):
    with pytest.raises(ValueError, match=word):
        size(load, site, COSTS)


def test_a_snapshot_s_header_is_about_what_is_planned():
    state = {f"layer{i}.{name}": np.zeros((1, 64), np.float32) for i in range(4) for name in "hc"}
    rows = np.empty((0, 256), np.uint8)
    snapshot = Snapshot(
        *("m" * 32, "f" * 64, 10**6, 10**9, 10**9, 2**63, 1234, 3600.0, state),
        *(tuple(range(64)), rows, rows, 2**63, "kernel cpu, torch 2.13.0, float32", "greeting"),
    )
    taken = sum(array.nbytes for array in state.values())
    assert HEADER_BYTES / 2 < len(encode(snapshot)) - taken < HEADER_BYTES * 2
