"""Work that is done again and again while an asyncio client is open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

PERIOD_S = 3.0
SHORTEST_PAUSE_S = 0.5


class AsyncRefresher:
    """Does something every PERIOD_S, and sooner where that is wanted, in a task of its own."""

    def __init__(self, refresh: Callable[[], Awaitable[None]]) -> None:
        self._refresh = refresh
        self._wanted = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="carousel-refresher")

    def hurry(self) -> None:
        """Does it next in SHORTEST_PAUSE_S at most."""
        self._wanted.set()

    async def close(self) -> None:
        """Ends the task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SHORTEST_PAUSE_S)
            try:
                async with asyncio.timeout(PERIOD_S - SHORTEST_PAUSE_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            await self._refresh()
