"""A fake server, and both clients on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from carousel.testing import FakeServer

from .support import MODELS, client_of


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer(*MODELS, chunk_steps=3) as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest, fake: FakeServer) -> Iterator[Callable[..., Any]]:
    """Makes clients of one kind; they are closed at the end."""
    made = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(_pass_over_closed_loops)

        def make(target: str = fake.target, **options: Any) -> Any:
            made.append(client_of(request.param, target, runner, **options))
            return made[-1]

        yield make
        for client in made:
            client.close()


def _pass_over_closed_loops(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """gRPC serves all loops of a process by one poller, which trips over news for one that is closed.

    The traceback, if pytest logged it, would keep alive what a test has dropped.
    """
    if str(context.get("exception")) != "Event loop is closed":
        loop.default_exception_handler(context)


@pytest.fixture
def client(make_client: Callable[..., Any]) -> Any:
    return make_client(timeout_s=10.0)
