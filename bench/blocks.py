"""(b) Blocks of m sessions × k steps through the SDK, beside the engine alone and an echo without a model."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from . import bounds, models, processes, served
from .figures import Measured, Workload
from .report import Summary

SHAPES = ((1, 1), (1, 16), (16, 1), (16, 4), (64, 1), (64, 8), (256, 1), (256, 4))
"""Sessions × steps of a block. Two blocks are always on their way, so a tick may step twice as many rows."""


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Engine (D3), echo (N1) and server of each shape, one after the other."""
    models.make(folder, options.dtype)
    server = stack.enter_context(processes.carousel_server(folder, device, kernel=options.kernel))
    echo = stack.enter_context(processes.echo_server())
    seconds = options.seconds

    def through(address: str, m: int, k: int) -> Callable[[], Measured]:
        return lambda: runner.run(served.blocks(address, k, seconds, sessions=m))

    work = []
    for m, k in SHAPES:
        engine = bounds.EngineTick.of_blocks(folder, device, m, k, seconds, options.kernel)
        work += [
            Workload(f"engine: {_shape(m, k)}", engine),
            Workload(f"echo: {_shape(m, k)}", through(echo, m, k)),
            Workload(f"carousel: {_shape(m, k)}", through(server, m, k)),
        ]
    return work


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Served steps per second over the lower of the two bounds."""
    for m, k in SHAPES:
        rates = {
            who: figures[f"{who}: {_shape(m, k)}"]["steps_per_s"]["median"]
            for who in ("engine", "echo", "carousel")
        }
        bound = min("engine", "echo", key=lambda who: rates[who])
        yield f"{_shape(m, k)}: served over its bound ({bound})", rates["carousel"] / rates[bound]


def _shape(m: int, k: int) -> str:
    return f"{m} × {k}"
