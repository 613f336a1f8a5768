"""What all chaos tests share: models, an undisturbed server, stores, and the report of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.redis import RedisServer
from support.server import LSTM, ServerProcess

from .report import Report

_FOLDER = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", action="store_true", help="write bench/results/chaos.json and .md")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them take seconds, and some wait out a fault: none is quick."""
    for item in items:
        if _FOLDER in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(150))


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Takes what tests have measured; written if the command line asks for it and all went well."""
    taken = Report()
    yield taken
    if request.config.getoption("--report", default=False) and not request.session.testsfailed:
        taken.write()


@pytest.fixture(scope="session")
def quiet(models_dir: Path) -> Iterator[str]:
    """Address of a strict server to which nothing happens."""
    with ServerProcess(models_dir, strict=True, max_batch=128, slots=1024) as server:
        yield server.target


@pytest.fixture
def package(models_dir: Path) -> Path:
    """The model that steps run on."""
    return models_dir / LSTM


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """A store in a file."""
    return f"sqlite:{tmp_path / 'sessions.db'}"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A store in a real redis-server."""
    with RedisServer(tmp_path) as server:
        yield server
