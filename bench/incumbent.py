"""(a) Beside Triton: the same LSTM, the same load generator, the same cores, alternately.

Carousel's Triton door, Triton itself, and the same messages echoed without a model by gRPC in Python (N1) and
in C++ (N2), each under perf_analyzer; a call for each step on the first two; then blocks of 64 rows through
`carousel.v1`, which Triton has nothing like.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import product
from operator import truediv
from pathlib import Path

import grpc

from carousel_protos.triton import inference_pb2 as pb

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
OURS = ("carousel", served.GRPC_AIO, served.FRONT_END)
_SETTINGS: dict[str, dict[str, object]] = {
    "carousel": {"transport": "auto"},
    served.GRPC_AIO: {"transport": "python"},
    served.FRONT_END: {"transport": "auto", "front_ends": 1},
}
_MOST_S = 10.0

_QUANTITIES = {
    "steps_per_s": "steps per second", "p50_ms": "p50", "p99_ms": "p99",
    "cpu_us": "the server's processor time a step",
}  # fmt: skip


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
    started = {
        who: stack.enter_context(processes.carousel_process(packages, device, **settings))
        for who, settings in _SETTINGS.items()
    }
    address = started["carousel"][1]
    echo = stack.enter_context(processes.triton_echo(address))
    about = runner.run(answers(address, STEPPED))
    native = stack.enter_context(processes.native_echo("triton", about))
    triton = stack.enter_context(TritonServer(parts, packages / STEPPED, folder / "triton"))

    def ours(process: subprocess.Popen[str], address: str, load: Load) -> Callable[[], Measured]:
        return lambda: _stepped(
            lambda: run_load(parts, address, load), lambda: (process.pid, address)
        )

    def by_triton(load: Load) -> Callable[[], Measured]:
        """Counts the crashes too; a round in which it crashed every time has nothing else."""

        def measured() -> Measured:
            before, figures = triton.crashes, {}
            with suppress(LoadFailedError):
                figures = _stepped(
                    lambda: triton.measure(load), lambda: (triton.pid, triton.address)
                )
            return {**figures, "crashes": float(triton.crashes - before)}

        return measured

    def echoed(place: str, load: Load) -> Callable[[], Measured]:
        return lambda: _figures(run_load(parts, place, load))

    servers: dict[str, Callable[[Load], Callable[[], Measured]]] = {
        **{who: partial(ours, *there) for who, there in started.items()},
        "triton": by_triton, "echo": partial(echoed, echo),
    }  # fmt: skip
    if native is not None:
        servers[NATIVE] = partial(echoed, native)
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

    by_blocks = (Workload(f"{who}: {BLOCKS}", blocks(at)) for who, (_, at) in started.items())
    return [*work, *calls, *by_blocks]


def _stepped(measure: Callable[[], LoadResult], at: Callable[[], tuple[int, str]]) -> Measured:
    """Measures a server that counts its steps; `at` is its process and its address, also after a crash."""
    server = at()
    before, result = _used(*server), measure()
    figures = _figures(result)
    if at() == server:  # else it has crashed and was started again
        cpu_s, steps = (now - then for now, then in zip(_used(*server), before, strict=True))
        figures["cpu_us"] = 1e6 * cpu_s / steps
    return figures


def _used(pid: int, address: str) -> tuple[float, int]:
    """The processor time of a server so far, and how many steps it has run."""
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelStatistics",
            pb.ModelStatisticsRequest.SerializeToString,
            pb.ModelStatisticsResponse.FromString,
        )
        counted = ask(pb.ModelStatisticsRequest(name=STEPPED), timeout=_MOST_S)
    return processes.cpu_s(pid), counted.model_stats[0].inference_count


def _figures(result: LoadResult) -> Measured:
    return {
        "steps_per_s": result.steps_per_s, "p50_ms": result.p50_ms, "p99_ms": result.p99_ms
    }  # fmt: skip


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Ours over Triton's and over the echoes'."""

    def of(who: str, count: int, quantity: str, way: str = "") -> float:
        return figures[_name(who, count, way)][quantity]["median"]

    for count, who in product(IN_FLIGHT, OURS):
        if _name(who, count) not in figures:
            continue
        for quantity in filter(figures[_name("triton", count)].__contains__, _QUANTITIES):
            ratio = of(who, count, quantity) / of("triton", count, quantity)
            yield f"{count} in flight: {_shown(who)} over Triton ({_QUANTITIES[quantity]})", ratio
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
