"""A model whose output is the sum of its sequence's inputs, so an output says what its state has seen."""

from __future__ import annotations

from torch import Tensor, nn


class Adding(nn.Module):
    """Adds. A state of zero is what a sequence starts with."""

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        (total,) = state
        total = total + x[:, 0]
        return total[:, None], (total,)
