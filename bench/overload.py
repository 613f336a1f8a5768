"""(f) Twice the load that the server can take: what it still answers, and how its bystanders fare.

A load of blocks of 64 sessions × 1 step finds the server's peak in a closed loop. Then, alternately, an open
loop offers twice that peak with deadlines, beside clients that never read.

What limits it now: the interpreter, which engine and event loop share. Measured, on two cores: at the peak
the engine's thread runs for 0.82 of the time and the loop's for 0.14; in the overload 0.69 and 0.31, while
the engine waits for a core for 0.09 and for the interpreter for most of the rest. Tried, without an effect
beyond the noise: a switch interval of 0.5 or 1 ms; to hand out a tick's outputs only when the next tick
begins its native part. Untried: to read less from streams with enough waiting. A front end (decision 17) has
a higher peak and keeps less of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from . import models, processes
from .figures import Measured, Workload
from .pressing import Pressure
from .raw import UNTYPED
from .report import Summary
from .witness import Witness

PEAK, OVERLOAD = "peak load, closed loop", "twice that, open loop"
TIMES = 2.0
UNREAD = 4
LEAST_GOODPUT, MOST_P99, MOST_HEALTH_MS = 0.95, 1.5, 100.0
"""The targets."""


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Peak and overload, one after the other in each round, on one server."""
    models.make(folder, options.dtype)
    address = stack.enter_context(processes.carousel_server(folder, device))
    peaks: list[float] = []
    row_bytes = models.WIDTH * 4

    def peak() -> Measured:
        pressure = Pressure(address, models.STEPPED, row_bytes, options.seconds)
        measured = _under(pressure, runner)
        peaks.append(measured["goodput_rows_per_s"])
        return measured

    def overload() -> Measured:
        pressure = Pressure(
            address, models.STEPPED, row_bytes, options.seconds,
            rate_per_s=TIMES * peaks[-1], unread=UNREAD,
        )  # fmt: skip
        return _under(pressure, runner)

    return [Workload(PEAK, peak), Workload(OVERLOAD, overload)]


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Each beside its target."""
    peak, over = figures[PEAK], figures[OVERLOAD]

    def times(quantity: str) -> float:
        return over[quantity]["median"] / peak[quantity]["median"]

    yield f"goodput over peak (at least {LEAST_GOODPUT})", times("goodput_rows_per_s")
    yield f"others' p99 over theirs at peak (at most {MOST_P99})", times("others_p99_ms")
    for quantity in ("health_p99_ms", "health_max_ms"):
        share = over[quantity]["median"] / MOST_HEALTH_MS
        yield f"{quantity} over {MOST_HEALTH_MS:.0f} ms (below 1)", share
    untyped = sum(value["median"] for name, value in over.items() if UNTYPED in name)
    yield "untyped refusals (0)", untyped


def _under(pressure: Pressure, runner: asyncio.Runner) -> Measured:
    witness = Witness(pressure.address, pressure.model)
    runner.run(witness.open())
    measured = loaded(pressure, witness, runner)
    runner.run(witness.close())
    return measured


def loaded(pressure: Pressure, witness: Witness, runner: asyncio.Runner) -> Measured:
    """Loads from a process of its own, and watches from this one."""
    command = [sys.executable, "-m", "bench.pressing", json.dumps(asdict(pressure))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("the load did not start")
        seen = runner.run(witness.watch(pressure.seconds))
        output, _ = process.communicate(timeout=120)
    if process.returncode:
        raise RuntimeError("the load has failed")
    return {**json.loads(output), **seen}
