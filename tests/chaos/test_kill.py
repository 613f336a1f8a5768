"""kill -9 of the server, at its weakest places and at random moments: clients just go on."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from support.redis import RedisServer

from .load import Load, Shape
from .report import Report
from .servers import Site

LEVELS = {"sqlite": ("async", "sync", "sync_fsync"), "redis": ("async", "sync")}
PLACES = ("after_acquire:30", "before_commit:25", "in_commit:25", "after_commit:25")
"""Failpoints, and at which hit each kills: the first amid the opening of sessions, the others under load."""

SLOW_S = 30.0
"""A recovery that takes so long is a failure, whatever the machine is busy with."""


def store_of(kind: str, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return str(request.getfixturevalue("sqlite"))
    redis: RedisServer = request.getfixturevalue("redis")
    return redis.url


@pytest.mark.parametrize("kind", LEVELS)
def test_killed_at_every_place_of_a_commit(
    kind: str, request: pytest.FixtureRequest, models_dir: Path, package: Path, quiet: str,
    report: Report,
) -> None:  # fmt: skip
    recoveries: list[float] = []
    with Site(models_dir, store_of(kind, request), replica="chaos") as site:
        site.start(PLACES[0])
        with Load(site.target, package, quiet, levels=LEVELS[kind]) as load:
            for following in (*PLACES[1:], ""):
                site.dies()
                ready_s = site.start(following)
                if not following:
                    recoveries += load.advance(ready_s, rounds=3)
        report.add(f"kill -9 in commits, {kind}", len(load.tracks), load.steps, recoveries)
    assert max(recoveries) < SLOW_S


@pytest.mark.parametrize("kind", LEVELS)
def test_killed_at_random_again_and_again_under_hundreds_of_sessions(
    kind: str, request: pytest.FixtureRequest, models_dir: Path, package: Path, quiet: str,
    report: Report,
) -> None:  # fmt: skip
    rng = random.Random(kind)
    recoveries: list[float] = []
    crowd = Shape(batches=4, batch_sessions=50, steppers=4, stepper_sessions=10, texts=6)
    with Site(models_dir, store_of(kind, request), replica="chaos") as site:
        site.start()
        with Load(site.target, package, quiet, levels=LEVELS[kind], shape=crowd) as load:
            load.advance()
            for _ in range(3):
                threading.Event().wait(rng.uniform(0, 0.5))
                site.kill()
                recoveries += load.advance(site.start())
        report.add(f"kill -9 at random, {kind}", len(load.tracks), load.steps, recoveries)
    assert max(recoveries) < SLOW_S
