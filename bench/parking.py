"""Many open sessions on a small slab: the others are in the store and come back at their next step."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import carousel

from . import models, processes
from .figures import Measured, Workload, percentile
from .memory import resident_bytes
from .models import STEPPED, WIDTH

SLOTS = 4096
AT_ONCE = 256
ACTIVE_SHARE = 0.01


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """One workload, since it opens all sessions anew: use `--rounds 1` for a long run."""
    models.make(folder / "models")
    count = options.sessions

    def measure() -> Measured:
        with ExitStack() as round_stack:
            url = f"sqlite:{folder / f'sessions-{time.monotonic_ns()}.db'}"
            server = processes.carousel_process(folder / "models", device, store=url, slots=SLOTS)
            process, address = round_stack.enter_context(server)
            return runner.run(_run(address, process.pid, count))

    del stack
    return [Workload(f"{count} sessions on {SLOTS} slots", measure)]


async def _run(address: str, pid: int, count: int) -> Measured:
    """Opens all, each with one step; then steps 1 % of them, chosen at random, and compares."""
    empty_bytes = resident_bytes(pid)
    x = np.random.default_rng(1).standard_normal((2, WIDTH)).astype(np.float32)
    async with carousel.AsyncClient(address, timeout_s=120.0) as client:
        first, second = await _expected(client, x)
        began = time.perf_counter()
        await _in_parallel(range(count), lambda n: _open(client, n, x[0], first))
        opened_s = time.perf_counter() - began
        full_bytes = resident_bytes(pid)
        phases = Counter([session.phase.value async for session in client.sessions(STEPPED)])
        chosen = random.Random(1).sample(range(count), max(int(count * ACTIVE_SHARE), 1))
        resumed: list[float] = []
        await _in_parallel(chosen, lambda n: _resume(client, n, x[1], second, resumed))
        alone: list[float] = []
        for n in random.Random(2).sample(range(count), 200):
            await _attach_alone(client, n, alone)
    return {
        "open_sessions": float(phases.total()),
        "of_them_on_a_slot": float(phases["resident"]),
        "opens_per_s": count / opened_s,
        "resumes_checked": float(len(resumed)),
        "resume_under_load_p50_ms": percentile(resumed, 0.5) * 1e3,
        "resume_under_load_p99_ms": percentile(resumed, 0.99) * 1e3,
        "resume_alone_p50_ms": percentile(alone, 0.5) * 1e3,
        "resume_alone_p99_ms": percentile(alone, 0.99) * 1e3,
        "server_bytes_per_open_session": (full_bytes - empty_bytes) / count,
    }


async def _expected(client: carousel.AsyncClient, x: Any) -> tuple[Any, Any]:
    """What every session must answer, since all get the same two rows."""
    async with client.session(STEPPED, durability="none") as session:
        return await session.step(x[0]), await session.step(x[1])


async def _in_parallel(numbers: Sequence[int] | range, work: Any) -> None:
    """AT_ONCE at a time."""
    waiting = iter(numbers)

    async def drive() -> None:
        for number in waiting:
            await work(number)

    await asyncio.gather(*(drive() for _ in range(AT_ONCE)))


async def _open(client: carousel.AsyncClient, number: int, x: Any, expected: Any) -> None:
    session = await client.session(STEPPED, session_id=f"s{number}")
    np.testing.assert_allclose(await session.step(x), expected, atol=1e-5)
    await session.detach()


async def _resume(
    client: carousel.AsyncClient, number: int, x: Any, expected: Any, times: list[float]
) -> None:
    began = time.perf_counter()
    session = await client.attach(f"s{number}")
    output = await session.step(x)
    times.append(time.perf_counter() - began)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    await session.detach()


async def _attach_alone(client: carousel.AsyncClient, number: int, times: list[float]) -> None:
    began = time.perf_counter()
    session = await client.attach(f"s{number}")
    times.append(time.perf_counter() - began)
    await session.detach()
