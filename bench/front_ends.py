"""One process, or a front end beside the engines: the same loads on both, alternately.

The loads are those of the other figures: steps by Triton's door (where its load generator can run), blocks
and single steps through the SDK, and generation.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from . import models, processes, served
from .figures import Measured, Workload
from .models import STEPPED, WIDTH
from .report import Summary
from .triton import Load, missing, run_load, unpacked

TRITON_IN_FLIGHT = (1, 64, 256)
BLOCKS = ((16, 1), (64, 1), (64, 8), (256, 1))
SESSIONS = (1, 64)
STREAMS = (1, 16, 64, 256, 1024)

ONE, TWO = "one process", "front end"
"""How the server runs; with two, gRPC has a process of its own."""

Loads = dict[str, Callable[[str], Measured]]


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Each load on a server of either form, one after the other."""
    packages = models.make(folder / "models", options.dtype)
    servers = {
        ONE: stack.enter_context(processes.carousel_server(packages, device, front_ends=0)),
        TWO: stack.enter_context(processes.carousel_server(packages, device, front_ends=1)),
    }

    def on(address: str, load: Callable[[str], Measured]) -> Callable[[], Measured]:
        return lambda: load(address)

    loads = {**_by_triton(options.seconds), **_by_sdk(options.seconds, runner)}
    return [
        Workload(f"{form}: {name}", on(address, load))
        for name, load in loads.items()
        for form, address in servers.items()
    ]


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Rate and p99 with a front end over those of one process."""
    names = [name.removeprefix(f"{ONE}: ") for name in figures if name.startswith(ONE)]
    for name in names:
        one, two = figures[f"{ONE}: {name}"], figures[f"{TWO}: {name}"]
        for quantity in ("steps_per_s", "tokens_per_s", "p99_ms", "inter_token_p99_ms"):
            if quantity in one:
                ratio = two[quantity]["median"] / one[quantity]["median"]
                yield f"{name}: {quantity}, a front end over one process", ratio


def _by_triton(seconds: float) -> Loads:
    parts = unpacked()
    if reason := missing(parts):
        print(f"bench front-ends: steps by Triton's door SKIPPED: {reason}")
        return {}

    def stepping(count: int) -> Callable[[str], Measured]:
        def measured(address: str) -> Measured:
            load = Load(STEPPED, WIDTH, concurrency=count, seconds=seconds)
            result = run_load(parts, address, load)
            return {
                "steps_per_s": result.steps_per_s,
                "p50_ms": result.p50_ms,
                "p99_ms": result.p99_ms,
            }

        return measured

    return {f"Triton's door, {count} in flight": stepping(count) for count in TRITON_IN_FLIGHT}


def _by_sdk(seconds: float, runner: asyncio.Runner) -> Loads:
    def blocks(m: int, k: int) -> Callable[[str], Measured]:
        return lambda address: runner.run(served.blocks(address, k, seconds, sessions=m))

    def steps(count: int) -> Callable[[str], Measured]:
        return lambda address: runner.run(served.steps(address, count, seconds))

    def generation(count: int) -> Callable[[str], Measured]:
        return lambda address: runner.run(served.generate(address, count, seconds))

    return {
        **{f"blocks of {m} × {k}": blocks(m, k) for m, k in BLOCKS},
        **{f"{count} sessions, a message a step": steps(count) for count in SESSIONS},
        **{f"generation, {count} streams": generation(count) for count in STREAMS},
    }
