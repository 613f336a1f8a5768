"""Through the SDK: steps by message and by block, and generation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import numpy as np

import carousel

from .figures import Measured, Workload, percentile
from .models import GENERATIVE, STEPPED, WIDTH

SESSIONS = (1, 64, 256)
BLOCK_SESSIONS = 64
BLOCK_STEPS = 8
STREAMS = (1, 16, 64)
TOKENS = 64
FRONT_END = "carousel with a front end"
"""A server whose gRPC has a process of its own, in names of workloads."""
GRPC_AIO = "carousel on grpc.aio"
"""A server without the native transport, in names of workloads."""

Client = carousel.AsyncClient
Run = Callable[[Coroutine[Any, Any, Measured]], Measured]


def step_workloads(name: str, address: str, run: Run, seconds: float) -> Iterator[Workload]:
    """Steps against one server; the same for Carousel and for the echo."""

    def each(sessions: int) -> Callable[[], Measured]:
        return lambda: run(steps(address, sessions, seconds))

    for sessions in SESSIONS:
        yield Workload(f"{name}: {sessions} sessions, a message a step", each(sessions))
    yield Workload(
        f"{name}: blocks of {BLOCK_SESSIONS} sessions × 1 step",
        lambda: run(blocks(address, 1, seconds)),
    )
    yield Workload(
        f"{name}: blocks of {BLOCK_SESSIONS} sessions × {BLOCK_STEPS} steps",
        lambda: run(blocks(address, BLOCK_STEPS, seconds)),
    )


def generation_workloads(
    address: str, run: Run, seconds: float, counts: Sequence[int] = STREAMS, who: str = "carousel"
) -> Iterator[Workload]:
    """Streams of tokens, one after the other on each stream."""

    def each(streams: int) -> Callable[[], Measured]:
        return lambda: run(generate(address, streams, seconds))

    for streams in counts:
        yield Workload(f"{who}: generation, {streams} streams", each(streams))


async def steps(address: str, count: int, seconds: float, durability: str = "none") -> Measured:
    """Closed loop: every session sends its next step when it has the output of the last."""
    x = np.random.rand(WIDTH).astype(np.float32)
    times: list[float] = []

    async def drive(session: Any, end: float) -> None:
        while (began := time.perf_counter()) < end:
            await session.step(x)
            times.append(time.perf_counter() - began)

    async with Client(address) as client:
        sessions = [await client.session(STEPPED, durability=durability) for _ in range(count)]
        await asyncio.gather(*(session.step(x) for session in sessions))
        began = time.perf_counter()
        await asyncio.gather(*(drive(session, began + seconds) for session in sessions))
        took = time.perf_counter() - began
        await asyncio.gather(*(session.close() for session in sessions))
    return _summary(len(times), took, times)


async def blocks(
    address: str,
    steps: int,
    seconds: float,
    durability: str = "none",
    *,
    sessions: int = BLOCK_SESSIONS,
) -> Measured:
    """Two batches in flight, so that the server never waits for the client."""
    x = np.random.rand(sessions, steps, WIDTH).astype(np.float32)
    times: list[float] = []

    async def drive(batch: Any, end: float) -> None:
        while (began := time.perf_counter()) < end:
            await batch.steps(x)
            times.append(time.perf_counter() - began)

    async with Client(address) as client:
        groups = [
            [await client.session(STEPPED, durability=durability) for _ in range(sessions)]
            for _ in range(2)
        ]
        batches = [client.batch(group) for group in groups]
        await asyncio.gather(*(batch.steps(x) for batch in batches))
        began = time.perf_counter()
        await asyncio.gather(*(drive(batch, began + seconds) for batch in batches))
        took = time.perf_counter() - began
        await asyncio.gather(*(session.close() for group in groups for session in group))
    return _summary(len(times) * sessions * steps, took, times)


async def generate(address: str, streams: int, seconds: float) -> Measured:
    """Tokens per second over all streams; first token and gaps between tokens."""
    first: list[float] = []
    gaps: list[float] = []

    async def drive(client: Client, end: float) -> None:
        while (last := time.perf_counter()) < end:
            is_first = True
            async for _ in client.generate(GENERATIVE, "def ", max_tokens=TOKENS):
                now = time.perf_counter()
                (first if is_first else gaps).append(now - last)
                last, is_first = now, False

    async with Client(address) as client:
        began = time.perf_counter()
        await asyncio.gather(*(drive(client, began + seconds) for _ in range(streams)))
        took = time.perf_counter() - began
    return {
        "tokens_per_s": (len(first) + len(gaps)) / took,
        "first_token_p50_ms": percentile(first, 0.5) * 1e3,
        "inter_token_p50_ms": percentile(gaps, 0.5) * 1e3,
        "inter_token_p99_ms": percentile(gaps, 0.99) * 1e3,
    }


def _summary(steps: int, took: float, times: list[float]) -> Measured:
    return {
        "steps_per_s": steps / took,
        "p50_ms": percentile(times, 0.5) * 1e3,
        "p99_ms": percentile(times, 0.99) * 1e3,
    }
