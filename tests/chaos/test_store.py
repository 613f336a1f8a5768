"""A store that is slow, stops, dies or is full: nothing is lost, and what cannot be done is said by name."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.redis import RedisServer
from support.server import FEATURES, LSTM

import carousel
from carousel import exceptions

from .load import FEW, Load
from .proxy import Proxy
from .report import Report
from .servers import Site
from .test_kill import LEVELS, SLOW_S

OUTAGE_S = 1.5
DELAY_S = 0.03
DISK_BYTES = 32 << 20
"""SQLite's log alone grows to 8 MiB before it is written back."""
FAILED = 'carousel_store_requests_total{answer="failed",kind="commit"}'
X = np.zeros(FEATURES, np.float32)


def _stopped(redis: RedisServer) -> None:
    redis.pause()
    threading.Event().wait(OUTAGE_S)
    redis.resume()


def _restarted(redis: RedisServer) -> None:
    redis.kill()
    threading.Event().wait(OUTAGE_S / 3)
    redis.start()


FAULTS = {"redis stopped for 1.5 s": _stopped, "redis killed and started again": _restarted}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_of_redis_passes(
    fault: str, redis: RedisServer, models_dir: Path, package: Path, quiet: str, report: Report
) -> None:
    recoveries: list[float] = []
    with Site(models_dir, redis.url, replica="chaos") as site:
        site.start()
        with Load(site.target, package, quiet, levels=LEVELS["redis"]) as load:
            load.advance(rounds=3)
            for _ in range(2):
                FAULTS[fault](redis)
                recoveries += load.advance(time.monotonic(), rounds=3)
            assert site.metric('carousel_store_commits_total{verdict="fenced"}') == 0
        report.add(fault, len(load.tracks), load.steps, recoveries)
    assert max(recoveries) < SLOW_S


def test_a_slow_store_only_slows(
    redis: RedisServer, models_dir: Path, package: Path, quiet: str
) -> None:
    """Async sessions wait once they are durable_steps ahead of it."""
    with Proxy(redis.port) as cable:
        cable.up.delay_s = cable.down.delay_s = DELAY_S
        with Site(models_dir, f"redis://{cable.target}/0", replica="chaos") as site:
            site.start()
            with Load(site.target, package, quiet, levels=LEVELS["redis"], shape=FEW) as load:
                load.advance(rounds=5)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "chaos", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs the rights of root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(ballast: Path) -> None:
    """Leaves no space on the disk."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            return


def _open_many(client: carousel.Client) -> None:
    """More than what is left in the pages that the file has."""
    for _ in range(1000):
        client.session(LSTM)


def test_a_full_disk_is_said_by_name_and_passes(
    disk: Path, models_dir: Path, package: Path, quiet: str, report: Report
) -> None:
    with Site(models_dir, f"sqlite:{disk / 'sessions.db'}") as site:
        site.start()
        with (
            Load(site.target, package, quiet, levels=LEVELS["sqlite"]) as load,
            carousel.Client(site.target, retries=0) as client,
        ):
            load.advance(rounds=3)
            _fill(disk / "ballast")
            with pytest.raises(exceptions.StoreUnavailableError):
                _open_many(client)
            with client.session(LSTM, durability="none") as unkept:
                unkept.step(X)  # it needs no store
            (disk / "ballast").unlink()
            recoveries = load.advance(time.monotonic(), rounds=3)
            assert site.metric(FAILED) > 0
        report.add("disk full", len(load.tracks), load.steps, recoveries)
    assert max(recoveries) < SLOW_S
