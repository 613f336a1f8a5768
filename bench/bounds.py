"""Bounds without gRPC: the model's step alone, and the engine around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
from carousel_server.engine import Engine, Environment
from carousel_server.metrics import Metrics
from carousel_server.residency.directory import Directory

from .figures import Measured, Workload
from .models import STEPPED, WIDTH
from .step.device_timing import times

BATCHES = (1, 64, 256)

Timed = Callable[[Callable[[], object], float], Measured]
"""A call and for how many seconds; see `step.device_timing.times`."""


def workloads(
    folder: Path, device: str, seconds: float, kernel: str = "auto"
) -> Iterator[Workload]:
    """`model step` is D1, the floor; `engine tick` adds admission, slab, delivery and metrics (D3)."""
    model = load(folder / STEPPED, device=device, kernel=kernel)
    for batch in BATCHES:
        yield Workload(f"model step, {batch} rows", ModelStep(model, batch, seconds))
        yield Workload(f"engine tick, {batch} sessions", EngineTick(model, batch, seconds))


class ModelStep:
    """The step of a batch whose state is at hand; on a GPU also the device's own time of it."""

    def __init__(
        self, model: RecurrentModel, batch: int, seconds: float, timed: Timed = times
    ) -> None:
        self._model, self._batch, self._seconds = model, batch, seconds
        self._timed = timed if model.device.type == "cuda" else _untimed
        self._x = torch.randn(batch, WIDTH, device=model.device)
        state = model.initial_state(batch)
        self._step = model.kernel.recorded(lambda x: (model.step(x, state)[0],))

    @torch.inference_mode()
    def __call__(self) -> Measured:
        def step() -> None:
            (raw,) = self._step(self._x)
            self._model.finish(raw)[0].cpu()

        return rate(step, self._batch, self._seconds) | self._timed(
            lambda: self._step(self._x), self._seconds
        )


def _untimed(_run: object, _seconds: float) -> Measured:
    return {}


class Counting:
    """A sink that takes outputs as the wire does: as bytes."""

    def outputs(self, tags: Any, first_seqs: Any, steps: int, rows: np.ndarray) -> None:
        rows.tobytes()

    def failures(self, tags: Any, seqs: Any, error: Exception) -> None:
        raise error

    def unbound(self, tag: int, error: Exception) -> None:
        raise error

    def durable(self, tags: Any, seqs: Any) -> None: ...

    def away(self, tag: int, session: SessionView) -> None: ...

    def moved(self, tag: int, address: str) -> None: ...

    def returned(self, tag: int, block: StepBlock) -> None: ...


@dataclass(frozen=True, slots=True)
class Messages:
    """How the steps come.

    Attributes:
        sessions: of a block.
        steps: of each session of a block.
        streams: sinks, which take turns with the blocks.
        arrays: the blocks have their columns as arrays, not as lists.
    """

    sessions: int = 1
    steps: int = 1
    streams: int = 1
    arrays: bool = False


class EngineTick:
    """Ticks of an engine whose sessions all have steps ready: in blocks, by default of one session.

    Attributes:
        steps: of all sessions together in one turn.
    """

    def __init__(
        self,
        model: RecurrentModel,
        batch: int,
        seconds: float,
        messages: Messages = Messages(),
        limits: EngineLimits | None = None,
    ) -> None:
        """`batch` sessions. `limits` has at least as many slots."""
        self._seconds, self._batch = seconds, batch
        self._messages = messages
        self.steps = batch * messages.steps
        metrics = Metrics()

        def measured(view: Any) -> EngineMetrics:
            return metrics.engine(view, slots=batch)

        limits = limits or EngineLimits(slots=batch)
        self._engine = Engine(model, limits, Environment(Directory(), measured))
        self._sinks = [Counting() for _ in range(messages.streams)]
        numbers = np.random.rand(messages.sessions, messages.steps, WIDTH)
        self._inputs = numbers.astype("<f4").tobytes()
        self._seqs = count(1, messages.steps)
        self._refs = self._open()

    @classmethod
    def of_blocks(
        cls, folder: Path, device: str, m: int, k: int, seconds: float, kernel: str = "auto"
    ) -> EngineTick:
        """What `served.blocks` asks for, without gRPC: two blocks of m sessions × k steps at a time."""
        model = load(folder / STEPPED, device=device, kernel=kernel)
        return cls(model, 2 * m, seconds, Messages(m, k))

    @torch.inference_mode()
    def _open(self) -> list[SessionRef]:
        refs = []
        for tag in range(self._batch):
            opened = Open(OpenSpec("bench", ""))
            self._engine.submit(opened)
            self._engine.tick()
            refs.append(opened.reply.result()[0])
            self._engine.submit(Bind(refs[-1], self._sink_of(tag), tag))
            self._engine.tick()
        return refs

    @torch.inference_mode()
    def __call__(self) -> Measured:
        return rate(self.once, self.steps, self._seconds)

    def once(self) -> None:
        """The next steps of all sessions. In inference mode."""
        self.run(self.blocks())

    def blocks(self) -> list[StepBlock]:
        """The next messages of all sessions."""
        seq, m = next(self._seqs), self._messages.sessions
        column: Any = np.asarray if self._messages.arrays else list
        firsts, acks = column([seq] * m), column([seq - 1] * m)
        return [
            StepBlock(
                self._sink_of(at), column(range(at, at + m)), column(self._refs[at : at + m]),
                firsts, self._messages.steps, self._inputs, acks,
            )
            for at in range(0, self._batch, m)
        ]  # fmt: skip

    def run(self, blocks: Sequence[StepBlock]) -> None:
        """Steps them. In inference mode."""
        self._engine.submit_steps(blocks)
        while not self._engine.idle:
            self._engine.tick()

    def _sink_of(self, tag: int) -> Counting:
        return self._sinks[tag // self._messages.sessions % len(self._sinks)]


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
