"""The HTTP door in this process over fake engines, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from support.fake_engine import ECHO_TOKENS, CountingMetrics, FakeCatalog, FakeEngine
from support.wire import Stubs

from carousel_server.process.doors import Doors
from carousel_server.wire import WireOptions

StartDoors = Callable[..., Any]


@pytest.fixture
async def start_doors() -> AsyncIterator[StartDoors]:
    """Starts both doors with given options over `engine` (echo) and `tokens` (echo-tokens)."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> SimpleNamespace:
            engine, tokens, metrics = FakeEngine(), FakeEngine(ECHO_TOKENS), CountingMetrics()
            catalog = FakeCatalog(engine, tokens)
            doors = Doors(catalog, WireOptions(**{"http_port": 0, **options}), metrics)
            await doors.start()
            stack.push_async_callback(doors.stop, 0)
            ports = doors.ports
            client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports.http}", timeout=60)
            http = await stack.enter_async_context(client)
            stubs = await stack.enter_async_context(Stubs(f"127.0.0.1:{ports.grpc}"))
            return SimpleNamespace(
                doors=doors, engine=engine, tokens=tokens, metrics=metrics, http=http,
                stubs=stubs, quotas=catalog.quotas, port=ports.http, wire=doors._wire,
            )  # fmt: skip

        yield start


@pytest.fixture
async def door(start_doors: StartDoors) -> Any:
    """Both doors with default options."""
    return await start_doors()
