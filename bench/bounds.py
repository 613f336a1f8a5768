"""Bounds without gRPC: the model's step alone, and the engine around it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from carousel_models import RecurrentModel, load
from carousel_server.core.limits import EngineLimits
from carousel_server.core.metering import EngineMetrics
from carousel_server.core.ports import (
    Bind,
    Open,
    StepBlock,
)
from carousel_server.core.types import OpenSpec, SessionRef, SessionView
from carousel_server.engine import Engine
from carousel_server.metrics import Metrics
from carousel_server.sessions import Directory

from .figures import Measured, Workload
from .models import STEPPED, WIDTH

BATCHES = (1, 64, 256)


def workloads(folder: Path, device: str, seconds: float) -> Iterator[Workload]:
    """`model step` is D1, the floor; `engine tick` adds admission, slab, delivery and metrics (D3)."""
    model = load(folder / STEPPED, device=device)
    for batch in BATCHES:
        yield Workload(f"model step, {batch} rows", _ModelStep(model, batch, seconds))
        yield Workload(f"engine tick, {batch} sessions", _EngineTick(model, batch, seconds))


class _ModelStep:
    """The step of a batch whose state is at hand."""

    def __init__(self, model: RecurrentModel, batch: int, seconds: float) -> None:
        self._model, self._batch, self._seconds = model, batch, seconds
        self._x = torch.randn(batch, WIDTH, device=model.device)
        self._state = model.initial_state(batch)

    @torch.inference_mode()
    def __call__(self) -> Measured:
        def step() -> None:
            raw, _ = self._model.step(self._x, self._state)
            self._model.finish(raw)[0].cpu()

        return rate(step, self._batch, self._seconds)


class Counting:
    """A sink that takes outputs as the wire does: as bytes."""

    def outputs(self, tags: Any, first_seqs: Any, steps: int, rows: np.ndarray) -> None:
        rows.tobytes()

    def failure(self, tag: int, seq: int, error: Exception) -> None:
        raise error

    def unbound(self, tag: int, error: Exception) -> None:
        raise error

    def durable(self, tags: Any, seqs: Any) -> None: ...

    def parked(self, tag: int, session: SessionView) -> None: ...

    def returned(self, tag: int, block: StepBlock) -> None: ...


class _EngineTick:
    """Ticks of an engine whose every session has one step ready, each in a message of its own."""

    def __init__(self, model: RecurrentModel, batch: int, seconds: float) -> None:
        self._seconds, self._batch = seconds, batch
        metrics = Metrics()

        def measured(view: Any) -> EngineMetrics:
            return metrics.engine(view, slots=batch)

        limits = EngineLimits(slots=batch, max_batch=max(BATCHES))
        self._engine = Engine(model, limits, directory=Directory(), metrics=measured)
        self._sink = Counting()
        self._rows = [row.tobytes() for row in np.random.rand(batch, WIDTH).astype("<f4")]
        self._seqs = count(1)
        self._refs = self._open()

    @torch.inference_mode()
    def _open(self) -> list[SessionRef]:
        refs = []
        for tag in range(self._batch):
            opened = Open(OpenSpec("bench", ""))
            self._engine.submit(opened)
            self._engine.tick()
            refs.append(opened.reply.result()[0])
            self._engine.submit(Bind(refs[-1], self._sink, tag))
            self._engine.tick()
        return refs

    @torch.inference_mode()
    def __call__(self) -> Measured:
        def tick() -> None:
            seq = next(self._seqs)
            for tag, (ref, row) in enumerate(zip(self._refs, self._rows, strict=True)):
                self._engine.submit(StepBlock(self._sink, [tag], [ref], [seq], 1, row, [seq - 1]))
            self._engine.tick()

        return rate(tick, self._batch, self._seconds)


def rate(run: Any, steps_each: int, seconds: float) -> Measured:
    """Median time of a run, and the steps per second that it makes."""
    for _ in range(3):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    median = float(np.median(times))
    return {"run_us": median * 1e6, "steps_per_s": steps_each / median}
