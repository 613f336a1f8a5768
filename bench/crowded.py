"""(e) What idle sessions cost: ticks beside 1,000 to 1,000,000 open ones, and memory for each."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from carousel_models import create, load
from carousel_server.core.limits import EngineLimits
from carousel_server.core.ports import Bind, Open, StepBlock
from carousel_server.core.types import OpenSpec, SessionRef
from carousel_server.engine import Engine, Environment
from carousel_server.metrics import Metrics
from carousel_server.residency.directory import Directory

from .bounds import Counting, rate
from .figures import Measured, Workload
from .memory import resident_bytes
from .report import Summary

MODEL = "gru-64"
HIDDEN = 64
WIDTH = 16
SESSIONS = (1_000, 10_000, 100_000, 1_000_000)
STEPPED = 10
"""Sessions in a tick: the active 1 % of the smallest crowd."""
_OPENED_TOGETHER = 4096


def workloads(
    options: argparse.Namespace,
    device: str,
    folder: Path,
    _stack: ExitStack,
    _runner: asyncio.Runner,
) -> Sequence[Workload]:
    """All crowds stay open, so that their ticks alternate."""
    create(MODEL, cell="gru", hidden=HIDDEN, input=f"features:{WIDTH}", output=WIDTH, dir=folder)
    sizes = [size for size in SESSIONS if size <= options.sessions]
    return [
        Workload(f"{size:,} open sessions", _Crowd(folder, device, size, options.seconds))
        for size in sizes
    ]


def ratios(figures: Summary) -> Iterator[tuple[str, float]]:
    """How much longer a tick takes beside more sessions."""
    least, *others = figures
    for name in others:
        ratio = figures[name]["tick_us"]["median"] / figures[least]["tick_us"]["median"]
        yield f"tick beside {name}, over {least}", ratio


class _Crowd:
    """An engine with many sessions, of which 1 % are active: each tick steps ten of these."""

    def __init__(self, folder: Path, device: str, size: int, seconds: float) -> None:
        self._folder, self._device, self._size, self._seconds = folder, device, size, seconds
        self._sink = Counting()
        self._row = np.zeros(WIDTH, "<f4").tobytes()
        self._engine: Engine | None = None
        self._refs: list[SessionRef] = []
        self._seqs: Iterator[int] = iter(())
        self._bytes = 0.0

    def __call__(self) -> Measured:
        if self._engine is None:
            self._bytes = self._open()
        with torch.inference_mode():
            measured = rate(self._tick, STEPPED, self._seconds)
        return {"tick_us": measured["run_us"], "bytes_per_session": self._bytes}

    @torch.inference_mode()
    def _open(self) -> float:
        """Opens all; what each takes beyond its state.

        Refs are kept of the active ones alone, as a server keeps none of those that nobody has bound.
        """
        before = resident_bytes(os.getpid())
        model = load(self._folder / MODEL, device=self._device)
        metrics = Metrics()
        limits = EngineLimits(slots=self._size, window_steps=8, window_bytes=1 << 40)

        def measured(view: Any) -> Any:
            return metrics.engine(view, slots=self._size)

        self._engine = engine = Engine(model, limits, Environment(Directory(), measured))
        draw = np.random.default_rng(1)
        count_active = max(self._size // 100, STEPPED)
        active = set(draw.choice(self._size, count_active, replace=False).tolist())
        refs: list[SessionRef] = []
        for at in range(0, self._size, _OPENED_TOGETHER):
            opened = [
                Open(OpenSpec("bench", f"session-{number}"))
                for number in range(at, min(at + _OPENED_TOGETHER, self._size))
            ]
            for command in opened:
                engine.submit(command)
            engine.tick()
            refs += [
                command.reply.result()[0]
                for number, command in enumerate(opened, at)
                if number in active
            ]
        draw.shuffle(refs)
        self._bind(refs)
        del opened
        gc.collect()
        return (resident_bytes(os.getpid()) - before) / self._size - HIDDEN * 4

    def _bind(self, refs: list[SessionRef]) -> None:
        """Binds the sessions that take turns."""
        assert self._engine is not None
        self._refs = refs
        for tag, ref in enumerate(refs):
            self._engine.submit(Bind(ref, self._sink, tag))
        self._engine.tick()
        self._seqs = count()

    def _tick(self) -> None:
        assert self._engine is not None
        turn, place = divmod(next(self._seqs), len(self._refs) // STEPPED)
        chosen = range(place * STEPPED, (place + 1) * STEPPED)
        block = StepBlock(
            self._sink, list(chosen), [self._refs[i] for i in chosen], [turn + 1] * STEPPED, 1,
            self._row * STEPPED, [turn] * STEPPED,
        )  # fmt: skip
        self._engine.submit(block)
        self._engine.tick()
