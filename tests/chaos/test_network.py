"""A network that is slow, resets, or loses one direction: clients go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .load import FEW, Load
from .proxy import Proxy
from .report import Report
from .servers import Site
from .test_kill import LEVELS, SLOW_S

DELAY_S = 0.03
DEAF_S = 1.0


@pytest.fixture(scope="module")
def site(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One server for all of them: it is the network that fails."""
    path = tmp_path_factory.mktemp("network") / "sessions.db"
    with Site(models_dir, f"sqlite:{path}") as started:
        started.start()
        yield started


def _lossy(proxy: Proxy, way: str) -> None:
    """One direction vanishes for a while; then whoever still sends hears a reset."""
    getattr(proxy, way).lost = True
    threading.Event().wait(DEAF_S)
    proxy.reset()


FAULTS = {
    "connections reset": lambda proxy: proxy.reset(),
    "what clients say vanishes for 1 s": lambda proxy: _lossy(proxy, "up"),
    "what the server says vanishes for 1 s": lambda proxy: _lossy(proxy, "down"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_connection_is_not_felt(
    fault: str, site: Site, package: Path, quiet: str, report: Report
) -> None:
    recoveries: list[float] = []
    with (
        Proxy(site.port) as proxy,
        Load(proxy.target, package, quiet, levels=LEVELS["sqlite"]) as load,
    ):
        load.advance(rounds=3)
        for _ in range(2):
            FAULTS[fault](proxy)
            recoveries += load.advance(time.monotonic(), rounds=2)
    report.add(fault, len(load.tracks), load.steps, recoveries)
    assert max(recoveries) < SLOW_S


def test_a_slow_network_only_slows(site: Site, package: Path, quiet: str) -> None:
    """And a reset in the middle of it, when much is on its way."""
    with (
        Proxy(site.port) as proxy,
        Load(proxy.target, package, quiet, levels=LEVELS["sqlite"], shape=FEW) as load,
    ):
        load.advance()
        proxy.up.delay_s = proxy.down.delay_s = DELAY_S
        load.advance(rounds=2)
        proxy.reset()
        load.advance(rounds=2)
