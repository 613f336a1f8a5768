"""Measures how long each cell can learn to remember the first symbol of a sequence.

The network must name the first symbol of a sequence after the last one. The symbols between are random.
Gradients must pass the whole gap, for which gates were invented. The task is the latch of Bengio, Simard and
Frasconi (1994). All cells have the same number of updates on the same data, with gaps of every length up to a
limit. They are tested with shorter and with longer gaps.

Each network has two layers. The gates of minGRU, minLSTM, mLSTM and Mamba depend on x alone. So one layer
cannot tell the first symbol from the others, and a second one can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional

from .cells import compared
from .results import Recall

CLIP_NORM = 1.0


@dataclass(frozen=True, slots=True)
class RecallTask:
    """The task and the equal budget.

    Attributes:
        symbols: size of the alphabet. Guessing gives 1 / symbols.
        longest_trained: gaps of 1 … this many steps are trained.
        gaps: gaps that are tested.
        hidden: width of each recurrent layer.
        layers: recurrent layers, each with a norm before it and a residual around it.
        updates: optimiser steps of each network.
        batch: sequences per step.
        test_sequences: new sequences for each test.
        rate: Adam's learning rate.
        seeds: one network from scratch for each.
    """

    symbols: int = 8
    longest_trained: int = 32
    gaps: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128)
    hidden: int = 32
    layers: int = 2
    updates: int = 250
    batch: int = 64
    test_sequences: int = 512
    rate: float = 5e-3
    seeds: Sequence[int] = (0, 1, 2)


class _Recaller(nn.Module):
    def __init__(self, cell: str, task: RecallTask) -> None:
        super().__init__()
        width, layers = task.hidden, range(task.layers)
        self.embedding = nn.Embedding(task.symbols, width)
        self.stack = nn.ModuleList(compared(cell).make(width, width) for _ in layers)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in layers)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, task.symbols))

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits [B, symbols] after the last of int64[T, B]."""
        rows = self.embedding(symbols)
        for layer, norm in zip(self.stack, self.norms, strict=True):
            rows = rows + layer(norm(rows))[0]
        logits: Tensor = self.head(rows[-1])
        return logits


def _train(cell: str, task: RecallTask, draws: torch.Generator) -> _Recaller:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.initial_seed())
        model = _Recaller(cell, task)
    optimiser = torch.optim.Adam(model.parameters(), lr=task.rate)
    for _ in range(task.updates):
        gap = int(torch.randint(1, task.longest_trained + 1, (1,), generator=draws))
        symbols = torch.randint(task.symbols, (gap + 1, task.batch), generator=draws)
        optimiser.zero_grad()
        functional.cross_entropy(model(symbols), symbols[0]).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimiser.step()
    return model


def accuracies(cell: str, seed: int, task: RecallTask) -> list[float]:
    """Trains a new network. Returns the share of first symbols that it names, 0 … 1, for each gap."""
    draws = torch.Generator().manual_seed(seed)
    model = _train(cell, task, draws)
    shares = []
    for gap in task.gaps:
        symbols = torch.randint(task.symbols, (gap + 1, task.test_sequences), generator=draws)
        with torch.inference_mode():
            named = model(symbols).argmax(-1)
        shares.append(float((named == symbols[0]).float().mean()))
    return shares


def recall(
    cells: Sequence[str],
    task: RecallTask | None = None,
    on_part: Callable[[float], None] = lambda _: None,
) -> tuple[Recall, ...]:
    """Mean, least and greatest accuracy over the seeds: every cell at every gap, in that order.

    `on_part` is called after each trained network with the share of networks that are done, 0 … 1.
    """
    task = task or RecallTask()
    found = []
    trained = 0
    for cell in cells:
        runs = []
        for seed in task.seeds:
            runs.append(accuracies(cell, seed, task))
            trained += 1
            on_part(trained / (len(cells) * len(task.seeds)))
        for gap, shares in zip(task.gaps, zip(*runs, strict=True), strict=True):
            found.append(
                Recall(
                    cell=cell,
                    gap=gap,
                    trained=gap <= task.longest_trained,
                    accuracy=fmean(shares),
                    low=min(shares),
                    high=max(shares),
                    chance=1 / task.symbols,
                )
            )
    return tuple(found)
