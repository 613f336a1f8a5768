"""A loaded server and a real Prometheus that scrapes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import ServerProcess

from .load import Load
from .prometheus import Prometheus, scraping

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prometheus(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes a server of its own, which is under load while a module's tests run."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is missing: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        ServerProcess(models_dir, slots=256, http_port=0) as server,
        Load(server.target, server.http_url),
        Prometheus(folder, scraping(f"127.0.0.1:{server.metrics_port}")) as running,
    ):
        running.wait_for("min(count_over_time(up[1m])) >= 8")
        running.wait_for('min(rate(grpc_server_handled_total{grpc_method="Infer"}[20s])) >= 0')
        yield running
