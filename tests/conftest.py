"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported anywhere: idle OpenMP workers that spin would steal the other processes' cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from support.server import ServerProcess, make_models

# How long an example takes says more about the machine than about the code.
settings.register_profile("carousel", deadline=None)
settings.load_profile("carousel")


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random models: see support.server for their names."""
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(models_dir: Path) -> Iterator[ServerProcess]:
    """A real server on those models, for tests that leave it as they found it."""
    with ServerProcess(models_dir, slots=256) as process:
        yield process
