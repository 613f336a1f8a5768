"""(b) Blocks of m sessions × k steps through the SDK, beside the engine alone and echoes without a model."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from . import bounds, models, processes, served
from .echo import answers
from .figures import Measured, Workload
from .report import Summary

SHAPES = ((1, 1), (1, 16), (16, 1), (16, 4), (64, 1), (64, 8), (256, 1), (256, 4))
"""Sessions × steps of a block. Two blocks are always on their way, so a tick may step twice as many rows."""
NATIVE = "native echo"


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Engine (D3), echoes (N1, N2) and server of each shape, one after the other."""
    models.make(folder, options.dtype)
    server = stack.enter_context(processes.carousel_server(folder, device, kernel=options.kernel))
    echo = stack.enter_context(processes.echo_server())
    native = stack.enter_context(processes.native_echo("blocks", answers()))
    seconds = options.seconds

    def through(address: str, m: int, k: int) -> Callable[[], Measured]:
        return lambda: runner.run(served.blocks(address, k, seconds, sessions=m))

    served_by = {"echo": echo, NATIVE: native, "carousel": server}
    work = []
    for m, k in SHAPES:
        engine = bounds.EngineTick.of_blocks(folder, device, m, k, seconds, options.kernel)
        work.append(Workload(f"engine: {_shape(m, k)}", engine))
        work += [
            Workload(f"{who}: {_shape(m, k)}", through(address, m, k))
            for who, address in served_by.items()
            if address is not None
        ]
    return work


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Served steps per second over the lower of its bounds; the echo's over the native one's, if it ran."""
    for m, k in SHAPES:
        rates = {
            who: figures[f"{who}: {_shape(m, k)}"]["steps_per_s"]["median"]
            for who in ("engine", "echo", "carousel")
        }
        bound = min("engine", "echo", key=lambda who: rates[who])
        yield f"{_shape(m, k)}: served over its bound ({bound})", rates["carousel"] / rates[bound]
        if native := figures.get(f"{NATIVE}: {_shape(m, k)}"):
            ratio = rates["echo"] / native["steps_per_s"]["median"]
            yield f"{_shape(m, k)}: the echo over the native echo", ratio


def _shape(m: int, k: int) -> str:
    return f"{m} × {k}"
