"""(g) Two tenants on one server: one steps at a steady rate while the other floods.

The steady tenant has five sessions with ten steps a second each. It runs alone, then beside a tenant at the
server's peak in a closed loop, then beside one that offers ten times that peak in an open loop, as far as
its windows and streams have room. The flood comes without limits of its own, on a server with shorter ticks
(`shared_tick_s`), and on one that takes 100 calls and blocks a second of each tenant (`tenant_calls_per_s`).
The load is a process of its own on the same
machine, so the figures have its share of the processors in them too.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from . import models, processes
from .figures import Measured, Workload
from .overload import loaded
from .pressing import Pressure
from .report import Summary
from .witness import Witness

ALONE, PEAK, FLOOD = "alone", "beside the peak, closed loop", "beside ten times that, open loop"
SHORT, LIMITED = "the same, ticks of 1 ms", "the same, 100 calls a second"
SHORT_TICK_S = 0.001
CALLS_PER_S = 100.0
TIMES = 10.0
SESSIONS = 5
"""Each steps ten times a second."""
MOST_P99 = 2.0
"""The target."""
TOKENS = {"steady": "bench-steady", "flood": "bench-flood"}


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """Alone, peak and flood, one after the other in each round, on one server; then the other two."""
    models.make(folder, options.dtype)
    hashes = {name: hashlib.sha256(t.encode()).hexdigest() for name, t in TOKENS.items()}
    given = {"tokens": json.dumps(hashes)}
    free, short, limited = (
        stack.enter_context(processes.carousel_server(folder, device, **given, **more))
        for more in ({}, {"shared_tick_s": SHORT_TICK_S}, {"tenant_calls_per_s": CALLS_PER_S})
    )
    peaks: list[float] = []

    def steady(address: str, pressure: Pressure | None) -> Measured:
        token = TOKENS["steady"]
        witness = Witness(address, models.STEPPED, token=token, sessions=SESSIONS)
        runner.run(witness.open())
        if pressure is None:
            measured = runner.run(witness.watch(options.seconds))
        else:
            measured = loaded(pressure, witness, runner)
        runner.run(witness.close())
        return measured

    def pressure(address: str, rate_per_s: float = 0.0) -> Pressure:
        return Pressure(
            address, models.STEPPED, models.WIDTH * 4, options.seconds,
            rate_per_s=rate_per_s, token=TOKENS["flood"],
        )  # fmt: skip

    def alone() -> Measured:
        return steady(free, None)

    def peak() -> Measured:
        measured = steady(free, pressure(free))
        peaks.append(measured["goodput_rows_per_s"])
        return measured

    def flood(address: str) -> Measured:
        return steady(address, pressure(address, TIMES * peaks[-1]))

    return [
        Workload(ALONE, alone),
        Workload(PEAK, peak),
        Workload(FLOOD, partial(flood, free)),
        Workload(SHORT, partial(flood, short)),
        Workload(LIMITED, partial(flood, limited)),
    ]


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Each beside its target."""
    alone, peak, flood, short, limited = (
        figures[name]["others_p99_ms"]["median"] for name in (ALONE, PEAK, FLOOD, SHORT, LIMITED)
    )
    yield f"p99 beside the flood over beside the peak (at most {MOST_P99})", flood / peak
    yield f"p99 beside the flood over alone (at most {MOST_P99})", flood / alone
    yield "p99 beside the flood with ticks of 1 ms, over alone", short / alone
    yield "p99 beside the flood with its calls limited, over alone", limited / alone
    offered = figures[FLOOD]["offered_rows_per_s"]["median"]
    goodput = figures[PEAK]["goodput_rows_per_s"]["median"]
    yield "steps that its streams took over the peak (ten times are due)", offered / goodput
    kept = figures[FLOOD]["goodput_rows_per_s"]["median"]
    yield "goodput of the flood over the peak", kept / goodput
    yield "the same with ticks of 1 ms", figures[SHORT]["goodput_rows_per_s"]["median"] / goodput
    yield "the steady tenant's failed steps (0)", figures[FLOOD]["others_failed"]["median"]
