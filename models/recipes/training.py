"""Common parts of all recipes: budget, learning-rate schedule, optimiser step, record."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

WARM_UP_STEPS = 100
CLIP_NORM = 1.0
FLOOR = 0.03
"""The learning rate ends at this share of its peak."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to train: at most `steps` optimiser steps, and at most `seconds` of wall time."""

    steps: int
    seconds: float = math.inf

    def __post_init__(self) -> None:
        """Raises ValueError for a budget without a step in it."""
        if self.steps < 1 or not self.seconds > 0:
            raise ValueError(f"a budget needs at least one step and some seconds, not {self}")

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share of the budget that is used, from 0. At 1 or more, training ends."""
        return max(step / self.steps, elapsed_s / self.seconds)


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Linear warm-up, then half a cosine down to the floor, by the share of the budget used."""
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    fall = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return peak * warm_up * (FLOOR + (1.0 - FLOOR) * fall)


@dataclass(slots=True)
class Record:
    """The record of a training, for the manifest's `training`.

    Attributes:
        steps: optimiser steps taken.
        wall_s: seconds that they took, on the machine and under the load of that day.
        losses: training loss of every step, in nats.
    """

    steps: int = 0
    wall_s: float = 0.0
    losses: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, object]:
        """The record without the losses, and with what it was made with."""
        return {
            "steps": self.steps,
            "wall_s": round(self.wall_s, 1),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }


def mixed(precision: str) -> torch.autocast:
    """Matrix products in "bfloat16", or all in "float32". Twice as fast where the CPU has AVX512-BF16."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")


def optimise(
    module: nn.Module,
    losses: Iterator[torch.Tensor],
    budget: Budget,
    *,
    peak_rate: float,
    weight_decay: float = 0.0,
    on_step: Callable[[Record], None] = lambda _: None,
) -> Record:
    """Makes one AdamW step for each loss, until the budget is used.

    Args:
        module: what is trained.
        losses: gives the scalar loss of the next batch, computed with the weights of that moment.
        budget: when to stop.
        peak_rate: highest learning rate.
        weight_decay: AdamW's decay.
        on_step: called after every step, for progress and checkpoints.
    """
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=peak_rate, weight_decay=weight_decay, fused=True
    )
    record = Record()
    began = time.perf_counter()
    while (progress := budget.progress(record.steps, record.wall_s)) < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(peak_rate, record.steps, progress)
        loss = next(losses)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
        optimiser.step()
        record.steps += 1
        record.losses.append(float(loss.detach()))
        record.wall_s = time.perf_counter() - began
        on_step(record)
    return record


def printed(every: int) -> Callable[[Record], None]:
    """A callback that prints the mean loss of the last `every` steps, each `every` steps."""

    def show(record: Record) -> None:
        if record.steps % every == 0:
            mean = sum(record.losses[-every:]) / every
            print(f"step {record.steps:6d}  {record.wall_s:7.1f} s  loss {mean:.4f}", flush=True)

    return show
