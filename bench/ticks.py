"""What a tick of the engine costs beside the model: no gRPC, one process, a model that computes nothing.

All rows step in one tick. They come in one block, or in a block each. CPU time is the engine thread's own, so
that other work on the machine changes it little.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from carousel_server.core.limits import EngineLimits

from .bounds import EngineTick, Messages
from .figures import Measured, Workload
from .models import WIDTH
from .report import Summary
from .trivial import TrivialModel

TARGETS_US = {64: 150.0, 1024: 350.0, 4096: 1000.0}
"""CPU time of a tick whose rows come in one block, by the number of rows."""
ROW_TARGET_US = 2.0
"""CPU time of a row that comes in a block of its own."""
SINGLE_ROWS = (64, 1024)
KINDS = ("arrays", "lists")
"""What a block has its columns in."""
_WARM_TICKS = EngineLimits().window_steps + 16
"""Ticks before the first measurement. They touch the memory of every entry of the window."""


def workloads(
    options: argparse.Namespace,
    _device: str,
    _folder: Path,
    _stack: ExitStack,
    _runner: asyncio.Runner,
) -> Sequence[Workload]:
    """The engines stay, so that their ticks alternate."""
    seconds = options.seconds
    return [
        *(
            Workload(_together(n, kind), Ticks(n, Messages(n, arrays=kind == "arrays"), seconds))
            for n in TARGETS_US
            for kind in KINDS
        ),
        *(Workload(_single(n), Ticks(n, Messages(), seconds)) for n in SINGLE_ROWS),
        *(Workload(_streams(n), Ticks(n, Messages(streams=n), seconds)) for n in SINGLE_ROWS),
    ]


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """Each over its target."""
    for n, target_us in TARGETS_US.items():
        for name in (_together(n, kind) for kind in KINDS):
            median = figures[name]["cpu_us"]["median"]
            yield f"{name}: over {target_us:,.0f} µs a tick", median / target_us
    for name in (of(n) for of in (_single, _streams) for n in SINGLE_ROWS):
        median = figures[name]["row_cpu_us"]["median"]
        yield f"{name}: over {ROW_TARGET_US:.0f} µs a row", median / ROW_TARGET_US


class Ticks:
    """Ticks of one step of each row."""

    def __init__(self, rows: int, messages: Messages, seconds: float) -> None:
        self._rows, self._seconds = rows, seconds
        limits = EngineLimits(slots=rows, max_batch=rows)
        model = TrivialModel(WIDTH, rows)
        self._engine = EngineTick(model, rows, seconds, messages, limits)  # type: ignore[arg-type]
        self._warm = False

    @torch.inference_mode()
    def __call__(self) -> Measured:
        """Medians: `cpu_us` and `wall_us` of a tick, and `row_cpu_us`.

        `low_cpu_us` is the 5th percentile. Other programs, which take the caches, show least in it.
        """
        if not self._warm:
            for _ in range(_WARM_TICKS):
                self._engine.once()
            self._warm = True
        cpu_s: list[float] = []
        wall_s: list[float] = []
        end = time.perf_counter() + self._seconds
        while time.perf_counter() < end or not cpu_s:
            blocks = self._engine.blocks()
            began, began_cpu = time.perf_counter(), time.thread_time()
            self._engine.run(blocks)
            cpu_s.append(time.thread_time() - began_cpu)
            wall_s.append(time.perf_counter() - began)
        cpu_us = float(np.median(cpu_s)) * 1e6
        return {
            "cpu_us": cpu_us,
            "low_cpu_us": float(np.percentile(cpu_s, 5)) * 1e6,
            "wall_us": float(np.median(wall_s)) * 1e6,
            "row_cpu_us": cpu_us / self._rows,
        }


def _together(rows: int, kind: str) -> str:
    return f"{rows:,} rows in one block of {kind}"


def _single(rows: int) -> str:
    return f"{rows:,} rows, a block each"


def _streams(rows: int) -> str:
    return f"{rows:,} rows, a block and a stream each"
