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
from contextlib import ExitStack, suppress
from functools import partial
from itertools import product
from operator import truediv
from pathlib import Path

from . import models, processes, served
from .figures import Measured, Workload
from .models import STEPPED, WIDTH
from .report import Summary
from .triton import Load, LoadFailedError, LoadResult, TritonServer, missing, run_load, unpacked
from .triton.echo import answers

IN_FLIGHT = (1, 64, 256)
CALLS = 64
"""In flight without streams, each step in a call of its own (ModelInfer)."""
BY_CALLS = " by calls"
BLOCKS = "blocks of 64 rows"
NATIVE = "native echo"
OURS = ("carousel", served.FRONT_END)

_QUANTITIES = {"steps_per_s": "steps per second", "p50_ms": "p50", "p99_ms": "p99"}


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
    front = stack.enter_context(processes.carousel_server(packages, device, front_ends=1))
    echo = stack.enter_context(processes.triton_echo(address))
    about = runner.run(answers(address, STEPPED))
    native = stack.enter_context(processes.native_echo("triton", about))
    triton = stack.enter_context(TritonServer(parts, packages / STEPPED, folder / "triton"))

    def stepped(measure: Callable[[Load], LoadResult], load: Load) -> Callable[[], Measured]:
        def measured() -> Measured:
            result = measure(load)
            return {
                "steps_per_s": result.steps_per_s, "p50_ms": result.p50_ms,
                "p99_ms": result.p99_ms,
            }  # fmt: skip

        return measured

    def by_triton(load: Load) -> Callable[[], Measured]:
        """Counts the crashes too; a round in which it crashed every time has nothing else."""
        usual = stepped(triton.measure, load)

        def measured() -> Measured:
            before, figures = triton.crashes, {}
            with suppress(LoadFailedError):
                figures = usual()
            return {**figures, "crashes": float(triton.crashes - before)}

        return measured

    def at(place: str) -> Callable[[Load], LoadResult]:
        return lambda load: run_load(parts, place, load)

    servers: dict[str, Callable[[Load], Callable[[], Measured]]] = {
        "carousel": partial(stepped, at(address)), served.FRONT_END: partial(stepped, at(front)),
        "triton": by_triton, "echo": partial(stepped, at(echo)),
    }  # fmt: skip
    if native is not None:
        servers[NATIVE] = partial(stepped, at(native))
    work = [
        Workload(_name(who, count), measure(_load(count, options.seconds)))
        for count in IN_FLIGHT
        for who, measure in servers.items()
    ]
    by_calls = Load(STEPPED, WIDTH, concurrency=CALLS, seconds=options.seconds, streaming=False)
    calls = [
        Workload(_name(who, CALLS, BY_CALLS), servers[who](by_calls)) for who in (*OURS, "triton")
    ]

    def blocks(place: str) -> Callable[[], Measured]:
        return lambda: runner.run(served.blocks(place, 1, options.seconds))

    ours = zip(OURS, (address, front), strict=True)
    return [*work, *calls, *(Workload(f"{who}: {BLOCKS}", blocks(place)) for who, place in ours)]


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Ours over Triton's and over the echoes'."""

    def of(who: str, count: int, quantity: str, way: str = "") -> float:
        return figures[_name(who, count, way)][quantity]["median"]

    for count, who in product(IN_FLIGHT, OURS):
        if _name(who, count) not in figures:
            continue
        for quantity, word in _QUANTITIES.items():
            ratio = of(who, count, quantity) / of("triton", count, quantity)
            yield f"{count} in flight: {_shown(who)} over Triton ({word})", ratio
        for echo in ("echo", NATIVE):
            if _name(echo, count) in figures:
                ratio = of(who, count, "steps_per_s") / of(echo, count, "steps_per_s")
                yield f"{count} in flight: {_shown(who)} over the {echo} (steps per second)", ratio
    best = max(of("triton", count, "steps_per_s") for count in IN_FLIGHT)
    for who in OURS:
        if _name(who, CALLS, BY_CALLS) in figures:
            calls = (of(by, CALLS, "steps_per_s", BY_CALLS) for by in (who, "triton"))
            ratio = truediv(*calls)
            yield f"{CALLS} in flight by calls: {_shown(who)} over Triton (steps per second)", ratio
        if (blocks := figures.get(f"{who}: {BLOCKS}")) is not None:
            ratio = blocks["steps_per_s"]["median"] / best
            yield f"{BLOCKS}, {_shown(who)} over Triton's best (steps per second)", ratio


def _shown(who: str) -> str:
    return who[:1].upper() + who[1:]


def _load(count: int, seconds: float) -> Load:
    return Load(STEPPED, WIDTH, concurrency=count, seconds=seconds)


def _name(who: str, count: int, way: str = "") -> str:
    return f"{who}: {count} in flight{way}"
