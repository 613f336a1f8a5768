"""Sends the steps of one client's streams and measures each.

A paced load is open: a step is sent at its planned instant, whether or not earlier outputs have come, and
its latency counts from that instant. So a slow server cannot slow down the load that measures it
("coordinated omission", Gil Tene).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np

import carousel
from carousel import AsyncBatch, AsyncClient, BatchStepError, CarouselError, ModelInfo
from carousel._core.rows import Array

from .plan import Load, Sample

OPENING = 64
"""Sessions that are opened at the same time."""

INPUTS = 64
"""Different random inputs of a group."""

UNANSWERED = "NO_OUTPUT_YET"
"""Reason of steps whose outputs had not come when the time to wait for them was over."""


async def run(
    client: AsyncClient, info: ModelInfo, load: Load, number: int, ready: Callable[[], object]
) -> Sample:
    """Runs the share of client `number` and returns its measurements.

    `ready` is called when the sessions are open, in a thread, and returns when all clients are ready.
    """
    async with opened(client, load, load.sizes(number)) as groups:
        await asyncio.to_thread(ready)
        work = Streams(groups, info, load, number)
        await (work.closed() if load.rate_hz is None else work.paced(load.rate_hz))
        return work.sample


@asynccontextmanager
async def opened(
    client: AsyncClient, load: Load, sizes: list[int]
) -> AsyncIterator[list[AsyncBatch]]:
    """Groups of open sessions, which are closed at the end."""
    turns = asyncio.Semaphore(OPENING)

    async def open_one() -> carousel.AsyncSession:
        async with turns:
            return await client.session(load.model)

    async def close_one(session: carousel.AsyncSession) -> None:
        async with turns:
            await session.close()

    async with AsyncExitStack() as ends:
        opening = [asyncio.ensure_future(open_one()) for _ in range(sum(sizes))]

        async def close() -> None:
            done = await asyncio.gather(*opening, return_exceptions=True)
            sessions = [s for s in done if isinstance(s, carousel.AsyncSession)]
            await asyncio.gather(*map(close_one, sessions), return_exceptions=True)

        async def close_to_the_end() -> None:
            """A signal may come while the sessions are closed already."""
            closing = asyncio.ensure_future(close())
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError:
                await closing
                raise

        ends.push_async_callback(close_to_the_end)
        sessions = iter(await asyncio.gather(*opening))
        yield [client.batch([next(sessions) for _ in range(size)]) for size in sizes]


class Streams:
    """The groups of one client, and what they measured."""

    def __init__(self, groups: list[AsyncBatch], info: ModelInfo, load: Load, number: int) -> None:
        self.sample = Sample()
        self._groups = groups
        self._load = load
        self._number = number
        rng = np.random.default_rng((load.seed, number))
        self._inputs = [random_rows(info, rng, len(group.sessions)) for group in groups]
        self._running: set[asyncio.Task[None]] = set()

    async def paced(self, rate_hz: float) -> None:
        """Sends each group's steps at their planned instants."""
        loop = asyncio.get_running_loop()
        first, last = self._load.messages(len(self._groups))
        begin_s = loop.time() + self._load.offset_s(self._number)
        sent, due_s = 0, begin_s
        while sent < last:
            await asyncio.sleep(max(due_s - loop.time(), 0.0))
            now = loop.time()
            while due_s <= now and sent < last:
                group, step = sent % len(self._groups), sent // len(self._groups)
                self._start(self._step(group, step, due_s, counts=sent >= first))
                if sent >= first:
                    self.sample.late_s.append(now - due_s)
                sent += 1
                due_s = begin_s + sent / rate_hz / len(self._groups)
        await self._end()

    async def closed(self) -> None:
        """Sends each group's next step when its output is there."""
        loop = asyncio.get_running_loop()
        first_s = loop.time() + self._load.warm_s
        last_s = first_s + self._load.duration_s

        async def go(group: int) -> None:
            steps = 0
            while (now := loop.time()) < last_s:
                await self._step(group, steps, now, counts=now >= first_s)
                steps += 1

        await asyncio.gather(*(go(group) for group in range(len(self._groups))))

    def _start(self, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(step)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _step(self, group: int, step: int, due_s: float, *, counts: bool) -> None:
        size = len(self._groups[group].sessions)
        failed: list[str] = []
        if counts:
            self.sample.due += size
        try:
            await self._groups[group].step(self._inputs[group][step % INPUTS])
        except BatchStepError as error:
            failed = [each.reason for each in error.errors.values()]
        except asyncio.CancelledError:
            failed = [UNANSWERED] * size
        except CarouselError as error:
            failed = [error.reason] * size
        if counts:
            latency_s = asyncio.get_running_loop().time() - due_s
            self.sample.latencies_s += [latency_s] * (size - len(failed))
            self.sample.errors.update(failed)

    async def _end(self) -> None:
        """Waits for the last outputs, twice the deadline at most."""
        deadline_s = self._load.deadline_s or 1.0
        if self._running:
            await asyncio.wait(self._running, timeout=2 * deadline_s + 1.0)
        for task in (unanswered := list(self._running)):
            task.cancel()
        await asyncio.gather(*unanswered, return_exceptions=True)


def random_rows(info: ModelInfo, rng: np.random.Generator, sessions: int) -> Array:
    """Random inputs [INPUTS, sessions, *row]: tokens, whole numbers of 16 bits, or normal floats."""
    shape = (INPUTS, sessions, *info.input.shape)
    if info.vocabulary:
        return rng.integers(info.vocabulary, size=shape, dtype=np.int32)
    if np.dtype(info.input.dtype).kind == "i":
        return rng.integers(-8192, 8192, size=shape).astype(info.input.dtype)
    return rng.standard_normal(shape, dtype=np.float32)
