"""SIGTERM under load and a restart on the same store: no client sees an error."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.redis import RedisServer

from .load import Load
from .proxy import Proxy
from .report import Report
from .servers import Site
from .test_kill import LEVELS, SLOW_S, store_of


@pytest.mark.parametrize("kind", LEVELS)
def test_a_rolling_restart_is_not_felt(
    kind: str, request: pytest.FixtureRequest, models_dir: Path, package: Path, quiet: str,
    report: Report,
) -> None:  # fmt: skip
    recoveries: list[float] = []
    with Site(models_dir, store_of(kind, request), replica="chaos") as site:
        site.start()
        with Load(site.target, package, quiet, levels=LEVELS[kind]) as load:
            for _ in range(2):
                load.advance(rounds=5)
                site.drain()
                recoveries += load.advance(site.start())
        report.add(f"SIGTERM and restart, {kind}", len(load.tracks), load.steps, recoveries)
    assert max(recoveries) < SLOW_S


def test_another_replica_takes_over_from_one_that_drains(
    redis: RedisServer, models_dir: Path, package: Path, quiet: str, report: Report
) -> None:
    """A rolling update: the new one runs before the old one ends, and takes its address over."""
    with (
        Site(models_dir, redis.url, replica="old") as old,
        Site(models_dir, redis.url, replica="new") as new,
        Proxy(old.port) as balancer,
    ):
        old.start()
        new.start()
        with Load(balancer.target, package, quiet, levels=LEVELS["redis"]) as load:
            load.advance(rounds=5)
            balancer.aim(new.port)
            began_s = time.monotonic()
            old.drain()
            recoveries = load.advance(began_s, rounds=3)
        report.add("SIGTERM, another replica takes over", len(load.tracks), load.steps, recoveries)
    assert max(recoveries) < SLOW_S
