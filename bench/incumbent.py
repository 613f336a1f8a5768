"""(a) Beside Triton: the same LSTM, the same load generator, the same cores, alternately.

Carousel's Triton door, Triton itself, and the same messages echoed without a model by gRPC in Python (N1) and
in C++ (N2), each under perf_analyzer; a call for each step on the first two; then blocks of 64 rows through
`carousel.v1`, which Triton has nothing like.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from . import models, processes, served
from .figures import Measured, Workload
from .models import STEPPED, WIDTH
from .report import Summary
from .triton import Load, LoadResult, TritonServer, missing, run_load, unpacked
from .triton.echo import answers

IN_FLIGHT = (1, 64, 256)
CALLS = 64
"""In flight without streams, each step in a call of its own (ModelInfer)."""
BLOCKS = "carousel: blocks of 64 rows"
NATIVE = "native echo"


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Each number in flight on all of them, one after the other; nothing where Triton cannot run."""
    parts = unpacked()
    if reason := missing(parts):
        print(f"bench triton: SKIPPED: {reason}")
        sys.exit(0)
    packages = models.make(folder / "models", options.dtype)
    address = stack.enter_context(processes.carousel_server(packages, device))
    echo = stack.enter_context(processes.triton_echo(address))
    about = runner.run(answers(address, STEPPED))
    native = stack.enter_context(processes.native_echo("triton", about))
    triton = stack.enter_context(TritonServer(parts, packages / STEPPED, folder / "triton"))

    def stepped(measure: Callable[[Load], LoadResult], load: Load) -> Callable[[], Measured]:
        def measured() -> Measured:
            before, result = triton.crashes, measure(load)
            crashes = (
                {"crashes": float(triton.crashes - before)} if measure == triton.measure else {}
            )
            return {
                "steps_per_s": result.steps_per_s,
                "p50_ms": result.p50_ms,
                "p99_ms": result.p99_ms,
                **crashes,
            }

        return measured

    def at(place: str) -> Callable[[Load], LoadResult]:
        return lambda load: run_load(parts, place, load)

    servers = {"carousel": at(address), "triton": triton.measure, "echo": at(echo)}
    if native is not None:
        servers[NATIVE] = at(native)
    work = [
        Workload(_name(who, count), stepped(measure, _load(count, options.seconds)))
        for count in IN_FLIGHT
        for who, measure in servers.items()
    ]
    by_calls = Load(STEPPED, WIDTH, concurrency=CALLS, seconds=options.seconds, streaming=False)
    calls = [
        Workload(_name(who, CALLS, " by calls"), stepped(servers[who], by_calls))
        for who in ("carousel", "triton")
    ]
    blocks = Workload(BLOCKS, lambda: runner.run(served.blocks(address, 1, options.seconds)))
    return [*work, *calls, blocks]


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Ours over Triton's and over the echoes'."""

    def of(who: str, count: int, quantity: str, way: str = "") -> float:
        return figures[_name(who, count, way)][quantity]["median"]

    for count in IN_FLIGHT:
        for quantity, word in (
            ("steps_per_s", "steps per second"),
            ("p50_ms", "p50"),
            ("p99_ms", "p99"),
        ):
            ratio = of("carousel", count, quantity) / of("triton", count, quantity)
            yield f"{count} in flight: Carousel over Triton ({word})", ratio
        for who in ("echo", NATIVE):
            if _name(who, count) in figures:
                ratio = of("carousel", count, "steps_per_s") / of(who, count, "steps_per_s")
                yield f"{count} in flight: Carousel over the {who} (steps per second)", ratio
    ours, theirs = (of(who, CALLS, "steps_per_s", " by calls") for who in ("carousel", "triton"))
    yield f"{CALLS} in flight by calls: Carousel over Triton (steps per second)", ours / theirs
    best = max(of("triton", count, "steps_per_s") for count in IN_FLIGHT)
    yield (
        "blocks of 64 rows over Triton's best (steps per second)",
        (figures[BLOCKS]["steps_per_s"]["median"] / best),
    )


def _load(count: int, seconds: float) -> Load:
    return Load(STEPPED, WIDTH, concurrency=count, seconds=seconds)


def _name(who: str, count: int, way: str = "") -> str:
    return f"{who}: {count} in flight{way}"
