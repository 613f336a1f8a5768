"""Fixtures of all tests."""

from __future__ import annotations

import os
import signal
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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--linked", action="store_true", help="the wire's tests over a link to the engines"
    )
    parser.addoption(
        "--transport",
        default="python",
        choices=("python", "native", "websocket"),
        help="what ends gRPC in the wire's tests; websocket carries the streams of Attach only",
    )


def pytest_configure() -> None:
    """Lets Ctrl-C reach the tests and their children.

    A shell ignores SIGINT for what it starts with `&`, and children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --linked, leaves what a link between wire and engines makes a difference to.

    With another transport than Python's, leaves what runs in a wire of this process.
    """
    native = config.getoption("--transport") != "python"
    if native or config.getoption("--linked"):
        chosen = [item for item in items if _takes_a_link(item, unlinked=native)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def _takes_a_link(item: pytest.Item, *, unlinked: bool) -> bool:
    if "start_wire" not in getattr(item, "fixturenames", ()):
        return False
    return unlinked or not item.get_closest_marker("unlinked")


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random models: see support.server for their names."""
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(models_dir: Path) -> Iterator[ServerProcess]:
    """A real server on those models, for tests that leave it as they found it."""
    with ServerProcess(models_dir, slots=256) as process:
        yield process
