"""A link in one process: the wire's end and the engines' end on the same loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.fake_engine import CountingMetrics

from carousel_server.core.catalog import CatalogPort
from carousel_server.link import Back, Front, connect


@asynccontextmanager
async def linked(catalog: CatalogPort) -> AsyncIterator[Any]:
    """The catalog of a front end for `catalog`."""
    front = Front([engine.model for engine in catalog.engines()], catalog.quotas.limits)
    ours, theirs = socket.socketpair()
    front.pipe = await connect(ours, front.take, lambda: None)
    far = await connect(theirs, lambda message: back.take(message), lambda: None)
    back = Back(catalog, far.post, CountingMetrics().readings)
    back.listening()

    async def tell_health() -> None:
        while True:
            healthy = [engine.healthy for engine in catalog.engines()]
            far.post("healthy", healthy, catalog.store_fault)
            await asyncio.sleep(0.01)

    front.back = back  # type: ignore[attr-defined]
    telling = asyncio.create_task(tell_health())
    try:
        yield front
    finally:
        telling.cancel()
        front.pipe.close()
        far.close()
