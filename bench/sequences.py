"""(d) Whole sequences that arrive at random: joining at every chunk against padded batches, and Triton.

The experiment of cellular batching: an LSTM, Poisson arrivals, lengths with mean 24 and at most 330, and
all 24. Loads are shares of D3 / mean length, the sequences per second that the engine could do if the wire
cost nothing. Latency is counted from the instant at which a sequence was to be sent.

Carousel gets them in both ways that it has: by one Infer call each, as the padded server does, and by a
session each, whose opening, binding and closing cost more than the steps.

What limits it: past a load of half, the client's part of the two cores that D3 has for itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from carousel_models import load as load_model

from . import bounds, models, processes
from .arrivals import FIXED, KINDS, MEAN_STEPS, MOST_STEPS
from .figures import Measured, Workload
from .models import STEPPED, WIDTH
from .report import Summary
from .triton import Load, LoadFailedError, TritonServer, missing, unpacked
from .whole import Arrivals

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
CAROUSEL, SESSIONS, PADDED, TRITON = "carousel", "carousel, by sessions", "padded", "triton"
STEP, TICK = "model step, 4 rows", "engine tick, 256 sessions"
_TRITON_SHARES = SHARES[:2]


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    stack: ExitStack,
    runner: asyncio.Runner,
) -> Sequence[Workload]:
    """The bounds, then every load of every kind on every system that this machine has."""
    models.make(folder, options.dtype)
    server = processes.carousel_server(
        folder, device, window_steps=1 << MOST_STEPS.bit_length(), slots=1024
    )
    carousel_address = stack.enter_context(server)
    padded_address = stack.enter_context(processes.padded_server(folder))
    triton = _triton(folder, stack)
    model = load_model(folder / STEPPED, device=device)
    tick = bounds.EngineTick(model, 256, options.seconds)
    d3: list[float] = []

    def bound() -> Measured:
        measured = tick()
        d3.append(measured["steps_per_s"])
        return measured

    def arrivals(
        address: str, kind: str, share: float, *, sessions: bool
    ) -> Callable[[], Measured]:
        return lambda: _send(
            Arrivals(
                address, STEPPED, WIDTH * 4, sessions, kind,
                share * sum(d3) / len(d3) / MEAN_STEPS, options.seconds, seed=len(d3),
            )
        )  # fmt: skip

    work = [
        Workload(STEP, bounds.ModelStep(model, 4, min(options.seconds, 1.0))),
        Workload(TICK, bound),
    ]
    for kind in KINDS:
        for share in SHARES:
            for system, address in (
                (CAROUSEL, carousel_address),
                (SESSIONS, carousel_address),
                (PADDED, padded_address),
            ):
                send = arrivals(address, kind, share, sessions=system == SESSIONS)
                work.append(Workload(_name(system, kind, share), send))
    if triton is not None:
        for share in _TRITON_SHARES:
            name = _name(TRITON, FIXED, share)
            work.append(Workload(name, _steps_of(triton, share, d3, options.seconds)))
    return work


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Against padded batches at every load, and against what a lone sequence needs."""
    for kind in KINDS:
        for share in SHARES:
            padded = figures[_name(PADDED, kind, share)]
            for system in (CAROUSEL, SESSIONS):
                ours = figures[_name(system, kind, share)]
                for quantity in ("p50_ms", "p99_ms"):
                    ratio = ours[quantity]["median"] / padded[quantity]["median"]
                    yield f"{system}: {kind}, load {share}: {quantity} over padded (below 1)", ratio
    own_ms = MEAN_STEPS * figures[STEP]["run_us"]["median"] / 1e3
    low = figures[_name(CAROUSEL, FIXED, SHARES[0])]["p50_ms"]["median"]
    yield f"{FIXED}, load {SHARES[0]}: p50 over {MEAN_STEPS} steps of the model", low / own_ms
    for system in (CAROUSEL, SESSIONS, PADDED):
        for kind in KINDS:
            yield f"{system}, {kind}: knee, of D3 / mean length", knee(figures, system, kind)


def knee(figures: Summary, system: str, kind: str) -> float:
    """The greatest load measured at which p50 is at most three times that of the lowest load."""
    p50_ms = [figures[_name(system, kind, share)]["p50_ms"]["median"] for share in SHARES]
    return max(share for share, ms in zip(SHARES, p50_ms, strict=True) if ms <= 3 * p50_ms[0])


def _name(system: str, kind: str, share: float) -> str:
    return f"{system}: {kind}, load {share}"


def _send(arrivals: Arrivals) -> Measured:
    command = [sys.executable, "-m", "bench.whole", json.dumps(asdict(arrivals))]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(output))


def _triton(folder: Path, stack: ExitStack) -> TritonServer | None:
    """Triton with the same model; None, said by name, where it cannot be had."""
    try:
        parts = unpacked()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"sequences on Triton: SKIPPED: its wheels cannot be had ({error})")
        return None
    if reason := missing(parts):
        print(f"sequences on Triton: SKIPPED: {reason}")
        return None
    return stack.enter_context(TritonServer(parts, folder / STEPPED, folder / "triton"))


def _steps_of(
    server: TritonServer, share: float, d3: Sequence[float], seconds: float
) -> Callable[[], Measured]:
    """Poisson steps of sequences of 24, by perf_analyzer, which knows no latency of a whole sequence.

    A sequence has one step on its way, so it takes at least 24 times as long as a step.
    """

    def measure() -> Measured:
        rate = share * sum(d3) / len(d3)
        load = Load(
            STEPPED, WIDTH, rate_per_s=rate, sequence_steps=MEAN_STEPS, variation=0,
            seconds=seconds, streaming=False,
        )  # fmt: skip
        before = server.crashes
        try:
            result = server.measure(load, tries=3)
        except LoadFailedError:
            return {"failed": 1.0, "crashes": float(server.crashes - before)}
        return {
            "offered_steps_per_s": rate,
            "steps_per_s": result.steps_per_s,
            "step_p50_ms": result.p50_ms,
            "step_p99_ms": result.p99_ms,
            "sequence_p50_ms_at_least": MEAN_STEPS * result.p50_ms,
            "crashes": float(server.crashes - before),
        }

    return measure
